import { afterAll, describe, expect, test } from '@jest/globals';
import { parseResource } from '../../api/parse.ts';
import type { Secret, VpnNetwork, VpnPeer } from '../../api/types.ts';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { unwrapClientKey } from '../../openvpn/wrap/client-key.ts';
import { testPki } from '../../openvpn/tls/pki.fixture.ts';
import type { DesiredServer } from '../sessions/desired-session.ts';
import { serverSettings } from '../sessions/sessions.fixture.ts';
import { FarRoutes, holderOf, routesToPeer } from './far-routes.ts';
import { dials, planMesh, routesTo } from './plan-mesh.ts';

const pki = testPki();
const node = pki.issue('node:corp', { usage: 'clientAuth' });
afterAll(() => pki.remove());

function parse(manifest: object): unknown {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}

const nodes = ['a', 'b', 'c'].map((name, i) => ({
  name,
  addresses: [`10.8.0.${i + 1}`],
  podBlocks: [`10.9.${i + 1}.0/24`],
  underlayAddresses: name === 'c' ? [] : [`192.0.2.${i + 1}`, `2001:db8::${i + 1}`],
}));
const network = (spec: object = {}): VpnNetwork =>
  parse(
    networkManifest('corp', {
      pools: { peers: ['10.8.0.0/16'], pods: ['10.9.0.0/16'] },
      ...{ nodes, pki: { builtIn: {} }, mesh: {}, ...spec },
    }),
  ) as VpnNetwork;
const secret = parse({
  apiVersion: 'v1',
  kind: 'Secret',
  metadata: { namespace: 'ovpn-system', name: 'corp.pki' },
  stringData: { 'mesh.crt': node.cert, 'mesh.key': node.key, 'ca.crt': pki.ca },
}) as Secret;
const server = (change: Partial<DesiredServer> = {}): DesiredServer =>
  serverSettings({ ca: pki.ca, ...node, minVersion: 'TLSv1.2' }, change);
const plan = (self: string, of = network(), settings = server()) =>
  planMesh(of, self, settings, 'ovpn-system', (_, name) => (name === 'corp.pki' ? secret : undefined));

describe('of every two nodes', () => {
  const names = Array.from({ length: 60 }, (_, i) => `worker-${i}`);

  test('one dials the other', () => {
    for (const one of names)
      for (const other of names) if (one !== other) expect(dials(one, other)).toBe(!dials(other, one));
  });

  test('the work is shared: no node dials all others, or none', () => {
    for (const one of names) {
      const count = names.filter((other) => other !== one && dials(one, other)).length;
      expect(count).toBeGreaterThan(10);
      expect(count).toBeLessThan(50);
    }
  });
});

describe('the neighbours of a node', () => {
  test('are all others; what is dialled has its addresses and ours, what dials is expected at its own', () => {
    for (const self of ['a', 'b']) {
      const other = self === 'a' ? 'b' : 'a';
      const found = plan(self).find(({ ref }) => ref.name === other);
      const number = other === 'a' ? 1 : 2;
      expect(found?.routes).toEqual([{ destination: `10.9.${number}.0/24`, gateway: `10.8.0.${number}` }]);
      if (dials(self, other)) {
        expect(found?.session).toMatchObject({
          kind: 'dial-out',
          remotes: [`192.0.2.${number}`, `2001:db8::${number}`].map((host) => ({ host, port: 1194, transport: 'udp' })),
          neighbour: { self, vpnIpv4: `10.8.0.${number}` },
          checks: { remoteCertTls: 'server', name: { type: 'name', value: 'corp' } },
        });
      } else
        expect(found?.session).toMatchObject({ kind: 'dial-in', ref: { kind: 'Node', name: other }, identity: {} });
    }
    expect(plan('a').map(({ ref }) => ref.name)).toEqual(['b', 'c']);
  });

  test('keep their routes while it is not known where they are', () => {
    const dialer = ['a', 'b'].find((name) => dials(name, 'c')) ?? 'a';
    const found = plan(dialer).find(({ ref }) => ref.name === 'c');
    expect(found).toMatchObject({ routes: [{ destination: '10.9.3.0/24' }] });
    if (dials(dialer, 'c')) expect(found?.session).toBeUndefined();
  });

  test('are none without a mesh', () => {
    expect(plan('a', network({ mesh: { enabled: false } }))).toEqual([]);
    expect(plan('a', network({ mesh: undefined }))).toEqual([]);
  });

  test('are refused with words when their certificate is not there', () => {
    const none = (): undefined => undefined;
    expect(() => planMesh(network(), 'a', server(), 'ovpn-system', none)).toThrow(
      /VpnNetwork corp: spec\.mesh: there is no Secret ovpn-system\/corp\.pki.*wait for the controller/,
    );
  });

  test('get the other side of the wrapping', () => {
    const key = Buffer.alloc(256, 1);
    const serverKey = Buffer.alloc(128, 2);
    const wrapOf = (wrap: DesiredServer['wrap']) => {
      const [self, other] = dials('a', 'b') ? ['a', 'b'] : ['b', 'a'];
      const session = plan(self, network(), server({ wrap })).find(({ ref }) => ref.name === other)?.session;
      return session?.kind === 'dial-out' ? session.wrap : undefined;
    };
    expect(wrapOf({ kind: 'tls-crypt', key })).toEqual({ kind: 'tls-crypt', key });
    expect(wrapOf({ kind: 'tls-auth', key, digest: 'SHA1', direction: 0 })).toMatchObject({ direction: 1 });
    expect(wrapOf({ kind: 'tls-auth', key, digest: 'SHA1', direction: 'bidirectional' })).toMatchObject({
      direction: 'bidirectional',
    });
    const own = wrapOf({ kind: 'tls-crypt-v2-server', serverKey });
    if (own?.kind !== 'tls-crypt-v2-client') throw new Error('no client key');
    expect(unwrapClientKey(serverKey, own.wrapped).key.equals(own.key)).toBe(true);
    // Another one would be another connection.
    expect(wrapOf({ kind: 'tls-crypt-v2-server', serverKey })).toEqual(own);
  });
});

describe('the way to a peer', () => {
  const peer = (fields: object, status?: object): VpnPeer => ({
    ...(parse(
      peerManifest('office', { networkRef: { name: 'corp' }, routes: ['10.20.0.0/16'], ...fields }),
    ) as VpnPeer),
    ...(status === undefined ? {} : { status: status }),
  });
  const held = (by: string): object => ({ holder: { node: by, epoch: 1, since: '2026-01-01T00:00:00Z' } });

  test('leads over the node that holds it, for its address and what is behind it', () => {
    expect(routesToPeer(network(), peer({}, held('b')), 'a')).toEqual([
      { destination: '10.8.0.7/32', gateway: '10.8.0.2' },
      { destination: '10.20.0.0/16', gateway: '10.8.0.2' },
    ]);
  });

  test.each([
    ['this node', held('a')],
    ['nobody', undefined],
    ['a node that is none of the network', held('z')],
  ])('is none when %s holds it', (_, status) => {
    expect(routesToPeer(network(), peer({}, status), 'a')).toEqual([]);
  });

  test('is none without a mesh', () => {
    expect(routesToPeer(network({ mesh: undefined }), peer({}, held('b')), 'a')).toEqual([]);
  });

  test('a peer that nobody claims is where it is placed by name', () => {
    const placement = { nodeSelector: { 'kubernetes.io/hostname': 'c' } };
    expect(holderOf(peer({ placement }))).toBe('c');
    expect(holderOf(peer({ placement }, held('b')))).toBe('b');
  });

  test('has a next hop of the family, or is left out', () => {
    expect(routesTo({ addresses: ['10.8.0.2'] }, ['10.20.0.0/16', 'fd20::/64'])).toEqual([
      { destination: '10.20.0.0/16', gateway: '10.8.0.2' },
    ]);
  });
});

test('far routes know which of one peer have gone', () => {
  const far = new FarRoutes();
  const lan = { destination: '10.20.0.0/16', gateway: '10.8.0.2' };
  expect(far.set('x', [lan], 7)).toEqual([]);
  expect(far.set('x', [lan], 7)).toEqual([]);
  expect(far.set('x', [{ ...lan, gateway: '10.8.0.3' }], 7)).toMatchObject([lan]);
  expect([...far.all()]).toMatchObject([{ gateway: '10.8.0.3', index: 7 }]);
  far.replace(new Map([['y', [lan]]]), 8);
  expect([...far.all()]).toMatchObject([{ ...lan, index: 8 }]);
  expect(far.set('y', [], 8)).toMatchObject([lan]);
  expect([...far.all()]).toEqual([]);
});
