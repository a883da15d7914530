import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DatagramSocket } from '../../operator/src/kernel/datagram-socket.ts';
import { setsockoptBuffer } from '../../operator/src/kernel/libc.ts';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { connectTcp, StreamListener, StreamSocket } from '../../operator/src/kernel/stream-socket.ts';
import { boundAddress, openTcpListener } from '../../operator/src/kernel/transport-socket.ts';
import { frame, FrameReader } from '../../operator/src/openvpn/wire/frame.ts';
import { eventually, installKeys, type Namespace, Scene, tunnelPeer } from './support.ts';

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(async () => {
  await scene.close();
});

/** CONTROL_V1 with key id 0: what the driver hands to userspace (drivers/net/ovpn/tcp.c, ovpn_tcp_rcv). */
const controlByte = 4 << 3;

/** One end of an OpenVPN connection over TCP, as an endpoint of ours has it. */
class End {
  readonly namespace: Namespace;
  readonly device: number;
  readonly socket: StreamSocket;
  readonly packets: string[] = [];
  readonly ends: (string | undefined)[] = [];
  /** Packets that the driver gave. */
  frames = 0;
  /** The driver takes over as soon as so many packets were read and the rest is on its way. */
  handOverAfter = Infinity;
  isHandedOver = false;
  readonly #reader = new FrameReader();
  readonly #mp: boolean;

  constructor(namespace: Namespace, device: number, fd: number, mp: boolean) {
    this.namespace = namespace;
    this.device = device;
    this.#mp = mp;
    this.socket = new StreamSocket(fd, scene.poller, () => this.#reader.wanted, {
      data: (bytes) => this.#data(bytes),
      closed: (reason) => void this.ends.push(reason),
      drained: () => undefined,
    });
    scene.onClose(() => {
      this.socket.close();
    });
  }

  say(text: string, length = 0): void {
    this.socket.send(frame(Buffer.concat([Buffer.from([controlByte]), Buffer.from(text.padEnd(length, '.'))])));
  }

  handOver(): void {
    expect(this.#reader.atBoundary).toBe(true);
    const { ovpn } = this.namespace;
    const addresses = this.#mp ? { vpnIpv4: '10.80.0.2' } : {};
    ovpn.send(ovpn.requests.peerNew(this.device, { id: tunnelPeer, socket: this.socket.fd, ...addresses }));
    this.socket.handedOver();
    this.isHandedOver = true;
  }

  #data(bytes: Buffer): void {
    if (this.isHandedOver) {
      this.frames++;
      // One whole frame per read.
      expect(bytes.readUInt16BE(0)).toBe(bytes.length - 2);
    }
    const { consumed, packet } = this.#reader.take(bytes);
    expect(consumed).toBe(bytes.length);
    if (packet === undefined) return;
    expect(packet[0]).toBe(controlByte);
    this.packets.push(packet.toString('utf8', 1).replace(/\.+$/, ''));
    if (this.packets.length === this.handOverAfter) this.handOver();
  }
}

/** A connection from namespace b to a listener in a, with a device on either side, and no peers yet. */
async function connection(prepare: (fd: number) => void = () => undefined): Promise<{ a: End; b: End }> {
  const { a, b } = scene.pair();
  const deviceA = a.device('mp', ['10.80.0.1/24']);
  const deviceB = b.device('p2p', ['10.80.0.2/24']);
  const listening = scene.ownFd(inNamespace(a.path, () => openTcpListener({ address: '::', port: 0 })));
  let accepted: number | undefined;
  const listener = new StreamListener(listening, scene.poller, (fd, path) => {
    expect(path).toMatchObject({ remote: { address: '192.0.2.2' }, local: '192.0.2.1' });
    accepted = fd;
  });
  let dialled: number | undefined;
  inNamespace(b.path, () => {
    connectTcp({ address: '192.0.2.1', port: boundAddress(listening).port }, scene.poller, (result) => {
      if ('fd' in result) dialled = result.fd;
    });
  });
  await eventually(() => accepted !== undefined && dialled !== undefined);
  listener.close();
  for (const fd of [accepted!, dialled!]) prepare(fd);
  return { a: new End(a, deviceA, accepted!, true), b: new End(b, deviceB, dialled!, false) };
}

function keys({ a, b }: { a: End; b: End }): void {
  const none = { fd: -1, port: 0 };
  installKeys({
    a: a.namespace,
    b: b.namespace,
    deviceA: a.device,
    deviceB: b.device,
    socketA: none,
    socketB: none,
  });
}

const numbered = (name: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${name} ${i}`);

describe('a TCP socket handed over to the driver', () => {
  test('in the middle of a burst loses no control packet, and both kinds of packets flow on', async () => {
    const ends = await connection();
    const { a, b } = ends;
    // Userspace reads three; the driver finds the other seven in the socket.
    a.handOverAfter = 3;
    for (const text of numbered('burst', 10)) b.say(text, 40);
    await eventually(() => a.packets.length === 10);
    expect(a.packets).toStrictEqual(numbered('burst', 10));
    expect(a.frames).toBe(7);
    a.say('answer of the driver');
    await eventually(() => b.packets.length === 1);
    b.handOver();
    keys(ends);
    // Data in both directions, and control packets of all lengths in between.
    const loss = b.namespace.ping('10.80.0.1', 200, '0.005');
    for (let i = 0; i < 100; i++) {
      a.say(`to b ${i}`, 10 + i * 40);
      b.say(`to a ${i}`, 10 + i * 40);
      await sleep(5);
    }
    expect(await loss).toBe(0);
    await eventually(() => a.packets.length === 110 && b.packets.length === 101);
    expect(a.packets.slice(10)).toStrictEqual(numbered('to a', 100));
    expect(b.packets.slice(1)).toStrictEqual(numbered('to b', 100));
    expect([...a.ends, ...b.ends]).toStrictEqual([]);
    const { vpn } = a.namespace.ovpn.getPeer(a.device, tunnelPeer)!;
    expect(Number(vpn.rxPackets)).toBeGreaterThanOrEqual(200);
  });

  test('tells of the FIN; its peer goes when it is closed', async () => {
    const ends = await connection();
    const { a, b } = ends;
    a.handOver();
    b.handOver();
    keys(ends);
    expect(await b.namespace.ping('10.80.0.1', 3)).toBe(0);
    const notifications = scene.listen(a.namespace);
    b.say('last');
    b.socket.close();
    await eventually(() => a.ends.length > 0);
    await sleep(50);
    expect(a.packets).toStrictEqual(['last']);
    expect(a.ends).toStrictEqual([undefined]);
    expect(a.namespace.ovpn.getPeer(a.device, tunnelPeer)).toBeDefined();
    a.socket.close();
    await notifications.wait(({ kind, peerId }) => kind === 'peer-deleted' && peerId === tunnelPeer);
  });

  test.each([
    ['small', 8 * 1024],
    ["the system's", undefined],
  ])(
    'gets its frames through, whole and in order, while data fills the connection (send buffer: %s)',
    async (_size, sendBuffer) => {
      const { a, b } = await connection((fd) => {
        if (sendBuffer !== undefined) setsockoptBuffer(fd, 'send', sendBuffer);
      });
      a.handOver();
      b.handOver();
      keys({ a, b });
      await b.namespace.exec(...'tc qdisc add dev under root tbf rate 1mbit burst 4k latency 100ms'.split(' '));
      const path = { remote: { address: '10.80.0.1', port: 9 }, local: undefined };
      const { fd } = scene.udp(b.namespace);
      const data = new DatagramSocket(fd, scene.poller, () => undefined);
      let waited = 0;
      let said = 0;
      for (let i = 0; i < 100; i++) {
        // Far more than the link takes.
        for (let k = 0; k < 20; k++) data.send(Buffer.alloc(1200), path);
        if (i >= 30 && i % 10 === 0) b.say(`packet ${said++}`, 100 + i);
        if (!b.socket.idle) waited++;
        await sleep(20);
      }
      const meanwhile = a.packets.length;
      data.close();
      await eventually(() => a.packets.length === said);
      expect(a.packets).toStrictEqual(numbered('packet', said));
      expect(b.ends).toStrictEqual([]);
      expect(waited).toBeGreaterThan(0);
      // The driver's poll said all the while that there was no room.
      expect(meanwhile).toBeGreaterThan(0);
    },
  );
});
