import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import type { Resource, Secret, VpnKey, VpnNetwork, VpnPeer } from '../api/types.ts';
import { keyManifest, networkManifest, peerManifest, secretManifest } from '../cluster/testing/objects.ts';
import { OvpnError } from '../errors.ts';
import { deriveDataKeys, formatStaticKey } from '../openvpn/static-key.ts';
import { type NodeFacts, type PeerPlan, planNetwork, planPeer, secretOf, selects } from './plan.ts';

function parse<K extends Resource['kind']>(manifest: { readonly kind: K } | object): Extract<Resource, { kind: K }> {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource as Extract<Resource, { kind: K }>;
}

const node: NodeFacts = { name: 'n1', labels: { zone: 'a', role: 'gateway' }, underlayMtu: 1500 };
const keyBytes = Uint8Array.from({ length: 256 }, (_, i) => i);
const network = (spec: object = {}): VpnNetwork => parse<'VpnNetwork'>(networkManifest('offices', spec));
const peer = (spec: object = {}): VpnPeer => parse<'VpnPeer'>(peerManifest('office', spec));
const key = (spec: object = {}, generation = 1): VpnKey => {
  const manifest = keyManifest('office', generation);
  return parse<'VpnKey'>({ ...manifest, spec: { static: { ...manifest.spec.static, ...spec } } });
};
const secret = (text = formatStaticKey(keyBytes)): Secret => parse<'Secret'>(secretManifest('office-key', text));

const dual = { pools: { peers: ['10.8.0.0/16', 'fd08::/64'], pods: ['10.9.0.0/16', 'fd09::/48'] } };

describe('selects', () => {
  test.each<[string, Record<string, string>, Record<string, string>, boolean]>([
    ['nothing asked', {}, { zone: 'a' }, true],
    ['nothing asked of nothing', {}, {}, true],
    ['all there', { zone: 'a', role: 'gateway' }, { zone: 'a', role: 'gateway', more: 'x' }, true],
    ['another value', { zone: 'b' }, { zone: 'a' }, false],
    ['one of two missing', { zone: 'a', role: 'gateway' }, { zone: 'a' }, false],
    ['an empty value is a value', { zone: '' }, {}, false],
    ['an empty value that is there', { zone: '' }, { zone: '' }, true],
  ])('%s', (_name, selector, labels, expected) => expect(selects(selector, labels)).toBe(expected));
});

describe('planNetwork', () => {
  test('normalises what the kernel will show', () => {
    const planned = planNetwork(
      network({
        ...dual,
        nodes: [{ name: 'n1', addresses: ['10.8.0.1', 'fd08::1'], podBlocks: ['10.9.1.0/24', 'fd09:0:0:1::/64'] }],
      }),
      node,
    );
    expect(planned).toEqual({
      name: 'offices',
      mtu: 1416,
      addresses: ['10.8.0.1/16', 'fd08::1/64'],
      podBlocks: ['10.9.1.0/24', 'fd09:0:0:1::/64'],
      listeners: [{ name: 'udp', protocol: 'UDP', port: 1194, address: '::' }],
      pools: ['10.8.0.0/16', 'fd08::/64', '10.9.0.0/16', 'fd09::/48'],
    });
  });

  test('leaves out a node that the selector leaves out, also without an entry', () => {
    expect(planNetwork(network({ nodeSelector: { zone: 'b' }, nodes: [] }), node)).toBeUndefined();
    expect(planNetwork(network({ nodeSelector: { zone: 'a' } }), node)?.name).toBe('offices');
  });

  test('says that a selected node has no addresses, and both ways out', () => {
    expect(() => planNetwork(network(), { ...node, name: 'n2' })).toThrow(
      expect.objectContaining({
        name: 'AddressPending',
        where: { object: 'VpnNetwork offices', field: 'spec.nodes' },
        remedy: expect.stringMatching(/n2.*nodeSelector/),
      }),
    );
  });

  test('listens where it is told', () => {
    const planned = planNetwork(network({ listeners: [{ name: 'one', port: 1195, address: '192.0.2.1' }] }), node);
    expect(planned?.listeners).toEqual([{ name: 'one', protocol: 'UDP', port: 1195, address: '192.0.2.1' }]);
  });

  test.each<[string, object, number, number]>([
    ['follows the underlay', {}, 1500, 1416],
    ['follows jumbo frames', {}, 9000, 8916],
    ['is never less than IPv4 allows', {}, 600, 576],
    ['is never less than IPv6 allows when a pool has it', dual, 1300, 1280],
    ['counts an IPv6 pool of pods, too', { pools: { peers: ['10.8.0.0/16'], pods: ['fd09::/48'] } }, 1300, 1280],
    ['is what the spec says', { mtu: 1400 }, 9000, 1400],
    ['is what the spec says, also when the underlay is narrow', { mtu: 1400 }, 576, 1400],
  ])('the MTU %s', (_name, spec, underlayMtu, mtu) => {
    expect(planNetwork(network(spec), { ...node, underlayMtu })?.mtu).toBe(mtu);
  });
});

function plan(
  spec: object = {},
  options: { network?: object; refs?: Partial<Record<'key' | 'secret', unknown>>; problems?: OvpnError[] } = {},
): PeerPlan {
  const refs = { key: key(), secret: secret(), lookup: () => undefined, ...options.refs } as {
    key: VpnKey | undefined;
    secret: Secret | undefined;
    lookup: () => undefined;
  };
  return planPeer(network(options.network), peer(spec), refs, node, options.problems ?? []);
}

describe('planPeer', () => {
  describe('in a network of several nodes', () => {
    const nodes = [
      { name: 'n1', addresses: ['10.8.0.1'] },
      { name: 'n2', addresses: ['10.8.0.2'] },
    ];

    test('is refused unless one node is named: two would repeat the nonces of the static key', () => {
      const planned = plan({ placement: { nodeSelector: { zone: 'a' } } }, { network: { nodes } });
      expect(planned.desired).toBeUndefined();
      expect(planned.problems).toMatchObject([
        { name: 'InvalidField', where: { object: 'VpnPeer team-a/office', field: 'spec.placement.nodeSelector' } },
      ]);
    });

    test.each([
      ['n1', true],
      ['n2', false],
    ])('that names %s is on n1: %s', (hostname, here) => {
      const labels = { 'kubernetes.io/hostname': 'n1' };
      const wanted = peer({ placement: { nodeSelector: { 'kubernetes.io/hostname': hostname } } });
      const refs = { key: key(), secret: secret(), lookup: () => undefined };
      const planned = planPeer(network({ nodes }), wanted, refs, { ...node, labels }, []);
      expect(planned.problems).toEqual([]);
      expect(planned.desired !== undefined).toBe(here);
    });
  });

  test('says all that the kernel needs', () => {
    const planned = plan({
      addresses: ['10.8.0.7', 'fd08::7'],
      routes: ['10.20.0.0/16', 'fd20::/64'],
      static: { peerID: 7, remotePeerID: 9 },
      keepalive: { intervalSeconds: 5, timeoutSeconds: 30 },
    });
    expect(planned.problems).toEqual([]);
    expect(planned.keyProblem).toBeUndefined();
    expect(planned.desired).toMatchObject({
      ref: { kind: 'VpnPeer', namespace: 'team-a', name: 'office' },
      id: 7,
      txId: 9,
      vpnIpv4: '10.8.0.7',
      vpnIpv6: 'fd08::7',
      remote: { address: '198.51.100.7', port: 1194 },
      keepalive: { interval: 5, timeout: 30 },
      listener: 'udp',
      routes: [
        { destination: '10.20.0.0/16', gateway: '10.8.0.7' },
        { destination: 'fd20::/64', gateway: 'fd08::7' },
      ],
    });
  });

  test('expires a peer only when its own spec asks for it, and sends its own id back', () => {
    const { desired } = plan({}, { network: { keepalive: { intervalSeconds: 1, timeoutSeconds: 2 } } });
    expect(desired?.keepalive).toEqual({ interval: 0, timeout: 0 });
    expect(desired?.txId).toBe(7);
    expect(desired?.vpnIpv6).toBeUndefined();
  });

  test.each<[string, object]>([
    ['a suspended peer', { suspend: true }],
    ['a peer placed elsewhere', { placement: { nodeSelector: { zone: 'b' } } }],
  ])('%s is not wanted, and that is no problem', (_name, spec) => {
    expect(plan(spec)).toEqual({ desired: undefined, keyProblem: undefined, problems: [] });
  });

  test('a peer placed here is wanted', () => {
    expect(plan({ placement: { nodeSelector: { zone: 'a' } } }).desired).toBeDefined();
  });

  test('what the rules between objects say keeps it out', () => {
    const problem = new OvpnError('RouteConflict', 'taken');
    expect(plan({}, { problems: [problem] })).toEqual({
      desired: undefined,
      keyProblem: undefined,
      problems: [problem],
    });
  });

  describe('the listener', () => {
    const listeners = [
      { name: 'first', port: 1194 },
      { name: 'second', port: 1195 },
    ];
    const endpoint = { address: '198.51.100.7', port: 1194 };
    test.each([
      ['is the first', endpoint, 'first'],
      ['is the named one', { ...endpoint, listener: 'second' }, 'second'],
    ])('%s', (_name, value, expected) => {
      expect(plan({ endpoint: value }, { network: { listeners } }).desired?.listener).toBe(expected);
    });

    test('must be there', () => {
      const planned = plan({ endpoint: { ...endpoint, listener: 'third' } }, { network: { listeners } });
      expect(planned.desired).toBeUndefined();
      expect(planned.problems).toMatchObject([
        { name: 'ReferenceNotFound', where: { object: 'VpnPeer team-a/office', field: 'spec.endpoint.listener' } },
      ]);
      expect(planned.problems[0]?.problem).toContain('"third"');
    });
  });

  test.each([
    ['IPv6', ['10.8.0.7'], ['10.20.0.0/16', 'fd20::/64'], 'spec.routes[1]'],
    ['IPv4', ['fd08::7'], ['10.20.0.0/16', 'fd20::/64'], 'spec.routes[0]'],
    ['IPv4', ['fd08::7'], ['0.0.0.0/0'], 'spec.routes[0]'],
  ])('a route without a next hop of its family %s is a problem', (family, addresses, routes, field) => {
    const planned = plan({ addresses, routes });
    expect(planned.desired).toBeUndefined();
    expect(planned.problems).toMatchObject([
      { name: 'InvalidField', where: { field }, remedy: `add an ${family} address to spec.addresses` },
    ]);
  });

  describe('a remote that several nodes could dial', () => {
    const meshed = (spec: object = {}): VpnNetwork =>
      network({
        nodes: ['n1', 'n2'].map((name, i) => ({ name, addresses: [`10.8.0.${i + 1}`] })),
        ...{ pki: { builtIn: {} }, mesh: {}, ...spec },
      });
    const remote = (spec: object = {}, holder?: object): VpnPeer => ({
      ...peer({ static: undefined, addresses: undefined, ...spec }),
      ...(holder === undefined
        ? {}
        : { status: { holder: { epoch: 1, since: '2026-01-01T00:00:00Z', ...holder } } as never }),
    });
    const places: NodeFacts = { ...node, places: true };
    const plan = (of: VpnNetwork, wanted: VpnPeer, at: NodeFacts = places): PeerPlan =>
      planPeer(of, wanted, { key: undefined, secret: undefined, lookup: () => undefined }, at, []);
    /** Where it is planned at all, the want of its key is noticed. */
    const planned = ({ keyProblem, problems }: PeerPlan): string =>
      problems[0]?.name ?? (keyProblem === undefined ? 'away' : 'here');

    test.each<[string, VpnPeer, string]>([
      ['nobody', remote(), 'away'],
      ['this node', remote({}, { node: 'n1' }), 'here'],
      ['another', remote({}, { node: 'n2' }), 'away'],
      ['this node, which gave it up', remote({}, { node: 'n1', reason: 'GivenUp' }), 'away'],
      [
        'this node, which it does not select',
        remote({ placement: { nodeSelector: { zone: 'b' } } }, { node: 'n1' }),
        'away',
      ],
      ['this node, and it is suspended', remote({ suspend: true }, { node: 'n1' }), 'away'],
    ])('of which %s has it', (_, wanted, expected) => {
      expect(planned(plan(meshed(), wanted))).toBe(expected);
      expect(plan(meshed(), wanted).problems).toEqual([]);
    });

    test('bound to a node by name is there, whoever has claimed it', () => {
      const labels = { 'kubernetes.io/hostname': 'n1' };
      const bound = remote({ placement: { nodeSelector: labels } }, { node: 'n2' });
      expect(planned(plan(meshed(), bound, { ...places, labels }))).toBe('here');
    });

    test.each<[string, VpnNetwork, NodeFacts]>([
      ['without a mesh', meshed({ mesh: { enabled: false } }), places],
      ['where nodes cannot tell each other', meshed(), node],
    ])('has to name its node %s', (_, of, at) => {
      expect(planned(plan(of, remote({}, { node: 'n1' }), at))).toBe('InvalidField');
    });

    test('a static key has to name its node in a mesh, too', () => {
      expect(planned(plan(meshed(), peer()))).toBe('InvalidField');
    });
  });

  describe('the key', () => {
    test.each([
      [1, 1],
      [7, 7],
      [8, 0],
      [9, 1],
      [2147483647, 7],
    ])('of generation %d has id %d', (generation, keyId) => {
      expect(plan({}, { refs: { key: key({}, generation) } }).desired?.key).toMatchObject({ generation, keyId });
    });

    test('is derived as the VpnKey says', () => {
      const spec = { cipher: 'CHACHA20-POLY1305', direction: 'Inverse', derivation: 'None' } as const;
      const planned = plan({}, { refs: { key: key(spec, 3) }, network: { keyTransition: { seconds: 90 } } });
      expect(planned.desired?.key).toMatchObject({
        ref: { kind: 'VpnKey', namespace: 'team-a', name: 'office' },
        cipher: 'CHACHA20-POLY1305',
        transitionMs: 90_000,
        keys: deriveDataKeys(keyBytes, { ...spec, generation: 3 }),
      });
    });

    test.each(['AES-128-GCM', 'AES-192-GCM', 'AES-256-GCM'])('%s is AES-GCM for the kernel', (cipher) => {
      expect(plan({}, { refs: { key: key({ cipher }) } }).desired?.key?.cipher).toBe('AES-GCM');
    });

    const material = 'data[static.key]';
    test.each<[string, Partial<Record<'key' | 'secret', unknown>>, string, string, string | undefined]>([
      [
        'no VpnKey',
        { key: undefined, secret: undefined },
        'ReferenceNotFound',
        'VpnPeer team-a/office',
        'spec.keyRef.name',
      ],
      ['no Secret', { secret: undefined }, 'SecretMissing', 'VpnKey team-a/office', 'spec.static.secretRef.name'],
      [
        'no such key in the Secret',
        { key: key({ secretRef: { name: 'office-key', key: 'other' } }) },
        'SecretMissing',
        'VpnKey team-a/office',
        'spec.static.secretRef.key',
      ],
      [
        'too few bytes',
        { secret: secret(formatStaticKey(keyBytes.subarray(1))) },
        'KeyMaterialInvalid',
        'Secret team-a/office-key',
        material,
      ],
      ['garbage', { secret: secret('geheim') }, 'KeyMaterialInvalid', 'Secret team-a/office-key', material],
      ['nothing', { secret: secret('') }, 'KeyMaterialInvalid', 'Secret team-a/office-key', material],
      [
        'bytes that both directions share',
        {
          secret: secret(formatStaticKey(keyBytes.map((byte, i) => (i === 255 ? 0 : byte % 128)))),
          key: key({ derivation: 'None' }),
        },
        'KeyMaterialInvalid',
        'Secret team-a/office-key',
        material,
      ],
    ])('with %s leaves the peer as it is, and says so', (_name, refs, name, object, field) => {
      const planned = plan({}, { refs });
      expect(planned.desired).toMatchObject({ id: 7, key: undefined });
      expect(planned.problems).toEqual([]);
      expect(planned.keyProblem).toMatchObject({ name, where: { object, field } });
      expect(planned.keyProblem?.message).not.toContain('geheim');
    });

    test('is looked for in the namespace of the VpnKey', () => {
      expect(secretOf(key())).toEqual({ namespace: 'team-a', name: 'office-key' });
    });
  });
});
