/** A whole release, of a clone: what is in it, by the tools that its users have. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Provenance } from '../../scripts/release/provenance.ts';
import { helm } from '../support/kube/chart.ts';

const projectRoot = join(import.meta.dirname, '../..');
const { version } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as { version: string };

let folder: string;
let clone: string;
const git = (...args: string[]): string => {
  const who = ['-c', 'user.name=Test', '-c', 'user.email=test@example.com'];
  return execFileSync('git', [...who, ...args], { cwd: clone, encoding: 'utf8' }).trim();
};
const release = (...args: string[]) =>
  spawnSync(process.execPath, ['scripts/release/release.ts', version, '--out', join(folder, 'out'), ...args], {
    cwd: clone,
    encoding: 'utf8',
  });
const out = (name: string): string => join(folder, 'out', name);

beforeAll(() => {
  mkdirSync(join(projectRoot, 'dist'), { recursive: true });
  folder = mkdtempSync(join(projectRoot, 'dist/release-test-'));
  clone = join(folder, 'clone');
  mkdirSync(clone);
  // The files as they are, committed or not, in a repository of their own.
  const list = ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--deduplicate'];
  const names = execFileSync('git', list, { cwd: projectRoot });
  const files = execFileSync('tar', ['-c', '--null', '-T', '-'], { cwd: projectRoot, input: names, maxBuffer: 1e9 });
  execFileSync('tar', ['-x', '-C', clone], { input: files });
  // Of links to the files: symbolic ones would lead out of the clone, where the build knows no package.
  execFileSync('cp', ['-al', join(projectRoot, 'node_modules'), clone]);
  writeFileSync(join(clone, 'CHANGELOG.md'), `# Changelog\n\n## ${version}\n\nSaid of ${version}.\n`);
  git('init', '--quiet', '--initial-branch', 'main');
  git('add', '.');
  git('commit', '--quiet', '--message', 'Begin');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a release that something stands against makes nothing', () => {
  writeFileSync(join(clone, 'left-over'), '');
  const { status, stderr } = release();
  rmSync(join(clone, 'left-over'));
  expect(status).toBe(1);
  expect(stderr).toMatch(/cannot be released:\n- files differ from the last commit[^]*left-over/);
  expect(readdirSync(folder)).toEqual(['clone']);
});

describe('a release', () => {
  let planned: string[];

  beforeAll(() => {
    const dry = release('--dry-run');
    expect(dry.status).toBe(0);
    planned = [...dry.stdout.matchAll(/^ {2}(\S+)$/gm)].map(([, name = '']) => name);
    expect(readdirSync(folder)).toEqual(['clone']);
    const made = release('--source', 'https://example.com/source');
    expect(made.stderr.split('\n').filter((line) => !/^(image|release): /.test(line))).toEqual(['']);
    expect(made.status).toBe(0);
    expect(made.stdout).toContain(`git tag --sign v${version}`);
  }, 300_000);

  test('is what a dry run said, and leaves the sources as they were', () => {
    expect(planned).toContain('SHA256SUMS');
    expect(readdirSync(join(folder, 'out')).sort()).toEqual(planned.sort());
    expect(git('status', '--porcelain')).toBe('');
    expect(git('tag')).toBe('');
  });

  test('has sums that are right, and a statement of the same files', () => {
    const check = ['--check', '--strict', '--quiet', 'SHA256SUMS'];
    expect(execFileSync('sha256sum', check, { cwd: join(folder, 'out'), encoding: 'utf8' })).toBe('');
    const sums = readFileSync(out('SHA256SUMS'), 'utf8').trim().split('\n');
    expect(sums).toHaveLength(planned.length - 1);
    const { subject, predicate } = JSON.parse(readFileSync(out('provenance.json'), 'utf8')) as Provenance;
    for (const line of sums.filter((each) => !each.endsWith('provenance.json'))) {
      const [sha256 = '', name] = line.split('  ');
      expect(subject).toContainEqual({ name, digest: { sha256 } });
    }
    const { resolvedDependencies: materials } = predicate.buildDefinition;
    const gitCommit = git('rev-parse', 'HEAD');
    expect(materials[0]).toEqual({ uri: 'git+https://example.com/source', digest: { gitCommit } });
    for (const name of ['pkg:npm/esbuild@', 'pkg:deb/debian/libc6@', 'pkg:deb/debian/libquickjs@'])
      expect(materials.some(({ uri }) => uri?.startsWith(name))).toBe(true);
  });

  test('has the image that its statement and its notes name', () => {
    const index = JSON.parse(
      execFileSync('tar', ['-xOf', out(`ovpn-operator-${version}.oci.tar`), 'index.json'], { encoding: 'utf8' }),
    ) as { manifests: { digest: string }[] };
    const digest = index.manifests[0]!.digest;
    const { subject } = JSON.parse(readFileSync(out('provenance.json'), 'utf8')) as Provenance;
    expect(subject.at(-1)).toMatchObject({ digest: { sha256: digest.replace('sha256:', '') } });
    const notes = readFileSync(out('RELEASE-NOTES.md'), 'utf8');
    expect(notes).toContain(`Said of ${version}.`);
    expect(notes).toContain(digest);
  });

  test('has a plugin of kubectl that runs on its own', () => {
    const told = execFileSync(out('kubectl-ovpn'), ['version'], { encoding: 'utf8' });
    expect(told).toBe(`kubectl-ovpn ${version}\n`);
  });

  test('has the chart that Helm reads, and plugins of both architectures', async () => {
    const shown = await helm(['show', 'chart', out(`ovpn-operator-${version}.tgz`)]);
    expect(shown.stdout).toMatch(new RegExp(`^appVersion: ${version}$`, 'm'));
    const render = async (chart: string): Promise<string> => (await helm(['template', 'x', chart])).stdout;
    const rendered = await render(out(`ovpn-operator-${version}.tgz`));
    expect(rendered).toContain('kind: DaemonSet');
    expect(rendered).toBe(await render(join(clone, 'charts/ovpn-operator')));
    const kinds = [...readFileSync(out('crds.yaml'), 'utf8').matchAll(/^kind: (.*)$/gm)].map(([, kind]) => kind);
    expect(kinds).toEqual(Array(4).fill('CustomResourceDefinition'));
    const header = (name: string): string =>
      execFileSync('readelf', ['-h', out(`ovpn-cni-linux-${name}`)], { encoding: 'utf8' });
    expect(header('amd64')).toContain('X86-64');
    expect(header('arm64')).toContain('AArch64');
  });
});
