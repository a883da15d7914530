import { afterEach, describe, expect, test } from '@jest/globals';
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { OvpnError } from '../errors.ts';
import type { AgentReply, AgentRequest } from './attach-protocol.ts';
import { maxMessageBytes, protocolVersion as version } from './attach-protocol.ts';
import { parseAgentRequest } from './attach-request.ts';
import type { AttachServer, AttachServerOptions } from './attach-server.ts';
import { createAttachServer } from './attach-server.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
});

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'attach-server-'));
  cleanups.push(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

const logged: unknown[] = [];
const log = {
  info: (...entry: unknown[]): void => void logged.push(entry),
  warn: (...entry: unknown[]): void => void logged.push(entry),
  error: (...entry: unknown[]): void => void logged.push(entry),
};

async function start(options: Partial<AttachServerOptions> = {}): Promise<AttachServer> {
  const server = await createAttachServer({
    socketPath: join(folder(), 'run', 'agent.sock'),
    handle: (request) => Promise.resolve({ asked: request.op }),
    log,
    ...options,
  });
  cleanups.push(() => server.close(100));
  return server;
}

interface Talk {
  readonly socket: Socket;
  readonly answer: Promise<string>;
}

function open(socketPath: string): Talk {
  const socket = createConnection({ path: socketPath });
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('utf8')));
  socket.on('error', () => undefined);
  return { socket, answer: new Promise((resolve) => socket.on('close', () => resolve(text))) };
}

async function ask(socketPath: string, bytes: string | Uint8Array): Promise<AgentReply<unknown>> {
  const { socket, answer } = open(socketPath);
  socket.write(bytes);
  return JSON.parse(await answer) as AgentReply<unknown>;
}

const call = { config: 'cluster', containerId: 'abc123', cniIfname: 'eth0' };
const chosen: AgentRequest = {
  version,
  op: 'add',
  ...call,
  ifname: 'vpn0',
  netns: '/run/netns/pod',
  pod: { namespace: 'shop', name: 'web-0', uid: '6f1c' },
};
const add: AgentRequest = { ...chosen, network: 'office' };
const line = (value: unknown): string => `${JSON.stringify(value)}\n`;

describe('requests', () => {
  test.each<AgentRequest>([
    add,
    { ...add, ips: ['10.81.1.9', 'fd81::9/64'], mac: '02:00:00:00:00:01' },
    { ...add, delegated: ['10.81.1.9/24'] },
    { ...chosen, ifname: 'vpn' },
    { version, op: 'del', ...call },
    { version, op: 'del', ...call, netns: '/run/netns/pod' },
    { version, op: 'check', ...call, network: 'office', ifname: 'vpn0', netns: '/run/netns/pod', expected: [] },
    {
      version,
      op: 'check',
      ...call,
      ifname: 'vpn',
      netns: '/run/netns/pod',
      expected: [
        { ifname: 'eth0', addresses: ['10.244.0.2/24'] },
        { ifname: 'vpn0', mac: '02:00:00:00:00:01', mtu: 1416, addresses: ['10.81.1.9/32', 'fd81::9/128'] },
      ],
    },
    { version, op: 'gc', config: 'cluster', valid: [] },
    { version, op: 'gc', config: 'cluster', network: 'office', valid: [{ containerId: 'abc', cniIfname: 'eth0' }] },
    { version, op: 'status' },
    { version, op: 'status', network: 'office' },
  ])('are read as they were written: %j', (request) => {
    expect(parseAgentRequest(Buffer.from(JSON.stringify({ ...request, later: 1 })))).toEqual(request);
  });

  test.each<[string, unknown, string]>([
    ['no object', [], 'must be an object'],
    ['no version', { ...add, version: undefined }, 'version'],
    ['another version', { ...add, version: version - 1 }, 'version'],
    ['an unknown op', { ...add, op: 'attach' }, 'op'],
    ['an op from the prototype', { ...add, op: 'constructor' }, 'op'],
    ['no config', { ...add, config: undefined }, 'config'],
    ['no CNI_IFNAME', { ...add, cniIfname: undefined }, 'cniIfname'],
    ['addresses without a network', { ...chosen, ips: ['10.81.1.9'] }, 'ips'],
    ['a MAC address without a network', { ...chosen, mac: '02:00:00:00:00:01' }, 'mac'],
    ['delegated addresses without a network', { ...chosen, delegated: ['10.81.1.9/24'] }, 'delegated'],
    ['addresses that are static and delegated', { ...add, ips: ['10.81.1.9'], delegated: [] }, 'ips'],
    ['an address that is none', { ...add, ips: ['10.81.1'] }, 'ips'],
    ['an address with a zone', { ...add, ips: ['fe80::1%eth0'] }, 'ips'],
    ['an address that is too long', { ...add, ips: ['10.81.1.9/33'] }, 'ips'],
    ['addresses that are no list', { ...add, ips: '10.81.1.9' }, 'ips'],
    ['a MAC address that is none', { ...add, mac: '02:00:00:00:00' }, 'mac'],
    ['an expectation that is a text', { ...add, op: 'check', expected: ['vpn0'] }, 'expected'],
    ['an MTU below zero', { ...add, op: 'check', expected: [{ ifname: 'a', addresses: [], mtu: -1 }] }, 'mtu'],
    ['no expectation for check', { ...add, op: 'check' }, 'expected'],
    ['no list for gc', { version, op: 'gc', config: 'cluster' }, 'valid'],
    ['an empty network', { ...add, network: '' }, 'network'],
    ['a long network', { ...add, network: 'a'.repeat(254) }, 'network'],
    ['a container id that leaves its folder', { ...add, containerId: '../etc' }, 'containerId'],
    ['an interface with a slash', { ...add, ifname: 'a/b' }, 'ifname'],
    ['an interface of 16 bytes', { ...add, ifname: 'a'.repeat(16) }, 'ifname'],
    ['no netns for add', { ...add, netns: undefined }, 'netns'],
    ['a relative netns', { ...add, netns: 'x' }, 'netns'],
    ['a netns with a NUL', { ...add, netns: '/a\0b' }, 'netns'],
    ['a netns that is null', { ...add, netns: null }, 'netns'],
    ['a pod that is a text', { ...add, pod: 'web' }, 'pod'],
    ['a pod without a name', { ...add, pod: { namespace: 'a' } }, 'name'],
  ])('with %s are refused', (_name, value, text) => {
    expect(() => parseAgentRequest(Buffer.from(JSON.stringify(value)))).toThrow(
      expect.objectContaining({ name: 'AgentProtocol', message: expect.stringContaining(text) }),
    );
  });

  test('of any bytes are a request or AgentProtocol', () => {
    const value = fc.oneof(
      fc.constantFrom<unknown>(...(Object.values(add) as unknown[]), 'del', 'status', 'add', 'check', 'gc', version),
      fc.jsonValue(),
    );
    const shaped = fc
      .record(
        {
          version: fc.constantFrom(version, version, version, 1),
          op: value,
          config: value,
          network: value,
          containerId: value,
          cniIfname: value,
          ips: value,
          mac: value,
          expected: value,
          valid: value,
          ifname: value,
          netns: value,
          pod: value,
        },
        { requiredKeys: ['version'] },
      )
      .map((object) => Buffer.from(JSON.stringify(object)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), shaped), (bytes) => {
        try {
          expect(parseAgentRequest(bytes).version).toBe(version);
        } catch (error) {
          expect(error).toMatchObject({ name: 'AgentProtocol' });
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('the socket', () => {
  test('and its folder belong to root alone, and nothing else lies around', async () => {
    const { socketPath } = await start();
    expect(statSync(socketPath).mode & 0o777).toBe(0o600);
    expect(statSync(join(socketPath, '..')).mode & 0o777).toBe(0o700);
    expect(readdirSync(join(socketPath, '..'))).toEqual(['agent.sock']);
  });

  test('replaces one that a dead agent left', async () => {
    const path = join(folder(), 'agent.sock');
    await leaveStaleSocket(path);
    expect(statSync(path).isSocket()).toBe(true);
    const { socketPath } = await start({ socketPath: path });
    await expect(ask(socketPath, line(add))).resolves.toEqual({ ok: true, result: { asked: 'add' } });
  });

  test('of a running agent is left alone', async () => {
    const first = await start();
    await expect(start({ socketPath: first.socketPath })).rejects.toMatchObject({
      name: 'StateUnusable',
      problem: 'another agent serves this socket',
    });
    await expect(ask(first.socketPath, line(add))).resolves.toMatchObject({ ok: true });
    expect(readdirSync(join(first.socketPath, '..'))).toEqual(['agent.sock']);
  });

  test.each([
    ['a file', (path: string) => writeFileSync(path, 'mine')],
    ['a link', (path: string) => symlinkSync('/dev/null', path)],
  ])('does not replace %s', async (_name, make) => {
    const path = join(folder(), 'agent.sock');
    make(path);
    await expect(start({ socketPath: path })).rejects.toMatchObject({ name: 'StateUnusable' });
    expect(existsSync(path)).toBe(true);
  });

  test('is not made where others can write', async () => {
    const open_ = folder();
    chmodSync(open_, 0o777);
    await expect(start({ socketPath: join(open_, 'agent.sock') })).rejects.toMatchObject({ name: 'StateUnusable' });
  });

  test('is told to be unusable when the path is too long or no folder', async () => {
    await expect(start({ socketPath: join(folder(), 'a'.repeat(120), 'agent.sock') })).rejects.toMatchObject({
      name: 'StateUnusable',
    });
    await expect(start({ socketPath: '/dev/null/agent.sock' })).rejects.toMatchObject({ name: 'StateUnusable' });
  });

  test('is removed on close, but not the one of a newer agent', async () => {
    const first = await start();
    rmSync(first.socketPath);
    const second = await start({ socketPath: first.socketPath });
    await first.close();
    await expect(ask(second.socketPath, line(add))).resolves.toMatchObject({ ok: true });
    await second.close();
    expect(existsSync(second.socketPath)).toBe(false);
  });
});

/** What a killed agent leaves: a socket file nobody listens on. */
async function leaveStaleSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}.x`, resolve));
  const { linkSync } = await import('node:fs');
  linkSync(`${path}.x`, path);
  await new Promise((resolve) => server.close(resolve));
}

describe('answers', () => {
  test('carry the result, or null for none', async () => {
    const { socketPath } = await start({ handle: () => Promise.resolve(undefined) });
    await expect(ask(socketPath, line(add))).resolves.toEqual({ ok: true, result: null });
  });

  test('carry an error of the table with whether to try again', async () => {
    for (const [name, code, retry] of [
      ['NetworkNotReady', 'OVPN503', true],
      ['AttachNotAllowed', 'OVPN504', false],
    ] as const) {
      const { socketPath } = await start({ handle: () => Promise.reject(new OvpnError(name, 'no')) });
      await expect(ask(socketPath, line(add))).resolves.toMatchObject({ ok: false, error: { name, code, retry } });
    }
  });

  test.each<[string, AttachServerOptions['handle']]>([
    ['rejects', () => Promise.reject(new Error('secret text'))],
    [
      'throws',
      () => {
        throw new TypeError('secret text');
      },
    ],
    ['answers what is no JSON', () => Promise.resolve(10n)],
    ['answers too much', () => Promise.resolve('x'.repeat(maxMessageBytes))],
  ])('are a failure without inner text when the handler %s', async (_name, handle) => {
    const { socketPath } = await start({ handle });
    const reply = await ask(socketPath, line(add));
    expect(reply).toMatchObject({ ok: false, error: { name: 'AgentInternal', retry: true } });
    expect(JSON.stringify(reply)).not.toContain('secret');
  });

  test.each<[string, string]>([
    ['garbage', 'garbage\n'],
    ['two lines', line(add) + line(add)],
    ['too long a line', 'x'.repeat(maxMessageBytes + 1)],
  ])('to %s are AgentProtocol', async (_name, bytes) => {
    const { socketPath } = await start();
    await expect(ask(socketPath, bytes)).resolves.toMatchObject({
      ok: false,
      error: { name: 'AgentProtocol', code: 'OVPN402', retry: false },
    });
  });

  test('come to a caller that ends its side after the request, and to one that sends it byte by byte', async () => {
    const { socketPath } = await start();
    const half = open(socketPath);
    half.socket.end(line(add));
    await expect(half.answer).resolves.toContain('"ok":true');
    const slow = open(socketPath);
    for (const byte of Buffer.from(line({ version, op: 'status' }))) {
      slow.socket.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await expect(slow.answer).resolves.toContain('"asked":"status"');
  });

  test('a request that is cut off, and one that never comes, are told so in time', async () => {
    const { socketPath } = await start({ idleMs: 50 });
    const cut = open(socketPath);
    cut.socket.end('{"version":1');
    await expect(cut.answer).resolves.toContain('ends before its newline');
    await expect(open(socketPath).answer).resolves.toContain('did not come within 50 ms');
  });

  test('that lay in the socket while this process was busy is answered, however late', async () => {
    const { socketPath } = await start({ idleMs: 50 });
    const { socket, answer } = open(socketPath);
    await new Promise((resolve) => socket.once('connect', resolve));
    // So that the server has the connection, and its time runs.
    await new Promise((resolve) => setTimeout(resolve, 20));
    // In a turn's last phase: what comes next are timers, before anything is read.
    await new Promise<void>((resolve) =>
      setImmediate(() => {
        socket.write(line(add));
        const until = performance.now() + 200;
        while (performance.now() < until);
        resolve();
      }),
    );
    expect(JSON.parse(await answer)).toEqual({ ok: true, result: { asked: 'add' } });
  });

  test('any bytes leave the server serving', async () => {
    const { socketPath } = await start({ idleMs: 50 });
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.boolean(), async (bytes, withNewline) => {
        const { socket, answer } = open(socketPath);
        socket.end(withNewline ? Buffer.concat([bytes, Buffer.from('\n')]) : bytes);
        expect(JSON.parse(await answer)).toMatchObject({ ok: false, error: { name: 'AgentProtocol' } });
      }),
      { numRuns: 100 },
    );
    await expect(ask(socketPath, line(add))).resolves.toMatchObject({ ok: true });
  });

  test('a caller that leaves at any moment does not trouble the next one', async () => {
    const gate = Promise.withResolvers<null>();
    const { socketPath } = await start({
      handle: (request) => (request.op === 'add' ? gate.promise : Promise.resolve(1)),
    });
    open(socketPath).socket.destroy();
    const leaver = open(socketPath);
    leaver.socket.write(line(add), () => leaver.socket.destroy());
    await leaver.answer;
    gate.resolve(null);
    await expect(ask(socketPath, line({ version, op: 'status' }))).resolves.toEqual({ ok: true, result: 1 });
  });
});

describe('bounds', () => {
  test('one connection more than allowed is closed at once', async () => {
    const gate = Promise.withResolvers<null>();
    const { socketPath } = await start({ maxConnections: 2, handle: () => gate.promise });
    const held = [open(socketPath), open(socketPath)];
    held.forEach(({ socket }) => socket.write(line(add)));
    await new Promise((resolve) => setTimeout(resolve, 20));
    await expect(open(socketPath).answer).resolves.toBe('');
    gate.resolve(null);
    for (const { answer } of held) {
      await expect(answer).resolves.toContain('"ok":true');
    }
  });

  test('a caller that never reads is cut off', async () => {
    const { socketPath } = await start({
      idleMs: 50,
      handle: () => Promise.resolve('x'.repeat(maxMessageBytes - 100)),
    });
    const socket = createConnection({ path: socketPath });
    socket.on('error', () => undefined);
    socket.pause();
    socket.write(line(add));
    await new Promise((resolve) => setTimeout(resolve, 150));
    const other = await ask(socketPath, line(add));
    expect(other.ok).toBe(true);
    socket.destroy();
  });

  test('close lets a running request finish and drops who has not asked', async () => {
    const gate = Promise.withResolvers<string>();
    const server = await start({ handle: () => gate.promise });
    const [asking, silent] = [open(server.socketPath), open(server.socketPath)];
    asking.socket.write(line(add));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const closed = server.close();
    await expect(silent.answer).resolves.toBe('');
    gate.resolve('late');
    await expect(asking.answer).resolves.toContain('late');
    await closed;
    await expect(server.close()).resolves.toBeUndefined();
  });

  test('close does not wait for ever', async () => {
    const server = await start({ handle: () => new Promise(() => undefined) });
    const stuck = open(server.socketPath);
    stuck.socket.write(line(add));
    await new Promise((resolve) => setTimeout(resolve, 20));
    await server.close(30);
    await expect(stuck.answer).resolves.toBe('');
  });
});
