import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageProblems } from './commit-message.ts';

describe("a commit's message", () => {
  test.each([
    ['Refuse a second identity'],
    ["Add a field\n\nBecause it's missing.\n# Comment of git"],
    ['Tell why\n# On branch main\n# ------------------------ >8 ------------------------\ndiff --git a b\nadded.'],
    ["Merge branch 'topic' into main"],
    ['fixup! Refuse a second identity'],
    ['\n# Only comments: git itself refuses it'],
  ])('%j is well-formed', (message) => expect(messageProblems(message)).toEqual([]));

  test.each([
    ['refuse a second identity', /capital/],
    ['Refuse a second identity.', /full stop/],
    ['Added a field', /imperative/],
    ['Fixes a hole', /imperative/],
    ['Refuse\nand say why', /blank line/],
    ['Refuse '.padEnd(101, 'x'), /101 characters/],
  ])('%j is not', (message, why) => {
    const problems = messageProblems(message);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(why);
  });
});

describe('the hooks of git', () => {
  let clone: string;
  const git = (...args: string[]) => {
    // git sets variables for its hooks and what they run; a test that a hook started must not meet the outer repository.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('GIT_')));
    const who = ['-c', 'user.name=Test', '-c', 'user.email=test@example.com'];
    const { status, stdout, stderr } = spawnSync('git', [...who, ...args], { cwd: clone, env, encoding: 'utf8' });
    return { status, text: stdout + stderr };
  };
  const hooks = (...args: string[]) =>
    spawnSync(process.execPath, ['scripts/hooks.ts', ...args], { cwd: clone, encoding: 'utf8' });

  beforeAll(() => {
    const root = join(import.meta.dirname, '..');
    clone = mkdtempSync(join(tmpdir(), 'ovpn-hooks-'));
    // The files as they are, committed or not.
    const files = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root });
    const copied = spawnSync('tar', ['-c', '--null', '-T', '-'], { cwd: root, input: files.stdout, maxBuffer: 1e9 });
    spawnSync('tar', ['-x', '-C', clone], { input: copied.stdout });
    // A folder of links: should the scripts install anew, they throw away the links only.
    mkdirSync(join(clone, 'node_modules'));
    for (const name of readdirSync(join(root, 'node_modules')))
      symlinkSync(join(root, 'node_modules', name), join(clone, 'node_modules', name));
    git('init', '--quiet');
    git('add', '.');
    expect(git('commit', '--quiet', '--message', 'Begin').status).toBe(0);
  });
  afterAll(() => rmSync(clone, { recursive: true, force: true }));

  test('are turned on, but not in place of others', () => {
    git('config', 'core.hooksPath', 'mine');
    const refused = hooks('install');
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/hooks of mine .*core.hooksPath/);
    git('config', '--unset', 'core.hooksPath');
    expect(hooks('install').status).toBe(0);
    expect(git('config', 'core.hooksPath').text).toBe('scripts/git-hooks\n');
    expect(hooks('install').status).toBe(0);
  });

  test('look at what is staged and at nothing else, and at the message', () => {
    git('config', 'core.hooksPath', 'scripts/git-hooks');
    const unnamed = git('commit', '--allow-empty', '--message', 'added nothing');
    expect(unnamed.status).toBe(1);
    expect(unnamed.text).toMatch(/capital letter[^]*imperative/);

    writeFileSync(join(clone, 'scripts/tried.ts'), 'export const one  = 1;\nif (one) debugger;\n');
    git('add', 'scripts/tried.ts');
    // The file itself is mended, the staged one is not.
    writeFileSync(join(clone, 'scripts/tried.ts'), 'export const one = 1;\n');
    const refused = git('commit', '--message', 'Add a file');
    expect(refused.status).toBe(1);
    expect(refused.text).toMatch(/scripts\/tried.ts: not formatted/);
    expect(refused.text).toMatch(/scripts\/tried.ts:2: .*\(no-debugger\)/);

    git('add', 'scripts/tried.ts');
    appendFileSync(join(clone, 'README.md'), '*  not staged, and not formatted  *\n');
    expect(git('commit', '--message', 'Add a file')).toMatchObject({ status: 0 });
    expect(git('log', '--format=%s', '-1').text).toBe('Add a file\n');
  }, 60_000);
});
