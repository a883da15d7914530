/** The built binary as a runtime calls it, against the agent's real socket server with a stub behind it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AgentRequest, Attachment } from '@ovpn-operator/operator/attach-protocol';
import { maxMessageBytes, protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import fc from 'fast-check';
import type { Log } from '../../operator/src/telemetry/log.ts';
import { leftDetaches } from '../../operator/src/agent/left-detaches.ts';
import { createAttachServer } from '../../operator/src/agent/attach-server.ts';
import { buildCni } from '../build.ts';
import { parseReply } from './agent-client.ts';
import { supportedVersions } from './versions.ts';

const folder = mkdtempSync(join(tmpdir(), 'ovpn-cni-'));
const binary = join(folder, 'bin', 'ovpn-cni');
const socketPath = join(folder, 'agent.sock');

// Without a cache, what it is built with is fetched first.
beforeAll(() => buildCni({ outFile: binary }), 600_000);
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
function run(env: Record<string, string>, stdin: string | Buffer | undefined): Promise<Exit> {
  const started = performance.now();
  // Nothing of the test's own environment: a runtime gives CNI_* and little more.
  const child = spawn(binary, [], { env });
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
    expect(JSON.parse(stdout)).toEqual({ cniVersion: '1.0.0', supportedVersions });
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

  test('ADD without an agent is "try again later", at once', async () => {
    const { code, stdout, ms } = await run(env, config);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 11, details: expect.stringContaining('OVPN401') });
    expect(ms).toBeLessThan(1_000);
  });

  test('STATUS without an agent is "not available", at once', async () => {
    const newest = config.replace('1.0.0', '1.1.0');
    const { code, stdout, ms } = await run({ CNI_COMMAND: 'STATUS' }, newest);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 50, details: expect.stringContaining('OVPN401') });
    expect(ms).toBeLessThan(1_000);
  });

  test('DEL without an agent succeeds and leaves the request for it, once however often it comes', async () => {
    const left = join(folder, 'detach');
    for (const CNI_CONTAINERID of ['abc123', 'abc123', 'a'.repeat(256), `${'a'.repeat(255)}b`]) {
      const deleted = await run({ ...env, CNI_CONTAINERID, CNI_COMMAND: 'DEL' }, config);
      expect(deleted).toMatchObject({ code: 0, stdout: '', stderr: '' });
    }
    const quiet = (): void => undefined;
    const detaches = leftDetaches(left, { error: quiet } as unknown as Log);
    expect(detaches.map(({ request: { containerId } }) => containerId).sort()).toEqual(
      ['a'.repeat(256), `${'a'.repeat(255)}b`, 'abc123'].sort(),
    );
    expect(detaches.find(({ request: { containerId } }) => containerId === 'abc123')?.request).toEqual({
      version: protocolVersion,
      op: 'del',
      config: 'vpn',
      containerId: 'abc123',
      cniIfname: 'vpn0',
      netns: '/run/netns/pod',
    });
    expect(statSync(left).mode & 0o777).toBe(0o700);
    expect(readdirSync(left)).toHaveLength(3);
    rmSync(left, { recursive: true });
  });

  test('DEL that cannot be left for the agent either is "try again later"', async () => {
    const nowhere = config.replace(socketPath, '/proc/none/agent.sock');
    const { code, stdout } = await run({ ...env, CNI_COMMAND: 'DEL' }, nowhere);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 11, msg: expect.stringContaining('/proc/none/detach: ') });
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
  ])(
    'an agent that %s is left after the bound',
    async (_name, behave) => {
      await foreignAgent(behave);
      const { code, stdout, ms } = await run({ CNI_COMMAND: 'STATUS' }, config.replace('1.0.0', '1.1.0'));
      expect(code).toBe(1);
      expect(JSON.parse(stdout)).toMatchObject({
        code: 50,
        msg: expect.stringContaining('the agent did not answer within 5000 ms'),
      });
      expect(ms).toBeGreaterThan(4_500);
    },
    30_000,
  );

  test('a slow answer within the bound is waited for', async () => {
    await agent(() => new Promise((resolve) => setTimeout(() => resolve({ attachments: [attachment] }), 700)));
    const { code } = await run(env, config);
    expect(code).toBe(0);
  });

  test.each<[string, Buffer | string, number, string]>([
    ['more than 4 MiB', 'x'.repeat(4 * 1024 * 1024 + 1), 5, 'more than'],
    ['no UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), 6, 'UTF-8'],
    ['an overlong form', Buffer.from([0xc0, 0xaf]), 6, 'UTF-8'],
    ['a surrogate', Buffer.from([0xed, 0xa0, 0x80]), 6, 'UTF-8'],
    ['a cut sequence', Buffer.from([0xf0, 0x9f, 0x98]), 6, 'UTF-8'],
    ['nothing', '', 6, 'empty'],
  ])('stdin with %s', async (_name, stdin, expected, text) => {
    const { code, stdout } = await run(env, stdin);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: expected, msg: expect.stringContaining(text) });
  });

  test('stdin without an end is left after the bound', async () => {
    const { stdout, ms } = await run(env, undefined);
    expect(JSON.parse(stdout)).toMatchObject({ code: 5, msg: expect.stringContaining('10000 ms') });
    expect(ms).toBeGreaterThan(9_500);
  }, 30_000);

  test.each([
    ['a stdout that nobody reads', 'exec 1>&-'],
    ['neither stdout nor stderr', 'exec 1>&- 2>&-'],
  ])('ends with code 1 with %s', async (_name, close) => {
    const child = spawn('sh', ['-c', `${close}; exec "$0"`, binary], { env: { CNI_COMMAND: 'STATUS' } });
    child.stdin.end(config.replace('1.0.0', '1.1.0'));
    expect(await new Promise((resolve) => child.on('close', resolve))).toBe(1);
  });

  test('very deep nesting is refused or ignored, and no crash', async () => {
    const deep = '['.repeat(1_000_000) + ']'.repeat(1_000_000);
    const { code, stdout } = await run(env, `${config.slice(0, -1)},"other":${deep}}`);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toHaveProperty('code');
  });

  test('passes a result of others through byte for byte when the agent chooses no network', async () => {
    await agent(() => Promise.resolve({ attachments: [] }));
    const previous =
      '{ "cniVersion":"1.0.0", "x": 12345678901234567890, "y":1.0, "ips":[], "s":"a\\u00e4\\"}, {", "interfaces":[]}';
    const chained = `{"prevResult":${previous} ,"cniVersion":"1.0.0","name":"vpn","type":"ovpn-cni","agentSocket":"${socketPath}"}`;
    const { code, stdout } = await run({ ...env, CNI_IFNAME: 'eth0' }, chained);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${previous}\n` });
  });

  describe('with an IPAM plugin', () => {
    const plugins = join(folder, 'plugins');
    const calls = join(folder, 'ipam-calls');
    const withIpam = JSON.stringify({ ...JSON.parse(config), ipam: { type: 'other-ipam', range: 'x' } });
    const ipamEnv = { ...env, CNI_PATH: `/nowhere:${plugins}` };

    /** A plugin of another make: writes down how it was called. */
    function ipamPlugin(script: string): void {
      mkdirSync(plugins, { recursive: true });
      rmSync(calls, { force: true });
      const path = join(plugins, 'other-ipam');
      writeFileSync(path, `#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID $(cat)" >>${calls}\n${script}\n`);
      chmodSync(path, 0o755);
    }
    const called = (): string[] => readFileSync(calls, 'utf8').trim().split('\n');
    const allocated = '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}]}';

    test('hands its addresses to the agent and releases them by DEL', async () => {
      ipamPlugin(`[ $CNI_COMMAND = DEL ] || echo '${allocated}'`);
      const requests = await agent((request) =>
        Promise.resolve(request.op === 'add' ? { attachments: [attachment] } : {}),
      );
      expect(await run(ipamEnv, withIpam)).toMatchObject({ code: 0, stderr: '' });
      expect(await run({ ...ipamEnv, CNI_COMMAND: 'DEL' }, withIpam)).toMatchObject({ code: 0, stdout: '' });
      expect(requests).toMatchObject([{ op: 'add', delegated: ['10.9.0.5/24'] }, { op: 'del' }]);
      expect(called()).toEqual([`ADD abc123 ${withIpam}`, `DEL abc123 ${withIpam}`]);
    });

    test('releases them when the agent refuses', async () => {
      ipamPlugin(`[ $CNI_COMMAND = DEL ] || echo '${allocated}'`);
      await agent(() => Promise.reject(new OvpnError('AttachNotAllowed', 'no', { object: 'VpnNetwork office' })));
      const { stdout } = await run(ipamEnv, withIpam);
      expect(JSON.parse(stdout)).toMatchObject({ code: 504 });
      expect(called().map((line) => line.split(' ')[0])).toEqual(['ADD', 'DEL']);
    });

    test.each([
      [
        'an error of its own',
        `echo '{"code":117,"msg":"range is full","details":"10.9.0.0/24"}'; exit 1`,
        117,
        'full; 10',
      ],
      ['no word', 'exit 3', 508, 'exit code 3'],
      ['no address', 'echo {}', 508, 'no address'],
      ['no JSON', 'echo hello', 508, 'must be an object'],
      ['a signal', 'kill -9 $$', 508, 'exit code 137'],
    ])('tells %s and asks no agent', async (_name, script, expected, text) => {
      ipamPlugin(script);
      const requests = await agent(() => Promise.resolve({}));
      const { code, stdout } = await run(ipamEnv, withIpam);
      expect(code).toBe(1);
      expect(JSON.parse(stdout)).toMatchObject({ code: expected, msg: expect.stringContaining(text) });
      expect(requests).toEqual([]);
    });

    test('that is not there is code 4 and names it', async () => {
      const { stdout } = await run({ ...ipamEnv, CNI_PATH: '/nowhere' }, withIpam);
      expect(JSON.parse(stdout)).toMatchObject({ code: 4, msg: expect.stringContaining('other-ipam') });
    });
  });
});

describe('replies', () => {
  test('of any text are a reply or AgentProtocol', () => {
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
      .map((value) => JSON.stringify(value));
    fc.assert(
      fc.property(fc.oneof(fc.string(), shaped), (text) => {
        try {
          expect(typeof parseReply(text).ok).toBe('boolean');
        } catch (error) {
          expect(error).toMatchObject({ name: 'AgentProtocol' });
        }
      }),
      { numRuns: 2000 },
    );
  });
});
