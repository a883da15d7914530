import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Inputs in files: one folder a target, one file an input. */

export const corpusFolder = join(import.meta.dirname, 'corpus');

export interface Entry {
  readonly path: string;
  readonly bytes: Buffer;
}

/** In the order of their names, so that a run is the same everywhere. */
export function readCorpus(target: string, folder = corpusFolder): Entry[] {
  const own = join(folder, target);
  if (!existsSync(own)) {
    return [];
  }
  return readdirSync(own)
    .filter((name) => name.endsWith('.bin'))
    .sort()
    .map((name) => ({ path: join(own, name), bytes: readFileSync(join(own, name)) }));
}

export function writeEntry(target: string, name: string, bytes: Buffer, folder = corpusFolder): string {
  mkdirSync(join(folder, target), { recursive: true });
  const path = join(folder, target, `${name}.bin`);
  writeFileSync(path, bytes);
  return path;
}

/** A name that says nothing but is the same for the same bytes. */
export function contentName(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 12);
}
