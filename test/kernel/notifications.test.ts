import { writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { newOvpnLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import {
  driverHere,
  eventually,
  expediteGracePeriods,
  installKeys,
  Scene,
  tcpPair,
  tunnel,
  tunnelPeer,
} from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});
const remote = { address: '127.0.0.1', port: 1194 };

describe('deleted peers are told with the reason', () => {
  test('userspace: deleted by request', async () => {
    const ns = scene.namespace();
    const listener = scene.listen(ns);
    const device = ns.device('mp');
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 5, socket: scene.udp(ns).fd, remote, vpnIpv4: '10.80.0.2' }));
    ns.ovpn.send(ns.ovpn.requests.peerDel(device, 5));
    const told = await listener.wait(() => true);
    expect(told).toStrictEqual({ kind: 'peer-deleted', ifindex: device, peerId: 5, reason: 'userspace' });
  });

  test('teardown: the device is deleted, or the peer replaced in point-to-point mode', async () => {
    const ns = scene.namespace();
    const listener = scene.listen(ns);
    const device = ns.device('p2p');
    const { fd } = scene.udp(ns);
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 5, socket: fd, remote }));
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 6, socket: fd, remote }));
    await listener.wait((told) => told.peerId === 5);
    ns.deleteDevice(device);
    await listener.wait((told) => told.peerId === 6);
    expect(listener.seen).toStrictEqual([
      { kind: 'peer-deleted', ifindex: device, peerId: 5, reason: 'teardown' },
      { kind: 'peer-deleted', ifindex: device, peerId: 6, reason: 'teardown' },
    ]);
  });

  test('expired: no data within the timeout, while a peer that is heard stays', async () => {
    const ends = tunnel(scene);
    installKeys(ends);
    const listener = scene.listen(ends.a);
    // On a loaded machine a ping may come seconds late: the peer that is heard gets the time for it.
    const heard = { interval: 1, timeout: 4 };
    ends.b.ovpn.send(ends.b.ovpn.requests.peerSet(ends.deviceB, { id: tunnelPeer, keepalive: heard }));
    const silent = {
      id: 8,
      socket: ends.socketA.fd,
      remote: { address: '192.0.2.2', port: 9 },
      vpnIpv4: '10.80.0.8',
      keepalive: { interval: 1, timeout: 2 },
    };
    ends.a.ovpn.send(ends.a.ovpn.requests.peerNew(ends.deviceA, silent));
    ends.a.ovpn.send(ends.a.ovpn.requests.peerSet(ends.deviceA, { id: tunnelPeer, keepalive: heard }));
    const told = await listener.wait(() => true);
    expect(told).toStrictEqual({ kind: 'peer-deleted', ifindex: ends.deviceA, peerId: 8, reason: 'expired' });
    await new Promise((resolve) => setTimeout(resolve, 4_500));
    expect(ends.a.ovpn.dumpPeers(ends.deviceA).map(({ id }) => id)).toStrictEqual([tunnelPeer]);
  });

  test('transport-error: a TCP stream that is not framed as OpenVPN frames it', async () => {
    const ns = scene.namespace();
    const listener = scene.listen(ns);
    const device = ns.device('mp');
    const { client, server } = tcpPair(scene, ns);
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 5, socket: server, vpnIpv4: '10.80.0.2' }));
    // A frame of two bytes is too short to name a peer.
    writeSync(client, Buffer.from([0, 2, 0x48, 0]));
    const told = await listener.wait(() => true);
    expect(told).toStrictEqual({ kind: 'peer-deleted', ifindex: device, peerId: 5, reason: 'transport-error' });
  });

  test('a TCP peer stays when the remote closes, until our descriptor is closed', async () => {
    const ns = scene.namespace();
    const listener = scene.listen(ns);
    const device = ns.device('mp');
    const { client, server } = tcpPair(scene, ns);
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 5, socket: server, vpnIpv4: '10.80.0.2' }));
    scene.closeFd(client);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(ns.ovpn.getPeer(device, 5)?.id).toBe(5);
    scene.closeFd(server);
    expect(await listener.wait(() => true)).toMatchObject({ peerId: 5, reason: 'transport-disconnect' });
  });

  test('transport-disconnect: the last descriptor of the socket is closed', async () => {
    const ns = scene.namespace();
    const listener = scene.listen(ns);
    const device = ns.device('mp');
    const { fd } = scene.udp(ns);
    for (const id of [1, 2, 3]) {
      const remoteOfPeer = { address: '127.0.0.1', port: 2000 + id };
      ns.ovpn.send(
        ns.ovpn.requests.peerNew(device, { id, socket: fd, remote: remoteOfPeer, vpnIpv4: `10.80.0.${id + 1}` }),
      );
    }
    scene.closeFd(fd);
    await eventually(() => listener.seen.length === 3);
    expect(listener.seen.map((told) => [told.peerId, 'reason' in told && told.reason]).sort()).toStrictEqual(
      [1, 2, 3].map((id) => [id, 'transport-disconnect']),
    );
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
  });
});

describe('float', () => {
  const told = driverHere().transmitIds;

  test(`a peer that sends authenticated data from another port moves, and its move is ${told ? '' : 'not '}told`, async () => {
    const ends = tunnel(scene);
    installKeys(ends);
    const listener = scene.listen(ends.a);
    expect(await ends.b.ping('10.80.0.1')).toBe(0);
    // Rewrite the source port on b's way out: what a NAT box does.
    const port = 40_001;
    await ends.b.exec('nft', 'add table ip float; add chain ip float out { type nat hook postrouting priority 100; }');
    await ends.b.exec('nft', `add rule ip float out udp sport ${ends.socketB.port} snat to 192.0.2.2:${port}`);
    await ends.b.exec('conntrack', '-F').catch(() => '');
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
    const remote = { address: '192.0.2.2', port };
    const notice = { kind: 'peer-floated', ifindex: ends.deviceA, peerId: tunnelPeer, remote };
    if (told) await listener.wait(() => true);
    expect(listener.seen).toStrictEqual(told ? [notice] : []);
    expect(ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)?.remote).toStrictEqual(remote);
  });

  test.each([
    ['192.0.2.1', '192.0.2.77', '192.0.2.77/24'],
    ['2001:db8::1', '2001:db8::77', '2001:db8::77/64'],
  ])('a peer of %s that changes its address to %s moves', async (_server, address, prefix) => {
    const underlay = address.includes(':') ? 6 : 4;
    const ends = tunnel(scene, underlay);
    installKeys(ends);
    const listener = scene.listen(ends.a);
    expect(await ends.b.ping('10.80.0.1')).toBe(0);
    await ends.b.exec('ip', 'address', 'add', prefix, 'dev', 'under', ...(underlay === 6 ? ['nodad'] : []));
    // A new socket on the new address, as after a change of network; the keys stay.
    const moved = scene.udp(ends.b, address);
    const server = underlay === 6 ? '2001:db8::1' : '192.0.2.1';
    ends.b.ovpn.send(
      ends.b.ovpn.requests.peerNew(ends.deviceB, {
        id: tunnelPeer,
        socket: moved.fd,
        remote: { address: server, port: ends.socketA.port },
        // What the socket is bound to does not choose the source address: the driver routes by this alone.
        local: address,
      }),
    );
    installKeys(ends, { keyId: 1 });
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
    const remote = { address, port: moved.port };
    if (told) {
      const notice = await listener.wait(({ kind }) => kind === 'peer-floated');
      expect(notice).toMatchObject({ ifindex: ends.deviceA, peerId: tunnelPeer, remote });
    }
    expect(ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)?.remote).toStrictEqual(remote);
  });
});

describe('where notifications arrive', () => {
  test("in the socket's namespace, with the index of the device in its own", async () => {
    const outer = scene.namespace();
    const inner = scene.namespace();
    const here = scene.listen(outer);
    const there = scene.listen(inner);
    inner.rt.request(newOvpnLink({ name: 'ovpn-far', mode: 'mp', index: 4711 }));
    const { fd } = scene.udp(outer);
    inner.ovpn.send(inner.ovpn.requests.peerNew(4711, { id: 5, socket: fd, remote, vpnIpv4: '10.80.0.2' }));
    inner.ovpn.send(inner.ovpn.requests.peerDel(4711, 5));
    expect(await here.wait(() => true)).toMatchObject({ ifindex: 4711, peerId: 5 });
    expect(there.seen).toStrictEqual([]);
  });
});

describe('losing notifications', () => {
  test('an overrun is told, and what comes later is delivered', async () => {
    expediteGracePeriods();
    const ns = scene.namespace();
    const device = ns.device('p2p');
    const { fd } = scene.udp(ns);
    const listener = scene.listen(ns, 4096);
    // In point-to-point mode each new peer replaces one, which is told: 3,000 of them in one go.
    const requests = Array.from({ length: 3000 }, (_, i) =>
      ns.ovpn.requests.peerNew(device, { id: i + 1, socket: fd, remote }),
    );
    const outcomes = ns.ovpn.batch(requests);
    expect(outcomes.every(({ ok }) => ok)).toBe(true);
    await eventually(() => listener.overruns > 0);
    expect(listener.seen.length).toBeLessThan(2999);
    const before = listener.seen.length;
    ns.ovpn.send(ns.ovpn.requests.peerDel(device, 3000));
    await eventually(() => listener.seen.length > before);
    expect(listener.seen.at(-1)).toStrictEqual({
      kind: 'peer-deleted',
      ifindex: device,
      peerId: 3000,
      reason: 'userspace',
    });
  });

  test('a large buffer loses nothing', async () => {
    expediteGracePeriods();
    const ns = scene.namespace();
    const device = ns.device('p2p');
    const { fd } = scene.udp(ns);
    const listener = scene.listen(ns);
    const count = 500;
    ns.ovpn.batch(
      Array.from({ length: count + 1 }, (_, i) => ns.ovpn.requests.peerNew(device, { id: i + 1, socket: fd, remote })),
    );
    await eventually(() => listener.seen.length === count);
    expect(listener.seen.map(({ peerId }) => peerId)).toStrictEqual(Array.from({ length: count }, (_, i) => i + 1));
    expect(listener.overruns).toBe(0);
  });
});
