/** Reads an image as its users do: by its digests, with tar and readelf. Nothing here is shared with image/. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, normalize } from 'node:path';
import { lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createZstdDecompress } from 'node:zlib';
import { run } from './run.ts';

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: { readonly os: string; readonly architecture: string };
}

export interface Index {
  readonly schemaVersion: number;
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Manifest {
  readonly schemaVersion: number;
  readonly mediaType: string;
  readonly artifactType?: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Config {
  readonly architecture: string;
  readonly os: string;
  readonly created: string;
  readonly config: {
    readonly User: string;
    readonly Env: readonly string[];
    readonly Labels: Readonly<Record<string, string>>;
  };
  readonly rootfs: { readonly type: string; readonly diff_ids: readonly string[] };
  readonly history: readonly object[];
}

/** An OCI layout in a folder, every read of which is checked. */
export class ReadLayout {
  readonly folder: string;
  readonly #read = new Set<string>();

  constructor(folder: string) {
    this.folder = folder;
  }

  get index(): Index {
    return JSON.parse(readFileSync(join(this.folder, 'index.json'), 'utf8')) as Index;
  }

  /** The file of a blob, whose size and digest are right. */
  async file({ digest, size }: Descriptor): Promise<string> {
    const path = join(this.folder, 'blobs', ...digest.split(':'));
    if (statSync(path).size !== size) throw new Error(`${path} has ${statSync(path).size} bytes, not ${size}`);
    const found = await digestOf(createReadStream(path));
    if (found !== digest) throw new Error(`${path} has the digest ${found}`);
    this.#read.add(digest);
    return path;
  }

  async json<T>(descriptor: Descriptor): Promise<T> {
    return JSON.parse(readFileSync(await this.file(descriptor), 'utf8')) as T;
  }

  /** Blobs that nothing has read. */
  unread(): string[] {
    return readdirSync(join(this.folder, 'blobs/sha256')).filter((name) => !this.#read.has(`sha256:${name}`));
  }

  /** The digest of what a layer unpacks to. */
  async diffId(layer: Descriptor): Promise<string> {
    const plain = createReadStream(await this.file(layer)).pipe(createZstdDecompress());
    return digestOf(plain);
  }

  /** Unpacks layers into a folder. */
  async unpack(layers: readonly Descriptor[], folder: string): Promise<void> {
    mkdirSync(folder, { recursive: true });
    for (const layer of layers) await this.#tar(layer, ['-x', '--same-permissions', '-C', folder]);
  }

  /** What is in layers, as `tar -tv` lists it with numbers for owners. */
  async list(layers: readonly Descriptor[]): Promise<string[]> {
    const texts: string[] = [];
    for (const layer of layers) texts.push(await this.#tar(layer, ['-tv', '--numeric-owner']));
    return texts.join('').trim().split('\n');
  }

  async #tar(layer: Descriptor, args: readonly string[]): Promise<string> {
    const tar = spawn('tar', [...args, '-f', '-'], { stdio: ['pipe', 'pipe', 'inherit'] });
    let text = '';
    tar.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    const closed = new Promise<number | null>((resolve) => tar.once('close', resolve));
    await pipeline(createReadStream(await this.file(layer)), createZstdDecompress(), tar.stdin);
    const code = await closed;
    if (code !== 0) throw new Error(`tar ${args.join(' ')} ended with ${String(code)}`);
    return text;
  }
}

async function digestOf(source: AsyncIterable<unknown>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of source) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}

/** What readelf(1) says of a file. */
export interface Elf {
  readonly path: string;
  readonly machine: string;
  readonly interpreter: string | undefined;
  readonly needed: readonly string[];
}

/** All ELF files below a folder. */
export async function elfFiles(root: string): Promise<Elf[]> {
  const found: Elf[] = [];
  for (const path of files(root)) {
    const at = join(root, path);
    if (!readFileSync(at).subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1'))) continue;
    const text = await run('readelf', '-W', '-h', '-l', '-d', at);
    found.push({
      path,
      machine: /Machine:\s+(.*)/.exec(text)?.[1] ?? '',
      interpreter: /program interpreter: ([^\]]+)\]/.exec(text)?.[1],
      needed: [...text.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name = '']) => name),
    });
  }
  return found;
}

/** The regular files below a folder, by their paths in it. */
export function files(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1));
}

/** Where a path leads inside of a root, its links followed as a process there follows them. */
export function inRoot(root: string, path: string): string | undefined {
  let at = '/';
  const rest = path.split('/');
  for (let links = 0; rest.length > 0 && links < 40;) {
    const next = normalize(join(at, rest.shift() ?? ''));
    if (!existsSync(join(root, next)) && !isLink(join(root, next))) return undefined;
    if (!isLink(join(root, next))) {
      at = next;
      continue;
    }
    links += 1;
    const target = readlinkSync(join(root, next));
    rest.unshift(...target.split('/'));
    at = isAbsolute(target) ? '/' : dirname(next);
  }
  return at;
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
}
