import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { getLinkByName, setLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import { driverHere, installKeys, keyPair, Scene, tunnel, tunnelPeer } from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});

describe('a tunnel between two namespaces', () => {
  test.each([4, 6] as const)('carries both families over IPv%i and counts every packet', async (underlay) => {
    const ends = tunnel(scene, underlay);
    installKeys(ends);
    expect(await ends.b.ping('10.80.0.1', 20)).toBe(0);
    expect(await ends.b.ping('fd80::1', 5)).toBe(0);
    const a = ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)!;
    const b = ends.b.ovpn.getPeer(ends.deviceB, tunnelPeer)!;
    // 20 × 84 bytes and 5 × 104 bytes each way; IPv6 may add multicast of its own.
    for (const { vpn, link } of [a, b]) {
      expect(Number(vpn.rxPackets)).toBeGreaterThanOrEqual(25);
      expect(Number(vpn.rxBytes)).toBeGreaterThanOrEqual(20 * 84 + 5 * 104);
      // Every OpenVPN packet is 24 bytes longer than what it carries.
      expect(link.txBytes).toBe(vpn.txBytes + 24n * vpn.txPackets);
      expect(link.txPackets).toBe(vpn.txPackets);
    }
    expect(a.vpn.rxBytes).toBe(b.vpn.txBytes);
    expect(a.link.rxBytes).toBe(b.link.txBytes);
    expect(a.link.rxPackets).toBe(b.link.txPackets);
  });

  test.each([
    ['AES-GCM', 16],
    ['AES-GCM', 24],
    ['CHACHA20-POLY1305', 32],
  ] as const)('works with %s and %i byte keys', async (cipher, bytes) => {
    const ends = tunnel(scene);
    installKeys(ends, { cipher, bytes });
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
  });

  test('carries nothing without keys or with different ones', async () => {
    const ends = tunnel(scene);
    expect(await ends.b.ping('10.80.0.1', 1)).toBe(1);
    for (const [namespace, device] of [
      [ends.a, ends.deviceA],
      [ends.b, ends.deviceB],
    ] as const) {
      namespace.ovpn.send(namespace.ovpn.requests.keyNew(device, { peerId: tunnelPeer, ...keyPair().here }));
    }
    expect(await ends.b.ping('10.80.0.1', 2)).toBe(2);
    const peer = ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)!;
    // Counted on the wire before authentication, and nowhere after it.
    expect(Number(peer.link.rxPackets)).toBeGreaterThan(0);
    expect(peer.vpn.rxPackets).toBe(0n);
  });

  (driverHere().transmitIds ? test : test.skip)(
    'the remote puts our receive id into its packets when told to',
    async () => {
      const ends = tunnel(scene);
      installKeys(ends);
      // a knows the tunnel as 7; b calls it 9 and sends 7.
      const remote = { address: '192.0.2.1', port: ends.socketA.port };
      ends.b.ovpn.send(
        ends.b.ovpn.requests.peerNew(ends.deviceB, { id: 9, txId: tunnelPeer, socket: ends.socketB.fd, remote }),
      );
      ends.a.ovpn.send(ends.a.ovpn.requests.peerSet(ends.deviceA, { id: tunnelPeer, txId: 9 }));
      const keys = keyPair();
      ends.b.ovpn.send(ends.b.ovpn.requests.keyNew(ends.deviceB, { peerId: 9, ...keys.there }));
      ends.a.ovpn.send(ends.a.ovpn.requests.keyNew(ends.deviceA, { peerId: tunnelPeer, ...keys.here }));
      expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
    },
  );

  test('drops what the source check does not route back to the peer', async () => {
    const ends = tunnel(scene);
    installKeys(ends);
    ends.b.rt.request(setAddress(ends.deviceB, '10.99.0.2/32'));
    await expect(ends.b.exec('ping', '-c1', '-W1', '-I', '10.99.0.2', '10.80.0.1')).rejects.toThrow();
    await ends.a.exec('ip', 'route', 'add', '10.99.0.2/32', 'via', '10.80.0.2');
    await ends.b.exec('ping', '-c1', '-W2', '-I', '10.99.0.2', '10.80.0.1');
  });
});

describe('keys', () => {
  test('rotate under traffic without losing a packet', async () => {
    const ends = tunnel(scene);
    installKeys(ends, { keyId: 0 });
    const loss = ends.b.ping('10.80.0.1', 400, '0.005');
    const both = [
      [ends.a, ends.deviceA],
      [ends.b, ends.deviceB],
    ] as const;
    for (let keyId = 1; keyId <= 7; keyId++) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      installKeys(ends, { keyId, slot: 'secondary' });
      for (const [namespace, device] of both) {
        namespace.ovpn.send(namespace.ovpn.requests.keySwap(device, tunnelPeer));
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
      for (const [namespace, device] of both) {
        namespace.ovpn.send(namespace.ovpn.requests.keyDel(device, tunnelPeer, 'secondary'));
      }
    }
    expect(await loss).toBe(0);
    expect(ends.a.ovpn.getKey(ends.deviceA, tunnelPeer, 'primary')?.keyId).toBe(7);
    expect(ends.a.ovpn.getKey(ends.deviceA, tunnelPeer, 'secondary')).toBeUndefined();
  });

  test('swapping with an empty secondary slot stops transmission until swapped back', async () => {
    const ends = tunnel(scene);
    installKeys(ends);
    expect(await ends.b.ping('10.80.0.1', 1)).toBe(0);
    const swap = ends.a.ovpn.requests.keySwap(ends.deviceA, tunnelPeer);
    ends.a.ovpn.send(swap);
    const before = ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)!;
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(3);
    const after = ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)!;
    expect(after.link.txPackets).toBe(before.link.txPackets);
    // What arrives is still read: the key sits in the secondary slot.
    expect(Number(after.vpn.rxPackets - before.vpn.rxPackets)).toBe(3);
    ends.a.ovpn.send(swap);
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
  });
});

describe('devices and their peers', () => {
  test('taking the link down and up keeps peers and keys', async () => {
    const ends = tunnel(scene);
    installKeys(ends);
    ends.a.rt.request(setLink(ends.deviceA, { up: false }));
    expect(ends.a.ovpn.dumpPeers(ends.deviceA)).toHaveLength(1);
    ends.a.rt.request(setLink(ends.deviceA, { up: true }));
    expect(ends.a.ovpn.getKey(ends.deviceA, tunnelPeer, 'primary')?.keyId).toBe(0);
    expect(await ends.b.ping('10.80.0.1', 3)).toBe(0);
  });

  test('a point-to-point device has carrier while it has a peer', () => {
    const ns = scene.namespace();
    const device = ns.device('p2p', [], 'carrier');
    const { fd } = scene.udp(ns);
    expect(getLinkByName(ns.rt, 'carrier')?.carrier).toBe(false);
    ns.ovpn.send(ns.ovpn.requests.peerNew(device, { id: 1, socket: fd, remote: { address: '127.0.0.1', port: 9 } }));
    expect(getLinkByName(ns.rt, 'carrier')?.carrier).toBe(true);
    ns.ovpn.send(ns.ovpn.requests.peerDel(device, 1));
    expect(getLinkByName(ns.rt, 'carrier')?.carrier).toBe(false);
    ns.device('mp', [], 'always');
    expect(getLinkByName(ns.rt, 'always')?.carrier).toBe(true);
  });

  test('the sockets may live in another namespace than the device', async () => {
    // As the agent does it: sockets in the host's namespace, the device in another.
    const ends = tunnel(scene);
    const inner = scene.namespace();
    const device = inner.device('p2p', ['10.80.0.3/24']);
    const socket = scene.udp(ends.b, '192.0.2.2');
    inner.ovpn.send(
      inner.ovpn.requests.peerNew(device, {
        id: 8,
        socket: socket.fd,
        remote: { address: '192.0.2.1', port: ends.socketA.port },
      }),
    );
    ends.a.ovpn.send(
      ends.a.ovpn.requests.peerNew(ends.deviceA, {
        id: 8,
        socket: ends.socketA.fd,
        remote: { address: '192.0.2.2', port: socket.port },
        vpnIpv4: '10.80.0.3',
      }),
    );
    const keys = keyPair();
    inner.ovpn.send(inner.ovpn.requests.keyNew(device, { peerId: 8, ...keys.there }));
    ends.a.ovpn.send(ends.a.ovpn.requests.keyNew(ends.deviceA, { peerId: 8, ...keys.here }));
    expect(await inner.ping('10.80.0.1', 3)).toBe(0);
  });
});
