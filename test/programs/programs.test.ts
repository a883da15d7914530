import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { switchesItself } from './go.ts';
import { monitoringCrds, monitoringHeader } from './monitoring.ts';
import { buildFlags, cachedPath, providedPath, versionOf } from './location.ts';
import { type Program, type ProgramName, programs, versionIn } from './programs.ts';

const entries = Object.entries(programs) as [ProgramName, Program][];

describe('the Go programs of the tests', () => {
  test.each(entries)('%s is of a pinned version, and has a path of its own', (name, program) => {
    expect(versionOf(program)).toMatch(/^v\d+\.\d+\.\d+$/);
    expect(cachedPath(name)).toContain(`/programs/${name}-${versionOf(program)}-`);
  });

  test.each(entries.filter(([, { stamp }]) => stamp !== undefined))('%s is told its version', (_, program) => {
    expect(buildFlags(program).at(-1)).toMatch(new RegExp(String.raw`-X \S+=${versionOf(program)}$`));
  });

  test.each([
    ['module m\n\nrequire example.org/a v1.2.3\n', 'v1.2.3'],
    ['module m\n\nrequire (\n\texample.org/a/b v9.0.0\n\texample.org/a v1.2.3 // indirect\n)\n', 'v1.2.3'],
    ['module m\n\nrequire example-org/a v1.2.3\n', undefined],
    ['module m\n\nreplace example.org/a => example.org/a v1.2.3\n', undefined],
  ])('reads the version of a module from %j', (text, version) => {
    expect(versionIn(text, 'example.org/a')).toBe(version);
  });

  test('are taken from KUBEBUILDER_ASSETS where that folder has them', () => {
    const folder = mkdtempSync(join(tmpdir(), 'programs-test-'));
    try {
      writeFileSync(join(folder, 'etcd'), '');
      const env = { KUBEBUILDER_ASSETS: folder };
      expect(providedPath('etcd', env)).toBe(join(folder, 'etcd'));
      expect(providedPath('kubectl', env)).toBeUndefined();
      expect(providedPath('etcd', { KUBEBUILDER_ASSETS: '' })).toBeUndefined();
      expect(providedPath('etcd', {})).toBeUndefined();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

test.each([
  ['go1.26.8', true],
  ['go1.21', true],
  ['go1.20.14', false],
  ['go2.0', true],
  ['devel', false],
  ['', false],
])('a Go of version %j replaces itself by a newer one: %j', (version, switches) => {
  expect(switchesItself(version)).toBe(switches);
});

test.each(monitoringCrds)('%s is made by the controller-gen and of the types that go.mod names', (file) => {
  const text = readFileSync(file, 'utf8');
  expect(text.split('---')[0]).toBe(monitoringHeader());
  expect(text).toContain(`controller-gen.kubebuilder.io/version: ${versionOf(programs['controller-gen'])}\n`);
});
