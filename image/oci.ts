/**
 * An OCI image layout: content-addressed blobs, and an index that says where to begin.
 * https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
 */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { constants, zstdCompress } from 'node:zlib';
import { tarOf } from './tar.ts';

/** GOARCH, as OCI names architectures. */
export type Architecture = 'amd64' | 'arm64';

export const mediaTypes = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar+zstd',
  empty: 'application/vnd.oci.empty.v1+json',
} as const;

/** https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: { readonly architecture: string; readonly os: string };
}

/** A compressed layer, and the digest of what it unpacks to. */
export interface Layer {
  readonly descriptor: Descriptor;
  readonly diffId: string;
  /** What created it, for the image's history. */
  readonly createdBy: string;
}

/** A layout that is being written into a folder. */
export class Layout {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Makes the folders, and the file that says which version of the layout this is. */
  async start(): Promise<void> {
    await mkdir(join(this.#folder, 'blobs/sha256'), { recursive: true });
    await writeFile(join(this.#folder, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  }

  /** Adds what is in a folder as a layer. */
  async addLayer(folder: string, createdBy: string): Promise<Layer> {
    const { compressed, diffId } = await compress(tarOf(folder));
    const descriptor = await this.#add(mediaTypes.layer, compressed);
    return { descriptor, diffId, createdBy };
  }

  /** Adds a document. */
  async addJson(mediaType: string, content: object): Promise<Descriptor> {
    return this.#add(mediaType, Buffer.from(JSON.stringify(content)));
  }

  /** Ends the layout with its way in. */
  async finish(manifest: Descriptor): Promise<void> {
    const index = { schemaVersion: 2, mediaType: mediaTypes.index, manifests: [manifest] };
    await writeFile(join(this.#folder, 'index.json'), JSON.stringify(index));
  }

  async #add(mediaType: string, bytes: Buffer): Promise<Descriptor> {
    const digest = digestOf(bytes);
    await writeFile(join(this.#folder, 'blobs', digest.replace(':', '/')), bytes);
    return { mediaType, digest, size: bytes.length };
  }
}

/**
 * A layer as it is stored, and the digest of what it was. zstd's output, other than that of the zlibs of different
 * processors, follows from input, level and version; but only if it gets the input at once: where one piece of it ends,
 * and whether the end is known with the last, shows in the output.
 */
export async function compress(
  pieces: AsyncIterable<Uint8Array>,
): Promise<{ readonly compressed: Buffer; readonly diffId: string }> {
  const read: Uint8Array[] = [];
  for await (const piece of pieces) read.push(piece);
  const plain = Buffer.concat(read);
  const compressed = await zstd(plain, { params: { [constants.ZSTD_c_compressionLevel]: 9 } });
  return { compressed, diffId: digestOf(plain) };
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

const zstd = promisify(zstdCompress);
