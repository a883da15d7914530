import { execFile, execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AF_INET, close, SOCK_DGRAM, socket } from '../../operator/src/kernel/libc.ts';
import {
  createNamespace,
  defaultNetnsFolder,
  deleteNamespace,
  inNamespace,
  listNamespaces,
  namespaceId,
  ownNamespaceId,
} from '../../operator/src/kernel/netns.ts';
import { readSysctls, writeSysctls } from '../../operator/src/kernel/sysctl.ts';
import { NETLINK_GENERIC, NETLINK_ROUTE, NetlinkSocket } from '../../operator/src/kernel/netlink/socket.ts';
import { dumpLinks, newOvpnLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { Scene, uniqueName } from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});

const openFds = (): number => readdirSync('/proc/self/fd').length;

describe('named namespaces', () => {
  test('are made once, seen by ip-netns(8), and go without leaving anything', () => {
    const name = uniqueName('nt-');
    const home = ownNamespaceId();
    expect(createNamespace(name)).toBe(true);
    expect(createNamespace(name)).toBe(false);
    expect(ownNamespaceId()).toBe(home);
    const path = join(defaultNetnsFolder, name);
    expect(namespaceId(path)).not.toBe(home);
    expect(listNamespaces()).toContain(name);
    expect(execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' })).toContain(name);
    expect(execFileSync('ip', ['netns', 'exec', name, 'ip', '-o', 'link'], { encoding: 'utf8' })).toContain('lo:');
    deleteNamespace(name);
    deleteNamespace(name);
    expect(existsSync(path)).toBe(false);
    expect(namespaceId(path)).toBeUndefined();
    expect(listNamespaces()).not.toContain(name);
  });

  test('one made by ip-netns(8) is ours to use and to delete', () => {
    const name = uniqueName('nt-');
    execFileSync('ip', ['netns', 'add', name]);
    expect(createNamespace(name)).toBe(false);
    expect(inNamespace(join(defaultNetnsFolder, name), ownNamespaceId)).toBe(
      namespaceId(join(defaultNetnsFolder, name)),
    );
    deleteNamespace(name);
    expect(listNamespaces()).not.toContain(name);
  });

  test('are made once also by processes that make them at the same moment', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'netns-'));
    const nested = join(folder, 'netns');
    const names = Array.from({ length: 30 }, (_, i) => `nt-${i}`);
    const module = new URL('../../operator/src/kernel/netns.ts', import.meta.url).href;
    // Each waits until the others have come as far: they meet at every name.
    const script = `
      import { appendFileSync, statSync } from 'node:fs';
      import { createNamespace } from ${JSON.stringify(module)};
      let made = 0;
      for (const name of ${JSON.stringify(names)}) {
        appendFileSync(${JSON.stringify(folder)} + '/at-' + name, '.');
        const patience = Date.now() + 1_000;
        while (statSync(${JSON.stringify(folder)} + '/at-' + name).size < 4 && Date.now() < patience);
        if (createNamespace(name, ${JSON.stringify(nested)})) made++;
      }
      console.log(made);`;
    try {
      const run = promisify(execFile);
      const outputs = await Promise.all(
        [1, 2, 3, 4].map(async () => run(process.execPath, ['--input-type=module', '-e', script])),
      );
      const made = outputs.map(({ stdout }) => Number(stdout)).reduce((sum, count) => sum + count, 0);
      expect(made).toBe(names.length);
      const points = readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .flatMap((line) => line.split(' ')[4] ?? [])
        .filter((point) => point.startsWith(nested));
      expect(points.sort()).toStrictEqual([nested, ...names.map((name) => join(nested, name))].sort());
    } finally {
      for (const name of names) deleteNamespace(name, nested);
      execFileSync('umount', [nested]);
      rmSync(folder, { recursive: true });
    }
  });

  test('a stack of mounts goes as a whole', () => {
    const name = uniqueName('nt-');
    const path = join(defaultNetnsFolder, name);
    createNamespace(name);
    execFileSync('mount', ['--bind', path, path]);
    deleteNamespace(name);
    expect(existsSync(path)).toBe(false);
  });

  test('a plain file left by a crash is not a namespace, and is made one or removed', () => {
    const name = uniqueName('nt-');
    const path = join(defaultNetnsFolder, name);
    createNamespace(uniqueName('nt-'));
    writeFileSync(path, '', { mode: 0o000 });
    expect(listNamespaces()).not.toContain(name);
    deleteNamespace(name);
    expect(existsSync(path)).toBe(false);
    writeFileSync(path, '', { mode: 0o444 });
    expect(createNamespace(name)).toBe(true);
    expect(listNamespaces()).toContain(name);
    deleteNamespace(name);
  });

  test('live in any folder, which is made a shared mount, and a missing folder has none', () => {
    const folder = mkdtempSync(join(tmpdir(), 'netns-'));
    const nested = join(folder, 'a', 'b');
    expect(listNamespaces(nested)).toStrictEqual([]);
    createNamespace('one', nested);
    createNamespace('two', nested);
    expect(listNamespaces(nested).sort()).toStrictEqual(['one', 'two']);
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).toMatch(new RegExp(`${nested} .* shared:`));
    // A process with its own copy of the mounts does not keep the namespace alive.
    execFileSync('unshare', ['--mount', '--propagation', 'unchanged', 'true']);
    deleteNamespace('one', nested);
    deleteNamespace('two', nested);
    execFileSync('umount', [nested]);
    rmSync(folder, { recursive: true });
  });

  test('survive being deleted while a socket is inside, until it closes', () => {
    const ns = scene.namespace();
    const rt = NetlinkSocket.open(NETLINK_ROUTE, ns.path);
    deleteNamespace(ns.name);
    rt.request(newOvpnLink({ name: 'still-here', mode: 'p2p' }));
    expect(dumpLinks(rt).map(({ name }) => name)).toContain('still-here');
    rt.close();
  });
});

describe('inNamespace', () => {
  test('comes home after a result, after an exception, and nested', () => {
    const a = scene.namespace();
    const b = scene.namespace();
    const home = ownNamespaceId();
    const before = openFds();
    expect(inNamespace(a.path, ownNamespaceId)).toBe(namespaceId(a.path));
    expect(ownNamespaceId()).toBe(home);
    expect(() =>
      inNamespace(a.path, () => {
        throw new Error('inside');
      }),
    ).toThrow('inside');
    expect(ownNamespaceId()).toBe(home);
    inNamespace(a.path, () => {
      expect(inNamespace(b.path, ownNamespaceId)).toBe(namespaceId(b.path));
      expect(ownNamespaceId()).toBe(namespaceId(a.path));
    });
    expect(ownNamespaceId()).toBe(home);
    expect(openFds()).toBe(before);
  });

  test('runs nothing when the namespace cannot be entered', () => {
    const before = openFds();
    const ran: string[] = [];
    const enter = (path: string): void => {
      inNamespace(path, () => {
        ran.push(path);
      });
    };
    expect(() => {
      enter('/run/netns/no-such-namespace');
    }).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(() => {
      enter('/etc/passwd');
    }).toThrow(expect.objectContaining({ code: 'EINVAL', syscall: 'setns' }));
    // A namespace of another kind.
    expect(() => {
      enter('/proc/self/ns/mnt');
    }).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(ran).toStrictEqual([]);
    expect(openFds()).toBe(before);
  });

  test('sockets stay where they were made, and failures leak no descriptor', () => {
    const ns = scene.namespace();
    ns.device('mp', [], 'only-inside');
    const before = openFds();
    const rt = NetlinkSocket.open(NETLINK_ROUTE, ns.path);
    expect(dumpLinks(rt).map(({ name }) => name)).toContain('only-inside');
    rt.close();
    const fd = inNamespace(ns.path, () => socket(AF_INET, SOCK_DGRAM, 0));
    close(fd);
    expect(() => NetlinkSocket.open(NETLINK_GENERIC, '/etc/passwd')).toThrow();
    expect(() => NetlinkSocket.open(99, ns.path)).toThrow(expect.objectContaining({ code: 'EPROTONOSUPPORT' }));
    expect(openFds()).toBe(before);
  });

  test('a descriptor keeps a namespace after its name is gone', () => {
    const ns = scene.namespace();
    const fd = openSync(ns.path, 'r');
    const id = namespaceId(ns.path);
    deleteNamespace(ns.name);
    expect(inNamespace(`/proc/self/fd/${fd}`, ownNamespaceId)).toBe(id);
    closeSync(fd);
  });
});

describe('sysctls', () => {
  test('are read and written inside a namespace, dots of interface names included', () => {
    const ns = scene.namespace();
    ns.device('mp', [], 'ov.5');
    const name = 'net.ipv4.conf.ov/5.forwarding';
    writeSysctls(
      ns.path,
      new Map([
        ['net.ipv4.ip_forward', '1'],
        [name, '0'],
      ]),
    );
    const values = readSysctls(ns.path, ['net.ipv4.ip_forward', name, 'net.ipv4.no_such_thing']);
    expect([...values]).toStrictEqual([
      ['net.ipv4.ip_forward', '1'],
      [name, '0'],
      ['net.ipv4.no_such_thing', undefined],
    ]);
    const other = scene.namespace();
    expect(readSysctls(other.path, ['net.ipv4.ip_forward']).get('net.ipv4.ip_forward')).toBe('0');
    expect(() => {
      writeSysctls(ns.path, new Map([['net.ipv4.no_such_thing', '1']]));
    }).toThrow();
  });
});
