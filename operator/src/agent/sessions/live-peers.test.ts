import { describe, expect, test } from '@jest/globals';
import { maxPeerId } from '../../api/vpn-peer.ts';
import { OvpnError } from '../../errors.ts';
import type { Route } from '../../kernel/rtnetlink/routes.ts';
import { firstSessionId, type LivePeer, type NewLivePeer, type SessionKey } from './live-peers.ts';
import { FakeLiveKernel, freshKeys, livePeers, refOfPeer } from './sessions.fixture.ts';

const route = (destination: string, gateway = '10.80.0.10'): Route => ({
  ...{ destination, type: 'unicast', gateway, index: 7, metric: 0 },
});

function newPeer(
  id: number,
  change: Partial<NewLivePeer['settings']> = {},
  routes: readonly Route[] = [],
): NewLivePeer {
  const remote = { address: '198.51.100.10', port: 1194 };
  return {
    ref: refOfPeer('alice'),
    ifindex: 7,
    settings: { id, socket: 5, remote, vpnIpv4: '10.80.0.10', keepalive: { interval: 10, timeout: 120 }, ...change },
    routes,
  };
}

const key = (keyId = 0): SessionKey => ({ keyId, cipher: 'AES-256-GCM', keys: freshKeys() });

function refused(call: () => unknown): OvpnError {
  try {
    call();
  } catch (error) {
    if (error instanceof OvpnError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

describe('peers with a session in the kernel', () => {
  test('are made with a key that sends, keepalive and routes, and go without a trace', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const id = live.freeId(7);
    const peer = live.create(newPeer(id, {}, [route('192.168.7.0/24')]), key());
    expect(kernel.observed(7).get(id)).toMatchObject({
      vpnIpv4: '10.80.0.10',
      keepalive: { interval: 10, timeout: 120 },
    });
    expect(kernel.slots(7, id)).toBe('0/-');
    expect(kernel.routes.size).toBe(1);
    expect([...live.values()]).toEqual([peer]);
    live.remove(peer);
    expect([kernel.peers.size, kernel.routes.size, live.size]).toEqual([0, 0, 0]);
    // Once more is no error.
    live.remove(peer);
  });

  test('a key never goes to a peer that was there already, nor does that peer go', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const stranger = live.create(newPeer(firstSessionId + 4), key(3));
    live.forget(stranger);
    const error = refused(() => live.create(newPeer(firstSessionId + 4, { vpnIpv4: '10.80.0.11' }), key()));
    expect(error.name).toBe('KernelRefused');
    expect(error.message).toContain('EEXIST');
    expect(kernel.slots(7, firstSessionId + 4)).toBe('3/-');
    expect(live.size).toBe(0);
  });

  test.each([
    ['an address that somebody has', 'PEER_NEW', 'EADDRINUSE'],
    ['a socket that it cannot use', 'PEER_NEW', 'ENOTSOCK'],
    ['a keepalive out of its range', 'PEER_SET', 'ERANGE'],
    ['a key that it cannot use', 'KEY_NEW', 'EINVAL'],
    ['a route that it cannot use', 'set route', 'ENETUNREACH'],
  ] as const)('nothing is left of one that the kernel refuses for %s', (_, call, code) => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    kernel.refuse = (words) => (words.startsWith(call) ? code : undefined);
    const routes = [route('192.168.7.0/24'), route('192.168.8.0/24')];
    const error = refused(() => live.create(newPeer(live.freeId(7), {}, routes), key()));
    expect(error.name).toBe('KernelRefused');
    expect(error.message).toContain(code);
    expect([kernel.peers.size, kernel.routes.size, live.size]).toEqual([0, 0, 0]);
  });

  test('one of several routes refused: the others go, too', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    kernel.refuse = (words) => (words.startsWith('set route 192.168.8.0') ? 'EINVAL' : undefined);
    const routes = [route('192.168.7.0/24'), route('192.168.8.0/24'), route('192.168.9.0/24')];
    refused(() => live.create(newPeer(live.freeId(7), {}, routes), key()));
    expect([...kernel.routes]).toEqual([]);
  });

  test('without a kernel nothing can be made, and nothing has to be removed', () => {
    const live = livePeers(() => undefined);
    expect(refused(() => live.create(newPeer(live.freeId(7)), key())).name).toBe('NetworkNotReady');
    const peer: LivePeer = { ref: refOfPeer('alice'), ifindex: 7, id: firstSessionId, routes: [] };
    live.remove(peer);
    live.gone(peer);
    expect(live.read(peer)).toBeUndefined();
  });

  test('a kernel that fails altogether on a removal takes nobody along', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const peer = live.create(newPeer(live.freeId(7)), key());
    kernel.broken = true;
    expect(() => live.remove(peer)).not.toThrow();
    expect(() => live.gone(peer)).not.toThrow();
    expect(live.size).toBe(0);
  });

  test('reads what is not there, and what is on a device that is not there, as nothing', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const peer = live.create(newPeer(live.freeId(7)), key());
    expect(live.read(peer)).toMatchObject({ id: peer.id });
    kernel.peers.clear();
    expect(live.read(peer)).toBeUndefined();
    kernel.removeDevice(7);
    expect(live.read(peer)).toBeUndefined();
  });
});

describe('peer ids', () => {
  test('are above those of static peers, and not given again soon', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const first = live.create(newPeer(live.freeId(7)), key());
    live.remove(first);
    expect(first.id).toBe(firstSessionId);
    expect(live.freeId(7)).toBe(firstSessionId + 1);
  });

  test('go round at the highest, past those in use', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    live.create(newPeer(firstSessionId), key());
    live.adopt({ ref: refOfPeer('bob'), ifindex: 7, id: maxPeerId, routes: [] });
    expect(live.freeId(7)).toBe(firstSessionId + 1);
  });

  test('are not those of peers that an earlier process left and nobody has taken over', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    live.inUse([firstSessionId + 9, firstSessionId + 2, 5]);
    expect(live.freeId(7)).toBe(firstSessionId + 10);
  });
});

describe('routes of a peer', () => {
  test('are changed in place', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const peer = live.create(newPeer(live.freeId(7), {}, [route('192.168.7.0/24'), route('192.168.8.0/24')]), key());
    kernel.takeCalls();
    const changed = live.setRoutes(peer, [route('192.168.8.0/24'), route('192.168.9.0/24')]);
    expect(kernel.takeCalls()).toEqual([
      expect.stringContaining('delete route 192.168.7.0/24'),
      expect.stringContaining('set route 192.168.9.0/24'),
    ]);
    expect(live.get(7, peer.id)).toEqual(changed);
    live.setRoutes(changed, changed.routes);
    expect(kernel.takeCalls()).toEqual([]);
  });

  test('of which the kernel refuses some are known as far as they are there', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const peer = live.create(newPeer(live.freeId(7), {}, [route('192.168.7.0/24')]), key());
    kernel.refuse = (words) => (words.startsWith('set route 192.168.8.0') ? 'EINVAL' : undefined);
    const wanted = [route('192.168.8.0/24'), route('192.168.9.0/24')];
    expect(refused(() => live.setRoutes(peer, wanted)).name).toBe('KernelRefused');
    expect(live.get(7, peer.id)?.routes).toEqual([route('192.168.9.0/24')]);
    kernel.refuse = () => undefined;
    live.setRoutes(live.get(7, peer.id)!, wanted);
    expect(kernel.routes.size).toBe(2);
    // Whoever still has the peer as it was at first takes all of it away.
    live.remove(peer);
    expect([...kernel.routes]).toEqual([]);
  });

  test('go when the kernel has deleted the peer by itself', () => {
    const kernel = new FakeLiveKernel();
    const live = livePeers(() => kernel);
    const peer = live.create(newPeer(live.freeId(7), {}, [route('192.168.7.0/24')]), key());
    kernel.peers.clear();
    live.gone(peer);
    expect([kernel.routes.size, live.size]).toEqual([0, 0]);
  });
});

test('keys: the next one takes the second slot, sends after the swap, and the old one goes', () => {
  const kernel = new FakeLiveKernel();
  const live = livePeers(() => kernel);
  const peer = live.create(newPeer(live.freeId(7)), key(0));
  live.addKey(peer, key(1));
  expect(kernel.slots(7, peer.id)).toBe('0/1');
  live.swapKeys(peer);
  expect(kernel.slots(7, peer.id)).toBe('1/0');
  live.retireKey(peer);
  expect(kernel.slots(7, peer.id)).toBe('1/-');
  kernel.peers.clear();
  for (const step of [() => live.addKey(peer, key(2)), () => live.swapKeys(peer), () => live.retireKey(peer)]) {
    expect(refused(step).message).toContain('ENOENT');
  }
});
