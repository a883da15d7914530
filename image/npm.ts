/**
 * What the image takes from npm: Node.js, and what the bundles leave out. npm itself installs it, for the architecture
 * of the image, and checks it against package-lock.json.
 */
import { cp, mkdir, readFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { cacheFolder, cacheKey, exists, publish } from '../test/lab/cache.ts';
import { LabError } from '../test/lab/errors.ts';
import { withLock } from '../test/lab/lock.ts';
import type { Progress } from '../test/lab/progress.ts';
import { must } from '../test/lab/run.ts';
import { projectRoot } from '../scripts/tasks.ts';
import type { Architecture } from './oci.ts';

/** Node.js' names of the architectures. */
export const nodeArch = { amd64: 'x64', arm64: 'arm64' } as const satisfies Record<Architecture, string>;

/** What npm goes by. */
const manifests = ['package.json', 'package-lock.json', 'operator/package.json', 'cni-plugin/package.json'];

/** A package as package-lock.json has it. */
export interface NpmPackage {
  /** Its place, below the folder of package-lock.json. */
  readonly path: string;
  readonly name: string;
  readonly version: string;
  /** An SPDX expression. */
  readonly license: string;
  /** `sha512-…` in base64, as npm checks it. */
  readonly integrity: string;
}

interface Manifest {
  readonly name?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

interface LockEntry {
  readonly version?: string;
  readonly license?: string;
  readonly integrity?: string;
}

/** A folder with the production dependencies of this project for an architecture, and Node.js. */
export async function needNpmPackages(architecture: Architecture, progress: Progress): Promise<string> {
  const texts: Record<string, string> = {};
  for (const path of manifests) texts[path] = await readFile(join(projectRoot, path), 'utf8');
  const cpu = nodeArch[architecture];
  const cache = cacheFolder();
  const target = join(cache, `image-npm-${architecture}-${cacheKey({ ...texts, cpu })}`);
  if (await exists(target)) return target;
  await mkdir(cache, { recursive: true });
  return withLock(cache, progress, async () => {
    if (await exists(target)) return target;
    progress.step(`installing npm packages for ${architecture}`);
    await publish(target, async (folder) => {
      for (const path of manifests) {
        await mkdir(dirname(join(folder, path)), { recursive: true });
        await cp(join(projectRoot, path), join(folder, path));
      }
      // No script of a package runs: what they would compile is there compiled, in packages of the architecture.
      const platform = ['--os=linux', `--cpu=${cpu}`, '--libc=glibc'];
      const quiet = ['--no-fund', '--no-audit', '--loglevel=error'];
      await must('npm', ['ci', '--omit=dev', '--ignore-scripts', ...platform, ...quiet], { cwd: folder });
      if (await exists(join(folder, 'node_modules', `node-linux-${cpu}`, 'bin/node'))) return;
      throw new LabError(
        `npm installed no Node.js for ${architecture} (node-linux-${cpu})`,
        'npm has to be version 10 or newer to install for another architecture: npm --version',
      );
    });
    return target;
  });
}

/** The packages that some need, with themselves, found as Node.js finds them; by their places, sorted. */
export async function neededBy(root: string, names: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  const look = async (name: string, from: string, optional: boolean): Promise<void> => {
    const folder = await resolvePackage(root, name, from);
    if (folder === undefined) {
      if (optional) return;
      throw new Error(`${from} needs the npm package ${name}, which is not in ${root}`);
    }
    const path = relative(root, folder);
    if (found.has(path)) return;
    found.add(path);
    const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as Manifest;
    const optionals = Object.keys(manifest.optionalDependencies ?? {});
    const needs = Object.keys(manifest.dependencies ?? {}).filter((each) => !optionals.includes(each));
    for (const each of needs) await look(each, folder, false);
    for (const each of optionals) await look(each, folder, true);
  };
  for (const name of names) await look(name, root, false);
  return [...found].sort();
}

async function resolvePackage(root: string, name: string, from: string): Promise<string | undefined> {
  for (let folder = from; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (await exists(join(candidate, 'package.json'))) return candidate;
    if (folder === root) return undefined;
  }
}

/** The place of the package that a source file is of, or undefined for one of this project. */
export function packageOfFile(path: string): string | undefined {
  return /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0];
}

/** What package-lock.json says of packages, by their places. @throws when it does not know one */
export async function lockedPackages(paths: readonly string[]): Promise<NpmPackage[]> {
  const lock = JSON.parse(await readFile(join(projectRoot, 'package-lock.json'), 'utf8')) as {
    packages: Readonly<Record<string, LockEntry>>;
  };
  return [...paths].sort().map((path) => {
    const { version, license, integrity } = lock.packages[path] ?? {};
    if (version === undefined || license === undefined || integrity === undefined)
      throw new Error(`package-lock.json does not say version, license and integrity of ${path}`);
    return {
      path,
      name: path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length),
      version,
      license,
      integrity,
    };
  });
}
