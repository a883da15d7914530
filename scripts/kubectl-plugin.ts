/** The plugin of kubectl as one file, for any machine with Node.js: everything that it needs is inside of it. */
import { build } from 'esbuild';
import { chmod, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lockedPackages, packageOfFile } from '../image/npm.ts';
import { bundleOptions } from './bundle.ts';
import { projectRoot } from './tasks.ts';

/** What the libraries inside ask for (undici's `engines`); nobody has to look after a syntax error for the reason. */
export const oldestNode = '22.19';

const tooOld = `
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < ${oldestNode.split('.')[0]} || (major === ${oldestNode.split('.')[0]} && minor < ${oldestNode.split('.')[1]})) {
  console.error(\`kubectl ovpn: needs Node.js ${oldestNode} or newer, and this is \${process.versions.node} (\${process.execPath})\`);
  process.exit(2);
}`;

/**
 * Builds `kubectl-ovpn`, executable. The same sources give the same bytes.
 *
 * Of the Kubernetes client only the reading of kubeconfigs and the running of commands in pods are taken: with all its models the file would be five times
 * as large and take twice as long to start.
 */
export async function buildKubectlPlugin(outfile: string): Promise<void> {
  const common = bundleOptions();
  const options = {
    ...common,
    splitting: false,
    external: [],
    target: 'node22',
    alias: { '@kubernetes/client-node': join(import.meta.dirname, 'kubectl-client.ts') },
    banner: { js: `${common.banner.js}${tooOld}` },
    legalComments: 'none' as const,
    entryPoints: [join(projectRoot, 'operator/src/cli/kubectl-ovpn.ts')],
    outfile,
  };
  const { metafile } = await build({ ...options, write: false });
  const packages = Object.keys(metafile.inputs).flatMap((file) => packageOfFile(file) ?? []);
  await build({ ...options, footer: { js: comment(await licencesOf([...new Set(packages)])) } });
  await chmod(outfile, 0o755);
}

/** What the licences of the packages in the file ask to be passed on with it. */
async function licencesOf(places: readonly string[]): Promise<string> {
  const parts = ['ovpn-operator is licensed under Apache-2.0. This file has, besides, what others wrote:'];
  for (const { path, name, version, license } of await lockedPackages(places)) {
    const folder = join(projectRoot, path);
    const files = (await readdir(folder)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file)).sort();
    const texts = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')));
    parts.push(`${name} ${version} (${license})`, ...texts.map((text) => text.trim()));
  }
  return parts.join('\n\n');
}

function comment(text: string): string {
  return text
    .split(/\r?\n/)
    .map((line) => `// ${line}`.trimEnd())
    .join('\n');
}
