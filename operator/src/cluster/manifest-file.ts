import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import { parseManifests } from '../api/parse.ts';
import { formatRef, refOf } from '../api/types.ts';
import type { Resource } from '../api/types.ts';
import { OvpnError, describe } from '../errors.ts';
import type { Claim } from './store.ts';

/** What one look at a file found. */
export interface FileView {
  /** Equal for equal findings. */
  readonly fingerprint: string;
  readonly size: number;
  /** What the file defines; undefined when it could not be read as a whole. Empty for a file that is gone. */
  readonly claims: readonly Claim[] | undefined;
  /** Whether it defines a Secret. */
  readonly holdsSecret: boolean;
  /** Why the file could not be read. */
  readonly error?: OvpnError;
  /** Last change of the file, in milliseconds. */
  readonly mtimeMs: number;
  readonly mode: number;
  /** Tells whether the file was touched since, without reading it. */
  readonly stamp: string;
}

/** No more than this is read of one file. Manifests of 10,000 peers are a tenth of it. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;

export const absentFile: FileView = {
  fingerprint: 'absent',
  size: 0,
  claims: [],
  holdsSecret: false,
  mtimeMs: 0,
  mode: 0,
  stamp: 'absent',
};

/** What changes when a file is written or replaced by another (also through a symlink). */
export function fileStamp(stats: BigIntStats): string {
  return [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs, stats.mode].join(' ');
}

/** A file that is there and cannot be read. */
export function unreadableFile(name: string, problem: string, stats?: BigIntStats): FileView {
  const error = new OvpnError('ManifestUnreadable', problem, { object: name });
  return {
    ...absentFile,
    fingerprint: `unreadable ${problem}`,
    stamp: stats === undefined ? 'unreadable' : fileStamp(stats),
    claims: undefined,
    error,
  };
}

/**
 * Reads and parses a file. `name` is how errors call it. A file that is written to while it is read gives a
 * view whose stamp no longer matches the file's, so the next look reads it again.
 */
export async function readManifestFile(path: string, name: string, defaultNamespace: string): Promise<FileView> {
  try {
    const file = await open(path, 'r');
    try {
      const stats = await file.stat({ bigint: true });
      if (!stats.isFile()) return unreadableFile(name, 'it is not a regular file', stats);
      if (stats.size > MAX_FILE_BYTES) return unreadableFile(name, `it is larger than ${MAX_FILE_BYTES} bytes`, stats);
      const bytes = await file.readFile();
      const claims = parseFile(bytes.toString('utf8'), name, defaultNamespace);
      return {
        fingerprint: createHash('sha256').update(bytes).digest('hex'),
        size: bytes.length,
        claims,
        holdsSecret: claims.some(({ outcome }) => outcome.ok && outcome.resource.kind === 'Secret'),
        mtimeMs: Number(stats.mtimeMs),
        mode: Number(stats.mode),
        stamp: fileStamp(stats),
      };
    } finally {
      await file.close();
    }
  } catch (error) {
    return unreadableFile(name, `it cannot be read: ${describe(error)}`);
  }
}

/** The claims of a text. Their ids sort by file name, then by place in the file. */
function parseFile(text: string, name: string, defaultNamespace: string): Claim[] {
  const result = parseManifests(text, name, { defaultNamespace });
  const id = (group: string, index: number): string => `${name}\0${group}${String(index).padStart(6, '0')}`;
  return [
    ...result.resources.map(({ resource, origin }, index): Claim => {
      return { id: id('a', index), origin, outcome: { ok: true, resource: localResource(resource) } };
    }),
    ...result.rejections.map(({ ref, origin, errors }, index): Claim => {
      return { id: id('b', index), origin, outcome: { ok: false, ref, errors } };
    }),
  ];
}

/** Which object a claim defines, as a text; undefined when it cannot be known. */
export function claimedName({ outcome }: Claim): string | undefined {
  const ref = outcome.ok ? refOf(outcome.resource) : outcome.ref;
  return ref === undefined ? undefined : formatRef(ref);
}

/**
 * The object without what only an API server can know. It stands in manifests that were dumped from a
 * cluster, and is not true here.
 */
function localResource(resource: Resource): Resource {
  const { name, namespace, labels, annotations } = resource.metadata;
  const metadata = { name, ...(namespace === undefined ? {} : { namespace }), labels, annotations };
  const copy: Record<string, unknown> = { ...resource, metadata };
  delete copy['status'];
  return copy as unknown as Resource;
}
