/** The built binary as a runtime calls it, against the agent's real socket server with a stub behind it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AgentRequest, Attachment } from '@ovpn-operator/operator/attach-protocol';
import { maxMessageBytes, protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import fc from 'fast-check';
import { createAttachServer } from '../../operator/src/agent/attach-server.ts';
import { buildCni } from '../build.ts';
import { callAgent, parseReply } from './agent-client.ts';

const folder = mkdtempSync(join(tmpdir(), 'ovpn-cni-'));
const binary = join(folder, 'bin', 'ovpn-cni');
const socketPath = join(folder, 'agent.sock');

beforeAll(() => buildCni({ outFile: binary, nodePath: process.execPath }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) {
    await cleanup();
  }
});

interface Exit {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

/** Runs the binary; `stdin` undefined leaves its stdin open. */
function run(env: Record<string, string>, stdin: string | undefined, file = binary): Promise<Exit> {
  const started = performance.now();
  // Nothing of the test's own environment: a runtime gives CNI_* and little more.
  const child = spawn(file, [], { env });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString('utf8')));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('utf8')));
  child.stdin.on('error', () => undefined);
  if (stdin !== undefined) {
    child.stdin.end(stdin);
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr, ms: performance.now() - started }));
  });
}

const env = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'abc123',
  CNI_NETNS: '/run/netns/pod',
  CNI_IFNAME: 'vpn0',
  CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0',
};
const config = JSON.stringify({
  cniVersion: '1.0.0',
  name: 'vpn',
  type: 'ovpn-cni',
  network: 'office',
  agentSocket: socketPath,
});

const attachment: Attachment = {
  containerId: 'abc123',
  ifname: 'vpn0',
  network: 'office',
  netns: '/run/netns/pod',
  mac: '02:00:00:00:00:02',
  mtu: 1400,
  hostInterface: { name: 'pod1', mac: '02:00:00:00:00:01', netns: '/run/netns/ovpn-office' },
  addresses: [{ address: '10.81.1.5/32', gateway: '10.81.1.1' }],
  routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1' }],
};

async function agent(handle: (request: AgentRequest) => Promise<unknown>): Promise<AgentRequest[]> {
  const requests: AgentRequest[] = [];
  const quiet = (): void => undefined;
  const server = await createAttachServer({
    socketPath,
    handle: (request) => {
      requests.push(request);
      return handle(request);
    },
    log: { info: quiet, warn: quiet, error: quiet },
  });
  cleanups.push(() => server.close(0));
  return requests;
}

/** An agent of another make: does with the connection what it likes. */
async function foreignAgent(behave: (socket: Socket) => void): Promise<void> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', () => behave(socket));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  cleanups.push(() => {
    sockets.forEach((socket) => socket.destroy());
    return new Promise((resolve) => server.close(resolve));
  });
}

describe('the binary', () => {
  test('VERSION needs no agent', async () => {
    const { code, stdout, stderr } = await run({ CNI_COMMAND: 'VERSION' }, '{"cniVersion":"1.0.0"}');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(stdout)).toEqual({ cniVersion: '1.0.0', supportedVersions: ['0.3.0', '0.3.1'] });
  });

  test('VERSION does not hang on a stdin that stays open', async () => {
    const { code, ms } = await run({ CNI_COMMAND: 'VERSION' }, undefined);
    expect(code).toBe(0);
    expect(ms).toBeLessThan(3_000);
  });

  test('ADD and DEL go to the agent and back', async () => {
    const requests = await agent((request) =>
      Promise.resolve(request.op === 'add' ? { attachments: [attachment] } : undefined),
    );
    const added = await run(env, config);
    expect({ code: added.code, stderr: added.stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(added.stdout)).toEqual({
      cniVersion: '1.0.0',
      interfaces: [
        { name: 'pod1', mac: '02:00:00:00:00:01' },
        { name: 'vpn0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/pod' },
      ],
      ips: [{ address: '10.81.1.5/32', gateway: '10.81.1.1', interface: 1 }],
      routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1' }],
      dns: {},
    });
    const deleted = await run({ ...env, CNI_COMMAND: 'DEL' }, config);
    expect(deleted).toMatchObject({ code: 0, stdout: '', stderr: '' });
    const call = { version: protocolVersion, config: 'vpn', containerId: 'abc123', cniIfname: 'vpn0' };
    const netns = '/run/netns/pod';
    expect(requests).toEqual([
      { ...call, op: 'add', network: 'office', ifname: 'vpn0', netns, pod: { namespace: 'shop', name: 'web-0' } },
      { ...call, op: 'del', netns },
    ]);
  });

  test("an error of the agent's arrives with its text", async () => {
    await agent(() =>
      Promise.reject(new OvpnError('AttachNotAllowed', 'namespace shop may not join', { object: 'VpnNetwork office' })),
    );
    const { code, stdout, stderr } = await run(env, config);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 504, msg: 'VpnNetwork office: namespace shop may not join' });
    expect(stderr).toContain('OVPN504');
  });

  test.each(['ADD', 'DEL'])('%s without an agent is "try again later", at once', async (CNI_COMMAND) => {
    const { code, stdout, ms } = await run({ ...env, CNI_COMMAND }, config);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 11, details: expect.stringContaining('OVPN401') });
    expect(ms).toBeLessThan(1_500);
  });

  test('a socket nobody listens on is "try again later", too', async () => {
    writeFileSync(socketPath, '');
    const { stdout } = await run(env, config);
    rmSync(socketPath);
    expect(JSON.parse(stdout)).toMatchObject({ code: 11, msg: expect.stringContaining('ECONNREFUSED') });
  });

  test.each<[string, (socket: Socket) => void, number, string]>([
    ['answers garbage', (socket) => socket.end('garbage\n'), 402, 'not JSON'],
    ['answers another object', (socket) => socket.end('{"ok":"yes"}\n'), 402, 'ok'],
    ['answers no UTF-8', (socket) => socket.end(Buffer.from([0xff, 0x0a])), 402, 'UTF-8'],
    ['answers half', (socket) => socket.end('{"ok":true,'), 11, 'within its answer'],
    ['answers nothing', (socket) => socket.end(), 11, 'without an answer'],
    ['breaks the connection', (socket) => socket.destroy(), 11, 'agent'],
    ['answers without an end', (socket) => socket.write('x'.repeat(2 * maxMessageBytes)), 402, 'longer than'],
  ])('an agent that %s', async (_name, behave, expected, text) => {
    await foreignAgent(behave);
    const { code, stdout } = await run(env, config);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: expected, msg: expect.stringContaining(text) });
  });

  test.each<[string, (socket: Socket) => void]>([
    ['does not answer', () => undefined],
    [
      'answers byte by byte',
      (socket) => {
        const timer = setInterval(() => socket.write('x'), 5);
        socket.on('close', () => clearInterval(timer));
      },
    ],
  ])('an agent that %s is left after the bound', async (_name, behave) => {
    await foreignAgent(behave);
    const started = performance.now();
    const call = callAgent(socketPath, { version: protocolVersion, op: 'status' }, { connectMs: 1000, replyMs: 100 });
    await expect(call).rejects.toMatchObject({
      name: 'AgentUnreachable',
      problem: 'the agent did not answer within 100 ms',
    });
    expect(performance.now() - started).toBeLessThan(1_000);
  });

  test('a slow answer within the bound is waited for', async () => {
    await agent(() => new Promise((resolve) => setTimeout(() => resolve({ attachments: [attachment] }), 700)));
    const { code } = await run(env, config);
    expect(code).toBe(0);
  });

  test('runs as ES module, too, where the nearest package.json says so', async () => {
    const file = await buildCni({ outFile: join(folder, 'esm', 'ovpn-cni'), nodePath: process.execPath });
    writeFileSync(join(folder, 'esm', 'package.json'), '{"type":"module"}');
    const { code, stderr } = await run({ CNI_COMMAND: 'VERSION' }, '', file);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });

  test.each(['node', '/opt/my node', `/${'a'.repeat(251)}`])(
    'is not built for the interpreter %s',
    async (nodePath) => {
      await expect(buildCni({ outFile: join(folder, 'never'), nodePath })).rejects.toThrow('nodePath');
    },
  );
});

describe('replies', () => {
  test('of any bytes are a reply or AgentProtocol', () => {
    const shaped = fc
      .record(
        {
          ok: fc.oneof(fc.boolean(), fc.jsonValue()),
          result: fc.jsonValue(),
          error: fc.oneof(
            fc.jsonValue(),
            fc.dictionary(fc.constantFrom('name', 'code', 'message', 'retry'), fc.jsonValue()),
          ),
        },
        { requiredKeys: [] },
      )
      .map((value) => Buffer.from(JSON.stringify(value)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), shaped), (bytes) => {
        try {
          expect(typeof parseReply(bytes).ok).toBe('boolean');
        } catch (error) {
          expect(error).toMatchObject({ name: 'AgentProtocol' });
        }
      }),
      { numRuns: 2000 },
    );
  });
});
