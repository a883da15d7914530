import { afterEach, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createAttachServer } from '../agent/attach-server.ts';
import type { NetworkReport, NodeReport, PeerReport } from '../agent/report.ts';
import { recordingLog } from '../cluster/testing/log.ts';
import { keyManifest, networkManifest, peerManifest, secretManifest } from '../cluster/testing/objects.ts';
import { formatStaticKey } from '../openvpn/static-key.ts';
import { callReport } from './agent-call.ts';
import { statusText } from './status.ts';
import { table } from './table.ts';

const program = join(import.meta.dirname, 'ovpn-agent.ts');
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function folder(files: Readonly<Record<string, string | readonly object[]>> = {}): string {
  const made = mkdtempSync(join(tmpdir(), 'cli-'));
  cleanups.push(() => rmSync(made, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    const text =
      typeof content === 'string' ? content : content.map((object) => JSON.stringify(object)).join('\n---\n');
    writeFileSync(join(made, name), text);
  }
  return made;
}

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...args: string[]): Run {
  return spawnSync(process.execPath, ['--no-warnings', program, ...args], { encoding: 'utf8', timeout: 30_000 });
}

const keyText = formatStaticKey(Uint8Array.from({ length: 256 }, (_, i) => i));
const whole = [
  networkManifest('offices'),
  peerManifest('office'),
  keyManifest('office'),
  secretManifest('office-key', keyText),
];

const peerReport = (fields: Partial<PeerReport> = {}): PeerReport => ({
  name: 'team-a/office',
  kind: 'static',
  holder: undefined,
  peerId: 7,
  addresses: ['10.80.0.7'],
  endpoint: '198.51.100.7:1194',
  cipher: undefined,
  keys: { primary: 1, secondary: undefined },
  keyGeneration: 1,
  routes: ['192.168.7.0/24'],
  claims: ['10.80.0.7/32', '192.168.7.0/24'],
  rxBytes: 0,
  txBytes: 1536,
  rxPackets: 0,
  txPackets: 3,
  ready: 'True',
  reason: 'Ready',
  message: '',
  ...fields,
});
const networkReport = (fields: Partial<NetworkReport> = {}): NetworkReport => ({
  name: 'corp',
  namespace: 'ovpn-corp',
  netns: '/run/netns/ovpn-corp',
  device: 'ovpn0',
  mtu: 1416,
  addresses: ['10.80.0.1/24'],
  listeners: ['[::]:1194'],
  problem: undefined,
  peers: [peerReport()],
  neighbours: [],
  attachments: [],
  ...fields,
});
const report = (fields: Partial<NodeReport> = {}): NodeReport => ({
  node: 'n1',
  sourcesComplete: true,
  netlink: { writes: 0, rounds: 0 },
  lease: undefined,
  rejections: [],
  networks: [networkReport()],
  ...fields,
});

describe('table', () => {
  test.each<[string, string[][], string[]]>([
    ['no rows', [], []],
    ['one cell', [['a']], ['a']],
    [
      'columns as wide as their widest cell',
      [
        ['A', 'BB', 'C'],
        ['aaa', 'b', 'c'],
      ],
      ['A     BB   C', 'aaa   b    c'],
    ],
    [
      'nothing behind the last cell',
      [
        ['A', 'long'],
        ['a', 'b'],
      ],
      ['A   long', 'a   b'],
    ],
    ['rows of different lengths', [['A'], ['aa', 'b']], ['A', 'aa   b']],
  ])('prints %s', (_name, rows, lines) => expect(table(rows)).toEqual(lines));
});

describe('the text of a report', () => {
  test('is short and aligned', () => {
    expect(statusText(report(), false).split('\n')).toEqual([
      'network corp: ovpn0 in namespace ovpn-corp, 10.80.0.1/24, MTU 1416, listening on [::]:1194',
      '  PEER            ID   VPN ADDRESS   ENDPOINT            KEYS   RX          TX              STATE',
      '  team-a/office   7    10.80.0.7     198.51.100.7:1194   1      0 pkt 0 B   3 pkt 1.5 KiB   Ready',
      '',
    ]);
  });

  test.each<[string, NodeReport, boolean, string]>([
    ['a node without networks', report({ networks: [] }), false, 'no VpnNetwork on node n1\n'],
    ['kind, cipher and routes when it is wide', report(), true, 'Ready   static   -      -        192.168.7.0/24\n'],
    [
      'that a tunnel is connected',
      report({ networks: [networkReport({ peers: [peerReport({ kind: 'dial-in', cipher: 'AES-256-GCM' })] })] }),
      true,
      'Connected   dial-in   -      AES-256-GCM   192.168.7.0/24\n',
    ],
    [
      'what a tunnel waits for',
      report({
        networks: [
          networkReport({ peers: [peerReport({ kind: 'dial-in', ready: 'False', reason: 'WaitingForClient' })] }),
        ],
      }),
      false,
      'WaitingForClient\n',
    ],
    [
      'which node has a peer',
      report({ networks: [networkReport({ peers: [peerReport({ kind: 'dial-out', holder: 'n2' })] })] }),
      true,
      'dial-out   n2     -        192.168.7.0/24\n',
    ],
    [
      'that the node is known to live',
      report({ lease: { renewedAgoMs: 1_240, held: true, peers: 2 } }),
      false,
      '\nlease of this node: renewed 1.2 s ago, for 2 placed peers\n',
    ],
    [
      'that the node may be taken for lost',
      report({ lease: { renewedAgoMs: 9_000, held: false, peers: 1 } }),
      false,
      'renewed 9.0 s ago, for 1 placed peer; another node may take over\n',
    ],
    [
      'that the node has not said yet that it lives',
      report({ lease: { renewedAgoMs: undefined, held: false, peers: 1 } }),
      false,
      'lease of this node: not renewed yet',
    ],
    [
      'why a peer is not ready',
      report({ networks: [networkReport({ peers: [peerReport({ ready: 'False', message: 'the key is spent' })] })] }),
      false,
      '\n  team-a/office: the key is spent\n',
    ],
    [
      'why a network is not ready',
      report({ networks: [networkReport({ problem: 'no port' })] }),
      false,
      '\n  not ready: no port\n',
    ],
    [
      'a network that is not there',
      report({
        networks: [networkReport({ device: undefined, mtu: undefined, addresses: [], listeners: [], peers: [] })],
      }),
      false,
      'network corp: no device in namespace ovpn-corp, MTU -\n',
    ],
    [
      'both keys of a rotation',
      report({ networks: [networkReport({ peers: [peerReport({ keys: { primary: 1, secondary: 2 } })] })] }),
      false,
      ' 1+2 ',
    ],
    [
      'a key that only receives',
      report({ networks: [networkReport({ peers: [peerReport({ keys: { primary: undefined, secondary: 2 } })] })] }),
      false,
      ' -+2 ',
    ],
    [
      'a peer that is not in the kernel',
      report({
        networks: [
          networkReport({
            peers: [
              peerReport({ addresses: [], endpoint: undefined, keys: { primary: undefined, secondary: undefined } }),
            ],
          }),
        ],
      }),
      false,
      '7    -             -          -      0 pkt',
    ],
    [
      'attached pods',
      report({
        networks: [
          networkReport({
            attachments: [
              {
                containerId: '0123456789abcdef',
                ifname: 'vpn0',
                netns: '/run/netns/p',
                pod: undefined,
                addresses: ['10.81.0.3'],
              },
              {
                containerId: 'x',
                ifname: 'vpn0',
                netns: '/run/netns/p',
                pod: 'shop/web-0',
                addresses: ['10.81.0.2', 'fd81::2'],
              },
            ],
          }),
        ],
      }),
      false,
      '  POD            INTERFACE   ADDRESS\n  0123456789ab   vpn0        10.81.0.3\n  shop/web-0     vpn0        10.81.0.2, fd81::2\n',
    ],
    [
      'what was rejected',
      report({
        rejections: [
          { origin: 'a.yaml', object: 'VpnPeer x/y', errors: ['bad', 'worse'] },
          { origin: 'b.yaml', object: undefined, errors: ['?'] },
        ],
      }),
      false,
      'rejected: a.yaml (VpnPeer x/y): bad\nrejected: a.yaml (VpnPeer x/y): worse\nrejected: b.yaml: ?\n',
    ],
    [
      'that not everything could be read',
      report({ sourcesComplete: false }),
      false,
      '\nnothing is removed until all resources can be read\n',
    ],
  ])('tells %s', (_name, given, wide, text) => expect(statusText(given, wide)).toContain(text));

  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1024 ** 2, '1.0 MiB'],
    [1.5 * 1024 ** 3, '1.5 GiB'],
    [1024 ** 5, '1024.0 TiB'],
  ])('shows %d bytes as %s', (rxBytes, text) => {
    expect(statusText(report({ networks: [networkReport({ peers: [peerReport({ rxBytes })] })] }), false)).toContain(
      `pkt ${text}  `,
    );
  });
});

describe('ovpn-agent status', () => {
  const serve = async (handle: () => Promise<unknown>): Promise<string> => {
    const socketPath = join(folder(), 'run', 'agent.sock');
    const { log } = recordingLog();
    const bare = {
      info: () => undefined,
      warn: () => undefined,
      error: (fields: object, message: string) => log.error({ event: 'test', ...fields }, message),
    };
    const server = await createAttachServer({ socketPath, handle, log: bare });
    cleanups.push(() => server.close(100));
    return socketPath;
  };

  test('takes a report of many peers', async () => {
    const many = report({
      networks: [networkReport({ peers: Array.from({ length: 10_000 }, (_, i) => peerReport({ peerId: i })) })],
    });
    const socketPath = await serve(() => Promise.resolve(many));
    expect(await callReport(socketPath)).toEqual(JSON.parse(JSON.stringify(many)));
  });

  test('says what the agent says', async () => {
    const socketPath = await serve(() => Promise.reject(new Error('broken')));
    await expect(callReport(socketPath)).rejects.toThrow(expect.objectContaining({ name: 'AgentProtocol' }));
  });

  test.each(['', 'null', '7', '"x"', '{}', '{"ok":', '[]'])('refuses the answer %j', async (answer) => {
    const path = join(folder(), 's');
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.resume();
      socket.end(answer);
    });
    cleanups.push(() => new Promise((resolve) => server.close(resolve)));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    await expect(callReport(path)).rejects.toThrow(
      expect.objectContaining({ name: 'AgentProtocol', where: { object: path } }),
    );
  });

  test('says that no agent is there', () => {
    const { status, stderr, stdout } = run('status', '--socket', '/nowhere/agent.sock');
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/^ovpn-agent: \/nowhere\/agent\.sock: no answer from the agent: .*\[OVPN401\]\n$/);
  });
});

describe('ovpn-agent check', () => {
  test('finds nothing wrong with good manifests, in one file or several', () => {
    const one = folder({ 'all.yaml': whole, '.hidden.yaml': 'rubbish: [', 'notes.txt': 'rubbish: [' });
    expect(run('check', one)).toMatchObject({ status: 0, stdout: '4 objects, 0 problems\n', stderr: '' });
    const parts = folder(Object.fromEntries(whole.map((object, i) => [`${i}.json`, [object]])));
    expect(run('check', parts, join(parts, '0.json'))).toMatchObject({ status: 0, stdout: '4 objects, 0 problems\n' });
  });

  test.each<[string, Readonly<Record<string, string | readonly object[]>>, string[]]>([
    ['YAML that is none', { 'a.yaml': 'a: [' }, ['a.yaml', 'OVPN101']],
    ['an unknown field', { 'a.yaml': [networkManifest('offices', { pool: 1 })] }, ['spec.pool', 'OVPN102']],
    [
      'a missing network',
      { 'a.yaml': whole.slice(1) },
      ['there is no VpnNetwork offices', 'spec.networkRef.name', 'OVPN106'],
    ],
    ['a missing key', { 'a.yaml': [whole[0] ?? {}, whole[1] ?? {}] }, ['there is no VpnKey team-a/office', 'OVPN106']],
    ['a missing Secret', { 'a.yaml': whole.slice(0, 3) }, ['there is no Secret team-a/office-key', 'OVPN201']],
    [
      'a wrong key',
      { 'a.yaml': [...whole.slice(0, 3), secretManifest('office-key', 'geheim')] },
      ['Secret team-a/office-key', 'OVPN202'],
    ],
    [
      'a conflict between files',
      { 'a.yaml': whole, 'b.yaml': [peerManifest('second', { addresses: ['10.8.0.8'] })] },
      ['peer id 7 is taken by VpnPeer team-a/office', 'OVPN111'],
    ],
    [
      'one object in two files',
      { 'a.yaml': whole, 'b.yaml': [whole[1] ?? {}] },
      ['VpnPeer team-a/office', 'b.yaml', 'OVPN105'],
    ],
    [
      'a peer placed on some nodes only',
      {
        'a.yaml': [
          ...whole,
          peerManifest('second', {
            placement: { nodeSelector: { zone: 'b' } },
            static: { peerID: 8 },
            addresses: ['10.8.0.8'],
            keyRef: { name: 'none' },
          }),
        ],
      },
      ['there is no VpnKey team-a/none', 'OVPN106'],
    ],
  ])('tells of %s, and exits 1', (_name, files, texts) => {
    const { status, stdout, stderr } = run('check', folder(files));
    expect([status, stderr]).toEqual([1, '']);
    for (const text of texts) expect(stdout).toContain(text);
    expect(stdout).toMatch(/\n\d+ objects, 1 problems\n$/);
    expect(stdout).not.toContain('geheim');
  });

  test('goes on after a path that is not there', () => {
    const { status, stdout } = run('check', '/nowhere/x.yaml', folder({ 'a.yaml': whole }));
    expect(status).toBe(1);
    expect(stdout).toMatch(/^\/nowhere\/x\.yaml: cannot be read: .*ENOENT.*\[OVPN101\]\n4 objects, 1 problems\n$/);
  });
});

describe('options', () => {
  test.each([
    [['--help'], ['run', 'holder', 'status', 'check']],
    [
      ['run', '--help'],
      ['--manifests', '--node', '--label', '--state', '--holder', '--kubeconfig', '--log-level'],
    ],
    [['holder', '--help'], ['--socket']],
    [['status', '--help'], ['--output']],
  ])('%j shows %j', (args, texts) => {
    const { status, stdout } = run(...args);
    expect(status).toBe(0);
    for (const text of texts) expect(stdout).toContain(text);
  });

  test('--version prints the version of the package', () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as {
      version: string;
    };
    expect(run('--version')).toMatchObject({ status: 0, stdout: `${version}\n` });
  });

  test.each([
    [['runn'], 'Did you mean run?'],
    [['run', '--nod', 'x'], 'Did you mean --node?'],
    [['run', '--label', 'zone'], 'must be key=value'],
    [['run', '--label', '=a'], 'must be key=value'],
    [['run', '--resync', '0'], 'must be a whole number of seconds'],
    [['run', '--resync', '1.5'], 'must be a whole number of seconds'],
    [['run', '--status-interval', 'soon'], 'must be a whole number of seconds'],
    [['run', '--log-level', 'loud'], 'Allowed choices are'],
    [['status', '-o', 'xml'], 'Allowed choices are text, wide, json, yaml'],
    [['explain-route', '10.0.0.1'], 'one of --pod, --netns and --network must be given'],
    [['explain-route', '10.0.0.1', '--pod', 'a/b', '--netns', '/run/netns/x'], 'and only one'],
    [['explain-route', '10.0.0.1', '--pod', 'web'], '"web" is no namespace/name'],
    [['explain-route', '10.0.0.1', '--network', 'corp'], '--network and --from go together'],
    [['explain-route', '10.0.0.1', '--network', 'corp', '--from', '10.1'], '--from is no IP address: "10.1"'],
    [['explain-route', 'example.com', '--pod', 'a/b'], 'the destination is no IP address: "example.com"'],
    [['check'], "missing required argument 'path'"],
  ])('%j is refused', (args, text) => {
    const { status, stderr, stdout } = run(...args);
    expect(status).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toContain(text);
    expect(stderr).toContain('--help');
  });
});
