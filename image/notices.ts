/** The list of what others wrote in the image, with its licences: what their licences ask us to pass on. */
import { suite } from './debian.ts';
import { native } from './licences.ts';
import type { Contents } from './rootfs.ts';

/** The text of THIRD-PARTY.md. The same contents give the same bytes. @throws for a package without a known licence */
export function noticesOf(version: string, { debian, npm, linked }: Contents): string {
  const licenceOf = (name: string): string => {
    const found = native[name];
    if (found === undefined) throw new Error(`image/licences.ts does not say the licence of Debian's ${name}`);
    return found.license;
  };
  const row = (...cells: string[]): string => `| ${cells.join(' | ')} |`;
  const table = (rows: readonly string[]): string[] => [
    row('Package', 'Version', 'Licence', 'Its text, in /usr/share/doc'),
    row('---', '---', '---', '---'),
    ...rows,
  ];
  return [
    `# ovpn-operator ${version}`,
    '',
    'Licensed under Apache-2.0 (LICENSE beside this file). The image has, besides, what others wrote:',
    '',
    '## From npm',
    '',
    ...table(
      npm.map(({ name, version: of, license }) =>
        row(name, of, license, name.startsWith('node-linux-') ? 'node/' : `npm/${name}/`),
      ),
    ),
    '',
    `## From Debian ${suite.release}`,
    '',
    'Sources: https://snapshot.debian.org/binary/NAME/',
    '',
    ...table(debian.map(({ name, version: of }) => row(name, of, licenceOf(name), `${name}/copyright`))),
    '',
    '## Linked into the CNI plugin (ovpn-cni), from Debian',
    '',
    'Its own sources, and how to link it anew, are in `cni-plugin` of the sources of this version.',
    '',
    ...table(linked.map(({ name, version: of }) => row(name, of, licenceOf(name), `${name}/copyright`))),
    '',
  ].join('\n');
}
