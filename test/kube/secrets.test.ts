import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Condition } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { Canaries } from '../support/canaries.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { newStaticKey } from '../support/manifests.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';

/**
 * A cluster with every kind of key in it, those of the built-in CA too; then a hunt for them in all that the API server
 * tells of anything but the data of Secrets, and in all that the controller says.
 */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const caNamespace = `${systemNamespace}-ca`;
const canaries = new Canaries();
const pki = new Pki();
const staticKey = newStaticKey();
const broken = newStaticKey();

let plane: ControlPlane;
let controller: ControllerProcess;

interface Listed {
  readonly metadata: { readonly namespace?: string; readonly name: string };
  readonly data?: Readonly<Record<string, string>>;
  readonly status?: { readonly conditions?: readonly Condition[] };
}

const secret = (namespace: string, name: string, stringData: Readonly<Record<string, string>>) => ({
  apiVersion: 'v1',
  kind: 'Secret',
  metadata: { namespace, name },
  stringData,
});

const key = (name: string, spec: object) => ({
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace: 'team-a', name },
  spec,
});

const network = (name: string, port: number, spec: object) => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name },
  spec: {
    pools: { peers: ['10.8.0.0/16'] },
    listeners: [{ name: 'udp', port, endpoints: [{ address: 'vpn.example.com' }] }],
    allowedPeers: { namespaces: { names: ['team-a'] } },
    ...spec,
  },
});

const staticPeer = (name: string, peerID: number) => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'team-a', name },
  spec: {
    networkRef: { name: 'builtin' },
    endpoint: { address: '198.51.100.7', port: 1194 },
    keyRef: { name },
    static: { peerID },
    addresses: [`10.8.0.${peerID}`],
  },
});

const apply = (...items: object[]): Promise<void> =>
  plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));

const list = async (path: string): Promise<readonly Listed[]> =>
  (await plane.admin.get<{ items: readonly Listed[] }>(path)).items;

const conditionOf = async (
  kind: 'VpnKey' | 'VpnNetwork',
  name: string,
  type: string,
): Promise<Condition | undefined> => {
  const where = kind === 'VpnKey' ? { namespace: 'team-a', name } : { name };
  const { status } = await plane.admin.get<Listed & Record<string, unknown>>(apiPath(kind, where));
  return status?.conditions?.find((each) => each.type === type);
};

const becomes = (kind: 'VpnKey' | 'VpnNetwork', name: string, type: string, status: string): Promise<Condition> =>
  eventually(`${type} of ${name} is ${status}`, async () => {
    const found = await conditionOf(kind, name, type);
    return found?.status === status ? found : undefined;
  });

/** Plants what is in the entries of a Secret by what they are. */
function plantEntries(where: string, entries: Readonly<Record<string, string>>): void {
  for (const [entry, text] of Object.entries(entries)) {
    const name = `${entry} of ${where}`;
    if (/^-----BEGIN [A-Z ]*PRIVATE KEY/.test(text)) canaries.plantPrivateKey(name, text);
    if (text.startsWith('-----BEGIN OpenVPN tls-crypt-v2 server')) canaries.plantBlock(name, text);
    // Behind it is the wrapped key, which is sent in the clear.
    if (text.startsWith('-----BEGIN OpenVPN tls-crypt-v2 client')) canaries.plantBlock(name, text, 256);
  }
}

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace('team-a');
  const user = await plane.controller();
  // Of its token, the signature: the rest says who it is.
  canaries.plant('the token of the controller', Buffer.from(user.credentials.token.split('.')[2] ?? '', 'base64url'));
  controller = new ControllerProcess('ovpn-controller-0', user, undefined, ['--log-level', 'debug']);
  await controller.start();

  const [server, client] = [pki.server('vpn'), pki.client('office')];
  const password = randomBytes(24).toString('base64');
  canaries.plantBlock('the static key', staticKey);
  canaries.plantBlock('the broken static key', broken);
  canaries.plantPrivateKey('the TLS key of the network', server.key);
  canaries.plantPrivateKey('the TLS key of a peer', client.key);
  canaries.plant('something else in the same Secret', Buffer.from(password, 'base64'));
  await apply(
    secret('team-a', 'static', { 'static.key': staticKey, password }),
    secret('team-a', 'broken', { 'static.key': broken.slice(0, 300) }),
    secret('team-a', 'dialled', { 'tls.crt': client.cert, 'tls.key': client.key.slice(0, 150), 'ca.crt': pki.ca }),
    secret(systemNamespace, 'own-pki', { 'tls.crt': server.cert, 'tls.key': server.key, 'ca.crt': pki.ca }),
    // What is a CA by its name and none by what is in it.
    secret(caNamespace, 'no-ca', { 'tls.crt': server.key, 'tls.key': server.key.replace(/^(.{50})./m, '$1?') }),
    network('builtin', 1194, { pki: { builtIn: {} }, controlChannel: { wrap: 'TLSCryptV2' } }),
    network('own', 1195, { pki: { secretRef: { name: 'own-pki' } } }),
    network('damaged', 1196, { pki: { builtIn: { caSecretRef: { name: 'no-ca' } } } }),
    key('static', { static: { secretRef: { name: 'static' }, direction: 'Normal' } }),
    key('broken', { static: { secretRef: { name: 'broken' }, direction: 'Normal' } }),
    key('dialled', { tls: { secretRef: { name: 'dialled' } } }),
    key('alice', { issued: { networkRef: { name: 'builtin' } } }),
    staticPeer('static', 7),
    staticPeer('broken', 8),
    {
      apiVersion,
      kind: 'VpnPeer',
      metadata: { namespace: 'team-a', name: 'alice' },
      spec: { networkRef: { name: 'builtin' }, identity: { key: 'alice' } },
    },
    {
      apiVersion,
      kind: 'VpnPeer',
      metadata: { namespace: 'team-a', name: 'dialled' },
      spec: {
        networkRef: { name: 'builtin' },
        endpoint: { address: 'vpn.example.com', port: 1194 },
        keyRef: { name: 'dialled' },
      },
    },
  );
  await becomes('VpnKey', 'alice', 'Ready', 'True');
  await becomes('VpnNetwork', 'damaged', 'PkiReady', 'False');
  await eventually('the copies for agents', async () => {
    const names = (await list(apiPath('Secret', { namespace: systemNamespace }))).map(({ metadata }) => metadata.name);
    return (
      ['copy.team-a.static', 'copy.team-a.broken', 'copy.team-a.dialled'].every((name) => names.includes(name)) ||
      undefined
    );
  });
  // What the controller itself has made.
  for (const [namespace, name] of [
    [caNamespace, 'builtin'],
    [systemNamespace, 'builtin.pki'],
    ['team-a', 'alice'],
  ] as const) {
    const { data = {} } = await plane.admin.get<Listed & Record<string, unknown>>(
      apiPath('Secret', { namespace, name }),
    );
    plantEntries(
      `${namespace}/${name}`,
      Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, 'base64').toString()])),
    );
  }
}, 300_000);
afterAll(async () => {
  await controller.stop();
  await plane.stop();
  pki.remove();
}, 60_000);

function clean(text: string, has: string | RegExp): void {
  expect(text).toMatch(has);
  const found = canaries.findIn(text);
  if (found.length > 0) throw new Error(`found: ${found.join(', ')}`);
}

test('keys were planted, those that the controller has made too', () => {
  expect(canaries.names).toEqual(
    expect.arrayContaining([
      'ca-1.key of ovpn-system-ca/builtin',
      'tls-crypt-v2-server.key of ovpn-system-ca/builtin',
      'tls.key of ovpn-system/builtin.pki',
      'tls.key of team-a/alice',
      'tls-crypt-v2.key of team-a/alice',
    ]),
  );
});

describe('nothing of a key is in', () => {
  /** Every object of every kind that the API server has, by the kind. */
  async function everything(): Promise<Map<string, readonly Listed[]>> {
    const groups = await plane.admin.get<{ groups: { preferredVersion: { groupVersion: string } }[] }>('/apis');
    const versions = [
      '/api/v1',
      ...groups.groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`),
    ];
    const found = new Map<string, readonly Listed[]>();
    for (const version of versions) {
      const { resources } = await plane.admin.get<{ resources: { name: string; verbs: string[] }[] }>(version);
      for (const { name, verbs } of resources) {
        if (!name.includes('/') && verbs.includes('list')) found.set(name, await list(`${version}/${name}`));
      }
    }
    return found;
  }

  test('any object of any kind, but for the data of the Secrets where it belongs', async () => {
    const found = await everything();
    expect([...found.keys()]).toEqual(
      expect.arrayContaining([
        'vpnnetworks',
        'vpnpeers',
        'vpnkeys',
        'vpnallocations',
        'events',
        'secrets',
        'configmaps',
      ]),
    );
    for (const [kind, items] of found) {
      const shown = items.map(({ data, ...rest }) => (kind === 'secrets' ? rest : { ...rest, data }));
      const guilty = shown.flatMap((item) =>
        canaries.findIn(JSON.stringify(item)).map((name) => `${name}: ${JSON.stringify(item)}`),
      );
      expect({ kind, guilty }).toEqual({ kind, guilty: [] });
    }
    clean(JSON.stringify(found.get('vpnkeys')), 'alice');
    clean(JSON.stringify(found.get('events')), 'damaged');
  });

  test('Secrets where it does not belong, nor is what nobody asked for copied', async () => {
    const found = (await list('/api/v1/secrets')).flatMap(({ metadata, data = {} }) =>
      canaries
        .findIn(JSON.stringify(Object.values(data).map((text) => Buffer.from(text, 'base64').toString())))
        .map((name) => [name, `${metadata.namespace}/${metadata.name}`] as const),
    );
    const places = (wanted: string): string[] =>
      found
        .filter(([name]) => name === wanted)
        .map(([, place]) => place)
        .sort();
    expect(places('something else in the same Secret')).toEqual(['team-a/static']);
    expect(places('ca-1.key of ovpn-system-ca/builtin')).toEqual(['ovpn-system-ca/builtin']);
    expect(places('tls.key of ovpn-system/builtin.pki')).toEqual(['ovpn-system/builtin.pki']);
    expect(places('tls.key of team-a/alice')).toEqual(['team-a/alice']);
    expect(places('the static key')).toEqual(['ovpn-system/copy.team-a.static', 'team-a/static']);
    // It is made beside the CA, and agents need it.
    expect(places('tls-crypt-v2-server.key of ovpn-system-ca/builtin')).toEqual([
      'ovpn-system-ca/builtin',
      'ovpn-system/builtin.pki',
    ]);
  });

  test('the log of the controller at the level debug, and its metrics', async () => {
    clean(controller.log, /"level":"debug"/);
    clean(await controller.metrics(), 'ovpn_');
  });

  test('its command line and its environment, nor those of any process', () => {
    const text = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .flatMap((pid) => ['cmdline', 'environ'].map((file) => readOrNothing(`/proc/${pid}/${file}`)));
    clean(text.join('\n'), 'ovpn-controller');
  });

  test('the audit log of the API server: no request has a key in its address', () => {
    clean(JSON.stringify(plane.audit()), 'ovpn-controller');
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
