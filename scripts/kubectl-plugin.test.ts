import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { version } from '../operator/src/version.ts';
import { buildKubectlPlugin } from './kubectl-plugin.ts';

describe('the plugin of kubectl', () => {
  // Nothing of this repository is above it.
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-plugin-'));
  const file = join(folder, 'kubectl-ovpn');
  beforeAll(() => buildKubectlPlugin(file), 60_000);
  afterAll(() => rmSync(folder, { recursive: true }));

  const run = (...args: string[]) =>
    spawnSync(file, args, {
      encoding: 'utf8',
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, HOME: folder },
      timeout: 30_000,
    });

  test('is a program of its own', () => {
    expect(statSync(file).mode & 0o777).toBe(0o755);
    expect(run('version')).toMatchObject({ status: 0, stdout: `kubectl-ovpn ${version}\n`, stderr: '' });
    expect(run('no-such')).toMatchObject({ status: 2, stdout: '' });
  });

  test('asks for nothing beside it but Node.js', () => {
    const asked = [...readFileSync(file, 'utf8').matchAll(/^import .*? from ["']([^"']+)["'];$/gm)].map(
      ([, name]) => name,
    );
    expect(asked.length).toBeGreaterThan(5);
    expect(asked.filter((name) => !isBuiltin(name!))).toEqual([]);
  });

  test('passes on the licences of what is inside', () => {
    const lines = readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('// '));
    const packages = lines.flatMap((line) => /^\/\/ (\S+) \d+\.\d+\.\d+ \([A-Za-z0-9.-]+\)$/.exec(line)?.[1] ?? []);
    expect(packages).toEqual(expect.arrayContaining(['@kubernetes/client-node', 'commander']));
    expect(lines.filter((line) => line.startsWith('// Permission is hereby granted')).length).toBeGreaterThan(1);
  });

  test('is the same bytes every time', async () => {
    const again = join(folder, 'again');
    await buildKubectlPlugin(again);
    expect(readFileSync(again).equals(readFileSync(file))).toBe(true);
  }, 60_000);
});
