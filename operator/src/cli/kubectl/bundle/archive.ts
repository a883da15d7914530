import { open } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pack } from 'tar-stream';
import { describe, OvpnError } from '../../../errors.ts';

/** A file of a bundle. */
export interface BundleFile {
  /** Inside of the bundle. */
  readonly path: string;
  readonly text: string;
}

/**
 * Writes files as a .tar.gz, which only its owner can read; one that is there is never written over.
 *
 * @param folder the one folder that all files are in, so that unpacking makes no mess
 * @throws OvpnError ConfigInvalid when the file cannot be made
 */
export async function writeArchive(
  file: string,
  folder: string,
  files: readonly BundleFile[],
  now: Date,
): Promise<void> {
  const archive = pack();
  for (const { path, text } of files) archive.entry({ name: `${folder}/${path}`, mtime: now, mode: 0o600 }, text);
  archive.finalize();
  try {
    const handle = await open(file, 'wx', 0o600);
    await pipeline(archive, createGzip(), handle.createWriteStream());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw alreadyThere(file);
    throw refused(`${file} cannot be written: ${describe(error)}`, error);
  }
}

/** The refusal to write over a file. */
export function alreadyThere(file: string): OvpnError {
  return refused(`${file} is there already`);
}

function refused(problem: string, cause?: unknown): OvpnError {
  return new OvpnError('ConfigInvalid', problem, { field: '--output' }, { cause, remedy: 'name another file' });
}
