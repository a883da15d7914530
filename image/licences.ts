/** Under which licences is what we ship: the packages of npm by what they declare, those of Debian by a table. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot } from '../scripts/tasks.ts';

/**
 * What may be shipped together with Apache-2.0 as it is: licences that ask for no more than their notice. The declared
 * text has to be one of these; an expression (`MIT OR …`) is added as it stands, after a look at it.
 */
export const allowed: ReadonlySet<string> = new Set([
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'CC0-1.0',
  'ISC',
  'MIT',
  'PSF-2.0',
  'Python-2.0',
  'Unlicense',
]);

export interface NativeLicence {
  /** An SPDX expression, of the parts that we ship. */
  readonly license: string;
  /** Why it may be shipped, where it is not one of the allowed ones. */
  readonly because?: string;
}

const gcc: NativeLicence = {
  license: 'GPL-3.0-or-later WITH GCC-exception-3.1',
  because: 'the exception lets programs of any licence use the run-time library',
};

/** The packages of Debian in the image, and those linked into the CNI plugin. Their copyright files say it in full. */
export const native: Readonly<Record<string, NativeLicence>> = {
  'base-files': {
    license: 'GPL-2.0-or-later',
    because: 'os-release and the texts of licences: files beside ours, unchanged',
  },
  'ca-certificates': { license: 'MPL-2.0', because: 'the list of CAs: files beside ours' },
  'gcc-14-base': gcc,
  libatomic1: gcc,
  'libgcc-s1': gcc,
  'libstdc++6': gcc,
  libc6: { license: 'LGPL-2.1-or-later', because: 'loaded at run time, and can be replaced' },
  'libc6-dev': {
    license: 'LGPL-2.1-or-later',
    because: 'linked into the CNI plugin, which can be linked anew: its sources and build are in the same repository',
  },
  libquickjs: { license: 'MIT' },
};

/** The packages of Debian of which parts are linked into the CNI plugin. */
export const linkedNames = ['libquickjs', 'libc6-dev'] as const;

/** A package in package-lock.json. */
export interface Locked {
  readonly license?: string | undefined;
  readonly dev?: boolean | undefined;
  readonly link?: boolean | undefined;
}

/**
 * What is wrong with the licences of what production gets: one line for each package. What only builds and tests is
 * not shipped, and not looked at.
 *
 * @param packages of package-lock.json, by their places
 * @param debian names of Debian's packages that are shipped or linked
 */
export function licenceProblems(
  packages: Readonly<Record<string, Locked>>,
  debian: readonly string[],
  table: Readonly<Record<string, NativeLicence>> = native,
): string[] {
  const problems: string[] = [];
  for (const [path, { license, dev, link }] of Object.entries(packages)) {
    if (dev === true || link === true) continue;
    const name = path === '' ? 'this project' : path.replace(/^.*node_modules\//, '');
    if (license === undefined) problems.push(`${name}: package-lock.json says no licence; look at the package's own`);
    else if (!allowed.has(license))
      problems.push(`${name}: ${license} is not allowed; use another package, or argue for it in image/licences.ts`);
  }
  for (const name of new Set(debian)) {
    const { license, because } = table[name] ?? {};
    if (license === undefined) problems.push(`${name} (Debian): not in the table of image/licences.ts`);
    else if (!allowed.has(license) && because === undefined)
      problems.push(`${name} (Debian): ${license} needs a reason in image/licences.ts`);
  }
  return problems;
}

/** The static check: prints the problems; resolves with an exit code. */
export async function checkLicences(): Promise<number> {
  const read = async (path: string): Promise<unknown> => JSON.parse(await readFile(join(projectRoot, path), 'utf8'));
  const { packages } = (await read('package-lock.json')) as { packages: Readonly<Record<string, Locked>> };
  const fixed = (await read('image/debian-packages.json')) as Readonly<Record<string, readonly { name: string }[]>>;
  const debian = Object.values(fixed).flatMap((each) => each.map(({ name }) => name));
  const problems = licenceProblems(packages, [...debian, ...linkedNames]);
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  return problems.length === 0 ? 0 : 1;
}
