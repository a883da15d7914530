/**
 * An OCI image layout: content-addressed blobs, and an index that says where to begin.
 * https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
 */
import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress } from 'node:zlib';
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
    const work = await mkdtemp(join(this.#folder, 'layer-'));
    try {
      const [plain, compressed] = [new Meter(), new Meter()];
      const file = join(work, 'layer');
      await pipeline(tarOf(folder), plain, zstd(), compressed, createWriteStream(file));
      await rename(file, this.#blob(compressed.digest));
      const { digest, size } = compressed;
      return { descriptor: { mediaType: mediaTypes.layer, digest, size }, diffId: plain.digest, createdBy };
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }

  /** Adds a document. */
  async addJson(mediaType: string, content: object): Promise<Descriptor> {
    const bytes = Buffer.from(JSON.stringify(content));
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    await writeFile(this.#blob(digest), bytes);
    return { mediaType, digest, size: bytes.length };
  }

  /** Ends the layout with its way in. */
  async finish(manifest: Descriptor): Promise<void> {
    const index = { schemaVersion: 2, mediaType: mediaTypes.index, manifests: [manifest] };
    await writeFile(join(this.#folder, 'index.json'), JSON.stringify(index));
  }

  #blob(digest: string): string {
    return join(this.#folder, 'blobs', digest.replace(':', '/'));
  }
}

/** zstd's output, other than that of the zlibs of different processors, follows from input, level and version. */
function zstd(): Transform {
  return createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 9 } });
}

/** Hands bytes on, and keeps their digest and number. */
class Meter extends Transform {
  readonly #hash: Hash = createHash('sha256');
  size = 0;
  #digest: string | undefined;

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error: null, chunk: Buffer) => void): void {
    this.#hash.update(chunk);
    this.size += chunk.length;
    done(null, chunk);
  }

  get digest(): string {
    return (this.#digest ??= `sha256:${this.#hash.digest('hex')}`);
  }
}
