import { execFile } from 'node:child_process';
import { closeSync } from 'node:fs';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DatagramSocket } from './datagram-socket.ts';
import { connect } from './libc.ts';
import { ReadinessPoller } from './poller.ts';
import { type Path, sockaddr } from './socket-address.ts';
import { boundAddress, openUdpSocket } from './transport-socket.ts';

interface Arrived {
  readonly packet: Buffer;
  readonly path: Path;
}

let poller: ReadinessPoller;
let closers: (() => unknown)[];
beforeEach(() => {
  poller = new ReadinessPoller();
  closers = [];
});
afterEach(async () => {
  for (const closer of closers.reverse()) await closer();
  await poller.close();
});

/** A socket of ours, bound to an address, that collects what arrives. */
function ours(
  address: string,
  port = 0,
): { fd: number; port: number; arrived: Arrived[]; socket: DatagramSocket; onPacket: (arrived: Arrived) => void } {
  const fd = openUdpSocket({ address, port });
  const arrived: Arrived[] = [];
  const made = {
    fd,
    port: boundAddress(fd).port,
    arrived,
    onPacket: (one: Arrived): void => void arrived.push(one),
    socket: new DatagramSocket(fd, poller, (packet, path) => {
      made.onPacket({ packet, path });
    }),
  };
  closers.push(() => {
    made.socket.close();
    closeSync(fd);
  });
  return made;
}

/** A socket of Node's, as an independent other end. */
async function theirs(address: string): Promise<{ socket: Socket; port: number; next: () => Promise<string> }> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.bind(0, address);
  await once(socket, 'listening');
  closers.push(() => {
    socket.close();
  });
  const { port } = socket.address();
  const next = async (): Promise<string> => {
    const [message, from] = (await once(socket, 'message')) as [Buffer, { address: string; port: number }];
    return `${message.toString()} from ${from.address} ${from.port}`;
  };
  return { socket, port, next };
}

async function until(probe: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !probe(); i++) await sleep(10);
  expect(probe()).toBe(true);
}

describe('a datagram', () => {
  test.each([
    ['0.0.0.0', '127.0.0.1', '127.0.0.2'],
    ['127.0.0.2', '127.0.0.1', '127.0.0.2'],
    ['::', '127.0.0.1', '127.0.0.2'],
    ['::', '::1', '::1'],
    ['::1', '::1', '::1'],
  ])('to a socket on %s from %s is answered from the address called, %s', async (bound, from, called) => {
    const { port, arrived, socket } = ours(bound);
    const peer = await theirs(from);
    peer.socket.send('ping', port, called);
    await until(() => arrived.length === 1);
    expect(arrived[0]!.packet.toString()).toBe('ping');
    const path = { remote: { address: from, port: peer.port }, local: called };
    expect(arrived[0]!.path).toStrictEqual(path);
    const answer = peer.next();
    expect(socket.send(Buffer.from('pong'), arrived[0]!.path)).toBe(true);
    expect(await answer).toBe(`pong from ${called} ${port}`);
  });

  test.each([
    ['0.0.0.0', '127.0.0.1'],
    ['::', '127.0.0.1'],
    ['::', '::1'],
  ])('on %s goes out without a local address, from the one that routing chooses, %s', async (bound, to) => {
    const { socket, port } = ours(bound);
    const peer = await theirs(to);
    const received = peer.next();
    expect(socket.send(Buffer.from('hello'), { remote: { address: to, port: peer.port }, local: undefined })).toBe(
      true,
    );
    expect(await received).toBe(`hello from ${to} ${port}`);
  });

  test('that is longer than any control packet is dropped, and those around it arrive', async () => {
    const { port, arrived } = ours('127.0.0.1');
    const peer = await theirs('127.0.0.1');
    for (const length of [10, 4097, 4096, 9000, 0, 11]) peer.socket.send(Buffer.alloc(length, length), port);
    await until(() => arrived.length === 4);
    expect(arrived.map(({ packet }) => packet.length)).toStrictEqual([10, 4096, 0, 11]);
    expect(arrived[1]!.packet.equals(Buffer.alloc(4096, 4096))).toBe(true);
  });

  test('of 65507 bytes goes out, a longer one does not', async () => {
    const { socket } = ours('127.0.0.1');
    const peer = await theirs('127.0.0.1');
    const path = { remote: { address: '127.0.0.1', port: peer.port }, local: '127.0.0.1' };
    for (const length of [65_508, 65_536, 100_000]) expect(socket.send(Buffer.alloc(length), path)).toBe(false);
    const received = once(peer.socket, 'message');
    expect(socket.send(Buffer.alloc(65_507, 1), path)).toBe(true);
    expect(((await received)[0] as Buffer).equals(Buffer.alloc(65_507, 1))).toBe(true);
  });

  test.each([
    ['0.0.0.0', '127.0.0.1', '192.0.2.77'],
    ['::', '127.0.0.1', '192.0.2.77'],
    ['::', '::1', '2001:db8::77'],
    ['::', '127.0.0.1', '::1'],
  ])(
    'on %s to %s goes out from another address when the one that was called is not ours any more',
    async (bound, to, gone) => {
      const { socket, port } = ours(bound);
      const peer = await theirs(to);
      const received = peer.next();
      expect(socket.send(Buffer.from('x'), { remote: { address: to, port: peer.port }, local: gone })).toBe(true);
      expect(await received).toBe(`x from ${to} ${port}`);
    },
  );

  test.each([
    ['to IPv6 from an IPv4 socket', '0.0.0.0', '::1', undefined],
    ['from IPv6 on an IPv4 socket', '0.0.0.0', '127.0.0.1', '::1'],
  ])('%s is refused, and the socket goes on', async (_what, bound, address, local) => {
    const { socket } = ours(bound);
    const peer = await theirs(address);
    expect(socket.send(Buffer.from('x'), { remote: { address, port: peer.port }, local })).toBe(false);
    const ipv4 = await theirs('127.0.0.1');
    const received = ipv4.next();
    expect(socket.send(Buffer.from('y'), { remote: { address: '127.0.0.1', port: ipv4.port }, local: undefined })).toBe(
      true,
    );
    expect(await received).toMatch(/^y from /);
  });
});

describe('DatagramSocket', () => {
  test('delivers a burst of 1000 in order, in buffers that stay as they are, and serves others in between', async () => {
    const a = ours('127.0.0.1');
    const b = ours('127.0.0.1');
    const from = ours('127.0.0.1');
    const send = (text: string, port: number): boolean =>
      from.socket.send(Buffer.from(text), { remote: { address: '127.0.0.1', port }, local: undefined });
    // All are queued before any is read.
    for (let i = 0; i < 1000; i++) expect(send(`packet ${i}`, a.port)).toBe(true);
    expect(send('other', b.port)).toBe(true);
    let before: number | undefined;
    b.onPacket = () => {
      before = a.arrived.length;
    };
    await until(() => a.arrived.length === 1000 && before !== undefined);
    expect(a.arrived.map(({ packet }) => packet.toString())).toStrictEqual(
      Array.from({ length: 1000 }, (_, i) => `packet ${i}`),
    );
    expect(before).toBeLessThanOrEqual(64);
  });

  test('outlives that a port it sent to is unreachable', async () => {
    const closed = await theirs('127.0.0.1');
    closed.socket.close();
    await once(closed.socket, 'close');
    closers.pop();
    const { fd, socket, arrived, port } = ours('127.0.0.1');
    const remote = { address: '127.0.0.1', port: closed.port };
    // Only a connected socket is told of ICMP errors (net/ipv4/udp.c, __udp4_lib_err).
    connect(fd, sockaddr(remote));
    const path = { remote, local: undefined };
    for (let i = 0; i < 20; i++) {
      // The error of the one before does not make the next one fail.
      expect(socket.send(Buffer.from('anybody?'), path)).toBe(true);
      if (i % 3 === 0) await sleep(5);
    }
    const late = ours('127.0.0.1', closed.port);
    expect(late.socket.send(Buffer.from('here'), { remote: { address: '127.0.0.1', port }, local: undefined })).toBe(
      true,
    );
    await until(() => arrived.length === 1);
    expect(arrived[0]!.packet.toString()).toBe('here');
  });

  test('closed by its own callback calls no more, sends no more, and leaves the descriptor alone', async () => {
    const a = ours('127.0.0.1');
    const from = ours('127.0.0.1');
    const path = { remote: { address: '127.0.0.1', port: a.port }, local: undefined };
    for (let i = 0; i < 3; i++) from.socket.send(Buffer.from('x'), path);
    a.onPacket = (one) => {
      a.arrived.push(one);
      a.socket.close();
      a.socket.close();
    };
    await until(() => a.arrived.length === 1);
    await sleep(50);
    expect(a.arrived).toHaveLength(1);
    expect(a.socket.send(Buffer.from('x'), path)).toBe(false);
    expect(boundAddress(a.fd).port).toBe(a.port);
    // Whoever watches it next gets what comes then.
    const next: string[] = [];
    const again = new DatagramSocket(a.fd, poller, (packet) => void next.push(packet.toString()));
    from.socket.send(Buffer.from('again'), path);
    await until(() => next.includes('again'));
    again.close();
  });

  test('goes on with the next datagram after a callback that threw', async () => {
    const program = `
      import { DatagramSocket } from ${JSON.stringify(import.meta.resolve('./datagram-socket.ts'))};
      import { ReadinessPoller } from ${JSON.stringify(import.meta.resolve('./poller.ts'))};
      import { boundAddress, openUdpSocket } from ${JSON.stringify(import.meta.resolve('./transport-socket.ts'))};
      const poller = new ReadinessPoller();
      const fd = openUdpSocket({ address: '127.0.0.1', port: 0 });
      const path = { remote: boundAddress(fd), local: undefined };
      const errors = [], texts = [];
      process.on('uncaughtException', (error) => errors.push(error.message));
      const socket = new DatagramSocket(fd, poller, (packet) => {
        texts.push(packet.toString());
        if (texts.length < 3) throw new Error('failed with ' + texts.at(-1));
        socket.close();
        setImmediate(() => console.log(JSON.stringify({ texts, errors })));
      });
      // Read in one batch.
      for (const text of ['one', 'two', 'three']) socket.send(Buffer.from(text), path);`;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--no-warnings', '--input-type=module', '-e', program],
      { timeout: 20_000 },
    );
    expect(JSON.parse(stdout)).toStrictEqual({
      texts: ['one', 'two', 'three'],
      errors: ['failed with one', 'failed with two'],
    });
  });
});
