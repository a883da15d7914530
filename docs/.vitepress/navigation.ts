import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DefaultTheme } from 'vitepress';

/** A page by its path in the repository, or a part of one. */
const page = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: `/${path}` });

/** The decision records, by the titles that they have. */
function decisions(): DefaultTheme.SidebarItem[] {
  const folder = join(import.meta.dirname, '../decisions');
  return readdirSync(folder).map((file) => {
    const [title = file] = readFileSync(join(folder, file), 'utf8').split('\n');
    return page(title.replace(/^# 0*/, '').replaceAll('`', ''), `docs/decisions/${file}`);
  });
}

/** The pages of the site by what a reader wants to do. Every page of docs/ has its place here; a test holds it to that. */
export const navigation: DefaultTheme.SidebarItem[] = [
  {
    text: 'Start',
    items: [
      page('What it is, and the demo', ''),
      page('Install it in a cluster', 'docs/install.md'),
      page('The first client in a cluster', 'docs/guide.md#remote-access-in-a-cluster'),
      page('Concepts', 'docs/concepts.md'),
    ],
  },
  {
    text: 'Tasks',
    items: [
      page('Guide', 'docs/guide.md'),
      page('Remote access, with your own PKI', 'docs/guide.md#let-people-connect-with-stock-openvpn'),
      page('A LAN behind a client', 'docs/guide.md#put-a-lan-behind-a-client'),
      page('Dial an OpenVPN server', 'docs/guide.md#dial-an-openvpn-server'),
      page('Site to site with a static key', 'docs/guide.md#connect-two-sites-with-a-static-key'),
      page('Attach pods: Multus or a chain', 'docs/cni.md'),
      page('A mesh of nodes', 'docs/mesh.md'),
      page('Several networks', 'docs/multiple-networks.md'),
      page('Reach pods and Services from clients', 'docs/cluster-access.md'),
      page('cert-manager', 'docs/guide.md#let-cert-manager-make-the-servers-certificate'),
      page('Revoke a client', 'docs/guide.md#revoke-a-client'),
      page("Rotate the server's certificate", 'docs/guide.md#rotate-the-servers-certificate'),
      page('Rotate a static key', 'docs/guide.md#rotate-a-static-key'),
      page('From an OpenVPN server of your own', 'docs/migration.md'),
      page('Without a cluster', 'docs/sources.md'),
    ],
  },
  {
    text: 'Operate',
    items: [
      page('kubectl ovpn', 'docs/kubectl.md'),
      page('Troubleshooting', 'docs/troubleshooting.md'),
      page('Metrics, alerts, dashboard', 'docs/metrics.md'),
      page('Upgrading', 'docs/upgrading.md'),
      page('The controller', 'docs/controller.md'),
      page('The image', 'docs/image.md'),
      page('Making a release', 'docs/releasing.md'),
      page('Changes', 'CHANGELOG.md'),
    ],
  },
  {
    text: 'Reference',
    items: [
      page('The resources', 'docs/resources.md'),
      page('Fields of the resources', 'docs/reference/crds.md'),
      page('Values of the chart', 'docs/reference/values.md'),
      page('Command line', 'docs/reference/cli.md'),
      page('Metrics, one by one', 'docs/reference/metrics.md'),
      page('Errors', 'docs/reference/errors.md'),
    ],
  },
  {
    text: 'Judge',
    items: [
      page('Security model', 'docs/security.md'),
      page('Reporting a vulnerability', 'SECURITY.md'),
      page('Faults, and what holds', 'docs/reliability.md'),
      page('Limits', 'docs/limits.md'),
      page('Kernels', 'docs/kernels.md'),
      page('Benchmarks', 'docs/benchmarks.md'),
      page('Compared with others', 'docs/comparison.md'),
    ],
  },
  {
    text: 'Contribute',
    collapsed: true,
    items: [
      page('Contributing', 'CONTRIBUTING.md'),
      page('The kernel lab', 'docs/lab.md'),
      page('Tests on a real API server', 'docs/kube-tests.md'),
      page('Fuzzing', 'docs/fuzzing.md'),
    ],
  },
  { text: 'Decisions', collapsed: true, items: decisions() },
];
