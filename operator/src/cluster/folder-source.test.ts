import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  link,
  appendFile,
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatRef } from '../api/types.ts';
import { testMetrics, valueOf } from '../telemetry/metrics.fixture.ts';
import { type Clock, systemClock } from './clock.ts';
import { FolderSource } from './folder-source.ts';
import type { FolderTiming } from './folder-source.ts';
import { pause, until } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';
import { keyManifest, networkManifest, peerManifest, secretManifest } from './testing/objects.ts';

let root: string;
let folder: string;
let stateDir: string;
const running: FolderSource[] = [];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'ovpn-folder-'));
  folder = join(root, 'manifests');
  stateDir = join(root, 'state');
  await mkdir(folder);
});

afterEach(async () => {
  await Promise.all(running.splice(0).map((source) => source.stop()));
  await rm(root, { recursive: true, force: true });
});

const yaml = (...objects: object[]): string => objects.map((object) => JSON.stringify(object)).join('\n---\n') + '\n';
const put = (name: string, ...objects: object[]): Promise<void> => writeFile(join(folder, name), yaml(...objects));

async function open(timing: Partial<FolderTiming> = {}, clock: Clock = systemClock) {
  const { log, lines, events } = recordingLog();
  const metrics = testMetrics('agent');
  const written = (result = 'written'): Promise<number> =>
    valueOf(metrics, `ovpn_status_writes_total{result="${result}"}`);
  const source = new FolderSource({
    folder,
    stateDir,
    log,
    meter: metrics,
    nodeLabels: { zone: 'a' },
    clock,
    timing: { debounceMs: 20, settleMs: 120, pollMs: 100_000, ...timing },
  });
  running.push(source);
  const changes: string[][] = [];
  source.on('change', (refs) => changes.push(refs.map(formatRef)));
  await source.start();
  await pause(5);
  changes.length = 0;
  const names = (): string[] => [...source.list('VpnPeer')].map((peer) => peer.metadata.name).sort();
  return { source, changes, names, lines, events, written };
}

const rejected = (source: FolderSource): string[] =>
  source.rejections.map(({ origin, errors }) => `${origin}: ${errors.map((error) => error.name).join()}`);

describe('FolderSource reads', () => {
  test('YAML and JSON files, several objects each, and nothing hidden or else', async () => {
    await put('a.yaml', networkManifest('offices'), peerManifest('p1'));
    await put('b.yml', peerManifest('p2'));
    await put('c.json', keyManifest('office'));
    await put('.hidden.yaml', peerManifest('hidden'));
    await put('notes.txt', peerManifest('text'));
    await put('a.yaml~', peerManifest('backup'));
    await mkdir(join(folder, 'sub.yaml'));
    const { source, names } = await open();
    expect(names()).toEqual(['p1', 'p2']);
    expect(source.get('VpnNetwork', undefined, 'offices')?.metadata.generation).toBe(1);
    expect(source.get('VpnKey', 'team-a', 'office')).toBeDefined();
    expect(source.rejections).toEqual([]);
    expect(source.complete).toBe(true);
    expect(source.nodeLabels).toEqual({ zone: 'a' });
    expect(source.health().ok).toBe(true);
  });

  test('objects without a namespace into "default"', async () => {
    await writeFile(
      join(folder, 'a.yaml'),
      `# a comment\n${yaml(peerManifest('p1', {}, {}), peerManifest('p2'))}---\nkind: List\napiVersion: v1\nitems:\n  - ${JSON.stringify(peerManifest('p3', {}, {}))}\n`,
    );
    const { source } = await open();
    expect(source.rejections).toEqual([]);
    expect(source.get('VpnPeer', 'default', 'p1')).toBeDefined();
    expect(source.get('VpnPeer', 'team-a', 'p2')).toBeDefined();
    expect(source.get('VpnPeer', 'default', 'p3')).toBeDefined();
  });

  test('a missing folder is a misconfiguration', async () => {
    await rm(folder, { recursive: true });
    await expect(open()).rejects.toMatchObject({ name: 'ConfigInvalid' });
    await writeFile(folder, '');
    await expect(open()).rejects.toMatchObject({ name: 'ConfigInvalid' });
  });

  test('what a dump of a cluster carries is not taken for true here', async () => {
    const dumped = { uid: 'u1', resourceVersion: '9', generation: 12, creationTimestamp: '2026-01-01T00:00:00Z' };
    await put('a.yaml', {
      ...peerManifest('p1', {}, { namespace: 'team-a', ...dumped }),
      status: { keyGeneration: 3 },
    });
    const { source } = await open();
    const peer = source.get('VpnPeer', 'team-a', 'p1');
    expect(peer?.metadata).toEqual({ namespace: 'team-a', name: 'p1', generation: 1, labels: {}, annotations: {} });
    expect(peer?.status).toBeUndefined();
  });
});

describe('FolderSource follows', () => {
  test('added, changed and removed objects', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source, changes, names } = await open();
    await put('b.yaml', peerManifest('p2'));
    await until('p2 is there', () => names().includes('p2'));
    await put('b.yaml', peerManifest('p2', { suspend: true }));
    await until('p2 changed', () => source.get('VpnPeer', 'team-a', 'p2')?.spec.suspend === true);
    expect(source.get('VpnPeer', 'team-a', 'p2')?.metadata.generation).toBe(2);
    await unlink(join(folder, 'b.yaml'));
    await until('p2 is gone', () => !names().includes('p2'));
    await until('all was told', () => changes.length === 3);
    expect(changes).toEqual([['VpnPeer team-a/p2'], ['VpnPeer team-a/p2'], ['VpnPeer team-a/p2']]);
  });

  test('no change of content is no change: comments, order of fields, touch', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source, changes } = await open();
    const { spec, ...rest } = peerManifest('p1');
    await writeFile(join(folder, 'a.yaml'), `# hello\n${yaml({ spec, ...rest })}`);
    await pause(250);
    expect(changes).toEqual([]);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.metadata.generation).toBe(1);
  });

  test('a label changes the object, not its generation', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source, changes } = await open();
    await put('a.yaml', peerManifest('p1', {}, { namespace: 'team-a', labels: { site: 'x' } }));
    await until('a change', () => changes.length === 1);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.metadata.generation).toBe(1);
  });

  test('an object that moves to another file does not leave in between', async () => {
    await put('a.yaml', peerManifest('p1'), peerManifest('p2'));
    const { source, changes, names } = await open();
    let lost = false;
    source.on('change', () => (lost ||= !names().includes('p2')));
    await put('a.yaml', peerManifest('p1'));
    await put('b.yaml', peerManifest('p2'));
    await pause(400);
    expect(lost).toBe(false);
    expect(changes).toEqual([]);
    expect(names()).toEqual(['p1', 'p2']);
    expect(source.rejections).toEqual([]);
  });

  test('the way Kubernetes updates a mounted ConfigMap: a swapped symlink', async () => {
    const version = async (number: number, ...objects: object[]): Promise<void> => {
      await mkdir(join(folder, `..v${number}`));
      await writeFile(join(folder, `..v${number}`, 'a.yaml'), yaml(...objects));
      await symlink(`..v${number}`, join(folder, '..data_tmp'));
      await rename(join(folder, '..data_tmp'), join(folder, '..data'));
    };
    await version(1, peerManifest('p1'));
    await symlink('..data/a.yaml', join(folder, 'a.yaml'));
    const { source, names } = await open();
    expect(names()).toEqual(['p1']);
    await version(2, peerManifest('p1', { suspend: true }), peerManifest('p2'));
    await rm(join(folder, '..v1'), { recursive: true });
    await until('the new version', () => names().length === 2);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend).toBe(true);
    expect(source.complete).toBe(true);
  });

  test('one changed file without a look at the others', async () => {
    // A change behind a symlink is what inotify cannot see: only a look at all files would find it.
    await writeFile(join(root, 'target.yaml'), yaml(peerManifest('behind')));
    await symlink(join(root, 'target.yaml'), join(folder, 'link.yaml'));
    await put('a.yaml', peerManifest('p1'));
    const { names } = await open();
    await until('the start', () => names().length === 2);
    await pause(300);
    await writeFile(join(root, 'target.yaml'), yaml(peerManifest('behind'), peerManifest('unseen')));
    await put('a.yaml', peerManifest('p1'), peerManifest('p2'));
    await until('the change', () => names().includes('p2'));
    expect(names()).toEqual(['behind', 'p1', 'p2']);
    await unlink(join(folder, 'a.yaml'));
    await until('the removal', () => !names().includes('p1') && names().includes('unseen'));
    expect(names()).toEqual(['behind', 'unseen']);
  });

  test('polling heals what inotify cannot see: the target of a symlink', async () => {
    await writeFile(join(root, 'elsewhere.yaml'), yaml(peerManifest('p1')));
    await symlink('../elsewhere.yaml', join(folder, 'a.yaml'));
    const { source } = await open({ pollMs: 50 });
    await writeFile(join(root, 'elsewhere.yaml'), yaml(peerManifest('p1', { suspend: true })));
    await until('the change', () => source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend === true);
  });

  test('polling looks at links each time, and at every file now and then', async () => {
    const outside = (name: string): string => join(root, `${name}.yaml`);
    const change = (name: string): Promise<void> =>
      writeFile(outside(name), yaml(peerManifest(name, { suspend: true })));
    for (const name of ['p1', 'p2']) await writeFile(outside(name), yaml(peerManifest(name)));
    await symlink('../p1.yaml', join(folder, 'a.yaml'));
    // Written by its other name, nothing in the folder tells of it.
    await link(outside('p2'), join(folder, 'b.yaml'));
    const seldom = await open({ pollMs: 50 });
    const often = await open({ pollMs: 50, wholeMs: 400 });
    const isSuspended = ({ source }: typeof seldom, name: string): boolean =>
      source.get('VpnPeer', 'team-a', name)?.spec.suspend === true;
    await change('p2');
    await until('the change of the file', () => isSuspended(often, 'p2'));
    await change('p1');
    await until('the change behind the link', () => isSuspended(seldom, 'p1'));
    expect(isSuspended(seldom, 'p2')).toBe(false);
  });

  test('polling looks at every file also after the time of day was set back', async () => {
    await writeFile(join(root, 'p1.yaml'), yaml(peerManifest('p1')));
    await link(join(root, 'p1.yaml'), join(folder, 'a.yaml'));
    let setMs = 0;
    const { source } = await open(
      { pollMs: 50, wholeMs: 200 },
      { ...systemClock, now: () => systemClock.now() + setMs },
    );
    setMs = -3_600_000;
    await writeFile(join(root, 'p1.yaml'), yaml(peerManifest('p1', { suspend: true })));
    await until('the change', () => source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend === true);
  });

  test('a folder that is replaced by another one', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source, names } = await open({ pollMs: 50 });
    await rename(folder, `${folder}.old`);
    await until('trouble', () => !source.health().ok);
    expect(names()).toEqual(['p1']);
    expect(source.complete).toBe(false);
    await mkdir(`${folder}.new`);
    await writeFile(join(`${folder}.new`, 'b.yaml'), yaml(peerManifest('p2')));
    await rename(`${folder}.new`, folder);
    await until('the new folder', () => names().join() === 'p2');
    expect(source.complete).toBe(true);
    expect(source.health().ok).toBe(true);
  });
});

describe('FolderSource keeps', () => {
  test('the last good version of an object that became invalid', async () => {
    await put('a.yaml', peerManifest('p1'), peerManifest('p2'));
    const { source, names } = await open();
    await put('a.yaml', peerManifest('p1', { endpoint: { address: 'nonsense', port: 1 } }), peerManifest('p2'));
    await until('the rejection', () => source.rejections.length === 1);
    expect(source.rejections[0]?.ref).toEqual({ kind: 'VpnPeer', namespace: 'team-a', name: 'p1' });
    expect(names()).toEqual(['p1', 'p2']);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.endpoint?.address).toBe('198.51.100.7');
    // Its last good version is in force, so nothing is missing.
    expect(source.complete).toBe(true);
    await put('a.yaml', peerManifest('p2'));
    await until('the removal', () => names().join() === 'p2');
    expect(source.rejections).toEqual([]);
  });

  test('nothing of an object that never was good: incomplete', async () => {
    await put('a.yaml', peerManifest('p1', { endpoint: { address: 'nonsense', port: 1 } }));
    const { source, names } = await open();
    expect(names()).toEqual([]);
    expect(source.complete).toBe(false);
  });

  test('all objects of a file that cannot be parsed, and says so', async () => {
    await put('a.yaml', peerManifest('p1'), peerManifest('p2'));
    await put('b.yaml', peerManifest('p3'));
    const { source, changes, names } = await open();
    await writeFile(join(folder, 'a.yaml'), `${yaml(peerManifest('p1', { suspend: true }))}---\nkind: [unclosed\n`);
    await until('the rejection', () => source.rejections.length === 1);
    expect(rejected(source)[0]).toMatch(/^a.yaml.*ManifestUnreadable$/);
    expect(names()).toEqual(['p1', 'p2', 'p3']);
    // What can be read of it counts.
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend).toBe(true);
    expect(source.complete).toBe(false);
    await until('told', () => changes.length === 1);
    await put('a.yaml', peerManifest('p1', { suspend: true }));
    await until('mended', () => names().join() === 'p1,p3');
    expect(source.complete).toBe(true);
  });

  test('all objects of a file that cannot be read', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source, names } = await open();
    await unlink(join(folder, 'a.yaml'));
    await symlink('nowhere', join(folder, 'a.yaml'));
    await until('the rejection', () => source.rejections.length === 1);
    expect(names()).toEqual(['p1']);
    expect(source.complete).toBe(false);
    await unlink(join(folder, 'a.yaml'));
    await until('gone for good', () => names().length === 0);
    expect(source.complete).toBe(true);
  });

  test('a FIFO is not opened', async () => {
    execFileSync('mkfifo', [join(folder, 'a.yaml')]);
    const { source } = await open();
    expect(rejected(source)).toEqual(['a.yaml: ManifestUnreadable']);
  });

  test('the first of two files that define one object; the other takes over when it goes', async () => {
    await put('a.yaml', peerManifest('p1'));
    await put('b.yaml', peerManifest('p1', { suspend: true }));
    const { source, names } = await open();
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend).toBe(false);
    expect(rejected(source)).toEqual(['b.yaml: DuplicateObject']);
    expect(source.complete).toBe(true);
    await unlink(join(folder, 'a.yaml'));
    await until('b takes over', () => source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend === true);
    expect(names()).toEqual(['p1']);
    expect(source.rejections).toEqual([]);
  });

  test('twice in one file is told once', async () => {
    await put('a.yaml', peerManifest('p1'), peerManifest('p1', { suspend: true }));
    const { source } = await open();
    expect(rejected(source)).toEqual(['a.yaml (document 2): DuplicateObject']);
  });

  test('an object whose immutable field changed', async () => {
    await put('a.yaml', peerManifest('p1'));
    const { source } = await open();
    await put('a.yaml', peerManifest('p1', { networkRef: { name: 'other' } }));
    await until('the rejection', () => source.rejections.length === 1);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.networkRef.name).toBe('offices');
    await put('a.yaml', peerManifest('p1'));
    await until('mended', () => source.rejections.length === 0);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.metadata.generation).toBe(1);
  });
});

describe('FolderSource and editors', () => {
  const many = (count: number, spec: object = {}): object[] =>
    Array.from({ length: count }, (_, index) => peerManifest(`p${index}`, { static: { peerID: index }, ...spec }));

  test('truncate, a pause, write: no removal in between', async () => {
    await put('a.yaml', ...many(20));
    const { changes, names, source } = await open();
    let least = 20;
    source.on('change', () => (least = Math.min(least, names().length)));
    const text = yaml(...many(20, { suspend: true }));
    await truncate(join(folder, 'a.yaml'), 0);
    await pause(60);
    await appendFile(join(folder, 'a.yaml'), text.slice(0, text.length / 2));
    await pause(60);
    await appendFile(join(folder, 'a.yaml'), text.slice(text.length / 2));
    await until('the change', () => changes.length > 0);
    await pause(200);
    expect(least).toBe(20);
    expect(changes.length).toBe(1);
    expect(source.rejections).toEqual([]);
  });

  test('rename away, write anew (vim with a backup): no removal in between', async () => {
    await put('a.yaml', ...many(3));
    const { changes, names } = await open();
    await rename(join(folder, 'a.yaml'), join(folder, 'a.yaml~'));
    await pause(60);
    await put('a.yaml', ...many(3));
    await pause(300);
    expect(changes).toEqual([]);
    expect(names().length).toBe(3);
  });

  test('a file that stays empty removes its objects, after the settle time', async () => {
    await put('a.yaml', ...many(3));
    const { names, source } = await open({ settleMs: 200 });
    const at = performance.now();
    await truncate(join(folder, 'a.yaml'), 0);
    await until('the removal', () => names().length === 0);
    expect(performance.now() - at).toBeGreaterThan(180);
    expect(source.complete).toBe(true);
  });

  test('a start in the middle of a save waits for its end', async () => {
    await writeFile(join(folder, 'a.yaml'), '');
    const opening = open({ settleMs: 200 });
    await pause(80);
    await put('a.yaml', ...many(3));
    const { names } = await opening;
    expect(names().length).toBe(3);
  });

  test('a folder that never comes to rest is read all the same', async () => {
    const { names } = await open();
    const noise = setInterval(() => void appendFile(join(folder, 'noise.txt'), 'x'), 10);
    try {
      await put('a.yaml', peerManifest('p1'));
      await until('p1 is there', () => names().length === 1);
    } finally {
      clearInterval(noise);
    }
  });
});

describe('FolderSource writes status', () => {
  const file = (name: string): string => join(stateDir, 'status', name);

  test('atomically, for its owner only, on change only, and removes it with the object', async () => {
    await put('a.yaml', networkManifest('offices'), peerManifest('p1'));
    const { source, written } = await open();
    const peer = source.get('VpnPeer', 'team-a', 'p1')!;
    source.publishStatus(peer, { node: 'n1', peerID: 7 });
    source.publishStatus(source.get('VpnNetwork', undefined, 'offices')!, { observedGeneration: 1 });
    await until('both files', async () => (await readdir(join(stateDir, 'status')).catch(() => [])).length === 2);
    await until('both written', async () => (await written()) === 2);
    expect(JSON.parse(await readFile(file('VpnPeer.team-a.p1.json'), 'utf8'))).toEqual({
      apiVersion: 'ovpn-operator.io/v1alpha1',
      kind: 'VpnPeer',
      metadata: { namespace: 'team-a', name: 'p1', generation: 1 },
      status: { node: 'n1', peerID: 7 },
    });
    expect((await readdir(join(stateDir, 'status'))).sort()).toEqual([
      'VpnNetwork.offices.json',
      'VpnPeer.team-a.p1.json',
    ]);
    expect((await stat(file('VpnPeer.team-a.p1.json'))).mode & 0o777).toBe(0o600);
    source.publishStatus(peer, { peerID: 7, node: 'n1' });
    await pause(50);
    expect(await written()).toBe(2);
    for (let index = 0; index < 100; index += 1) source.publishStatus(peer, { peerID: 7, node: `n${index}` });
    await until('the last one', async () => (await readFile(file('VpnPeer.team-a.p1.json'), 'utf8')).includes('n99'));
    expect(await written()).toBeLessThan(6);
    await put('a.yaml', networkManifest('offices'));
    await until(
      'the file is gone',
      async () => (await readdir(join(stateDir, 'status'))).join() === 'VpnNetwork.offices.json',
    );
  });

  test('and sweeps what objects left that went while nobody looked', async () => {
    await mkdir(join(stateDir, 'status'), { recursive: true });
    for (const name of ['VpnPeer.team-a.p1.json', 'VpnPeer.team-a.gone.json', 'README'])
      await writeFile(file(name), '{}');
    await put('a.yaml', peerManifest('p1'));
    await open();
    await until('the sweep', async () => (await readdir(join(stateDir, 'status'))).length === 2);
    expect((await readdir(join(stateDir, 'status'))).sort()).toEqual(['README', 'VpnPeer.team-a.p1.json']);
    // The file of an object that this run never wrote goes with the object, too.
    await unlink(join(folder, 'a.yaml'));
    await until('p1 is gone', async () => (await readdir(join(stateDir, 'status'))).length === 1);
  });

  test('trying again when the folder cannot be written', async () => {
    await writeFile(stateDir, 'in the way');
    await put('a.yaml', peerManifest('p1'));
    const { source, events } = await open();
    source.publishStatus(source.get('VpnPeer', 'team-a', 'p1')!, { node: 'n1' });
    await until('the failure', () => events().includes('status.failed'));
    await unlink(stateDir);
    await until('the file', async () => (await readdir(join(stateDir, 'status')).catch(() => [])).length === 1);
  });
});

describe('FolderSource warns', () => {
  test('of a Secret that others can read, once', async () => {
    await put('a.yaml', secretManifest('s1'));
    await chmod(join(folder, 'a.yaml'), 0o640);
    await put('b.yaml', secretManifest('s2'));
    await chmod(join(folder, 'b.yaml'), 0o600);
    const { source, lines, events } = await open();
    expect(lines.filter(({ event }) => event === 'file.permissions')).toMatchObject([
      { file: 'manifests/a.yaml', mode: '0640' },
    ]);
    expect(JSON.stringify(lines)).not.toContain('hush');
    await put('a.yaml', secretManifest('s1', 'other'));
    await until('the change', () => source.get('Secret', 'team-a', 's1')?.metadata.generation === 2);
    await chmod(join(folder, 'b.yaml'), 0o644);
    await until('the second warning', () => events().filter((event) => event === 'file.permissions').length === 2);
  });
});
