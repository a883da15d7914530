import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectRef } from '../../operator/src/api/types.ts';
import { NetworkKernel } from '../../operator/src/agent/network-kernel.ts';
import { PeerMemory } from '../../operator/src/agent/peer-memory.ts';
import { LivePeers, type NewLivePeer, type SessionKey } from '../../operator/src/agent/sessions/live-peers.ts';
import { FakeScheduler } from '../../operator/src/agent/sessions/sessions.fixture.ts';
import {
  ensureTunnelDevice,
  removeTunnelDevice,
  removeTunnelDevices,
  setTunnelAddresses,
  tunnelDeviceName,
} from '../../operator/src/agent/sessions/tunnel-devices.ts';
import { TunnelKeys } from '../../operator/src/agent/sessions/tunnel-keys.ts';
import { defaultNetnsFolder } from '../../operator/src/kernel/netns.ts';
import { newOvpnLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { dumpOurRoutes, type Route } from '../../operator/src/kernel/rtnetlink/routes.ts';
import type { DataKeys } from '../../operator/src/openvpn/static-key.ts';
import { silentLog } from '../../operator/src/telemetry/log.ts';
import { eventually, type Namespace, Scene } from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});

const refOf = (name: string): ObjectRef => ({ kind: 'VpnPeer', namespace: 'default', name });

/** The peers with sessions of one namespace, as the agent has them. */
class Side {
  readonly namespace: Namespace;
  readonly kernel: NetworkKernel;
  readonly live: LivePeers;
  readonly clock = new FakeScheduler();

  constructor(namespace: Namespace) {
    this.namespace = namespace;
    this.kernel = NetworkKernel.open(namespace.name, defaultNetnsFolder);
    scene.onClose(() => this.kernel.close());
    const memory = new PeerMemory(join(mkdtempSync(join(tmpdir(), 'ovpn-live-')), 'peers.json'));
    this.live = new LivePeers({ network: 'corp', kernel: () => this.kernel, memory, log: silentLog });
  }

  get routes(): string[] {
    return dumpOurRoutes(this.namespace.rt).map(({ destination }) => destination);
  }
}

/** Keys of one renegotiation, for both ends. */
function keyPair(keyId: number): { readonly here: SessionKey; readonly there: SessionKey } {
  const direction = (): DataKeys['encrypt'] => ({ cipherKey: randomBytes(32), nonceTail: randomBytes(8) });
  const [one, other] = [direction(), direction()];
  const key = (encrypt: DataKeys['encrypt'], decrypt: DataKeys['encrypt']): SessionKey => ({
    ...{ keyId, cipher: 'AES-256-GCM' },
    keys: { encrypt, decrypt, fingerprint: '' },
  });
  return { here: key(one, other), there: key(other, one) };
}

/** A P2MP device with an address of both families. */
function gateway() {
  const side = new Side(scene.namespace());
  const device = side.namespace.device('mp', ['10.80.0.1/24', 'fd80::1/64']);
  const socket = scene.udp(side.namespace, '127.0.0.1');
  return { side, device, socket };
}

function newPeer(
  { side, device, socket }: ReturnType<typeof gateway>,
  change: Partial<NewLivePeer['settings']> = {},
  routes: readonly Route[] = [],
): NewLivePeer {
  return {
    ref: refOf('alice'),
    ifindex: device,
    settings: {
      id: side.live.freeId(device),
      socket: socket.fd,
      remote: { address: '127.0.0.1', port: 9 },
      ...{ vpnIpv4: '10.80.0.10', vpnIpv6: 'fd80::10' },
      ...change,
    },
    routes,
  };
}

const via = (destination: string, gatewayAddress: string, index: number): Route => ({
  ...{ destination, type: 'unicast', gateway: gatewayAddress, index },
  metric: destination.includes(':') ? 1024 : 0,
});

describe('a peer with a session', () => {
  test('is made with everything, and goes without a trace', () => {
    const at = gateway();
    const { live, namespace } = at.side;
    const routes = [via('192.168.7.0/24', '10.80.0.10', at.device), via('fd07::/64', 'fd80::10', at.device)];
    const peer = live.create(newPeer(at, { keepalive: { interval: 10, timeout: 120 } }, routes), keyPair(0).here);
    expect(live.read(peer)).toMatchObject({
      id: peer.id,
      keepalive: { interval: 10, timeout: 120 },
      ...{ vpnIpv4: '10.80.0.10', vpnIpv6: 'fd80::10' },
    });
    expect(namespace.ovpn.getKey(at.device, peer.id, 'primary')).toMatchObject({ keyId: 0 });
    expect(at.side.routes.sort()).toEqual(['192.168.7.0/24', 'fd07::/64']);
    live.remove(peer);
    expect(namespace.ovpn.dumpPeers(at.device)).toEqual([]);
    expect(at.side.routes).toEqual([]);
  });

  test('does not touch another that has its id', () => {
    const at = gateway();
    const { live, namespace } = at.side;
    const first = live.create(newPeer(at), keyPair(3).here);
    live.forget(first);
    const settings = { id: first.id, vpnIpv4: '10.80.0.11', vpnIpv6: 'fd80::11' };
    expect(() => live.create(newPeer(at, settings), keyPair(0).here)).toThrow('EEXIST');
    expect(namespace.ovpn.getKey(at.device, first.id, 'primary')).toMatchObject({ keyId: 3 });
    expect(namespace.ovpn.getPeer(at.device, first.id)).toMatchObject({ vpnIpv4: '10.80.0.10' });
  });

  test.each<[string, Partial<NewLivePeer['settings']>, string, string]>([
    ['an address that another has', {}, '192.168.7.0/24', 'EADDRINUSE'],
    ['a socket that is none', { socket: 0, vpnIpv4: '10.80.0.11', vpnIpv6: undefined }, '192.168.7.0/24', 'ENOTSOCK'],
    [
      'a keepalive longer than a day',
      { vpnIpv4: '10.80.0.11', vpnIpv6: undefined, keepalive: { interval: 10, timeout: 86_401 } },
      '192.168.7.0/24',
      'ERANGE',
    ],
    ['a route that is there for another', { vpnIpv4: '10.80.0.11', vpnIpv6: undefined }, 'fd07::/64', 'E'],
  ])('leaves nothing behind when it is refused for %s', (_, change, destination, code) => {
    const at = gateway();
    const { live, namespace } = at.side;
    live.create(newPeer(at), keyPair(0).here);
    // A next hop that no device leads to.
    const routes = [
      via('192.168.8.0/24', '10.80.0.11', at.device),
      via(destination, destination.includes(':') ? 'fd99::1' : '10.80.0.11', at.device),
    ];
    expect(() => live.create(newPeer(at, change, routes), keyPair(0).here)).toThrow(code);
    expect(namespace.ovpn.dumpPeers(at.device)).toHaveLength(1);
    expect(at.side.routes).toEqual([]);
    expect(live.size).toBe(1);
  });

  test('of a device that somebody deleted is nothing, and harms nobody', () => {
    const at = gateway();
    const { live, namespace } = at.side;
    const peer = live.create(newPeer(at, {}, [via('192.168.7.0/24', '10.80.0.10', at.device)]), keyPair(0).here);
    namespace.deleteDevice(at.device);
    expect(live.read(peer)).toBeUndefined();
    expect(() => live.addKey(peer, keyPair(1).here)).toThrow('ENODEV');
    expect(() => live.create(newPeer(at), keyPair(0).here)).toThrow('ENODEV');
    live.remove(peer);
    expect(live.size).toBe(0);
  });

  // Nothing comes from it; somebody deletes it; its socket is closed; its device is deleted.
  test.each(['expired', 'userspace', 'transport-disconnect', 'teardown'] as const)('is gone: %s', async (reason) => {
    const at = gateway();
    const { live, namespace } = at.side;
    const listener = scene.listen(namespace);
    const keepalive = reason === 'expired' ? { keepalive: { interval: 1, timeout: 2 } } : {};
    const peer = live.create(newPeer(at, keepalive, [via('192.168.7.0/24', '10.80.0.10', at.device)]), keyPair(0).here);
    if (reason === 'userspace') namespace.ovpn.send(namespace.ovpn.requests.peerDel(at.device, peer.id));
    if (reason === 'transport-disconnect') scene.closeFd(at.socket.fd);
    if (reason === 'teardown') namespace.deleteDevice(at.device);
    const told = await listener.wait(({ kind, peerId }) => kind === 'peer-deleted' && peerId === peer.id);
    expect(told).toMatchObject({ ifindex: at.device, reason });
    live.gone(peer);
    expect(live.read(peer)).toBeUndefined();
    expect(at.side.routes).toEqual([]);
  });
});

/** A gateway and a client that dialled it, in two namespaces, with keys of id 0. */
function tunnel() {
  const { a, b } = scene.pair();
  const [here, there] = [new Side(a), new Side(b)];
  const [socketA, socketB] = [scene.udp(a, '192.0.2.1'), scene.udp(b, '192.0.2.2')];
  const deviceA = a.device('mp', ['10.80.0.1/24', 'fd80::1/64']);
  let index = 50;
  const link = ensureTunnelDevice(there.kernel, 'corp', refOf('partner'), 1400, () => ++index);
  setTunnelAddresses(there.kernel, link.index, ['10.80.0.10', 'fd80::10']);
  const keys = keyPair(0);
  const id = here.live.freeId(deviceA);
  const peerA = here.live.create(
    {
      ref: refOf('alice'),
      ifindex: deviceA,
      settings: {
        ...{ id, socket: socketA.fd, vpnIpv4: '10.80.0.10', vpnIpv6: 'fd80::10' },
        remote: { address: '192.0.2.2', port: socketB.port },
      },
      routes: [],
    },
    keys.here,
  );
  const over = (destination: string): Route => ({
    ...{ destination, type: 'unicast', index: link.index },
    metric: destination.includes(':') ? 1024 : 0,
  });
  const peerB = there.live.create(
    {
      ref: refOf('partner'),
      ifindex: link.index,
      settings: { id, socket: socketB.fd, remote: { address: '192.0.2.1', port: socketA.port } },
      routes: [over('10.80.0.1/32'), over('fd80::1/128')],
    },
    keys.there,
  );
  return { here, there, link, peerA, peerB, id, deviceA, socketB };
}

describe('the device of a remote', () => {
  test('carries both families, with the addresses that the remote assigns', async () => {
    const { there, link } = tunnel();
    expect(await there.namespace.ping('10.80.0.1', 5)).toBe(0);
    expect(await there.namespace.ping('fd80::1', 5)).toBe(0);
    expect(there.namespace.link(tunnelDeviceName(refOf('partner')))).toMatchObject({
      ...{ mtu: 1400, up: true, alias: 'ovpn-operator:corp/default/partner' },
    });
    // Another address by the next connection; the device stays.
    setTunnelAddresses(there.kernel, link.index, ['10.80.0.11', 'fd80::10']);
    const text = await there.namespace.exec('ip', '-o', 'addr', 'show', 'dev', link.name, 'scope', 'global');
    expect([...text.matchAll(/inet6? (\S+)/g)].map(([, address]) => address).sort()).toEqual([
      '10.80.0.11/32',
      'fd80::10/128',
    ]);
    ensureTunnelDevice(there.kernel, 'corp', refOf('partner'), 1300, () => 99);
    expect(there.namespace.link(link.name)).toMatchObject({ index: link.index, mtu: 1300 });
  });

  test('has one peer: the next takes its place, whatever id the remote gave it', async () => {
    const { there, link, peerB, socketB } = tunnel();
    const listener = scene.listen(there.namespace);
    const settings = { id: 5, socket: socketB.fd, remote: { address: '192.0.2.1', port: 1 } };
    const next = there.live.create(
      { ref: refOf('partner'), ifindex: link.index, settings, routes: [] },
      keyPair(0).here,
    );
    await listener.wait(({ kind, peerId }) => kind === 'peer-deleted' && peerId === peerB.id);
    expect(there.live.read(peerB)).toBeUndefined();
    expect(there.live.read(next)).toBeDefined();
  });

  test('goes with its VpnPeer; devices of others stay', () => {
    const { there, link, peerB } = tunnel();
    const { namespace, kernel } = there;
    const other = ensureTunnelDevice(kernel, 'corp', refOf('other'), 1400, () => 70);
    const foreign = ensureTunnelDevice(kernel, 'corp2', refOf('third'), 1400, () => 71);
    namespace.rt.request(newOvpnLink({ name: 'dial-by-hand', mode: 'p2p', index: 72 }));
    removeTunnelDevices(kernel, 'corp', [refOf('partner')], silentLog);
    const names = (): string[] => kernel.links().flatMap(({ name, kind }) => (kind === 'ovpn' ? [name] : []));
    expect(names().sort()).toEqual([link.name, foreign.name, 'dial-by-hand'].sort());
    expect(names()).not.toContain(other.name);
    removeTunnelDevice(kernel, refOf('partner'), silentLog);
    removeTunnelDevice(kernel, refOf('partner'), silentLog);
    expect(names()).not.toContain(link.name);
    there.live.remove(peerB);
    expect(there.live.size).toBe(0);
  });
});

test('renegotiations cost no packet, whichever end is first, and leave one key', async () => {
  const { here, there, peerA, peerB, id, deviceA } = tunnel();
  const refusals: string[] = [];
  const keysOf = (side: Side, peer: typeof peerA): TunnelKeys =>
    new TunnelKeys({
      ...{ live: side.live, peer, scheduler: side.clock, log: silentLog },
      transitionMs: () => 30_000,
      refused: (reason) => refusals.push(reason),
    });
  const [keysA, keysB] = [keysOf(here, peerA), keysOf(there, peerB)];
  const traffic = there.namespace.ping('10.80.0.1', 400, '0.01');
  await sleep(200);
  for (const [i, keyId] of [1, 2, 3, 4, 5, 6, 7, 1].entries()) {
    const keys = keyPair(keyId);
    // An hour later, by the sides' own clocks.
    for (const { clock } of [here, there]) clock.advance(3_600_000);
    const [first, second] = i % 2 === 0 ? [here, there] : [there, here];
    for (const side of [first, second]) {
      if (side === here) keysA.add(keys.here);
      else keysB.add(keys.there);
      await sleep(60);
    }
    // Each end has told the other that it has the key.
    keysA.confirmed();
    keysB.confirmed();
    for (const { clock } of [second, first]) {
      clock.advance(30_000);
      await sleep(60);
    }
    expect(here.namespace.ovpn.getKey(deviceA, id, 'primary')).toMatchObject({ keyId });
  }
  expect(await traffic).toBe(0);
  for (const { clock } of [here, there]) clock.advance(3_600_000);
  expect(here.namespace.ovpn.getKeys(deviceA, [id]).get(id)).toMatchObject([{ slot: 'primary', keyId: 1 }]);
  expect(await there.namespace.ping('10.80.0.1', 5)).toBe(0);
  expect(refusals).toEqual([]);
  keysA.close();
  keysB.close();
  await eventually(() => here.clock.pending === undefined && there.clock.pending === undefined);
});
