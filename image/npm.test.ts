import { afterEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockedPackages, neededBy, packageOfFile } from './npm.ts';

const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

/** A folder with packages at places, and what they depend on. */
function installed(packages: Readonly<Record<string, object>>): string {
  const folder = mkdtempSync(join(tmpdir(), 'npm-'));
  folders.push(folder);
  for (const [path, manifest] of Object.entries(packages)) {
    mkdirSync(join(folder, path), { recursive: true });
    writeFileSync(join(folder, path, 'package.json'), JSON.stringify(manifest));
  }
  return folder;
}

describe('neededBy', () => {
  test('finds the nearest package of a name, each once, also in circles', async () => {
    const root = installed({
      'node_modules/a': { dependencies: { b: '1', '@s/c': '1' } },
      'node_modules/a/node_modules/b': { dependencies: { a: '1' } },
      'node_modules/b': {},
      'node_modules/@s/c': { dependencies: { b: '2' } },
      'node_modules/unused': {},
    });
    expect(await neededBy(root, ['a'])).toEqual([
      'node_modules/@s/c',
      'node_modules/a',
      'node_modules/a/node_modules/b',
      'node_modules/b',
    ]);
  });

  test('does without what is optional and not there, but not without the rest', async () => {
    // npm writes optional dependencies into both lists of a package that is published.
    const optional = { dependencies: { x: '1' }, optionalDependencies: { x: '1' } };
    expect(await neededBy(installed({ 'node_modules/a': optional }), ['a'])).toEqual(['node_modules/a']);
    const root = installed({ 'node_modules/a': { dependencies: { x: '1' } } });
    await expect(neededBy(root, ['a'])).rejects.toThrow(/node_modules\/a needs the npm package x/);
  });
});

test.each([
  ['operator/src/errors.ts', undefined],
  ['node_modules/yaml/dist/index.js', 'node_modules/yaml'],
  ['node_modules/@peculiar/x509/build/x509.js', 'node_modules/@peculiar/x509'],
  ['node_modules/a/node_modules/@s/b/index.js', 'node_modules/a/node_modules/@s/b'],
])('the package of %s is %s', (file, place) => expect(packageOfFile(file)).toBe(place));

test('package-lock.json says what a package is, and does not guess', async () => {
  const [koffi] = await lockedPackages(['node_modules/koffi']);
  expect(koffi).toMatchObject({ name: 'koffi', license: 'MIT', integrity: expect.stringMatching(/^sha512-/) });
  await expect(lockedPackages(['node_modules/nobody'])).rejects.toThrow(/does not say .* of node_modules\/nobody/);
});
