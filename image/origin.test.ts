import { afterEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { originOf } from './origin.ts';

const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'origin-'));
  folders.push(made);
  return made;
}

/** A repository with one commit of a known time. */
function repository(): { path: string; head: string } {
  const path = folder();
  const git = (...args: string[]): string =>
    execFileSync('git', ['-C', path, '-c', 'user.name=x', '-c', 'user.email=x@example.com', ...args], {
      encoding: 'utf8',
      env: { ...process.env, GIT_COMMITTER_DATE: '1700000000 +0200' },
    });
  git('init', '-q');
  writeFileSync(join(path, 'a'), 'a');
  git('add', '.');
  git('commit', '-q', '-m', 'first');
  return { path, head: git('rev-parse', 'HEAD').trim() };
}

test('a repository gives time and revision, and says when files differ from it', async () => {
  const { path, head } = repository();
  expect(await originOf(path, {})).toEqual({ seconds: 1_700_000_000, revision: head });
  expect(await originOf(path, { SOURCE_DATE_EPOCH: '5' })).toEqual({ seconds: 5, revision: head });
  writeFileSync(join(path, 'b'), 'b');
  expect(await originOf(path, {})).toEqual({ seconds: 1_700_000_000, revision: `${head}-dirty` });
});

test('a folder without a repository of its own needs a time, and has no revision', async () => {
  const { path } = repository();
  mkdirSync(join(path, 'sub'));
  for (const at of [folder(), join(path, 'sub')]) {
    await expect(originOf(at, {})).rejects.toThrow(/is not the top of a git repository/);
    expect(await originOf(at, { SOURCE_DATE_EPOCH: '1700000000' })).toEqual({
      seconds: 1_700_000_000,
      revision: undefined,
    });
  }
});

test.each(['yesterday', '1e9', '-1', '1.5', '999999999999'])('a time of %s is refused', async (text) => {
  await expect(originOf(folder(), { SOURCE_DATE_EPOCH: text })).rejects.toThrow(
    `SOURCE_DATE_EPOCH is '${text}', which is no time`,
  );
});
