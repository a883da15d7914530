import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DatagramSocket } from '../../operator/src/kernel/datagram-socket.ts';
import { setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import type { Path } from '../../operator/src/kernel/socket-address.ts';
import { eventually, installKeys, type Namespace, Scene, tunnel, tunnelPeer } from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});

interface Arrived {
  readonly packet: Buffer;
  readonly path: Path;
}

function watch(fd: number): { readonly socket: DatagramSocket; readonly arrived: Arrived[] } {
  const arrived: Arrived[] = [];
  const socket = new DatagramSocket(fd, scene.poller, (packet, path) => void arrived.push({ packet, path }));
  scene.onClose(() => {
    socket.close();
  });
  return { socket, arrived };
}

/** CONTROL_V1 with key id 0: what the driver leaves to userspace (drivers/net/ovpn/udp.c, ovpn_udp_encap_recv). */
const control = (text: string): Buffer => Buffer.concat([Buffer.from([4 << 3]), Buffer.from(text)]);

/** The interface's own link-local address, once it may be used (duplicate address detection takes a second). */
async function linkLocal(namespace: Namespace): Promise<string> {
  for (let i = 0; i < 100; i++) {
    const found = await namespace.exec('ip', '-6', 'addr', 'show', 'dev', 'under', 'scope', 'link', '-tentative');
    const address = /inet6 (fe80:[^/]+)/.exec(found)?.[1];
    if (address !== undefined) return address;
    await sleep(100);
  }
  throw new Error('no link-local address');
}

describe('a UDP socket that the driver uses', () => {
  test.each([4, 6] as const)('gives control packets to userspace while data flows, over IPv%i', async (underlay) => {
    const ends = tunnel(scene, underlay);
    installKeys(ends);
    const host = (end: 1 | 2): string => (underlay === 4 ? `192.0.2.${end}` : `2001:db8::${end}`);
    const a = watch(ends.socketA.fd);
    const b = watch(ends.socketB.fd);
    const toA = { remote: { address: host(1), port: ends.socketA.port }, local: host(2) };
    const toB = { remote: { address: host(2), port: ends.socketB.port }, local: host(1) };
    const loss = ends.b.ping('10.80.0.1', 200, '0.005');
    for (let i = 0; i < 100; i++) {
      expect(a.socket.send(control(`to b ${i}`), toB)).toBe(true);
      expect(b.socket.send(control(`to a ${i}`), toA)).toBe(true);
      await sleep(5);
    }
    expect(await loss).toBe(0);
    await eventually(() => a.arrived.length === 100 && b.arrived.length === 100);
    a.arrived.forEach((arrived, i) => {
      expect(arrived).toStrictEqual({ packet: control(`to a ${i}`), path: toB });
    });
    b.arrived.forEach((arrived, i) => {
      expect(arrived).toStrictEqual({ packet: control(`to b ${i}`), path: toA });
    });
    expect(Number(ends.a.ovpn.getPeer(ends.deviceA, tunnelPeer)!.vpn.rxPackets)).toBeGreaterThanOrEqual(200);
  });
});

describe('a UDP socket on ::', () => {
  test.each(['192.0.2.101', '2001:db8::101', '192.0.2.1', '2001:db8::1'])(
    'answers from %s when that was called',
    async (called) => {
      const { a, b } = scene.pair();
      for (const extra of ['192.0.2.101/24', '2001:db8::101/64']) {
        a.rt.request(setAddress(a.link('under').index, extra));
      }
      const socketA = scene.udp(a, '::');
      const socketB = scene.udp(b, '::');
      const [endA, endB] = [watch(socketA.fd), watch(socketB.fd)];
      const path = { remote: { address: called, port: socketA.port }, local: undefined };
      await eventually(() => endB.socket.send(control('call'), path) && endA.arrived.length > 0);
      const { path: back } = endA.arrived[0]!;
      const from = called.includes(':') ? '2001:db8::2' : '192.0.2.2';
      expect(back).toStrictEqual({ remote: { address: from, port: socketB.port }, local: called });
      expect(endA.socket.send(control('answer'), back)).toBe(true);
      await eventually(() => endB.arrived.length > 0);
      expect(endB.arrived[0]).toStrictEqual({
        packet: control('answer'),
        path: { remote: { address: called, port: socketA.port }, local: from },
      });
    },
  );

  test('speaks to a link-local address by its interface', async () => {
    const { a, b } = scene.pair();
    const [addressA, addressB] = [await linkLocal(a), await linkLocal(b)];
    const socketA = scene.udp(a, '::');
    const socketB = scene.udp(b, '::');
    const [endA, endB] = [watch(socketA.fd), watch(socketB.fd)];
    const scopeA = a.link('under').index;
    const scopeB = b.link('under').index;
    const remote = { address: addressA, port: socketA.port, scopeId: scopeB };
    expect(endB.socket.send(control('call'), { remote, local: undefined })).toBe(true);
    await eventually(() => endA.arrived.length === 1);
    const { path } = endA.arrived[0]!;
    expect(path).toStrictEqual({
      remote: { address: addressB, port: socketB.port, scopeId: scopeA },
      local: addressA,
    });
    expect(endA.socket.send(control('answer'), path)).toBe(true);
    await eventually(() => endB.arrived.length === 1);
    expect(endB.arrived[0]!.path).toStrictEqual({ remote, local: addressB });
  });
});
