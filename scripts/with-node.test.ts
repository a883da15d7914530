import { execFile } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from '@jest/globals';

let folder: string | undefined;
afterEach(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true });
});

test('with-node installs once when started twice, and follows no link that others may have laid', async () => {
  folder = mkdtempSync(join(tmpdir(), 'with-node-'));
  const [project, programs, temporary] = ['project', 'programs', 'tmp'].map((name) => join(folder ?? '', name));
  if (project === undefined || programs === undefined || temporary === undefined) return;
  for (const made of [programs, temporary, join(project, 'scripts')]) mkdirSync(made, { recursive: true });
  cpSync(join(import.meta.dirname, 'with-node'), join(project, 'scripts', 'with-node'));
  for (const name of ['.', 'operator', 'cni-plugin']) {
    mkdirSync(join(project, name), { recursive: true });
    writeFileSync(join(project, name, 'package.json'), '{}');
  }
  writeFileSync(join(project, 'package-lock.json'), '{}');
  // Like `npm ci`: throws node_modules away, takes its time.
  const bin = `node_modules/node-linux-${arch()}/bin`;
  const npm = `#!/bin/sh\necho run >>"${folder}/runs"; rm -rf node_modules; sleep 0.3; mkdir -p ${bin}; cp /bin/true ${bin}/node\n`;
  writeFileSync(join(programs, 'npm'), npm);
  chmodSync(join(programs, 'npm'), 0o755);
  const victim = join(folder, 'victim');
  writeFileSync(victim, 'precious');
  symlinkSync(victim, join(temporary, `ovpn-operator-install-${process.getuid?.()}.lock`));

  const env = { PATH: `${programs}:${process.env['PATH']}`, TMPDIR: temporary };
  const start = async () => promisify(execFile)(join(project, 'scripts', 'with-node'), ['echo', 'done'], { env });
  const runs = await Promise.all([start(), start(), start()]);
  expect(runs.map(({ stdout }) => stdout)).toEqual(['done\n', 'done\n', 'done\n']);
  expect(readFileSync(join(folder, 'runs'), 'utf8')).toBe('run\n');
  expect(readFileSync(victim, 'utf8')).toBe('precious');
  expect(existsSync(join(project, 'node_modules', '.installed'))).toBe(true);
});
