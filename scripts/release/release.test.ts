import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sectionOf } from './changelog.ts';
import { obstacles, type Situation } from './obstacles.ts';
import { npmMaterials, provenanceOf, sumsOf } from './provenance.ts';
import { type Files, isVersion, versionedFiles, withVersion } from './versions.ts';

const root = join(import.meta.dirname, '../..');
const files = Object.fromEntries(versionedFiles.map((path) => [path, readFileSync(join(root, path), 'utf8')])) as Files;
const { version: current } = JSON.parse(files['package.json']) as { version: string };

describe('the version', () => {
  test('is the same in all files of this repository', () => expect(withVersion(files, current)).toEqual(files));

  test('is set in each of them, and nothing else is', () => {
    const next = withVersion(files, '9.8.7-rc.1');
    for (const path of versionedFiles) expect(next[path]).not.toBe(files[path]);
    expect(next['charts/ovpn-operator/Chart.yaml']).toMatch(/^version: 9\.8\.7-rc\.1\nappVersion: 9\.8\.7-rc\.1$/m);
    expect(next['cni-plugin/package.json']).toContain('"@ovpn-operator/operator": "9.8.7-rc.1"');
    expect(withVersion(next, current)).toEqual(files);
  });

  test('is not set by halves', () => {
    const strange = { ...files, 'operator/src/version.ts': "export default '0.1.0';\n" };
    expect(() => withVersion(strange, '1.0.0')).toThrow(/operator\/src\/version.ts has no line like/);
  });

  test.each(['0.1.0', '1.0.0-rc.1', '10.20.30-alpha-1.x'])('%s is one', (text) => expect(isVersion(text)).toBe(true));
  test.each(['', 'v1.0.0', '1.0', '01.0.0', '1.0.0+build', '1.0.0-', '1.0.0-01', '1.0.0\n', '--dry-run'])(
    '%j is none',
    (text) => expect(isVersion(text)).toBe(false),
  );
});

describe("a version's section of the changelog", () => {
  const changelog =
    '# Changelog\n\nWords.\n\n## Unreleased\n\n## 1.1.0 - 2026-12-01\n\nMore.\n\n### Fixed\n\n- A\n\n## [1.0.0]\n\nFirst.\n';

  test.each([
    ['1.1.0', 'More.\n\n### Fixed\n\n- A'],
    ['1.0.0', 'First.'],
    ['Unreleased', undefined],
    ['1.1', undefined],
    ['2.0.0', undefined],
  ])('%s', (version, section) => expect(sectionOf(changelog, version)).toBe(section));
});

describe('obstacles', () => {
  const good: Situation = {
    version: '1.0.0',
    branch: 'main',
    status: '',
    tagged: false,
    changelog: '## 1.0.0\n\nAll.\n',
  };

  test('are none where all is well', () => expect(obstacles(good)).toEqual([]));

  test.each<[Partial<Situation>, RegExp]>([
    [{ version: 'v1.0.0' }, /no version/],
    [{ branch: 'topic' }, /'topic'; releases are made of main/],
    [{ branch: '' }, /none/],
    [{ status: ' M README.md\n' }, /README.md/],
    [{ tagged: true }, /released once/],
    [{ changelog: '## Unreleased\n\nAll.\n' }, /says nothing of 1.0.0/],
  ])('%j', (change, why) => {
    const found = obstacles({ ...good, ...change });
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(why);
  });

  test('are said all at once', () => {
    expect(obstacles({ ...good, branch: 'x', status: '?? y', tagged: true, changelog: '' })).toHaveLength(4);
  });
});

describe('the statement of provenance', () => {
  const lock = JSON.stringify({
    packages: {
      '': { version: '1.0.0' },
      operator: { version: '1.0.0' },
      'node_modules/@ovpn-operator/operator': { link: true },
      'node_modules/a': { version: '1.2.3', integrity: 'sha512-AQI=' },
      'node_modules/b/node_modules/@s/a': { version: '2.0.0', integrity: 'sha512-AQI=', dev: true },
      'node_modules/c/node_modules/a': { version: '1.2.3', integrity: 'sha512-AQI=' },
    },
  });

  test('names what npm brought, each once, with its digest', () => {
    const digest = { sha512: '0102' };
    expect(npmMaterials(lock)).toEqual([
      { uri: 'pkg:npm/a@1.2.3', digest },
      { uri: 'pkg:npm/%40s/a@2.0.0', digest },
    ]);
    const unknown = { packages: { 'node_modules/a': { version: '1.0.0', integrity: 'sha1-AQI=' } } };
    expect(() => npmMaterials(JSON.stringify(unknown))).toThrow(/no SHA-512 of node_modules\/a/);
    expect(npmMaterials(files['package-lock.json']).length).toBeGreaterThan(300);
  });

  test('says which files came of which commit, and by whom', () => {
    const sums = [{ name: 'crds.yaml', sha256: 'ab' }];
    const about = { version: '1.0.0', builder: 'https://example.com/b', source: 'https://example.com/s', commit: 'c0' };
    const image = { name: 'example.com/i:1.0.0', digest: 'sha256:cd' };
    expect(provenanceOf({ ...about, files: sums, image, materials: npmMaterials(lock) })).toMatchObject({
      _type: 'https://in-toto.io/Statement/v1',
      predicateType: 'https://slsa.dev/provenance/v1',
      subject: [
        { name: 'crds.yaml', digest: { sha256: 'ab' } },
        { name: 'example.com/i:1.0.0', digest: { sha256: 'cd' } },
      ],
      predicate: {
        buildDefinition: {
          externalParameters: { version: '1.0.0', source: 'https://example.com/s' },
          resolvedDependencies: [
            { uri: 'git+https://example.com/s', digest: { gitCommit: 'c0' } },
            { uri: 'pkg:npm/a@1.2.3' },
            { uri: 'pkg:npm/%40s/a@2.0.0' },
          ],
        },
        runDetails: { builder: { id: 'https://example.com/b' } },
      },
    });
    expect(sumsOf(sums)).toBe('ab  crds.yaml\n');
  });
});
