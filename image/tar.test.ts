import { afterEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tarOf } from './tar.ts';

const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

/** The same files, made in one order or the other. */
function folderOf(names: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'tar-'));
  folders.push(folder);
  mkdirSync(join(folder, 'sub'));
  for (const name of names) writeFileSync(join(folder, name), `content of ${name}`);
  for (const name of names) chmodSync(join(folder, name), name.endsWith('.sh') ? 0o755 : 0o644);
  symlinkSync('../b.sh', join(folder, 'sub/link'));
  return folder;
}

async function bytesOf(folder: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of tarOf(folder)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const long = `sub/${'x'.repeat(180)}`;

test('the bytes follow from the files, not from when, where or in which order they were made', async () => {
  const one = folderOf(['a', 'b.sh', 'sub/c', long]);
  const other = folderOf([long, 'sub/c', 'b.sh', 'a']);
  utimesSync(join(other, 'a'), 1e9, 1e9);
  const digest = async (folder: string): Promise<string> =>
    createHash('sha256')
      .update(await bytesOf(folder))
      .digest('hex');
  expect(await digest(one)).toBe(await digest(other));
  chmodSync(join(other, 'a'), 0o600);
  expect(await digest(one)).not.toBe(await digest(other));
});

test("tar(1) reads it: sorted, root's, without times", async () => {
  const archive = await bytesOf(folderOf(['b.sh', 'a', 'sub/c', long]));
  const listed = execFileSync('tar', ['--numeric-owner', '--utc', '-tvf', '-'], { input: archive, encoding: 'utf8' });
  expect(listed.trim().replaceAll(/ +/g, ' ').split('\n')).toEqual([
    '-rw-r--r-- 0/0 12 1970-01-01 00:00 a',
    '-rwxr-xr-x 0/0 15 1970-01-01 00:00 b.sh',
    'drwxr-xr-x 0/0 0 1970-01-01 00:00 sub/',
    '-rw-r--r-- 0/0 16 1970-01-01 00:00 sub/c',
    'lrwxrwxrwx 0/0 0 1970-01-01 00:00 sub/link -> ../b.sh',
    `-rw-r--r-- 0/0 ${'content of '.length + long.length} 1970-01-01 00:00 ${long}`,
  ]);
});

test('what is no file, folder or link is refused by name', async () => {
  const folder = folderOf(['a']);
  execFileSync('mkfifo', [join(folder, 'pipe')]);
  await expect(bytesOf(folder)).rejects.toThrow(/\/pipe is neither a file/);
});
