/**
 * What the image takes from Debian: the C and C++ libraries that Node.js is linked with, and the CAs of the web.
 * debian-packages.json fixes the very files; they are kept in the lab's cache by their digest.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PrivateApt } from '../test/lab/apt.ts';
import { cacheFolder, exists } from '../test/lab/cache.ts';
import { LabError } from '../test/lab/errors.ts';
import { needPrograms } from '../test/lab/host-programs.ts';
import { withLock } from '../test/lab/lock.ts';
import { unpackPrograms } from '../test/lab/packages.ts';
import type { Progress } from '../test/lab/progress.ts';
import { must } from '../test/lab/run.ts';
import type { Architecture } from './oci.ts';

export const suite = { name: 'trixie', release: 13 } as const;

/** The packages. Of gcc-14-base it is the copyright file of what else GCC's source gives. */
const names = ['base-files', 'ca-certificates', 'gcc-14-base', 'libatomic1', 'libc6', 'libgcc-s1', 'libstdc++6'];

/** One package, fixed. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  /** Debian's, which `all` belongs to. */
  readonly architecture: string;
  readonly sha256: string;
}

/** A package that is on this machine. */
export interface DebianFile extends DebianPackage {
  readonly file: string;
}

type Lock = Readonly<Record<Architecture, readonly DebianPackage[]>>;

const lockFile = join(import.meta.dirname, 'debian-packages.json');

/** The fixed packages of an architecture; fetches those that the cache does not have. @throws LabError */
export async function needDebianPackages(architecture: Architecture, progress: Progress): Promise<DebianFile[]> {
  const lock = JSON.parse(await readFile(lockFile, 'utf8')) as Lock;
  const wanted = lock[architecture].map((fixed) => ({ ...fixed, file: cached(fixed.sha256) }));
  const missing: DebianFile[] = [];
  for (const found of wanted) if (!(await exists(found.file))) missing.push(found);
  if (missing.length === 0) return wanted;
  const got = await fetch(
    architecture,
    missing.map(({ name, version }) => `${name}=${version}`),
    progress,
  );
  for (const { name, version, sha256 } of missing) {
    const found = got.find((each) => each.name === name);
    if (found?.sha256 === sha256) continue;
    throw new LabError(
      `the package ${name} ${version} for ${architecture} is not the one of ${lockFile}: SHA-256 ${found?.sha256 ?? '(none)'} instead of ${sha256}`,
      'If Debian did publish another one (it does not do that under the same version), fix it anew: npm run image -- --update-debian',
    );
  }
  return wanted;
}

/** Fixes the newest packages of the suite anew. Resolves with what changed, as `name OLD -> NEW`. */
export async function updateDebianPackages(progress: Progress): Promise<string[]> {
  const old = (await exists(lockFile))
    ? (JSON.parse(await readFile(lockFile, 'utf8')) as Lock)
    : { amd64: [], arm64: [] };
  const newest = names.map((name) => `${name}/${suite.name}`);
  const fix = async (architecture: Architecture): Promise<DebianPackage[]> =>
    (await fetch(architecture, newest, progress)).sort((a, b) => (a.name < b.name ? -1 : 1));
  const lock: Lock = { amd64: await fix('amd64'), arm64: await fix('arm64') };
  await writeFile(lockFile, `${JSON.stringify(lock, undefined, 2)}\n`);
  return Object.entries(lock).flatMap(([architecture, packages]) =>
    packages.flatMap(({ name, version }) => {
      const before = old[architecture as Architecture].find((each) => each.name === name)?.version;
      return before === version ? [] : [`${name}:${architecture} ${before ?? '(none)'} -> ${version}`];
    }),
  );
}

/** Downloads packages (`name` or `name=version`) into the cache. */
async function fetch(
  architecture: Architecture,
  packages: readonly string[],
  progress: Progress,
): Promise<DebianPackage[]> {
  await needPrograms(unpackPrograms, 'fetching the libraries of the image', progress);
  const cache = cacheFolder();
  return withLock(cache, progress, async () => {
    await mkdir(join(cached(''), '..'), { recursive: true });
    const own = { x64: 'amd64', arm64: 'arm64' }[process.arch as string];
    const apt = new PrivateApt(cache, progress, own === architecture ? undefined : architecture);
    progress.step(`fetching ${packages.join(', ')} of Debian ${suite.name} for ${architecture}`);
    const folder = await mkdtemp(join(cache, 'debs-'));
    try {
      const files = await download(apt, packages, folder);
      return await Promise.all(files.map(keep));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

async function download(apt: PrivateApt, packages: readonly string[], folder: string): Promise<string[]> {
  try {
    return await apt.download(packages, folder);
  } catch (error) {
    if (!(error instanceof LabError) || !/Version .* was not found|Unable to locate/.test(error.message)) throw error;
    throw new LabError(
      error.message,
      `Debian has replaced a package that ${lockFile} names. Fix the newest ones, and commit them: npm run image -- --update-debian`,
    );
  }
}

/** Moves a package into the cache, and says which it is. */
async function keep(deb: string): Promise<DebianPackage> {
  const sha256 = createHash('sha256')
    .update(await readFile(deb))
    .digest('hex');
  const { stdout } = await must('dpkg-deb', ['--show', '--showformat=${Package} ${Version} ${Architecture}', deb]);
  const [name = '', version = '', architecture = ''] = stdout.split(' ');
  await rename(deb, cached(sha256));
  return { name, version, architecture, sha256 };
}

function cached(sha256: string): string {
  return join(cacheFolder(), 'image-debs', `${sha256}.deb`);
}
