import { afterEach, describe, expect, test } from '@jest/globals';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { AF_INET, bind, close, recvWithFd, sendWithFd, setsockoptTimeout, SOCK_DGRAM, socket } from '../kernel/libc.ts';
import { boundAddress } from '../kernel/transport-socket.ts';
import { connectSeqpacket } from '../kernel/unix-socket.ts';
import { HolderClient, OwnSockets } from './client.ts';
import { listReply, maxPacketBytes, parseReply, parseRequest } from './protocol.ts';

const program = join(import.meta.dirname, '../cli/ovpn-agent.ts');
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

/** A UDP socket on a free port of the loopback. */
function udp(): { fd: number; port: number } {
  const fd = socket(AF_INET, SOCK_DGRAM, 0);
  bind(fd, Buffer.from([AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
  return { fd, port: boundAddress(fd).port };
}

function socketPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'holder-'));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'run', 'holder.sock');
}

interface Holder {
  readonly path: string;
  readonly client: HolderClient;
  readonly child: ChildProcess;
}

async function start(path = socketPath(), wrap: readonly string[] = []): Promise<Holder> {
  const [command, ...args] = [...wrap, process.execPath, '--no-warnings', program, 'holder', '--socket', path];
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  cleanups.push(() => child.kill('SIGKILL'));
  await new Promise<void>((resolve, reject) => {
    let log = '';
    child.stderr.on('data', (chunk: Buffer) => {
      log += chunk.toString();
      if (/holder[-.]ready/.test(log)) resolve();
    });
    child.once('exit', () => reject(new Error(log)));
  });
  return { path, client: new HolderClient(path), child };
}

async function kill({ child }: Holder): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}

/** One packet there and one back, as any program might send it. */
function exchange(path: string, packet: string | Buffer): unknown {
  const connection = connectSeqpacket(path, 3_000);
  try {
    sendWithFd(connection, Buffer.from(packet), undefined);
    const answer = Buffer.alloc(maxPacketBytes);
    const { length } = recvWithFd(connection, answer);
    return parseReply(answer.subarray(0, length));
  } finally {
    close(connection);
  }
}

/** How many descriptors the holder has, once it has closed those of clients that are gone. */
async function descriptors({ child }: Holder): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < 10; i++) {
    least = Math.min(least, readdirSync(`/proc/${child.pid ?? 0}/fd`).length);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return least;
}

const unreachable = expect.objectContaining({ name: 'HolderUnreachable' }) as unknown as Error;

describe('the holder', () => {
  test('keeps a socket with its port while its client is away', async () => {
    const { client, path } = await start();
    // Another process puts a socket and ends: what the agent does when it crashes.
    const put = `
      const { HolderClient } = await import(${JSON.stringify(new URL('./client.ts', import.meta.url).href)});
      const libc = await import(${JSON.stringify(new URL('../kernel/libc.ts', import.meta.url).href)});
      const { boundAddress } = await import(${JSON.stringify(new URL('../kernel/transport-socket.ts', import.meta.url).href)});
      const fd = libc.socket(libc.AF_INET, libc.SOCK_DGRAM, 0);
      libc.bind(fd, Buffer.from([2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
      new HolderClient(process.argv[1]).put('corp/udp', fd);
      console.log(boundAddress(fd).port);
      process.kill(process.pid, 'SIGKILL');`;
    const { stdout } = spawnSync(process.execPath, ['--no-warnings', '--input-type=module', '-e', put, path], {
      encoding: 'utf8',
    });
    const port = Number(stdout);
    expect(port).toBeGreaterThan(0);
    expect(client.list()).toEqual(['corp/udp']);
    const fd = client.get('corp/udp');
    expect(fd).toBeDefined();
    expect(boundAddress(fd!)).toEqual({ address: '127.0.0.1', port });
    // It is the very socket: what was sent meanwhile is there.
    const sender = createSocket('udp4');
    await new Promise<void>((resolve) => sender.send('hello', port, '127.0.0.1', () => resolve()));
    sender.close();
    setsockoptTimeout(fd!, 2_000);
    const packet = Buffer.alloc(16);
    expect(packet.subarray(0, recvWithFd(fd!, packet).length).toString()).toBe('hello');
    close(fd!);
  });

  test('hands out a descriptor each time, and drops', async () => {
    const { client } = await start();
    const { fd, port } = udp();
    client.put('corp/udp', fd);
    close(fd);
    const [one, other] = [client.get('corp/udp')!, client.get('corp/udp')!];
    expect(one).not.toBe(other);
    expect([boundAddress(one).port, boundAddress(other).port]).toEqual([port, port]);
    close(one);
    close(other);
    expect(client.get('corp/tcp')).toBeUndefined();
    client.drop('corp/udp');
    client.drop('corp/udp');
    expect(client.get('corp/udp')).toBeUndefined();
    expect(client.list()).toEqual([]);
    // The holder has let go: the port is free.
    const again = socket(AF_INET, SOCK_DGRAM, 0);
    bind(again, Buffer.from([2, 0, port >> 8, port & 0xff, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
    close(again);
  });

  test('replaces what it has under a name, and lets the old one go', async () => {
    const holder = await start();
    const { client } = holder;
    const before = await descriptors(holder);
    for (let i = 0; i < 20; i++) {
      const { fd, port } = udp();
      client.put('corp/udp', fd);
      close(fd);
      const kept = client.get('corp/udp')!;
      expect(boundAddress(kept).port).toBe(port);
      close(kept);
    }
    expect(client.list()).toEqual(['corp/udp']);
    expect(await descriptors(holder)).toBe(before + 1);
  });

  test('answers what is no request, takes no descriptor with it, and goes on', async () => {
    const holder = await start();
    const { path, client } = holder;
    const before = await descriptors(holder);
    for (const packet of ['', 'x', '{"op":"put"}', '{"op":"format","name":"x"}', Buffer.alloc(1000, 0xff), '[]']) {
      expect(exchange(path, packet)).toEqual({ ok: false, error: 'not a request' });
    }
    expect(exchange(path, '{"op":"put","name":"x"}')).toEqual({ ok: false, error: 'no descriptor attached' });
    const { fd } = udp();
    const connection = connectSeqpacket(path, 2_000);
    sendWithFd(connection, Buffer.from('rubbish'), fd);
    recvWithFd(connection, Buffer.alloc(1000));
    close(connection);
    close(fd);
    // A client that goes without a word.
    close(connectSeqpacket(path, 2_000));
    expect(client.list()).toEqual([]);
    expect(await descriptors(holder)).toBe(before);
  });

  test('gives a client that says nothing a second, and no more', async () => {
    const { path, client } = await start();
    const silent = connectSeqpacket(path, 5_000);
    const begun = performance.now();
    expect(client.list()).toEqual([]);
    const took = performance.now() - begun;
    expect(took).toBeGreaterThan(500);
    expect(took).toBeLessThan(1_900);
    close(silent);
  });

  test('is one for a path; the second says so and ends', async () => {
    const first = await start();
    const second = spawnSync(process.execPath, ['--no-warnings', program, 'holder', '--socket', first.path], {
      encoding: 'utf8',
      timeout: 20_000,
    });
    expect(second.status).not.toBe(0);
    expect(second.stderr).toContain('another socket holder serves this path');
    expect(second.stderr).toContain('OVPN405');
    expect(first.client.list()).toEqual([]);
  });

  test('takes the place of one that died, with nothing in hand', async () => {
    const first = await start();
    const { fd } = udp();
    first.client.put('corp/udp', fd);
    close(fd);
    await kill(first);
    expect(existsSync(first.path)).toBe(true);
    expect(() => first.client.list()).toThrow(unreachable);
    const second = await start(first.path);
    expect(second.client.list()).toEqual([]);
    expect(readdirSync(join(first.path, '..'))).toEqual(['holder.sock']);
    expect(statSync(first.path).mode & 0o777).toBe(0o600);
  });

  test('lists more names than one packet takes', async () => {
    const { client, path } = await start(undefined, [
      'bash',
      '-c',
      'ulimit -n 4096 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"',
    ]);
    const { fd } = udp();
    const long = (i: number): string => `${String(i).padStart(5, '0')}${'"'.repeat(251)}`;
    const names = Array.from({ length: 400 }, (_, i) => long(i));
    for (const name of names.toReversed()) client.put(name, fd);
    close(fd);
    expect(client.list()).toEqual(names);
    client.drop(long(7));
    expect(client.list()).toEqual(names.filter((name) => name !== long(7)));
    // Whoever does not know how to ask for the rest gets what one packet takes.
    const first = exchange(path, JSON.stringify({ op: 'list' })) as { names: string[]; more: boolean };
    expect(first).toMatchObject({ ok: true, more: true });
    expect(first.names.length).toBeGreaterThan(100);
    expect(client.list().slice(0, first.names.length)).toEqual(first.names);
  });

  test('outlives running out of descriptors', async () => {
    const holder = await start(undefined, ['bash', '-c', 'ulimit -n 48; exec "$0" "$@"']);
    const { fd } = udp();
    let held = 0;
    const put = (): boolean => {
      try {
        holder.client.put(`socket/${held}`, fd);
        held++;
        return true;
      } catch {
        return false;
      }
    };
    while (held < 60 && put());
    close(fd);
    expect(held).toBeLessThan(48);
    expect(holder.child.exitCode).toBeNull();
    expect(holder.client.list()).toHaveLength(held);
    holder.client.drop('socket/0');
    expect(holder.client.list()).toHaveLength(held - 1);
  });
});

describe('the client', () => {
  test('says that there is no holder', () => {
    const client = new HolderClient('/nowhere/holder.sock');
    for (const call of [() => client.list(), () => client.get('x'), () => client.drop('x'), () => client.put('x', 0)]) {
      expect(call).toThrow(unreachable);
    }
  });

  test('of one process alone keeps nothing', () => {
    const own = new OwnSockets();
    own.put();
    expect(own.list()).toEqual([]);
  });
});

describe('the protocol', () => {
  const requests = [
    { op: 'put', name: 'corp/udp' },
    { op: 'get', name: 'corp/udp' },
    { op: 'drop', name: 'ü' },
    { op: 'list' },
    { op: 'list', after: 'corp/udp' },
  ];
  test.each(requests)('reads a request as it was written: %j', (request) => {
    expect(parseRequest(Buffer.from(JSON.stringify({ ...request, later: 1 })))).toEqual(request);
  });

  test.each([
    ['an unknown op', { op: 'open', name: 'x' }],
    ['no name', { op: 'get' }],
    ['an empty name', { op: 'get', name: '' }],
    ['a name that is a number', { op: 'get', name: 7 }],
    ['a long name', { op: 'get', name: 'a'.repeat(257) }],
    ['a name long in bytes', { op: 'get', name: 'ü'.repeat(129) }],
    ['null', null],
    ['a text', 'list'],
  ])('takes nothing with %s for a request', (_name, value) => {
    expect(parseRequest(Buffer.from(JSON.stringify(value)))).toBeUndefined();
  });

  test.each([
    [{ ok: true }, { ok: true }],
    [
      { ok: true, names: ['a'] },
      { ok: true, names: ['a'] },
    ],
    [{ ok: true, names: 'a' }, undefined],
    [
      { ok: false, error: 'no' },
      { ok: false, error: 'no' },
    ],
    [{ ok: false }, { ok: false, error: 'no reason given' }],
    [{ ok: 1 }, undefined],
    [{}, undefined],
    [null, undefined],
  ])('reads the reply %j', (value, reply) => {
    expect(parseReply(Buffer.from(JSON.stringify(value)))).toEqual(reply);
  });

  test('is total: any bytes are something or nothing, and never an exception', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)),
      fc.json().map((text) => Buffer.from(text)),
      fc
        .record({
          op: fc.oneof(fc.constantFrom('put', 'list'), fc.jsonValue()),
          name: fc.jsonValue(),
          ok: fc.jsonValue(),
          names: fc.jsonValue(),
        })
        .map((value) => Buffer.from(JSON.stringify(value))),
    );
    fc.assert(
      fc.property(bytes, (packet) => {
        const request = parseRequest(packet);
        if (request !== undefined) expect(['put', 'get', 'drop', 'list']).toContain(request.op);
        const reply = parseReply(packet);
        if (reply !== undefined) expect(typeof reply.ok).toBe('boolean');
      }),
      { numRuns: 500 },
    );
  });

  test('lists names in as many packets as it takes, each of which fits', () => {
    const name = fc.string({ minLength: 1, maxLength: 256, unit: fc.constantFrom('a', '"', '\u0001', 'ü', '😀') });
    fc.assert(
      fc.property(fc.uniqueArray(name, { maxLength: 400, size: 'max' }), (some) => {
        const names = some.sort();
        const listed: string[] = [];
        for (;;) {
          const reply = listReply(names.filter((each) => listed.length === 0 || each > listed.at(-1)!));
          expect(Buffer.byteLength(JSON.stringify(reply))).toBeLessThanOrEqual(maxPacketBytes);
          listed.push(...(reply.ok ? reply.names! : []));
          if (!reply.ok || reply.more !== true) break;
          expect(reply.names!.length).toBeGreaterThan(0);
        }
        expect(listed).toEqual(names);
      }),
      { numRuns: 30 },
    );
  });
});
