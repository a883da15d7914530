import { defineConfig } from 'vitepress';
import { slugOf } from '../../scripts/docs/pages.ts';
import { navigation } from './navigation.ts';

/**
 * The site that `npm run docs` shows and `npm run docs:build` writes to dist/docs. Its pages are the Markdown files of
 * the repository where they are, so a link that works on the site works on the files, too.
 */
export default defineConfig({
  title: 'ovpn-operator',
  description: 'OpenVPN tunnels for Kubernetes on the Linux ovpn driver',
  srcDir: '..',
  srcExclude: ['{charts,cni-plugin,coverage,crds,dist,image,node_modules,operator,out,scripts,test}/**'],
  outDir: '../dist/docs',
  cacheDir: '../node_modules/.cache/vitepress',
  rewrites: { 'README.md': 'index.md' },
  // Files of the repository that are no pages. scripts/docs/links.test.ts looks at every link.
  ignoreDeadLinks: [/LICENSE$/, /decisions$/],
  markdown: { anchor: { slugify: slugOf } },
  // What theme/tables.css gives more room to.
  transformPageData: ({ filePath }) =>
    /reference\//.test(filePath) ? { frontmatter: { pageClass: 'reference' } } : {},
  themeConfig: {
    nav: [
      { text: 'Guide', link: '/docs/guide.md' },
      { text: 'Reference', link: '/docs/resources.md' },
      { text: 'Troubleshooting', link: '/docs/troubleshooting.md' },
    ],
    sidebar: navigation,
    outline: [2, 3],
    search: { provider: 'local' },
  },
});
