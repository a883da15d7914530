import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../cluster/clock.ts';
import { recordingLog } from '../cluster/testing/log.ts';
import { Follower } from './follow.ts';
import { chain, inspectInstallation, installPlugin, removePlugin, unchain } from './installer.ts';

let root: string;
let source: string;
let bin: string;
let net: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'install-'));
  source = join(root, 'source');
  bin = join(root, 'opt/cni/bin');
  net = join(root, 'net.d');
  writeFileSync(source, '#!/bin/sh\necho 1\n');
});
afterEach(() => rmSync(root, { recursive: true }));

const entry = { type: 'ovpn-cni' } as const;
const plugin = (): string => join(bin, 'ovpn-cni');
const mainList = { cniVersion: '1.0.0', name: 'cluster', plugins: [{ type: 'ptp' }] };
function writeList(name = '10-main.conflist', content: unknown = mainList): string {
  mkdirSync(net, { recursive: true });
  writeFileSync(join(net, name), typeof content === 'string' ? content : JSON.stringify(content));
  return join(net, name);
}
const typesIn = (path: string): string[] =>
  (JSON.parse(readFileSync(path, 'utf8')) as typeof mainList).plugins.map(({ type }) => type);

test('an installation is looked at without a change', () => {
  const look = () => inspectInstallation(bin, net, entry);
  expect(look()).toEqual({ plugin: false, list: undefined, chained: false });
  installPlugin(source, bin);
  const list = writeList();
  expect(look()).toEqual({ plugin: true, list: '10-main.conflist', chained: false });
  expect(typesIn(list)).toEqual(['ptp']);
  chain(net, entry);
  expect(look()).toEqual({ plugin: true, list: '10-main.conflist', chained: true });
  chmodSync(plugin(), 0o644);
  expect(look()).toMatchObject({ plugin: false });
});

describe('the file of the plugin', () => {
  test('is installed, left alone, replaced and removed', () => {
    expect(installPlugin(source, bin)).toEqual({ path: plugin(), done: 'installed' });
    expect(execFileSync(plugin(), { encoding: 'utf8' })).toBe('1\n');
    const { ino } = statSync(plugin());
    expect(installPlugin(source, bin)).toEqual({ path: plugin(), done: 'unchanged' });
    expect(statSync(plugin()).ino).toBe(ino);
    chmodSync(plugin(), 0o600);
    expect(installPlugin(source, bin).done).toBe('unchanged');
    expect(statSync(plugin()).mode & 0o777).toBe(0o755);
    writeFileSync(source, '#!/bin/sh\necho 2\n');
    expect(installPlugin(source, bin)).toEqual({ path: plugin(), done: 'replaced' });
    expect(execFileSync(plugin(), { encoding: 'utf8' })).toBe('2\n');
    expect(readdirSync(bin)).toEqual(['ovpn-cni']);
    expect(removePlugin(bin)).toEqual({ path: plugin(), done: 'removed' });
    expect(removePlugin(bin)).toEqual({ path: plugin(), done: 'absent' });
  });

  test('what a crash left half-written is overwritten', () => {
    installPlugin(source, bin);
    writeFileSync(`${plugin()}.tmp`, 'half');
    writeFileSync(source, '#!/bin/sh\necho 2\n');
    installPlugin(source, bin);
    expect(readdirSync(bin)).toEqual(['ovpn-cni']);
  });

  test('can be run at every moment of many upgrades', async () => {
    installPlugin(source, bin);
    // A process of its own that runs it again and again, and counts what failed.
    const loop = `i=0; bad=0; while [ ! -e ${root}/end ]; do i=$((i+1)); ${plugin()} >/dev/null || bad=$((bad+1)); done; echo $i $bad`;
    const runs = spawn('sh', ['-c', loop], { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    runs.stdout.on('data', (data: Buffer) => (out += data.toString()));
    const ended = once(runs, 'close');
    for (let round = 0; round < 200; round++) {
      writeFileSync(source, `#!/bin/sh\necho ${round}\n`);
      expect(installPlugin(source, bin).done).toBe('replaced');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    writeFileSync(join(root, 'end'), '');
    await ended;
    const [count = 0, failed = 0] = out.trim().split(' ').map(Number);
    expect(count).toBeGreaterThan(20);
    expect(failed).toBe(0);
  }, 30_000);

  test.each<[string, () => unknown]>([
    ['a source that is missing', () => installPlugin(join(root, 'none'), bin)],
    ['a folder that is a file', () => installPlugin(source, source)],
    ['a folder of configurations that is a file', () => chain(source, entry)],
  ])('%s is an error that says where and what to do', (_name, call) => {
    expect(call).toThrow(/^\/.*: .*; to mend it: .*\[OVPN509\]$/);
  });
});

describe('the place in the list', () => {
  test('is waited for, taken, kept and given back', () => {
    expect(chain(net, entry)).toEqual({ path: net, done: 'waiting' });
    const path = writeList();
    chmodSync(path, 0o640);
    expect(chain(net, entry)).toEqual({ path, done: 'chained' });
    expect(typesIn(path)).toEqual(['ptp', 'ovpn-cni']);
    expect(statSync(path).mode & 0o777).toBe(0o640);
    const before = statSync(path, { bigint: true });
    expect(chain(net, entry)).toEqual({ path, done: 'unchanged' });
    expect(statSync(path, { bigint: true })).toMatchObject({ ino: before.ino, mtimeNs: before.mtimeNs });
    expect(unchain(net)).toEqual([{ path, done: 'unchained' }]);
    expect(typesIn(path)).toEqual(['ptp']);
    expect(unchain(net)).toEqual([]);
  });

  test('a list that cannot be read is left as it is', () => {
    const path = writeList('10-main.conflist', '{"name":');
    expect(() => chain(net, entry)).toThrow(/10-main\.conflist/);
    expect(readFileSync(path, 'utf8')).toBe('{"name":');
    expect(readdirSync(net)).toEqual(['10-main.conflist']);
  });

  test('without a folder there is nothing to take out', () => {
    expect(unchain(join(root, 'none'))).toEqual([]);
  });
});

describe('following', () => {
  let follower: Follower | undefined;
  afterEach(() => follower?.stop());

  const follow = (): ReturnType<typeof recordingLog> => {
    const recorded = recordingLog();
    follower = new Follower({
      folders: [bin, net],
      pass: () => [installPlugin(source, bin), chain(net, entry)],
      clock: systemClock,
      random: () => 0,
      log: recorded.log,
    });
    follower.start();
    return recorded;
  };
  async function until(what: string, done: () => boolean): Promise<void> {
    const end = Date.now() + 10_000;
    while (!done()) {
      if (Date.now() > end) throw new Error(`not seen: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  const chained = (path: string) => (): boolean => {
    try {
      return typesIn(path).includes('ovpn-cni');
    } catch {
      return false;
    }
  };

  test('a list that comes later, is written anew, or is overtaken by another gets the entry', async () => {
    follow();
    expect(statSync(plugin()).isFile()).toBe(true);
    const path = writeList();
    await until('the first list', chained(path));
    writeList();
    await until('the list written anew', chained(path));
    const earlier = writeList('05-other.conflist');
    await until('the list that is first now', chained(earlier));
  });

  test('a plugin that was removed comes back, also with its folder', async () => {
    follow();
    unlinkSync(plugin());
    await until('the file', () => readdirSync(bin).includes('ovpn-cni'));
    rmSync(bin, { recursive: true });
    await until('the folder', () => statSync(plugin(), { throwIfNoEntry: false }) !== undefined);
    // The new folder is followed as the old one was.
    unlinkSync(plugin());
    await until('the file in the new folder', () => readdirSync(bin).includes('ovpn-cni'));
  });

  test('a list that is broken is said once, and taken when it is mended', async () => {
    const path = writeList('10-main.conflist', '{');
    const recorded = follow();
    writeList('10-main.conflist', '{ ');
    writeList();
    await until('the mended list', chained(path));
    const failures = recorded.lines.filter(({ event }) => event === 'cni.install.failed');
    expect(failures.length).toBeGreaterThan(0);
    expect(new Set(failures.map(({ message }) => message)).size).toBe(failures.length);
  });

  test('with a program that undoes it, the pauses grow', async () => {
    const path = writeList();
    follow();
    const rounds: number[] = [];
    for (let round = 0; round < 5; round++) {
      const start = Date.now();
      writeList();
      await until('the entry', chained(path));
      rounds.push(Date.now() - start);
    }
    const [first = 0] = rounds;
    expect(rounds.at(-1)).toBeGreaterThan(first);
    expect(rounds.at(-1)).toBeGreaterThan(300);
  });
});
