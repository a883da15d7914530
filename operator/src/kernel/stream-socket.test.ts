import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readdirSync } from 'node:fs';
import { connect as dial, createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { close, recvNow, setsockoptBuffer } from './libc.ts';
import { ReadinessPoller } from './poller.ts';
import type { Path } from './socket-address.ts';
import { connectTcp, type StreamEvents, StreamListener, StreamSocket } from './stream-socket.ts';
import type { After } from './timer.ts';
import { boundAddress, openTcpListener, type TransportAddress } from './transport-socket.ts';

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

async function until(probe: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !probe(); i++) await sleep(10);
  expect(probe()).toBe(true);
}

/** What came of a StreamSocket. */
class Seen implements StreamEvents {
  readonly chunks: Buffer[] = [];
  readonly ends: (string | undefined)[] = [];
  drains = 0;
  onData: () => void = () => undefined;

  data(bytes: Buffer): void {
    this.chunks.push(bytes);
    this.onData();
  }
  closed(reason: string | undefined): void {
    this.ends.push(reason);
  }
  drained(): void {
    this.drains++;
  }
  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

interface Ends {
  readonly socket: StreamSocket;
  readonly record: Seen;
  /** Node's end, as an independent one; paused until somebody reads. */
  readonly peer: Socket;
}

/** A connection whose one end is ours, the accepting one. */
async function connection({
  wanted = (): number => 1000,
  sendBuffer,
  after,
}: {
  wanted?: () => number;
  sendBuffer?: number;
  after?: After;
} = {}): Promise<Ends> {
  const { fd, peer } = await accepted();
  if (sendBuffer !== undefined) setsockoptBuffer(fd, 'send', sendBuffer);
  const record = new Seen();
  const socket = new StreamSocket(fd, poller, wanted, record, after);
  closers.push(() => {
    socket.close();
  });
  return { socket, record, peer };
}

/** Sends until the kernel takes no more, which it may do some more of when it seems full; returns what was sent. */
async function fill(socket: StreamSocket): Promise<Buffer[]> {
  const sent: Buffer[] = [];
  const stuck = (): boolean => !socket.idle;
  for (let times = 0; times < 3; times = stuck() ? times + 1 : 0) {
    while (!stuck()) {
      sent.push(Buffer.alloc(1000, sent.length));
      socket.send(sent.at(-1)!);
    }
    await sleep(20);
  }
  return sent;
}

/** A connection accepted by a listener of ours. */
async function accepted(
  bound = '127.0.0.1',
  to = '127.0.0.1',
): Promise<{ fd: number; path: Path; peer: Socket; port: number }> {
  const listening = openTcpListener({ address: bound, port: 0 });
  const { port } = boundAddress(listening);
  const got: { fd: number; path: Path }[] = [];
  const listener = new StreamListener(listening, poller, (fd, path) => void got.push({ fd, path }));
  const peer = dial(port, to);
  // A reset is what some of the tests are about.
  peer.on('error', () => undefined);
  closers.push(() => {
    peer.destroy();
    listener.close();
    closeSync(listening);
  });
  await Promise.all([once(peer, 'connect'), until(() => got.length === 1)]);
  peer.pause();
  return { ...got[0]!, peer, port };
}

describe('StreamListener', () => {
  test.each([
    ['0.0.0.0', '127.0.0.2'],
    ['::', '127.0.0.2'],
    ['::', '::1'],
    ['::1', '::1'],
  ])('on %s accepts what calls %s, and tells both addresses', async (bound, called) => {
    const { fd, path, peer } = await accepted(bound, called);
    closers.push(() => {
      close(fd);
    });
    expect(path).toStrictEqual({
      remote: { address: peer.localAddress, port: peer.localPort },
      local: called,
    });
    // Non-blocking: nothing is there, and this returns.
    expect(recvNow(fd, Buffer.alloc(1), 0)).toBeUndefined();
  });

  test('accepts hundreds that wait, and none after it was closed', async () => {
    const listening = openTcpListener({ address: '127.0.0.1', port: 0 });
    const { port } = boundAddress(listening);
    const peers = Array.from({ length: 300 }, () => dial(port, '127.0.0.1'));
    await Promise.all(peers.map((peer) => once(peer, 'connect')));
    const fds: number[] = [];
    const listener = new StreamListener(listening, poller, (fd) => void fds.push(fd));
    await until(() => fds.length === 300);
    expect(new Set(fds).size).toBe(300);
    listener.close();
    listener.close();
    const late = dial(port, '127.0.0.1');
    await once(late, 'connect');
    await sleep(50);
    expect(fds).toHaveLength(300);
    for (const peer of [...peers, late]) peer.destroy();
    for (const fd of fds) close(fd);
    closeSync(listening);
  });

  test('waits a little when there are no descriptors left, says so once, and goes on when there are', async () => {
    // What is tried while there is none is counted by the timer that the listener asks for.
    const program = `
      import { closeSync, openSync } from 'node:fs';
      import { connect } from 'node:net';
      import { ReadinessPoller } from ${JSON.stringify(import.meta.resolve('./poller.ts'))};
      import { connectTcp, StreamListener } from ${JSON.stringify(import.meta.resolve('./stream-socket.ts'))};
      import { boundAddress, openTcpListener } from ${JSON.stringify(import.meta.resolve('./transport-socket.ts'))};
      const poller = new ReadinessPoller();
      const listening = openTcpListener({ address: '127.0.0.1', port: 0 });
      const exhausted = [], waits = [];
      let full = [];
      const listener = new StreamListener(listening, poller, (fd) => {
        console.log(JSON.stringify({ exhausted, waits: waits.length, ms: waits[0], filled: full.length > 0 }));
        process.exit(0);
      }, {
        exhausted: (reason) => exhausted.push(reason),
        after: (ms, task) => { waits.push(ms); const timer = setTimeout(task, ms); return () => clearTimeout(timer); },
      });
      connectTcp(boundAddress(listening), poller, () => undefined);
      // The connection is there before the listener sees it, in the same turn.
      try { for (;;) full.push(openSync('/dev/null')); } catch {}
      setTimeout(() => { for (const fd of full) closeSync(fd); }, 350);`;
    const { stdout } = await promisify(execFile)('sh', [
      '-c',
      'ulimit -n 100 && exec "$0" --no-warnings --input-type=module -e "$1"',
      process.execPath,
      program,
    ]);
    const said = JSON.parse(stdout) as { waits: number };
    expect(said).toStrictEqual({
      exhausted: ['too many open files (EMFILE)'],
      waits: expect.any(Number),
      ms: 100,
      filled: true,
    });
    expect(said.waits).toBeGreaterThanOrEqual(3);
    expect(said.waits).toBeLessThanOrEqual(5);
  });
});

describe('a stream that is read', () => {
  test('is never read beyond what is wanted', async () => {
    let wanted = 2;
    const { socket, record, peer } = await connection({ wanted: () => wanted });
    const rest = Buffer.alloc(100);
    let left: number | undefined;
    record.onData = () => {
      wanted = 5;
      if (record.chunks.length < 2) return;
      left = recvNow(socket.fd, rest, 0);
      record.onData = () => undefined;
    };
    peer.write('2 then five and a rest');
    await until(() => left !== undefined);
    expect(record.chunks.map(String)).toStrictEqual(['2 ', 'then ']);
    expect(rest.toString('utf8', 0, left)).toBe('five and a rest');
  });

  test('stays in the kernel while nothing is wanted, without asking all the time', async () => {
    let wanted = 0;
    let asked = 0;
    const { record, peer } = await connection({
      wanted: () => {
        asked++;
        return wanted;
      },
    });
    peer.write('hello');
    await until(() => asked > 1);
    const before = asked;
    await sleep(100);
    expect(record.chunks).toEqual([]);
    expect(asked - before).toBeLessThan(40);
    wanted = 5;
    await until(() => record.text === 'hello');
  });

  test('comes whole and in order, by chunks of the size wanted', async () => {
    let turn = 0;
    const { record, peer } = await connection({ wanted: () => 1 + (turn++ % 1500) });
    const sent = Buffer.from(Array.from({ length: 60_000 }, (_, i) => i % 251));
    const kept: Buffer[] = [];
    record.onData = () => {
      kept.push(Buffer.from(record.chunks.at(-1)!));
    };
    for (let at = 0; at < sent.length; at += 7000) {
      peer.write(sent.subarray(at, at + 7000));
      await sleep(1);
    }
    await until(() => record.chunks.reduce((sum, { length }) => sum + length, 0) >= sent.length);
    expect(Buffer.concat(record.chunks).equals(sent)).toBe(true);
    // What was delivered is not written over by what came after it.
    expect(record.chunks.every((chunk, i) => chunk.equals(kept[i]!))).toBe(true);
  });

  test("ends by the peer's FIN, after all that came before it", async () => {
    const { record, peer } = await connection({ wanted: () => 3 });
    peer.end('last words');
    await until(() => record.ends.length > 0);
    await sleep(50);
    expect(record.text).toBe('last words');
    expect(record.ends).toStrictEqual([undefined]);
  });

  test('ends by a reset, with words', async () => {
    const { socket, record, peer } = await connection();
    peer.resetAndDestroy();
    await until(() => record.ends.length > 0);
    await sleep(50);
    expect(record.ends).toStrictEqual(['connection reset by peer (ECONNRESET)']);
    socket.send(Buffer.from('into the void'));
    expect(socket.idle).toBe(true);
  });

  test('calls nothing more once it was closed by its own callback', async () => {
    const { socket, record, peer } = await connection({ wanted: () => 1 });
    record.onData = () => {
      socket.close();
      socket.close();
    };
    peer.end('several');
    await until(() => record.chunks.length > 0);
    await sleep(50);
    expect(record.chunks).toHaveLength(1);
    expect(record.ends).toStrictEqual([]);
  });
});

describe('a stream that is written', () => {
  test('queues what a slow reader does not take, keeps the order, and says when it is drained', async () => {
    const { socket, record, peer } = await connection({ sendBuffer: 4096 });
    const sent = await fill(socket);
    for (let i = 0; i < 100; i++) {
      sent.push(Buffer.alloc(1 + i, `${i}`));
      socket.send(sent.at(-1)!);
    }
    const drains = record.drains;
    await sleep(50);
    expect(record.drains).toBe(drains);
    expect(socket.idle).toBe(false);
    const received: Buffer[] = [];
    peer.on('data', (chunk: Buffer) => void received.push(chunk)).resume();
    const whole = Buffer.concat(sent);
    await until(() => received.reduce((sum, { length }) => sum + length, 0) >= whole.length);
    expect(Buffer.concat(received).equals(whole)).toBe(true);
    await until(() => record.drains === drains + 1);
    expect(socket.idle).toBe(true);
    expect(record.ends).toStrictEqual([]);
  });

  test('ends when the peer never reads, before it costs much memory', async () => {
    const { socket, record } = await connection({ sendBuffer: 4096 });
    await fill(socket);
    const { drains } = record;
    let sent = 0;
    for (let i = 0; i < 1000 && record.ends.length === 0; i++) {
      socket.send(Buffer.alloc(10_000));
      sent++;
      if (i % 10 === 0) await sleep(1);
    }
    expect(record.ends).toStrictEqual([
      expect.stringMatching(/^the peer does not read: 2[67]\d{4} bytes wait for it$/),
    ]);
    expect(sent).toBeLessThan(40);
    expect(socket.idle).toBe(true);
    expect(record.drains).toBe(drains);
  });

  test('tells of an error when the call that met it has returned', async () => {
    const { socket, record, peer } = await connection();
    peer.resetAndDestroy();
    // The reset is in our socket by now, but our poller has had no turn.
    const until = Date.now() + 20;
    while (Date.now() < until);
    socket.send(Buffer.from('x'));
    socket.send(Buffer.from('y'));
    expect(record.ends).toStrictEqual([]);
    await sleep(20);
    expect(record.ends).toHaveLength(1);
    expect(record.ends[0]).toMatch(/ECONNRESET|EPIPE/);
  });

  test('of the driver is offered again by a timer: what poll says about it means nothing', async () => {
    const waits: { readonly ms: number; readonly task: () => void }[] = [];
    const { socket, record, peer } = await connection({
      sendBuffer: 4096,
      after: (ms, task) => {
        const entry = { ms, task };
        waits.push(entry);
        return () => waits.splice(waits.indexOf(entry), 1);
      },
    });
    socket.handedOver();
    const sent: Buffer[] = [];
    while (waits.length === 0) {
      sent.push(Buffer.alloc(1000, sent.length));
      socket.send(sent.at(-1)!);
    }
    const received: Buffer[] = [];
    peer.on('data', (chunk: Buffer) => void received.push(chunk)).resume();
    await sleep(50);
    expect(socket.idle).toBe(false);
    expect(waits).toMatchObject([{ ms: 5 }]);
    waits.pop()!.task();
    await until(() => Buffer.concat(received).length === sent.length * 1000);
    expect(Buffer.concat(received).equals(Buffer.concat(sent))).toBe(true);
    expect(record.drains).toBe(1);
    expect(waits).toStrictEqual([]);
  });

  test('asks no timer any more once it was closed', async () => {
    let waits = 0;
    const { socket } = await connection({
      sendBuffer: 4096,
      after: () => {
        waits++;
        return () => waits--;
      },
    });
    socket.handedOver();
    while (socket.idle) socket.send(Buffer.alloc(1000));
    expect(waits).toBe(1);
    socket.close();
    expect(waits).toBe(0);
  });

  test('cannot be handed over in the middle of a frame', async () => {
    const { socket } = await connection({ sendBuffer: 4096 });
    await fill(socket);
    expect(() => {
      socket.handedOver();
    }).toThrow(/handed over with \d+ bytes queued/);
  });
});

describe('connectTcp', () => {
  type Result = { fd: number; local: TransportAddress } | { error: string };

  /** A server of Node's. */
  async function server(host: string): Promise<{ port: number; clients: Socket[] }> {
    const clients: Socket[] = [];
    const listening = createServer((client) => {
      client.on('error', () => undefined);
      clients.push(client);
    });
    listening.listen(0, host);
    await once(listening, 'listening');
    closers.push(() => {
      listening.close();
      for (const client of clients) client.destroy();
    });
    return { port: (listening.address() as AddressInfo).port, clients };
  }

  test.each(['127.0.0.1', '::1'])('connects to %s, and later than it returns', async (address) => {
    const { port, clients } = await server(address);
    const results: Result[] = [];
    const cancel = connectTcp({ address, port }, poller, (result) => void results.push(result));
    expect(results).toStrictEqual([]);
    await until(() => results.length === 1 && clients.length === 1);
    const { fd, local } = results[0] as { fd: number; local: TransportAddress };
    expect(local).toStrictEqual({ address, port: clients[0]!.remotePort });
    // Too late to call it off: the descriptor is ours.
    cancel();
    const record = new Seen();
    const socket = new StreamSocket(fd, poller, () => 100, record);
    socket.send(Buffer.from('hello'));
    const [hello] = (await once(clients[0]!, 'data')) as [Buffer];
    expect(hello.toString()).toBe('hello');
    clients[0]!.end('bye');
    await until(() => record.ends.length === 1);
    expect(record.text).toBe('bye');
    socket.close();
  });

  test.each([
    ['refused', { address: '127.0.0.1', port: 1 }, 'connection refused (ECONNREFUSED)', '127.0.0.1:1'],
    ['refused over IPv6', { address: '::1', port: 1 }, 'connection refused (ECONNREFUSED)', '[::1]:1'],
    [
      'without an interface',
      { address: 'fe80::1', port: 9 },
      expect.stringMatching(/EINVAL|ENETUNREACH|EADDRNOTAVAIL/),
      '[fe80::1]:9',
    ],
  ])('says when it is %s', async (_what, to, words, where) => {
    const before = readdirSync('/proc/self/fd').length;
    const results: Result[] = [];
    connectTcp(to, poller, (result) => void results.push(result));
    expect(results).toStrictEqual([]);
    await until(() => results.length === 1);
    const { error } = results[0] as { error: string };
    const prefix = `cannot connect to TCP ${where}: `;
    expect(error.slice(0, prefix.length)).toBe(prefix);
    expect(error.slice(prefix.length)).toEqual(words);
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  test('called off in time calls nothing and leaves no descriptor', async () => {
    const { port } = await server('127.0.0.1');
    const results: Result[] = [];
    const before = readdirSync('/proc/self/fd').length;
    const cancels = [
      { address: '127.0.0.1', port },
      { address: '127.0.0.1', port: 1 },
      { address: 'fe80::1', port: 9 },
    ].map((to) => connectTcp(to, poller, (result) => void results.push(result)));
    for (const cancel of cancels) {
      cancel();
      cancel();
    }
    // The connection that was made may be seen by the server for a moment.
    await until(() => readdirSync('/proc/self/fd').length <= before);
    await sleep(50);
    expect(results).toStrictEqual([]);
  });
});
