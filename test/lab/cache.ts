import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, stat, statfs } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { LabError, codeOf } from './errors.ts';

/** The folder that keeps kernels and tools between runs: outside the repository, shared by its checkouts. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const own = env['OVPN_LAB_CACHE'];
  if (own !== undefined && own !== '') return own;
  const base = env['XDG_CACHE_HOME'];
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'ovpn-operator', 'lab');
}

/** A short name for a set of inputs: the same inputs give the same name, any change another one. */
export function cacheKey(inputs: Readonly<Record<string, string>>): string {
  const sorted = Object.entries(inputs).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256').update(JSON.stringify(sorted)).digest('hex').slice(0, 16);
}

/** Whether a path exists. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/**
 * Makes `target` (a folder in the cache) by filling a temporary neighbour and renaming it when it is
 * whole, so that an interrupted run leaves nothing that looks finished.
 */
export async function publish(target: string, fill: (temporary: string) => Promise<void>): Promise<void> {
  const temporaries = join(dirname(target), 'tmp');
  await mkdir(temporaries, { recursive: true });
  const temporary = await mkdtemp(join(temporaries, 'part-'));
  try {
    await fill(temporary);
    await rm(target, { recursive: true, force: true });
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Refuses to start what would run out of disk in the middle. */
export async function needSpace(folder: string, bytes: number, what: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= bytes) return;
  const gigabytes = (n: number): string => (n / 2 ** 30).toFixed(1);
  throw new LabError(
    `${what} needs ${gigabytes(bytes)} GB in ${folder}, and only ${gigabytes(bavail * bsize)} GB are free`,
    'Free some space, or point OVPN_LAB_CACHE at a folder on a bigger disk.',
  );
}
