import { formatRef } from '../api/types.ts';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { OvpnError } from '../errors.ts';
import type { SocketKeeper } from '../holder/client.ts';
import type { Endpoint, Peer } from '../kernel/ovpn/codec.ts';
import { AF_INET, bind, close, SOCK_DGRAM, socket } from '../kernel/libc.ts';
import { NetlinkError } from '../kernel/netlink/error.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { Link } from '../kernel/rtnetlink/links.ts';
import { boundAddress } from '../kernel/transport-socket.ts';
import type { Route } from '../kernel/rtnetlink/routes.ts';
import type { DesiredNetwork, DesiredPeer } from './desired.ts';
import { diffBase, diffPeer, missingRoutes, namespaceSysctls, peerRoutes, sameEndpoint, sameRoute } from './diff.ts';
import { removeDurably, writeDurably } from './durable-file.ts';
import { PeerMemory, type PeerNote } from './peer-memory.ts';
import { deviceAlias, namespaceName, networkOfNamespace, socketName, vethName } from './names.ts';
import { type ObservedNetwork, routeKey } from './observed.ts';
import { TransportSockets } from './sockets.ts';
import { underlayMtu } from './underlay.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});
function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'parts-'));
  cleanups.push(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

const desired: DesiredPeer = {
  ref: { kind: 'VpnPeer', namespace: 'team-a', name: 'office' },
  id: 7,
  txId: 7,
  vpnIpv4: '10.80.0.7',
  vpnIpv6: undefined,
  remote: { address: '198.51.100.7', port: 1194 },
  keepalive: { interval: 0, timeout: 0 },
  listener: 'udp',
  routes: [],
  key: undefined,
};
const traffic = { rxBytes: 1n, txBytes: 2n, rxPackets: 3n, txPackets: 4n };
const observed: Peer = {
  id: 7,
  txId: 7,
  remote: { address: '198.51.100.7', port: 1194 },
  local: undefined,
  localPort: 1194,
  socketNetnsid: 0,
  vpnIpv4: '10.80.0.7',
  vpnIpv6: undefined,
  keepalive: { interval: 0, timeout: 0 },
  vpn: traffic,
  link: traffic,
};
const elsewhere: Endpoint = { address: '203.0.113.9', port: 40_000 };
/** What the agent notes of the desired peer once the kernel has this endpoint. */
const noteOf = (endpoint: Endpoint | undefined): PeerNote | undefined =>
  endpoint === undefined ? undefined : { endpoint, owner: formatRef(desired.ref) };

describe('names', () => {
  test('of veths fit the kernel, are stable, and differ', () => {
    expect(vethName({ containerId: 'abc', ifname: 'vpn0' })).toBe(vethName({ containerId: 'abc', ifname: 'vpn0' }));
    const id = fc.stringMatching(/^[a-z0-9][a-z0-9_.-]{0,255}$/);
    const ifname = fc.stringMatching(/^[a-z0-9]{1,15}$/);
    fc.assert(
      fc.property(id, ifname, id, ifname, (a, b, c, d) => {
        const [one, other] = [vethName({ containerId: a, ifname: b }), vethName({ containerId: c, ifname: d })];
        expect(one).toMatch(/^veth[0-9a-f]{11}$/);
        expect(one.length).toBeLessThanOrEqual(15);
        expect(one === other).toBe(a === c && b === d);
      }),
    );
  });

  test.each([
    ['ovpn-corp', 'corp'],
    ['ovpn-a-b', 'a-b'],
    ['ovpn-', undefined],
    ['ovpn', undefined],
    ['corp', undefined],
    ['my-ovpn-corp', undefined],
  ])('namespace %s is of network %s', (name, network) => {
    expect(networkOfNamespace(name)).toBe(network);
    if (network !== undefined) expect(namespaceName(network)).toBe(name);
  });

  test('mark and find what is ours', () => {
    expect(deviceAlias('corp')).toBe('ovpn-operator:corp');
    expect(socketName('corp', 'udp')).toBe('corp/udp');
  });
});

describe('diffPeer', () => {
  const port = 1194;
  test.each<[string, Partial<DesiredPeer>, Partial<Peer>, Endpoint | undefined, object]>([
    ['nothing', {}, {}, desired.remote, { change: 'none' }],
    ['a remote that floated', {}, { remote: elsewhere }, desired.remote, { change: 'none' }],
    ['a remote that floated while the memory is lost', {}, { remote: elsewhere }, undefined, { change: 'none' }],
    [
      'a wanted endpoint that changed',
      { remote: elsewhere },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, remote: elsewhere } },
    ],
    [
      'a wanted port that changed',
      { remote: { ...desired.remote, port: 1 } },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, remote: { ...desired.remote, port: 1 } } },
    ],
    [
      'an endpoint that floated to where it is wanted now',
      { remote: elsewhere },
      { remote: elsewhere },
      desired.remote,
      { change: 'none' },
    ],
    ['a transmit id', { txId: 9 }, {}, desired.remote, { change: 'set', settings: { id: 7, txId: 9 } }],
    [
      'keepalive',
      { keepalive: { interval: 5, timeout: 30 } },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, keepalive: { interval: 5, timeout: 30 } } },
    ],
    [
      'keepalive off',
      {},
      { keepalive: { interval: 5, timeout: 30 } },
      desired.remote,
      { change: 'set', settings: { id: 7, keepalive: { interval: 0, timeout: 0 } } },
    ],
    [
      'an address',
      { vpnIpv4: '10.80.0.8' },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, vpnIpv4: '10.80.0.8' } },
    ],
    [
      'a family more',
      { vpnIpv6: 'fd80::7' },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, vpnIpv6: 'fd80::7' } },
    ],
    [
      'a family less',
      {},
      { vpnIpv6: 'fd80::7' },
      desired.remote,
      { change: 'set', settings: { id: 7, vpnIpv6: '::' } },
    ],
    [
      'another family',
      { vpnIpv4: undefined, vpnIpv6: 'fd80::7' },
      {},
      desired.remote,
      { change: 'set', settings: { id: 7, vpnIpv4: '0.0.0.0', vpnIpv6: 'fd80::7' } },
    ],
    [
      'another socket',
      {},
      { localPort: 1195 },
      desired.remote,
      { change: 'replace', because: expect.stringContaining('port 1195, not 1194') },
    ],
    ['a port that the kernel does not tell', {}, { localPort: undefined }, desired.remote, { change: 'none' }],
  ])('sees %s', (_name, wanted, there, applied, expected) => {
    expect(diffPeer({ ...desired, ...wanted }, { ...observed, ...there }, port, noteOf(applied))).toEqual(expected);
  });

  test('never lets a peer have the key of the VpnPeer that had its id before', () => {
    const note = { endpoint: desired.remote, owner: 'VpnPeer other/peer' };
    expect(diffPeer(desired, observed, port, note)).toEqual({
      change: 'replace',
      because: 'its id belonged to VpnPeer other/peer',
    });
  });

  test('makes what is not there', () =>
    expect(diffPeer(desired, undefined, port, undefined)).toEqual({ change: 'create' }));

  test('is silent once its change is carried out', () => {
    const some = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
    const shape = {
      txId: some(7, 9),
      vpnIpv4: some<string | undefined>(undefined, '10.80.0.7', '10.80.0.8'),
      vpnIpv6: some<string | undefined>(undefined, 'fd80::7'),
      remote: some(desired.remote, elsewhere),
      keepalive: some({ interval: 0, timeout: 0 }, { interval: 5, timeout: 30 }),
    };
    fc.assert(
      fc.property(
        fc.record(shape),
        fc.record(shape),
        some(undefined, desired.remote, elsewhere),
        (wanted, there, applied) => {
          const peer = { ...desired, ...wanted };
          const change = diffPeer(peer, { ...observed, ...there }, port, noteOf(applied));
          if (change.change === 'none') return;
          expect(change.change).toBe('set');
          if (change.change !== 'set') return;
          const { vpnIpv4, vpnIpv6, ...rest } = change.settings;
          const after: Peer = {
            ...observed,
            ...there,
            ...(Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as Partial<Peer>),
            ...(vpnIpv4 === undefined ? {} : { vpnIpv4: vpnIpv4 === '0.0.0.0' ? undefined : vpnIpv4 }),
            ...(vpnIpv6 === undefined ? {} : { vpnIpv6: vpnIpv6 === '::' ? undefined : vpnIpv6 }),
          };
          expect(diffPeer(peer, after, port, noteOf(peer.remote))).toEqual({ change: 'none' });
        },
      ),
    );
  });

  test.each<[Endpoint | undefined, Endpoint | undefined, boolean]>([
    [undefined, undefined, true],
    [undefined, elsewhere, false],
    [elsewhere, { ...elsewhere }, true],
    [elsewhere, { ...elsewhere, scopeId: 0 }, true],
    [elsewhere, { ...elsewhere, scopeId: 3 }, false],
    [elsewhere, { ...elsewhere, port: 1 }, false],
  ])('endpoints %j and %j: %s', (one, other, same) => expect(sameEndpoint(one, other)).toBe(same));
});

describe('diffBase', () => {
  const network: DesiredNetwork = {
    name: 'corp',
    mtu: 1416,
    addresses: ['10.80.0.1/24'],
    podBlocks: [],
    listeners: [],
    pools: [],
  };
  const device: Link = {
    index: 0x100000,
    name: 'ovpn0',
    up: true,
    mtu: 1416,
    mac: '',
    kind: 'ovpn',
    ovpnMode: 'mp',
    alias: 'ovpn-operator:corp',
    peerIndex: undefined,
    carrier: true,
    loopback: false,
  };
  const settled: ObservedNetwork = {
    device,
    addresses: new Set(['10.80.0.1/24']),
    routes: new Map(),
    peers: new Map(),
    keys: new Map(),
    sysctls: namespaceSysctls,
    loopbackUp: true,
  };
  const none = {
    sysctls: new Map(),
    loopbackUp: false,
    createDevice: false,
    device: {},
    addAddresses: [],
    deleteAddresses: [],
  };

  test.each<[string, Partial<ObservedNetwork>, object]>([
    ['nothing', {}, {}],
    ['a device that is down', { device: { ...device, up: false } }, { device: { up: true } }],
    ['another MTU', { device: { ...device, mtu: 1500 } }, { device: { mtu: 1416 } }],
    [
      'a device without our mark',
      { device: { ...device, alias: undefined } },
      { device: { alias: 'ovpn-operator:corp' } },
    ],
    [
      'no device',
      { device: undefined },
      { createDevice: true, device: { up: true, mtu: 1416, alias: 'ovpn-operator:corp' } },
    ],
    ['a missing address', { addresses: new Set<string>() }, { addAddresses: ['10.80.0.1/24'] }],
    [
      'another length',
      { addresses: new Set(['10.80.0.1/16']) },
      { addAddresses: ['10.80.0.1/24'], deleteAddresses: ['10.80.0.1/16'] },
    ],
    ['loopback down', { loopbackUp: false }, { loopbackUp: true }],
    [
      'a sysctl of another value',
      { sysctls: new Map([...namespaceSysctls, ['net.ipv4.ip_forward', '0']]) },
      { sysctls: new Map([['net.ipv4.ip_forward', '1']]) },
    ],
    [
      'a kernel without IPv6',
      { sysctls: new Map([...namespaceSysctls].filter(([name]) => !name.includes('ipv6'))) },
      {
        sysctls: new Map([...namespaceSysctls].filter(([name]) => name.includes('ipv6'))),
      },
    ],
  ])('sees %s', (_name, there, expected) => {
    expect(diffBase(network, 'ovpn-operator:corp', { ...settled, ...there })).toEqual({ ...none, ...expected });
  });
});

describe('routes', () => {
  const route: Route = {
    destination: '192.168.7.0/24',
    type: 'unicast',
    gateway: '10.80.0.7',
    index: 9,
    metric: 0,
    source: undefined,
    mtu: undefined,
  };

  test('of a peer are as the kernel stores them', () => {
    const routes = [
      { destination: '192.168.7.0/24', gateway: '10.80.0.7' },
      { destination: 'fd70::/64', gateway: 'fd80::7' },
    ];
    expect(peerRoutes({ ...desired, routes }, 9)).toEqual([
      route,
      { ...route, destination: 'fd70::/64', gateway: 'fd80::7', metric: 1024 },
    ]);
  });

  test.each<[string, Partial<Route>, boolean]>([
    ['itself', {}, true],
    ['another source, which the kernel chose', { source: '10.80.0.1' }, true],
    ['another gateway', { gateway: '10.80.0.8' }, false],
    ['another device', { index: 10 }, false],
    ['another metric', { metric: 1 }, false],
    ['another type', { type: 'unreachable' }, false],
    ['another MTU', { mtu: 1300 }, false],
    ['another destination', { destination: '192.168.8.0/24' }, false],
  ])('with %s', (_name, change, same) => expect(sameRoute(route, { ...route, ...change })).toBe(same));

  test('are missing when they are not there, or not as they should be', () => {
    const there = (present: Route): Map<string, Route> => new Map([[routeKey(present), present]]);
    expect(missingRoutes([route], new Map())).toEqual([route]);
    expect(missingRoutes([route], there(route))).toEqual([]);
    expect(missingRoutes([route], there({ ...route, gateway: '10.80.0.8' }))).toEqual([route]);
    expect(missingRoutes([route], there({ ...route, metric: 5 }))).toEqual([route]);
    expect(routeKey(route)).not.toBe(routeKey({ ...route, metric: 5 }));
  });
});

describe('durable files', () => {
  test('are made with their folder, replaced whole, and leave nothing beside them', () => {
    const path = join(folder(), 'a', 'b', 'file');
    writeDurably(path, 'a long first version');
    writeDurably(path, 'second ü');
    expect(readFileSync(path, 'utf8')).toBe('second ü');
    expect(readdirSync(join(path, '..'))).toEqual(['file']);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    removeDurably(path);
    removeDurably(path);
    expect(readdirSync(join(path, '..'))).toEqual([]);
  });

  test('take the place of what a crash left', () => {
    const path = join(folder(), 'file');
    writeFileSync(`${path}.tmp`, 'half of something that was longer than this');
    writeDurably(path, 'new');
    expect(readFileSync(path, 'utf8')).toBe('new');
  });

  test('leave what was there when they cannot be written', () => {
    const path = join(folder(), 'file');
    writeDurably(path, 'old');
    mkdirSync(`${path}.tmp`);
    expect(() => writeDurably(path, 'new')).toThrow(/EISDIR/);
    expect(readFileSync(path, 'utf8')).toBe('old');
  });
});

describe('the memory of peers', () => {
  const note = { endpoint: elsewhere, owner: 'VpnPeer a/b' };
  const path = (): string => join(folder(), 'state', 'peers.json');

  test('lasts over restarts once it is saved', () => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.set('corp', 7, note);
    expect(new PeerMemory(file).get('corp', 7)).toBeUndefined();
    memory.save();
    expect(new PeerMemory(file).get('corp', 7)).toEqual(note);
    expect(new PeerMemory(file).get('corp', 8)).toBeUndefined();
    expect(new PeerMemory(file).get('lab', 7)).toBeUndefined();
    memory.delete('corp', 7);
    memory.save();
    expect(new PeerMemory(file).get('corp', 7)).toBeUndefined();
  });

  test('writes only what changed', () => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.save();
    expect(() => statSync(file)).toThrow(/ENOENT/);
    memory.set('corp', 7, note);
    memory.save();
    rmSync(file);
    memory.set('corp', 7, { ...note });
    memory.delete('corp', 8);
    memory.save();
    expect(() => statSync(file)).toThrow(/ENOENT/);
    memory.set('corp', 7, { ...note, endpoint: { ...note.endpoint, port: 1 } });
    memory.save();
    expect(statSync(file).size).toBeGreaterThan(0);
  });

  test.each([
    '',
    '\n\n',
    '{"network":"corp",',
    'null\n',
    '7\n',
    '"x"\n',
    '[]\n',
    '{}\n',
    '\u0000\u0000\u0000\n',
    '{"network":"corp","peerId":7}\n',
    '{"network":"corp","peerId":7,"note":7}\n',
    '{"network":"corp","peerId":"7","note":{"endpoint":{"address":"x","port":1},"owner":"o"}}\n',
    '{"network":1,"peerId":7,"note":{"endpoint":{"address":"x","port":1},"owner":"o"}}\n',
    '{"network":"corp","peerId":7,"note":{"endpoint":{"address":1,"port":1},"owner":"o"}}\n',
    '{"network":"corp","peerId":7,"note":{"endpoint":{"address":"x","port":1}}}\n',
    '{"network":"corp","peerId":7,"note":{"endpoint":{"address":"x"},"owner":"o"}}\n',
    '{"network":"corp","peerId":7,"note":{"endpoint":null,"owner":"o"}}\n',
    '{"network":"corp","peerId":7,"note":{"endpoint":{"address":"x","port":1},"owner":"o"}}',
  ])('is empty when its file holds %j', (text) => {
    const file = join(folder(), 'peers.json');
    writeFileSync(file, text);
    const memory = new PeerMemory(file);
    expect(memory.get('corp', 7)).toBeUndefined();
    memory.set('corp', 7, note);
    memory.save();
    expect(new PeerMemory(file).get('corp', 7)).toEqual(note);
  });

  test('costs a line for what changed, however many peers there are', () => {
    const file = path();
    const memory = new PeerMemory(file);
    for (let id = 1; id <= 5_000; id++) memory.set('corp', id, note);
    memory.save();
    const before = statSync(file);
    memory.set('corp', 7, { ...note, endpoint: { ...elsewhere, port: 1 } });
    memory.delete('corp', 8);
    memory.save();
    const after = statSync(file);
    expect(after.ino).toBe(before.ino);
    expect(after.size - before.size).toBeLessThan(300);
    expect(after.mode & 0o777).toBe(0o600);
    const again = new PeerMemory(file);
    expect(again.get('corp', 7)?.endpoint.port).toBe(1);
    expect(again.get('corp', 8)).toBeUndefined();
    expect(again.get('corp', 5_000)).toEqual(note);
  });

  test('writes its file anew when old lines have piled up', () => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.set('lab', 1, note);
    for (let port = 1; port <= 5_000; port++) {
      memory.set('corp', 7, { ...note, endpoint: { ...elsewhere, port } });
      memory.save();
    }
    expect(statSync(file).size).toBeLessThan(300_000);
    expect(readdirSync(join(file, '..'))).toEqual(['peers.json']);
    expect(new PeerMemory(file).get('corp', 7)?.endpoint.port).toBe(5_000);
    expect(new PeerMemory(file).get('lab', 1)).toEqual(note);
  });

  test.each<[string, (file: string) => void]>([
    ['a torn last line', (file) => truncateSync(file, statSync(file).size - 5)],
    ['a last line without an end', (file) => appendFileSync(file, '{"network":"corp","peerId":9,"no')],
    ['a damaged line', (file) => writeFileSync(file, `{{{\n${readFileSync(file, 'utf8')}`)],
    ['zeros', (file) => appendFileSync(file, Buffer.alloc(512))],
  ])('goes on after %s, and leaves nothing of it', (_name, damage) => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.set('corp', 7, note);
    memory.save();
    memory.set('corp', 8, note);
    memory.save();
    damage(file);
    const restarted = new PeerMemory(file);
    expect(restarted.get('corp', 7)).toEqual(note);
    expect(restarted.get('corp', 9)).toBeUndefined();
    restarted.set('corp', 9, note);
    restarted.save();
    const again = new PeerMemory(file);
    expect(again.get('corp', 7)).toEqual(note);
    expect(again.get('corp', 9)).toEqual(note);
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    expect(lines.every((line) => typeof JSON.parse(line) === 'object')).toBe(true);
  });

  test.each<[string, (file: string) => void]>([
    ['was removed', (file) => rmSync(file)],
    ['holds what an append left that failed', (file) => appendFileSync(file, '{"network":"co')],
  ])('is written whole when its file %s meanwhile', (_name, damage) => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.set('corp', 7, note);
    memory.save();
    damage(file);
    memory.set('corp', 8, note);
    memory.save();
    expect(new PeerMemory(file).get('corp', 7)).toEqual(note);
    expect(new PeerMemory(file).get('corp', 8)).toEqual(note);
  });

  test('says when the disk refuses, and tries again at the next save', () => {
    const file = path();
    const memory = new PeerMemory(file);
    memory.set('corp', 7, note);
    writeFileSync(join(file, '..'), 'in the way');
    expect(() => memory.save()).toThrow(expect.objectContaining({ name: 'StateUnusable', where: { object: file } }));
    rmSync(join(file, '..'));
    memory.save();
    expect(new PeerMemory(file).get('corp', 7)).toEqual(note);
  });
});

/** A holder in this process: it hands out sockets made before. */
class FakeKeeper implements SocketKeeper {
  readonly held = new Map<string, number>();
  readonly dropped: string[] = [];
  away = false;
  readonly refuses = new Set<string>();
  put(name: string, fd: number): void {
    this.#answer(name);
    this.held.set(name, fd);
  }
  get(name: string): number | undefined {
    this.#answer(name);
    return this.held.get(name);
  }
  drop(name: string): void {
    this.#answer(name);
    this.dropped.push(name);
    this.held.delete(name);
  }
  list(): readonly string[] {
    this.#answer();
    return [...this.held.keys()];
  }
  #answer(name = ''): void {
    if (this.away || this.refuses.has(name)) throw new OvpnError('HolderUnreachable', 'no answer');
  }
}

describe('transport sockets', () => {
  const bound = (): { fd: number; port: number } => {
    const fd = socket(AF_INET, SOCK_DGRAM, 0);
    bind(fd, Buffer.from([AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
    return { fd, port: boundAddress(fd).port };
  };

  test('are taken from the holder after a restart, and kept from then on', () => {
    const keeper = new FakeKeeper();
    const { fd, port } = bound();
    keeper.put('corp/udp', fd);
    const sockets = new TransportSockets(keeper);
    const listener = { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port };
    expect(sockets.ensure('corp', listener)).toBe(fd);
    keeper.held.clear();
    expect(sockets.ensure('corp', listener)).toBe(fd);
    // A holder that was restarted gets it again.
    sockets.renew();
    expect(keeper.held.get('corp/udp')).toBe(fd);
    sockets.close();
    expect(() => boundAddress(fd)).toThrow(/EBADF/);
    expect(keeper.list()).toEqual(['corp/udp']);
  });

  test('of a network are released without those of another whose name begins the same', () => {
    const keeper = new FakeKeeper();
    const [one, two, three] = [bound(), bound(), bound()];
    keeper.put('corp/udp', one.fd);
    keeper.put('corp/spare', two.fd);
    keeper.put('corp-2/udp', three.fd);
    const sockets = new TransportSockets(keeper);
    sockets.ensure('corp', { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port: one.port });
    sockets.release('corp', new Set(['udp']));
    expect(keeper.dropped).toEqual(['corp/spare']);
    sockets.release('corp', new Set());
    expect(keeper.dropped).toEqual(['corp/spare', 'corp/udp']);
    expect(() => boundAddress(one.fd)).toThrow(/EBADF/);
    expect(keeper.list()).toEqual(['corp-2/udp']);
    close(two.fd);
    close(three.fd);
  });

  describe('while the holder is away', () => {
    const setUp = (): { keeper: FakeKeeper; sockets: TransportSockets; fd: number; listener: typeof anywhere } => {
      const keeper = new FakeKeeper();
      const { fd, port } = bound();
      keeper.put('corp/udp', fd);
      const sockets = new TransportSockets(keeper);
      const listener = { ...anywhere, port };
      sockets.ensure('corp', listener);
      keeper.away = true;
      return { keeper, sockets, fd, listener };
    };
    const anywhere = { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port: 0 };

    test('serve on, and it gets them when it is back', () => {
      const { keeper, sockets, fd, listener } = setUp();
      expect(sockets.ensure('corp', listener)).toBe(fd);
      sockets.release('corp', new Set(['udp']));
      expect(sockets.renew()).toMatchObject({ name: 'HolderUnreachable' });
      expect(sockets.names()).toEqual(new Set(['corp']));
      expect(boundAddress(fd).port).toBe(listener.port);
      keeper.away = false;
      keeper.held.clear();
      expect(sockets.renew()).toBeUndefined();
      expect(keeper.list()).toEqual(['corp/udp']);
      sockets.close();
    });

    test('are closed all the same when nobody wants them, and dropped there later', () => {
      const { keeper, sockets, fd } = setUp();
      sockets.release('corp', new Set());
      expect(() => boundAddress(fd)).toThrow(/EBADF/);
      expect(sockets.names()).toEqual(new Set());
      keeper.away = false;
      expect(sockets.names()).toEqual(new Set(['corp']));
      sockets.release('corp', new Set());
      expect(keeper.list()).toEqual([]);
      expect(sockets.names()).toEqual(new Set());
    });

    test('fail where a socket is needed that is not in hand, and keep what is in hand', () => {
      const { sockets, fd, listener } = setUp();
      const unreachable = expect.objectContaining({ name: 'HolderUnreachable' });
      expect(() => sockets.ensure('corp', { ...anywhere, name: 'other' })).toThrow(unreachable);
      expect(() => sockets.ensure('corp', { ...listener, address: '127.0.0.2' })).toThrow(unreachable);
      expect(() => sockets.ensure('corp', anywhere)).toThrow(unreachable);
      expect(sockets.ensure('corp', listener)).toBe(fd);
      sockets.close();
    });
  });

  test('that the holder refuses do not keep it from the others', () => {
    const keeper = new FakeKeeper();
    const [one, two] = [bound(), bound()];
    keeper.put('corp/udp', one.fd);
    keeper.put('lab/udp', two.fd);
    const sockets = new TransportSockets(keeper);
    sockets.ensure('corp', { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port: one.port });
    sockets.ensure('lab', { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port: two.port });
    keeper.held.clear();
    keeper.refuses.add('corp/udp');
    expect(sockets.renew()).toMatchObject({ name: 'HolderUnreachable' });
    expect(keeper.list()).toEqual(['lab/udp']);
    sockets.close();
  });

  describe('and what single sessions keep beside them', () => {
    const setUp = (): { keeper: FakeKeeper; sockets: TransportSockets; fd: number } => {
      const keeper = new FakeKeeper();
      return { keeper, sockets: new TransportSockets(keeper), fd: bound().fd };
    };

    test('stay when listeners are released, and go with their network only', () => {
      const { keeper, sockets, fd } = setUp();
      sockets.shelf('corp').keep('client.1', fd);
      sockets.shelf('corp-2').keep('client.1', fd);
      keeper.put('corp/@client.2', fd);
      sockets.release('corp', new Set());
      expect(keeper.list()).toEqual(['corp/@client.1', 'corp-2/@client.1', 'corp/@client.2']);
      expect(sockets.names()).toEqual(new Set(['corp', 'corp-2']));
      sockets.forget('corp');
      expect(keeper.list()).toEqual(['corp-2/@client.1']);
      expect(sockets.renew()).toBeUndefined();
      expect(keeper.list()).toEqual(['corp-2/@client.1']);
      close(fd);
    });

    test('are handed to a holder that was restarted, until they are dropped', () => {
      const { keeper, sockets, fd } = setUp();
      const shelf = sockets.shelf('corp');
      expect(shelf.take('client.1')).toBeUndefined();
      expect(shelf.keep('client.1', fd)).toBeUndefined();
      keeper.held.clear();
      sockets.renew();
      expect(keeper.held.get('corp/@client.1')).toBe(fd);
      expect(shelf.drop('client.1')).toBeUndefined();
      sockets.renew();
      expect(keeper.list()).toEqual([]);
      // Also what an earlier process left.
      keeper.put('corp/@client.2', fd);
      expect(shelf.take('client.2')).toBe(fd);
      keeper.held.clear();
      sockets.renew();
      expect(keeper.list()).toEqual(['corp/@client.2']);
      close(fd);
    });

    test('are offered later to a holder that did not take them, but never in place of what it has', () => {
      const { keeper, sockets, fd } = setUp();
      const shelf = sockets.shelf('corp');
      keeper.away = true;
      expect(shelf.keep('first', fd)).toMatchObject({ name: 'HolderUnreachable' });
      keeper.away = false;
      sockets.renew();
      expect(keeper.held.get('corp/@first')).toBe(fd);
      keeper.away = true;
      const other = bound().fd;
      expect(shelf.keep('first', other)).toMatchObject({ name: 'HolderUnreachable' });
      keeper.away = false;
      keeper.held.clear();
      sockets.renew();
      expect(keeper.held.get('corp/@first')).toBe(fd);
      close(fd);
      close(other);
    });

    test('of crashed processes are dropped, others not', () => {
      const { keeper, sockets, fd } = setUp();
      for (const name of ['corp/udp', 'corp/@a', 'corp/@b', 'corp-2/@b']) keeper.put(name, fd);
      const shelf = sockets.shelf('corp');
      keeper.away = true;
      expect(shelf.dropOthers(new Set(['a']))).toMatchObject({ name: 'HolderUnreachable' });
      keeper.away = false;
      expect(shelf.dropOthers(new Set(['a']))).toBeUndefined();
      expect(keeper.list()).toEqual(['corp/udp', 'corp/@a', 'corp-2/@b']);
      close(fd);
    });
  });

  test('are known by their networks, ours and the holder’s', () => {
    const keeper = new FakeKeeper();
    const { fd, port } = bound();
    keeper.put('corp/udp', fd);
    keeper.put('corp/spare', fd);
    keeper.put('corp-2/udp', fd);
    const sockets = new TransportSockets(keeper);
    expect(sockets.names()).toEqual(new Set(['corp', 'corp-2']));
    sockets.ensure('corp', { name: 'udp', protocol: 'UDP' as const, address: '127.0.0.1', port });
    keeper.held.clear();
    expect(sockets.names()).toEqual(new Set(['corp']));
    sockets.close();
  });
});

describe('the MTU of the underlay', () => {
  test.each(['EINVAL', 'EACCES', 'ENETUNREACH'] as const)('takes a route that says %s for no answer', (code) => {
    const host = NetlinkSocket.open(NETLINK_ROUTE);
    cleanups.push(() => host.close());
    const get = host.get.bind(host);
    const asked = jest.spyOn(host, 'get').mockImplementation((request) => {
      if (request.describe().includes('198.51.100.1')) {
        throw new NetlinkError(request.describe(), constants.errno[code]);
      }
      return get(request);
    });
    const fallback = underlayMtu(host, []);
    expect(underlayMtu(host, ['198.51.100.1', '127.0.0.1'])).toBe(fallback);
    expect(asked).toHaveBeenCalledTimes(2);
  });

  test('does not hide a defect of its own', () => {
    const host = NetlinkSocket.open(NETLINK_ROUTE);
    cleanups.push(() => host.close());
    jest.spyOn(host, 'get').mockImplementation(() => {
      throw new TypeError('defect');
    });
    expect(() => underlayMtu(host, ['198.51.100.1'])).toThrow('defect');
  });
});
