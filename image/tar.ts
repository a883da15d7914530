/**
 * A folder as a tar archive whose bytes follow from names, contents, links and permissions alone: entries are sorted,
 * everything belongs to root, and nothing has a time.
 */
import { createReadStream } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pack, type Header, type Pack } from 'tar-stream';

/** The archive of what is in a folder, without the folder itself. */
export async function* tarOf(folder: string): AsyncGenerator<Uint8Array> {
  const archive = pack();
  fill(archive, folder).then(
    () => archive.finalize(),
    (error: unknown) => archive.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  // Its types know no type of what it gives.
  for await (const bytes of archive) yield bytes as Uint8Array;
}

async function fill(archive: Pack, folder: string): Promise<void> {
  for await (const path of walk(folder)) {
    const at = join(folder, path);
    const stats = await lstat(at);
    // What a Unix time of zero means to everybody: unknown.
    const common = { uid: 0, gid: 0, mtime: new Date(0), mode: stats.mode & 0o7777 };
    if (stats.isDirectory()) await add(archive, { ...common, name: `${path}/`, type: 'directory' });
    else if (stats.isSymbolicLink())
      await add(archive, { ...common, mode: 0o777, name: path, type: 'symlink', linkname: await readlink(at) });
    else if (stats.isFile()) {
      const entry = archive.entry({ ...common, name: path, type: 'file', size: stats.size });
      await pipeline(createReadStream(at), entry);
    } else throw new Error(`${at} is neither a file, a folder nor a symbolic link`);
  }
}

function add(archive: Pack, header: Partial<Header> & Pick<Header, 'name'>): Promise<void> {
  return new Promise((resolve, reject) => {
    archive.entry(header, (error) => (error == null ? resolve() : reject(error)));
  });
}

/** Everything below a folder, each folder before what is in it, in the order of code units. */
export async function* walk(folder: string, below = ''): AsyncGenerator<string> {
  const entries = await readdir(join(folder, below), { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(below, entry.name);
    yield path;
    if (entry.isDirectory()) yield* walk(folder, path);
  }
}
