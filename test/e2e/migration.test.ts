import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { parseAllDocuments, stringify } from 'yaml';
import { type Block, readPage } from '../../scripts/docs/pages.ts';
import { repository } from '../../scripts/docs/reference.ts';
import { AgentProcess, type Host, Hosts } from '../support/hosts.ts';
import { attachPod, type Pod, podAddress } from '../support/office.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, OpenvpnProcess, type Wrap, WrapKeys } from '../support/openvpn.ts';
import { Pki } from '../support/pki.ts';
import { run } from '../support/run.ts';
import { netnsOf, reaches } from './scene.ts';

/**
 * docs/migration.md, done: its server.conf and its client's file with a stock server, then the same client's file with
 * our node, which has the manifests, Secrets and VpnPeers that the page makes of the server's files.
 */
const page = readPage('docs/migration.md', readFileSync(join(repository, 'docs/migration.md'), 'utf8'));

/** The block of the page that begins with this comment. */
function block(comment: string, language: string): string {
  const found = page.blocks.filter(({ text, language: own }: Block) => own === language && text.startsWith(comment));
  expect(found.map(({ line }) => line)).toHaveLength(1);
  return found[0]?.text ?? '';
}

let hosts: Hosts;
let old: Host;
let node: Host;
let agent: AgentProcess | undefined;
let keys: WrapKeys;
let pod: Pod;
/** The folder of the old server. */
let etc: string;
const pki = new Pki('Easy-RSA CA');
const lan = '192.168.7.10';

beforeAll(async () => {
  hosts = await Hosts.create('migr');
  old = await hosts.host('old');
  node = await hosts.host('gateway-1');
  keys = await WrapKeys.create(hosts.folder);
  pki.client('mallory');
  etc = join(hosts.folder, 'etc');
  mkdirSync(join(etc, 'ccd'), { recursive: true });
  const file = (name: string, text: string): void => writeFileSync(join(etc, name), text, { mode: 0o600 });
  file('ca.crt', pki.ca);
  file('server.crt', pki.server('vpn.example.com').cert);
  file('server.key', pki.server('vpn.example.com').key);
  file('ta.key', keys.shared);
  file('v2.key', keys.v2Server);
  file('crl.pem', pki.revoke('mallory'));
  file('server.conf', block('# server.conf\n', 'text'));
  for (const name of ['alice', 'branch']) file(`ccd/${name}`, block(`# ccd/${name}\n`, 'text'));
}, 120_000);
afterAll(async () => {
  await hosts.remove();
  pki.remove();
});

const wrapLines: Readonly<Record<Exclude<Wrap, 'none'>, string>> = {
  'tls-auth': 'tls-auth ta.key 0',
  'tls-crypt': 'tls-crypt ta.key',
  'tls-crypt-v2': 'tls-crypt-v2 v2.key',
};

/** The old server, as it stands in the page. */
async function oldServer(wrap: keyof typeof wrapLines = 'tls-auth'): Promise<OpenvpnProcess> {
  const text = readFileSync(join(etc, 'server.conf'), 'utf8');
  expect(text).toContain(wrapLines['tls-auth']);
  const config = `cd ${etc}\n${text.replace(wrapLines['tls-auth'], wrapLines[wrap])}`;
  const server = OpenvpnProcess.startFile(old, openvpn26, config);
  await server.connected();
  return server;
}

interface ClientSettings {
  readonly build?: OpenvpnBuild;
  readonly wrap?: keyof typeof wrapLines;
}

/** A client's file as the old server's administrator gave it out; what is tried is whether it is good for both. */
function clientFile(name: string, { wrap = 'tls-auth' }: ClientSettings = {}): string {
  const text = block('# alice.ovpn\n', 'text');
  const head = wrap === 'tls-auth' ? text : text.replace('key-direction 1\n', '');
  const { cert, key } = pki.client(name);
  const parts = { ca: pki.ca, cert, key, [wrap]: keys.of(wrap, 'client') ?? '' };
  const inline = Object.entries(parts).map(([part, words]) => `<${part}>\n${words.trimEnd()}\n</${part}>\n`);
  return head + inline.join('');
}

/** Starts a client with its file, of which only the address of `remote` is another. No resolver is changed in the lab. */
async function start(host: Host, text: string, to: Host, { build = openvpn26 } = {}): Promise<OpenvpnProcess> {
  expect(text).toContain('remote vpn.example.com 1194\n');
  const file = text.replace('remote vpn.example.com 1194', `remote ${to.ipv4} 1194`);
  const lab = 'pull-filter ignore "dns "\npull-filter ignore "dhcp-option"\nconnect-retry 1 2\n';
  return Promise.resolve(OpenvpnProcess.startFile(host, build, file + lab));
}

async function connect(name: string, to: Host, settings: ClientSettings = {}): Promise<OpenvpnProcess> {
  const host = clients.get(name) ?? (await hosts.host(name));
  clients.set(name, host);
  const client = await start(host, clientFile(name, settings), to, settings);
  await client.connected(1, 60_000).catch((error: unknown) => {
    throw new Error(`${String(error)}\nour agent:\n${agent?.log ?? ''}`, { cause: error });
  });
  return client;
}
const clients = new Map<string, Host>();

/** The Secrets that the page's commands make of the old server's files. */
function secrets(): string {
  const commands = page.blocks.flatMap(({ text }) =>
    [...text.matchAll(/^\$ kubectl -n (\S+) create secret generic (\S+) (.*)$/gm)].slice(0, 2),
  );
  expect(commands.map(([, , name]) => name)).toEqual(['corp-server', 'corp-wrap']);
  return commands
    .map(([, namespace, name, words = '']) => {
      const files = [...words.matchAll(/--from-file=(?:([\w.]+)=)?([\w.]+)/g)].map(([, key, file = '']) => [
        key ?? file,
        readFileSync(join(etc, file), 'utf8'),
      ]);
      return stringify({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { namespace, name },
        stringData: Object.fromEntries(files) as object,
      });
    })
    .join('---\n');
}

/** The page's VpnNetwork, perhaps with another controlChannel. */
function applyNetwork(controlChannel?: object): void {
  const [found] = parseAllDocuments(block('# network.yaml\n', 'yaml'));
  const network = found?.toJS() as { spec: { controlChannel: object } };
  if (controlChannel !== undefined) network.spec.controlChannel = controlChannel;
  agent?.apply('network.yaml', stringify(network));
}

describe('with the old server', () => {
  let server: OpenvpnProcess;
  beforeAll(async () => {
    server = await oldServer();
  });
  afterAll(async () => {
    await server.end();
  });

  test('a client has its address and reaches the network behind the branch', async () => {
    const [alice, branch] = await Promise.all([connect('alice', old), connect('branch', old)]);
    await run('ip', '-n', branch.host.namespace, 'addr', 'add', `${lan}/32`, 'dev', 'lo');
    expect(await alice.addresses()).toEqual(['10.8.0.50']);
    await reaches(netnsOf(alice.host), ['10.8.0.1', lan]);
    expect(alice.log).toMatch(/PUSH_REPLY.*route 192\.168\.7\.0 255\.255\.255\.0.*dhcp-option DNS 10\.9\.0\.53/);
    await Promise.all([alice.end(), branch.end()]);
  });
});

test('the page’s script makes of the ccd files the VpnPeers that the page shows', async () => {
  const folder = join(hosts.folder, 'script');
  cpSync(join(etc, 'ccd'), join(folder, 'ccd'), { recursive: true });
  await run('sh', '-c', `cd ${folder} && ${block('# peers.yaml from ccd/', 'sh')}`);
  const objects = (text: string): unknown[] =>
    parseAllDocuments(text).flatMap((document) => (document.contents === null ? [] : [document.toJS() as unknown]));
  const made = readFileSync(join(folder, 'peers.yaml'), 'utf8');
  expect(objects(made)).toEqual(objects(block('# peers.yaml\n', 'yaml')));
});

describe('with our node', () => {
  let running: AgentProcess;
  beforeAll(async () => {
    running = agent = new AgentProcess(node);
    agent.apply('secrets.yaml', secrets());
    applyNetwork();
    agent.apply('peers.yaml', block('# peers.yaml\n', 'yaml'));
    await agent.start();
    await agent.until('the listener of corp', ({ networks }) =>
      networks.some(({ listeners }) => listeners.length === 1),
    );
    pod = await attachPod(agent, 'pod', { podNamespace: 'shop' });
  }, 120_000);

  test('the same files connect, with the same addresses, and reach pods and each other', async () => {
    const [alice, branch] = await Promise.all([connect('alice', node), connect('branch', node)]);
    expect(await alice.addresses()).toEqual(['10.8.0.50']);
    expect(await branch.addresses()).toEqual(['10.8.0.60']);
    await reaches(netnsOf(alice.host), ['10.8.0.1', lan, podAddress(pod, 4)]);
    await reaches(pod.netns, ['10.8.0.50', lan]);
    expect(alice.log).toMatch(/PUSH_REPLY.*route 192\.168\.7\.0 255\.255\.255\.0.*dhcp-option DNS 10\.9\.0\.53/);
    await Promise.all([alice.end(), branch.end()]);
  }, 120_000);

  test('who was revoked stays out, and so does who has no VpnPeer', async () => {
    pki.client('carol');
    for (const [name, why] of [
      ['mallory', 'certificate is revoked'],
      ['carol', 'no VpnPeer'],
    ] as const) {
      const client = await start(await hosts.host(name), clientFile(name), node);
      await running.until(why, () => running.log.includes(why));
      expect(client.log).not.toContain('Initialization Sequence Completed');
      await client.end('SIGKILL');
    }
  }, 120_000);

  test.each([
    ['tls-auth', openvpn27, { wrap: 'TLSAuth', keyDirection: 'Normal', digest: 'SHA256' }],
    ['tls-crypt', openvpn26, { wrap: 'TLSCrypt' }],
    ['tls-crypt-v2', openvpn27, { wrap: 'TLSCryptV2' }],
  ] as const)(
    'one file is good for both servers, there and back: %s, %s',
    async (wrap, build, channel) => {
      const server = await oldServer(wrap);
      const wrapKey = wrap === 'tls-crypt-v2' ? keys.v2Server : keys.shared;
      const metadata = { namespace: 'ovpn-system', name: 'moved-wrap' };
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata, stringData: { 'wrap.key': wrapKey } };
      running.apply('moved.yaml', stringify(secret));
      applyNetwork({ ...channel, secretRef: { name: 'moved-wrap' } });
      for (const to of [old, node, old]) {
        const client = await connect('alice', to, { wrap, build });
        expect(await client.addresses()).toEqual(['10.8.0.50']);
        await reaches(netnsOf(client.host), to === node ? ['10.8.0.1', podAddress(pod, 4)] : ['10.8.0.1'], 2);
        await client.end();
      }
      await server.end();
    },
    180_000,
  );
});
