import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { stringify } from 'yaml';
import { HolderClient } from '../../operator/src/holder/client.ts';
import { MemoryFile } from '../../operator/src/kernel/memory-file.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import { deriveDataKeys, parseStaticKey } from '../../operator/src/openvpn/static-key.ts';
import { Canaries } from '../support/canaries.ts';
import { agentProgram, type Host } from '../support/hosts.ts';
import { KeyTap } from '../support/key-tap.ts';
import { key, newStaticKey, peer, secret } from '../support/manifests.ts';
import { openvpn26, openvpn27 } from '../support/openvpn.ts';
import { agentTail, untilConnected } from '../support/peer-status.ts';
import { PlainRemote } from '../support/remote.ts';
import { attempt, eventually, run } from '../support/run.ts';
import { tlsSecret, wrapSecret } from '../support/session-manifests.ts';
import { defaultPort, netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from './scene.ts';

/**
 * A node with every kind of key on it, some of them broken, and sessions of every kind; then a hunt for them wherever
 * somebody might look who may not have them.
 */

const health = '127.0.0.1:9917';
const canaries = new Canaries();
/** The data keys of sessions by themselves: they may not even be where keys of control channels are. */
const dataKeys = new Canaries();
let scene: Scene;
const taps: KeyTap[] = [];
let alice: VpnAddresses;

/** What the agent made of a static key is as secret as the key. */
function plantStaticKey(name: string, material: string): void {
  const bytes = parseStaticKey(material, {});
  canaries.plant(name, bytes);
  for (const generation of [1, 2]) {
    const options = { cipher: 'AES-256-GCM', direction: 'Normal', generation, derivation: 'HKDF-SHA256' } as const;
    const { encrypt, decrypt } = deriveDataKeys(bytes, options);
    canaries.plant(`${name}: data key ${generation} to the peer`, encrypt.cipherKey);
    canaries.plant(`${name}: data key ${generation} from the peer`, decrypt.cipherKey);
  }
}

/** The states of sessions that the agent has the holder keep, in memory. */
function statesOf(network: string): string {
  const fd = new HolderClient(scene.agent.holderSocket).get(`${network}/@sessions`);
  if (fd === undefined) throw new Error('the holder has no sessions');
  const file = new MemoryFile(fd);
  const text = file.read().toString('utf8');
  file.close();
  return text;
}

/** The keys of control channels in these. */
function plantSessions(network: string): number {
  const text = statesOf(network);
  const keys = [...text.matchAll(/"(?:clientKey|key)":"([A-Za-z0-9+/]{342}==)"/g)].map(([, base64 = '']) => base64);
  keys.forEach((base64, n) => canaries.plant(`session key ${n} of ${network}`, Buffer.from(base64, 'base64')));
  // What is found here at all shows that the hunt finds what is there.
  expect(canaries.findIn(text).length).toBeGreaterThan(0);
  return keys.length;
}

const material = newStaticKey();
const rejected = newStaticKey();
let remoteHost: Host;

beforeAll(async () => {
  const options = ['--log-level', 'debug', '--health', health, '--status-interval', '1', '--resync', '1'];
  scene = await Scene.open('canary', { wrap: 'tls-crypt-v2', options, spec: { rekey: { seconds: 20 } } });
  scene.applyNetwork({ name: 'other', port: 1195, wrap: 'tls-auth', certificate: scene.pki.server('second') });
  plantStaticKey('static key', material);
  plantStaticKey('broken static key', rejected);
  canaries.plantBlock('key of tls-auth and tls-crypt', scene.keys.shared);
  canaries.plantBlock('tls-crypt-v2 key of the server', scene.keys.v2Server);
  // Behind it is the wrapped key, which is sent in the clear.
  canaries.plantBlock('tls-crypt-v2 key of a client', scene.keys.v2Client, 256);
  for (const name of ['server', 'second']) canaries.plantPrivateKey(`TLS key of ${name}`, scene.pki.server(name).key);
  for (const name of ['gateway', 'alice', 'bob', 'spare'])
    canaries.plantPrivateKey(`TLS key of ${name}`, scene.pki.client(name).key);
  await scene.listening('other');
  for (const name of ['corp', 'other'])
    taps.push(await KeyTap.start(scene.kernelOf(name).path, join(scene.hosts.folder, `${name}.pcap`)));

  // A static peer, whose key is rotated; a client with each build; a server that we dial.
  remoteHost = await scene.hosts.host('static');
  scene.agent.apply('static-secret.yaml', secret('static', material));
  scene.agent.apply('static-key.yaml', key({ name: 'static', direction: 'Normal' }));
  scene.agent.apply(
    'static-peer.yaml',
    peer({
      name: 'static',
      peerID: 7,
      endpoint: { address: remoteHost.ipv4, port: 1194 },
      addresses: ['10.80.0.200', 'fd80::200'],
      routes: ['192.168.50.0/24'],
    }),
  );
  await PlainRemote.create(remoteHost, {
    peerId: 7,
    addresses: ['10.80.0.200/24', 'fd80::200/112'],
    routes: [],
    endpoint: { address: scene.node.ipv4, port: defaultPort },
    material,
  }).then((remote) => {
    remote.install('secondary', 2);
  });
  alice = scene.admit('alice');
  scene.admit('bob', { networkName: 'other' });
  const serverHost = await scene.hosts.host('dialled');
  await scene.server(serverHost, { wrap: 'tls-crypt', build: openvpn26 });
  scene.dial('dialled', {
    wrap: 'tls-crypt',
    endpoints: [{ address: serverHost.ipv4, port: 1194, protocol: 'UDP' }],
    certificate: scene.pki.client('gateway'),
  });
  const other = { address: scene.node.ipv4, port: 1195 };
  const [client] = await Promise.all([
    scene.connectedClient('alice', { build: openvpn27, transport: 'TCP' }),
    scene.connectedClient('bob', { build: openvpn26, wrap: 'tls-auth', remotes: [other] }),
    untilConnected(scene.agent, 'dialled'),
  ]);
  await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
  expect(plantSessions('corp')).toBeGreaterThan(1);
});
afterAll(async () => {
  for (const tap of taps) await tap.stop();
  await scene.close();
});

/** What looks like a Secret of the network and is none that works: whoever complains must not show it. */
const broken: Readonly<Record<string, () => Record<string, string>>> = {
  'a private key that ends early': () => ({ 'corp-server.yaml': serverSecret((pem) => pem.slice(0, 180)) }),
  'a private key with a strange letter': () => ({
    'corp-server.yaml': serverSecret((pem) => pem.replace(/^(.{60})./m, '$1?')),
  }),
  'a private key without its first line': () => ({
    'corp-server.yaml': serverSecret((pem) => pem.replace(/^.*\n/, '')),
  }),
  'a private key twice in base64': () => ({
    'corp-server.yaml': serverSecret((pem) => Buffer.from(pem).toString('base64')),
  }),
  "somebody else's private key": () => ({ 'corp-server.yaml': serverSecret(() => scene.pki.client('spare').key) }),
  'the private key as certificate': () => {
    const { cert, key: own } = scene.pki.server();
    const swapped = { cert: own, key: cert };
    const settings = { certificate: swapped, ca: own, crl: own, namespace: 'ovpn-system' };
    return { 'corp-server.yaml': tlsSecret('corp-server', settings) };
  },
  'a key of tls-crypt-v2 that ends early': () => ({
    'corp-wrap.yaml': wrapSecret('corp-wrap', scene.keys.v2Server.slice(0, 150), 'ovpn-system'),
  }),
  'a key of tls-crypt-v2 with a strange letter': () => ({
    'corp-wrap.yaml': wrapSecret('corp-wrap', scene.keys.v2Server.replace(/^(.{50})./m, '$1?'), 'ovpn-system'),
  }),
  'a static key in the place of one of tls-crypt-v2': () => ({
    'corp-wrap.yaml': wrapSecret('corp-wrap', scene.keys.shared, 'ovpn-system'),
  }),
  'a static key with a strange letter': () => ({
    'static-secret.yaml': secret('static', rejected.replace(/^(.{20})./m, '$1x')),
  }),
  'a static key that ends early': () => ({ 'static-secret.yaml': secret('static', rejected.slice(0, 300)) }),
  'a Secret of the network that is deleted': () => ({ 'corp-server.yaml': '' }),
  'a Secret of the wrapping that is deleted': () => ({ 'corp-wrap.yaml': '' }),
  'a Secret of a static key that is deleted': () => ({ 'static-secret.yaml': '' }),
  'a static key that is not indented': () => ({
    'broken.yaml': `apiVersion: v1\nkind: Secret\nmetadata: {name: broken}\nstringData:\n  static.key: |\n${rejected}`,
  }),
  'a static key behind the bar': () => ({
    'broken.yaml': `apiVersion: v1\nkind: Secret\nmetadata: {name: broken}\ndata:\n  static.key: |${encoded(rejected)}`,
  }),
  'a static key as an object': () => ({
    'broken.yaml': stringify({
      ...{ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'broken' } },
      stringData: { 'static.key': { value: rejected } },
    }),
  }),
  'a static key in the VpnKey itself': () => ({
    'broken.yaml': stringify({
      ...{ apiVersion: 'ovpn-operator.io/v1alpha1', kind: 'VpnKey', metadata: { name: 'broken' } },
      spec: { static: { secretRef: { name: rejected }, direction: rejected, material: rejected } },
    }),
  }),
};
const encoded = (text: string): string => Buffer.from(text).toString('base64');

function serverSecret(change: (pem: string) => string): string {
  const { cert, key: own } = scene.pki.server();
  const certificate = { cert, key: change(own) };
  return tlsSecret('corp-server', { certificate, ca: scene.pki.ca, namespace: 'ovpn-system' });
}

/** What is wrong, by the agent's report. */
async function troubles(): Promise<string> {
  const { rejections, networks } = await scene.agent.report();
  const peers = networks.flatMap((network) => [network.problem, ...network.peers.map((each) => each.message)]);
  return JSON.stringify([rejections, peers]);
}

/** All complaints there are: also those of which the log alone tells. */
async function complaints(): Promise<string> {
  return `${await troubles()} ${scene.agent.said('server.failed').length}`;
}

describe('somebody complains, and connected peers stay, at', () => {
  test.each(Object.keys(broken))('%s', async (what) => {
    const files = broken[what]?.() ?? {};
    const before = new Map<string, string | undefined>();
    for (const file of Object.keys(files)) {
      const path = join(scene.agent.manifests, file);
      before.set(file, file === 'broken.yaml' ? undefined : readFileSync(path, 'utf8'));
    }
    const [calm, said] = [await troubles(), await complaints()];
    for (const [file, text] of Object.entries(files)) scene.agent.apply(file, text);
    await eventually('a complaint', async () => (await complaints()) !== said || undefined).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${agentTail(scene.agent)}`, { cause: error });
    });
    for (const [file, text] of before) {
      if (text === undefined) scene.agent.unapply(file);
      else scene.agent.apply(file, text);
    }
    // The next complaint may have the same words.
    await eventually('no complaint any more', async () => (await troubles()) === calm || undefined);
    await untilConnected(scene.agent, 'alice');
  });
});

test('a static key is rotated, and the node is where it was', async () => {
  scene.agent.apply('static-key.yaml', key({ name: 'static', direction: 'Normal', generation: 2 }));
  await eventually('key 2', () => scene.kernel.slots(7).startsWith('2/') || undefined);
  for (const name of ['bob', 'dialled']) await untilConnected(scene.agent, name);
});

test('data keys of sessions are seen on their way to the kernel, and are not in the states of sessions', async () => {
  await eventually('a further key of alice', () => (scene.keyTo(alice) ?? 0) > 0 || undefined);
  const seen = taps.flatMap(({ keys }) => keys);
  const options = { cipher: 'AES-256-GCM', direction: 'Normal', generation: 2, derivation: 'HKDF-SHA256' } as const;
  const { encrypt, decrypt } = deriveDataKeys(parseStaticKey(material, {}), options);
  // Of one that is known it is sure that it went there.
  for (const known of [encrypt, decrypt]) expect(seen.some((bytes) => bytes.equals(known.cipherKey))).toBe(true);
  // Two of alice, one of bob, one of the server that we dial, two static ones; each in both directions and once.
  expect(seen.length).toBeGreaterThanOrEqual(12);
  expect(new Set(seen.map((bytes) => bytes.toString('hex'))).size).toBe(seen.length);
  for (const [n, bytes] of seen.entries()) {
    canaries.plant(`data key ${n}`, bytes);
    dataKeys.plant(`data key ${n}`, bytes);
  }
  for (const name of ['corp', 'other']) expect(dataKeys.findIn(statesOf(name))).toEqual([]);
});

/** Runs our program on the node, whatever it answers. */
async function said(...args: string[]): Promise<string> {
  const command = scene.node.command(process.execPath, agentProgram, ...args);
  const { stdout, stderr } = await attempt('nsenter', command);
  return stdout + stderr;
}

const ofSocket = (): string[] => ['--socket', scene.agent.socket];

/** All files below a folder, with their modes. */
function filesBelow(folder: string): { readonly path: string; readonly mode: number; readonly isFile: boolean }[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => {
    const path = join(folder, name);
    const stats = statSync(path);
    return { path, mode: stats.mode & 0o777, isFile: stats.isFile() };
  });
}

describe('nothing of a key is in', () => {
  /** A place where nothing is said hides nothing: each must have what it always has. */
  function clean(text: string, has: string | RegExp): void {
    expect(text).toMatch(has);
    const found = canaries.findIn(text);
    if (found.length > 0) throw new Error(`found: ${found.join(', ')}`);
  }

  test('logs at the level debug', () => {
    clean(scene.agent.log, /"event":"server.failed"/);
    clean(scene.agent.holderLog, 'holder-put');
  });

  test.each(['text', 'wide', 'json', 'yaml'])('status -o %s', async (format) => {
    clean(await said('status', ...ofSocket(), '-o', format), 'static');
  });

  test.each(['text', 'json'])('doctor and explain-route -o %s', async (format) => {
    const doctor = ['doctor', ...ofSocket(), '--holder', scene.agent.holderSocket, '--state', scene.agent.state];
    clean(await said(...doctor, '-o', format), /ovpn/);
    const from = ['--network', 'corp', '--from', nodeVpn.ipv4];
    clean(await said('explain-route', '192.168.50.1', ...from, ...ofSocket(), '-o', format), '192.168.50.1');
  });

  test('the report of `check` on the manifests, broken ones too', async () => {
    const text = Object.values(broken).map((files) => Object.values(files()).join('\n---\n'));
    const folder = join(scene.hosts.folder, 'to-check');
    await run('mkdir', folder);
    text.forEach((each, n) => {
      writeFileSync(join(folder, `${n}.yaml`), each, { mode: 0o600 });
    });
    clean(await said('check', folder, scene.agent.manifests), /OVPN10/);
  });

  test('metrics and probes', async () => {
    const get = (path: string): string =>
      `process.stdout.write(await (await fetch('http://${health}${path}')).text());`;
    const program = ['/metrics', '/healthz', '/readyz'].map(get).join('');
    clean(await scene.node.exec(process.execPath, '--input-type=module', '-e', program), 'ovpn_peer_connected');
  });

  test('status files, the state folder and all else that is kept on disk; and nobody else may read that', () => {
    const { folder, manifests, state } = scene.agent;
    const kept = filesBelow(folder).filter(({ path }) => !path.startsWith(manifests));
    const files = kept.filter(({ isFile, path }) => isFile && !path.startsWith(join(folder, 'netns')));
    expect(files.map(({ path }) => path).join(' ')).toMatch(/spent-keys/);
    clean(files.map(({ path }) => `${path}\n${readFileSync(path, 'latin1')}`).join('\n'), 'VpnPeer.default.alice');
    const open = kept.filter(({ path, mode }) => path.startsWith(`${state}/`) && (mode & 0o022) !== 0);
    expect(open).toEqual([]);
    const sockets = [scene.agent.socket, scene.agent.holderSocket].map((path) => statSync(path).mode & 0o077);
    expect(sockets).toEqual([0, 0]);
    expect(statSync(state).mode & 0o077).toBe(0);
  });

  test('command lines and environments of processes', () => {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
    const text = pids.flatMap((pid) => ['cmdline', 'environ'].map((file) => readOrNothing(`/proc/${pid}/${file}`)));
    clean(text.join('\n'), 'ovpn-agent');
  });

  test('what the kernel shows of links, routes and filters', async () => {
    const commands = ['ip -d addr', 'ip route show table all', 'nft list ruleset'];
    clean(await scene.kernel.exec('sh', '-c', commands.join('; ')), 'ovpn0');
  });

  test('an error of the kernel about a key', () => {
    const ovpn = OvpnFamily.open(scene.kernel.path);
    const options = { cipher: 'AES-256-GCM', direction: 'Normal', generation: 1, derivation: 'HKDF-SHA256' } as const;
    const { encrypt, decrypt } = deriveDataKeys(parseStaticKey(material, {}), options);
    try {
      // There is no such peer.
      const request = ovpn.requests.keyNew(scene.kernel.deviceIndex, {
        ...{ peerId: 4711, slot: 'primary', keyId: 1, cipher: 'AES-GCM', encrypt, decrypt },
      });
      ovpn.send(request);
      throw new Error('the kernel took it');
    } catch (error) {
      clean(inspect(error, { depth: 10 }) + String((error as Error).stack), '4711');
    } finally {
      ovpn.close();
    }
  });

  test('the answer of the plugin, when it attaches and when it does not', async () => {
    const netns = await scene.hosts.namespace('canary-pod');
    const call = { network: 'corp', containerId: 'canary-pod', netns };
    const added = await scene.agent.cni('ADD', call);
    clean(added.stdout + added.stderr, '10.81.1');
    const refused = await scene.agent.cni('ADD', { ...call, network: 'nothing', containerId: 'canary-two' });
    clean(refused.stdout + refused.stderr, 'OVPN');
    await scene.agent.cni('DEL', call);
  });

  // The last one: it ends the processes.
  test('a core dump: there is none, though the machine writes them', async () => {
    const pattern = '/proc/sys/kernel/core_pattern';
    const before = readFileSync(pattern, 'utf8');
    const folder = join(scene.hosts.folder, 'cores');
    await run('mkdir', '-m', '777', folder);
    writeFileSync(pattern, `${folder}/core.%p`);
    const { agentPid = 0, holderPid = 0 } = scene.agent;
    const other = spawn(process.execPath, ['-e', 'setInterval(() => undefined, 1000); console.log(1)']);
    try {
      await once(other.stdout, 'data');
      const pids = [other.pid ?? 0, agentPid, holderPid];
      for (const pid of pids) await run('prlimit', '--pid', `${pid}`, '--core=unlimited:unlimited');
      for (const pid of pids) process.kill(pid, 'SIGQUIT');
      await eventually(
        'their end',
        () => pids.every((pid) => readOrNothing(`/proc/${pid}/cmdline`) === '') || undefined,
      );
      expect(readdirSync(folder)).toEqual([`core.${other.pid}`]);
    } finally {
      other.kill('SIGKILL');
      writeFileSync(pattern, before);
    }
  });
});

/** A process may end while it is looked at. */
function readOrNothing(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
