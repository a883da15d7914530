import { describe, expect, test } from '@jest/globals';
import { findCondition } from '../api/conditions.ts';
import { parseResource } from '../api/parse.ts';
import type { Holder, Resource, VpnKey, VpnNetwork, VpnPeer } from '../api/types.ts';
import { keyManifest, networkManifest, peerManifest } from '../cluster/testing/objects.ts';
import { type ErrorName, OvpnError } from '../errors.ts';
import type { Peer } from '../kernel/ovpn/codec.ts';
import type { DesiredPeer } from './desired.ts';
import type { BookEntry } from './peer-book.ts';
import { claimantNamed } from './sessions/sessions.fixture.ts';
import type { DesiredDialIn, DesiredDialOut } from './sessions/desired-session.ts';
import { idleFacts, type TunnelFacts } from './sessions/tunnel-facts.ts';
import { type KeyFacts, keyStatus, type NetworkFacts, networkStatus, type PeerFacts, peerStatus } from './status.ts';

function parse(manifest: { readonly metadata: object }): Resource {
  const result = parseResource({ ...manifest, metadata: { ...manifest.metadata, generation: 4 } }, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}
const peer = (spec: object = {}): VpnPeer => parse(peerManifest('office', spec)) as VpnPeer;
const network = parse(networkManifest('offices')) as VpnNetwork;
const key = parse(keyManifest('office', 3)) as VpnKey;

const now = Date.parse('2026-05-06T07:08:09.123Z');
const stamp = '2026-05-06T07:08:09Z';
const error = (name: ErrorName, problem = 'wrong'): OvpnError => new OvpnError(name, problem);

const desired: DesiredPeer = {
  ref: { kind: 'VpnPeer', namespace: 'team-a', name: 'office' },
  id: 7,
  txId: 7,
  vpnIpv4: '10.8.0.7',
  vpnIpv6: undefined,
  remote: { address: '198.51.100.7', port: 1194 },
  keepalive: { interval: 0, timeout: 0 },
  listener: 'udp',
  routes: [],
  key: {
    ref: { kind: 'VpnKey', namespace: 'team-a', name: 'office' },
    generation: 9,
    keyId: 1,
    cipher: 'AES-GCM',
    keys: {
      encrypt: { cipherKey: Buffer.from('geheim'), nonceTail: Buffer.alloc(8) },
      decrypt: { cipherKey: Buffer.from('geheim'), nonceTail: Buffer.alloc(8) },
      fingerprint: 'fp',
    },
    publishedGeneration: 0,
    transitionMs: 60_000,
  },
};
const none = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };
const observed: Peer = {
  id: 7,
  txId: 7,
  remote: { address: '2001:db8::7', port: 1194 },
  local: undefined,
  localPort: 1194,
  socketNetnsid: 0,
  vpnIpv4: '10.8.0.7',
  vpnIpv6: 'fd08::7',
  keepalive: { interval: 0, timeout: 0 },
  vpn: { rxBytes: 10n, txBytes: 20n, rxPackets: 1n, txPackets: 2n },
  link: none,
};

interface Case {
  readonly spec?: object;
  readonly problems?: readonly OvpnError[];
  readonly keyProblem?: OvpnError;
  readonly inForce?: DesiredPeer | undefined;
  readonly state?: OvpnError;
  readonly facts?: Partial<PeerFacts>;
}

function facts(given: Case): PeerFacts {
  const object = peer(given.spec);
  const inForce = 'inForce' in given ? given.inForce : desired;
  const plan = { desired: inForce, session: undefined, keyProblem: given.keyProblem, problems: given.problems ?? [] };
  const entry: BookEntry = { peer: object, plan, inForce, session: undefined, away: false };
  return {
    peer: object,
    entry,
    networkProblem: undefined,
    state: { desired, problem: given.state },
    observed,
    primaryKeyId: 1,
    node: 'n1',
    now,
    since: stamp,
    ...given.facts,
  };
}

const gone = { observed: undefined, primaryKeyId: undefined, since: undefined, state: undefined };

describe('the status of a peer', () => {
  test('of a good one tells everything', () => {
    const condition = (type: string) => ({
      type,
      status: 'True',
      observedGeneration: 4,
      lastTransitionTime: stamp,
      reason: type,
      message: '',
    });
    expect(peerStatus(facts({}), undefined)).toEqual({
      observedGeneration: 4,
      conditions: ['Accepted', 'Programmed', 'Ready', 'ResolvedRefs'].map(condition),
      peerID: 7,
      addresses: ['10.8.0.7', 'fd08::7'],
      node: 'n1',
      endpoint: '[2001:db8::7]:1194',
      since: stamp,
      traffic: { rxBytes: 10, txBytes: 20, rxPackets: 1, txPackets: 2 },
      keyID: 1,
      keyGeneration: 9,
    });
  });

  type Expected = Partial<Record<'Accepted' | 'ResolvedRefs' | 'Programmed' | 'Ready', string>>;
  test.each<[string, Case, Expected, string]>([
    [
      'a conflict of routes',
      { problems: [error('RouteConflict')], inForce: undefined, facts: gone },
      { Accepted: 'Conflict', Programmed: 'Pending', Ready: 'Conflict' },
      'wrong',
    ],
    [
      'a conflict of addresses',
      { problems: [error('AddressConflict')], inForce: undefined, facts: gone },
      { Accepted: 'Conflict' },
      'wrong',
    ],
    [
      'a conflict of ids',
      { problems: [error('PeerIdConflict')], inForce: undefined, facts: gone },
      { Accepted: 'Conflict' },
      'wrong',
    ],
    [
      'no permission',
      { problems: [error('NotAllowed')], inForce: undefined, facts: gone },
      { Accepted: 'NotAllowed', Ready: 'NotAllowed' },
      'wrong',
    ],
    [
      'a missing listener',
      { problems: [error('ReferenceNotFound')], inForce: undefined, facts: gone },
      { Accepted: 'Invalid', Ready: 'Invalid' },
      'wrong',
    ],
    [
      'an address outside the pool',
      { problems: [error('AddressOutsidePool')], inForce: undefined, facts: gone },
      { Accepted: 'Invalid' },
      'wrong',
    ],
    [
      'a refused change of a working peer',
      { problems: [error('RouteConflict')] },
      { Accepted: 'Conflict', Programmed: 'Programmed', Ready: 'Conflict' },
      'wrong',
    ],
    [
      'a missing VpnKey',
      { keyProblem: error('ReferenceNotFound') },
      { Accepted: 'Accepted', ResolvedRefs: 'KeyNotFound', Programmed: 'Programmed', Ready: 'KeyNotFound' },
      'wrong',
    ],
    [
      'a missing Secret',
      { keyProblem: error('SecretMissing') },
      { ResolvedRefs: 'SecretNotFound', Ready: 'SecretNotFound' },
      'wrong',
    ],
    [
      'an unusable key',
      { keyProblem: error('KeyMaterialInvalid') },
      { ResolvedRefs: 'KeyInvalid', Ready: 'KeyInvalid' },
      'wrong',
    ],
    [
      'a spent key',
      { state: error('KeySpent') },
      { ResolvedRefs: 'ResolvedRefs', Programmed: 'Programmed', Ready: 'KeySpent' },
      'wrong',
    ],
    [
      'a refusal of the kernel',
      { state: error('KernelRefused'), facts: { observed: undefined } },
      { Accepted: 'Accepted', Programmed: 'KernelRefused', Ready: 'KernelRefused' },
      'wrong',
    ],
    [
      'a peer that is not there yet',
      { facts: gone },
      { Programmed: 'Pending', Ready: 'Pending' },
      'not in the kernel yet',
    ],
    [
      'a network in trouble',
      { facts: { ...gone, networkProblem: 'no port' } },
      { Programmed: 'Pending', Ready: 'Pending' },
      'no port',
    ],
    [
      'a peer without a key yet',
      { facts: { primaryKeyId: undefined } },
      { Programmed: 'Programmed', Ready: 'Pending' },
      'no data key',
    ],
    [
      'a suspended peer',
      { spec: { suspend: true }, inForce: undefined, facts: gone },
      { Accepted: 'Accepted', Programmed: 'Suspended', Ready: 'Suspended' },
      'spec.suspend is set',
    ],
    [
      'a peer placed elsewhere',
      { inForce: undefined, facts: gone },
      { Accepted: 'Accepted', Programmed: 'Pending', Ready: 'Pending' },
      'spec.placement does not select this node',
    ],
    [
      'a network that is not here',
      { facts: { ...gone, entry: undefined } },
      { Accepted: 'NetworkNotFound', Programmed: 'Pending', Ready: 'NetworkNotFound' },
      'there is no VpnNetwork offices',
    ],
  ])('of %s says why', (_name, given, expected, message) => {
    const { conditions } = peerStatus(facts(given), undefined);
    for (const [type, reason] of Object.entries(expected)) {
      const condition = findCondition(conditions, type as keyof typeof expected);
      expect(condition).toMatchObject({
        type,
        reason,
        status: reason === type ? 'True' : 'False',
        observedGeneration: 4,
      });
    }
    expect(findCondition(conditions, 'Ready')?.message).toContain(message);
  });

  test('tells the last error whole, within its bound, and drops it when all is well', () => {
    const bad = peerStatus(facts({ keyProblem: error('KeyMaterialInvalid', 'x'.repeat(10_000)) }), undefined);
    expect(bad.lastError).toHaveLength(4096);
    expect(peerStatus(facts({}), bad).lastError).toBeUndefined();
    expect(peerStatus(facts({ state: error('KeySpent') }), undefined).lastError).toContain('[OVPN203]');
  });

  test('names the generation only of the key that is in use', () => {
    expect(peerStatus(facts({ facts: { primaryKeyId: 0 } }), undefined)).toMatchObject({ keyID: 0 });
    expect(peerStatus(facts({ facts: { primaryKeyId: 0 } }), undefined)).not.toHaveProperty('keyGeneration');
    // An earlier generation with the same id.
    expect(peerStatus(facts({ state: error('KeySpent') }), undefined)).not.toHaveProperty('keyGeneration');
  });

  test('moves the time of a condition only with its status', () => {
    const first = peerStatus(facts({ facts: gone }), undefined);
    const later = peerStatus(facts({ facts: { ...gone, networkProblem: 'no port', now: now + 60_000 } }), first);
    expect(findCondition(later.conditions, 'Ready')).toMatchObject({ message: 'no port', lastTransitionTime: stamp });
    const ready = peerStatus(facts({ facts: { now: now + 120_000 } }), later);
    expect(findCondition(ready.conditions, 'Ready')?.lastTransitionTime).toBe('2026-05-06T07:10:09Z');
    expect(findCondition(ready.conditions, 'Accepted')?.lastTransitionTime).toBe(stamp);
    expect(peerStatus(facts({ facts: { now: now + 180_000 } }), ready)).toEqual(ready);
  });

  test('holds no key', () => expect(JSON.stringify(peerStatus(facts({}), undefined))).not.toContain('geheim'));
});

const listeners = [{ name: 'udp', address: '::', port: 1194 }];
const goodNetwork: NetworkFacts = {
  network,
  node: 'n1',
  selected: true,
  problem: undefined,
  namespace: 'ovpn-offices',
  device: { name: 'ovpn0', mtu: 1416 },
  listeners,
  peers: 3,
  attachments: 2,
  now,
  addresses: ['10.8.0.1/16'],
  podBlocks: ['10.9.0.0/25'],
  shared: false,
};

describe('the status of a network', () => {
  const good = goodNetwork;

  test('tells of the node alone where a controller sums up', () => {
    expect(Object.keys(networkStatus({ ...good, shared: true }, undefined))).toEqual(['nodes']);
  });

  test('tells of the node', () => {
    expect(networkStatus(good, undefined)).toEqual({
      observedGeneration: 4,
      conditions: [
        {
          type: 'Ready',
          status: 'True',
          observedGeneration: 4,
          lastTransitionTime: stamp,
          reason: 'Ready',
          message: '',
        },
      ],
      nodes: [
        {
          name: 'n1',
          ready: true,
          namespace: 'ovpn-offices',
          device: 'ovpn0',
          mtu: 1416,
          addresses: ['10.8.0.1'],
          podBlocks: ['10.9.0.0/25'],
          listeners,
          peers: 3,
          attachments: 2,
        },
      ],
    });
  });

  test.each<[string, Partial<NetworkFacts>, string, object[]]>([
    ['not selected', { selected: false }, 'NoNodes', []],
    ['no device yet', { device: undefined }, 'Pending', [{ ready: false }]],
    [
      'a refusal',
      { problem: error('KernelRefused') },
      'KernelRefused',
      [{ ready: false, message: expect.stringContaining('OVPN303') }],
    ],
    ['no addresses for the node', { problem: error('ReferenceNotFound') }, 'NodesNotReady', [{ ready: false }]],
    ['no holder', { problem: error('HolderUnreachable') }, 'NodesNotReady', [{ ready: false }]],
  ])('says why it is not ready: %s', (_name, change, reason, nodes) => {
    const status = networkStatus({ ...good, ...change }, undefined);
    expect(findCondition(status.conditions, 'Ready')).toMatchObject({ status: 'False', reason });
    expect(status.nodes).toMatchObject(nodes);
    expect(status.nodes).toHaveLength(nodes.length);
  });
});

describe('the status of cluster access on a node', () => {
  const withAccess = (problem: OvpnError | undefined, change: Partial<NetworkFacts> = {}) => {
    const status = networkStatus({ ...goodNetwork, access: { problem }, ...change }, undefined);
    return [findCondition(status.conditions, 'ClusterAccessReady')?.reason, status.nodes?.[0]];
  };

  test.each<[string, ReturnType<typeof withAccess>, unknown]>([
    [
      'it stands',
      withAccess(undefined),
      ['ClusterAccessReady', { ready: true, clusterAccess: { ready: true, reason: 'Ready' } }],
    ],
    [
      'the node does not forward',
      withAccess(error('ForwardingDisabled')),
      ['ForwardingDisabled', { ready: true, clusterAccess: { ready: false, reason: 'ForwardingDisabled' } }],
    ],
    [
      'the kernel refuses',
      withAccess(error('KernelRefused')),
      ['KernelRefused', { ready: true, clusterAccess: { ready: false, reason: 'KernelRefused' } }],
    ],
    [
      'the network is not there',
      withAccess(undefined, { device: undefined }),
      ['Pending', { ready: false, clusterAccess: { ready: false, reason: 'Pending' } }],
    ],
  ])('%s', (_name, said, expected) => expect(said).toMatchObject(expected as object));

  test('is not spoken of where there is to be none', () => {
    const status = networkStatus(goodNetwork, undefined);
    expect(findCondition(status.conditions, 'ClusterAccessReady')).toBeUndefined();
    expect(status.nodes?.[0]).not.toHaveProperty('clusterAccess');
  });
});

describe('the status of a key', () => {
  const good: KeyFacts = {
    key,
    fingerprint: 'abc',
    problem: undefined,
    spent: undefined,
    installation: { generation: 2, since: now },
    node: 'n1',
    now,
  };

  test('tells what this node installed, and that it is spent', () => {
    expect(keyStatus(good, undefined)).toMatchObject({
      observedGeneration: 4,
      fingerprint: 'abc',
      generation: 3,
      installations: [{ node: 'n1', generation: 2, since: stamp, spent: true }],
    });
    expect(findCondition(keyStatus(good, undefined).conditions, 'Ready')?.status).toBe('True');
  });

  test.each([
    ['the ledger is lost', undefined, 2],
    ['an older generation is wanted', { generation: 1, since: now }, 2],
    ['a newer one is installed', { generation: 3, since: now }, 3],
  ])('never takes back what was installed when %s', (_name, installation, generation) => {
    const after = keyStatus({ ...good, installation }, keyStatus(good, undefined));
    expect(after.installations).toMatchObject([{ node: 'n1', generation, spent: true }]);
  });

  test.each<[string, Partial<KeyFacts>, string, string]>([
    [
      'a missing Secret',
      { problem: error('SecretMissing'), fingerprint: undefined },
      'SecretNotFound',
      'SecretNotFound',
    ],
    ['wrong material', { problem: error('KeyMaterialInvalid') }, 'KeyInvalid', 'KeyInvalid'],
    ['a spent generation', { spent: error('KeySpent') }, 'ResolvedRefs', 'KeySpent'],
  ])('says why it is not ready: %s', (_name, change, resolved, ready) => {
    const { conditions } = keyStatus({ ...good, ...change }, undefined);
    expect(findCondition(conditions, 'ResolvedRefs')?.reason).toBe(resolved);
    expect(findCondition(conditions, 'Ready')).toMatchObject({ status: 'False', reason: ready });
  });
});

describe('the status of a peer with a control channel', () => {
  const dialIn: DesiredDialIn = {
    kind: 'dial-in',
    ref: { kind: 'VpnPeer', namespace: 'team-a', name: 'office' },
    claimant: claimantNamed('office'),
    identity: { commonName: 'office' },
    vpnIpv4: '10.8.0.7',
    vpnIpv6: undefined,
    keepalive: { interval: 10, timeout: 60 },
    routes: [],
  };
  const dialOut: DesiredDialOut = {
    kind: 'dial-out',
    ref: dialIn.ref,
    remotes: [{ host: '198.51.100.7', port: 1194, transport: 'udp' }],
    credentials: { ca: 'CA', cert: 'CERT', key: 'geheim' },
    notAfter: now + 1,
    checks: {},
    wrap: { kind: 'none' },
    ciphers: ['AES-256-GCM'],
    rekey: { seconds: 3600, bytes: 0, packets: 0, transitionMs: 0 },
    routes: [],
    ownRanges: [],
    keepalive: { interval: 10, timeout: 60 },
  };
  const dialled = { static: undefined, addresses: undefined };
  const since = Date.parse('2026-05-01T00:00:00Z');
  const idle = (state: TunnelFacts['state'], message: string = state): TunnelFacts => idleFacts(state, since, message);
  const connected: TunnelFacts = {
    ...idle('Connected', ''),
    endpoint: '198.51.100.7:40000',
    addresses: ['10.8.0.7'],
    cipher: 'AES-256-GCM',
    tlsVersion: 'TLSv1.3',
    lastHandshake: since + 1000,
  };
  const live: Peer = { ...observed, id: 0x800000, remote: { address: '203.0.113.9', port: 41000 }, vpnIpv6: undefined };

  function given(
    session: DesiredDialIn | DesiredDialOut | undefined,
    tunnel: TunnelFacts | undefined,
    more: Case = {},
  ): PeerFacts {
    const kind =
      session?.kind === 'dial-out'
        ? { static: undefined, addresses: undefined }
        : { static: undefined, endpoint: undefined, keyRef: undefined, identity: { commonName: 'office' } };
    const object = peer({ ...kind, ...more.spec });
    const problems = more.problems ?? [];
    const plan = { desired: undefined, session, keyProblem: more.keyProblem, problems };
    const entry: BookEntry = { peer: object, plan, inForce: undefined, session, away: false };
    const inKernel = tunnel?.state === 'Connected' ? live : undefined;
    return {
      ...facts({ inForce: undefined, facts: gone }),
      peer: object,
      entry,
      tunnel,
      observed: inKernel,
      ...more.facts,
    };
  }

  test('that is connected tells who is there, since when and how', () => {
    const status = peerStatus(given(dialIn, connected), undefined);
    expect(status).toMatchObject({
      peerID: 0x800000,
      addresses: ['10.8.0.7'],
      // Where the kernel sends, which follows the client.
      endpoint: '203.0.113.9:41000',
      since: '2026-05-01T00:00:00Z',
      lastHandshake: '2026-05-01T00:00:01Z',
      cipher: 'AES-256-GCM',
      tlsVersion: 'TLSv1.3',
      traffic: { rxBytes: 10, txBytes: 20 },
    });
    expect(status.lastError).toBeUndefined();
    for (const type of ['Accepted', 'ResolvedRefs', 'Connected', 'Programmed', 'Ready'] as const) {
      expect(findCondition(status.conditions, type)).toMatchObject({ status: 'True', reason: type, message: '' });
    }
    expect(JSON.stringify(status)).not.toContain('geheim');
  });

  type Expected = Partial<Record<'Accepted' | 'ResolvedRefs' | 'Connected' | 'Programmed' | 'Ready', string>>;
  test.each<[string, PeerFacts, Expected, string]>([
    [
      'a client that has not come yet',
      given(dialIn, idle('WaitingForClient', 'no client has connected yet')),
      { Accepted: 'Accepted', Connected: 'WaitingForClient', Programmed: 'Pending', Ready: 'WaitingForClient' },
      'no client has connected yet',
    ],
    [
      'a client in its handshake',
      given(dialIn, idle('Connecting', 'shaking hands')),
      { Connected: 'Connecting', Programmed: 'Pending', Ready: 'Connecting' },
      'shaking hands',
    ],
    [
      'a client that left',
      given(dialIn, idle('Disconnected', 'the client left')),
      { Connected: 'Disconnected', Programmed: 'Pending', Ready: 'Disconnected' },
      'the client left',
    ],
    [
      'a peer that the kernel has just lost',
      given(dialIn, connected, { facts: { observed: undefined } }),
      { Connected: 'Connected', Programmed: 'Pending', Ready: 'Pending' },
      'while it is connected',
    ],
    [
      'a suspended client',
      given(undefined, undefined, { spec: { suspend: true } }),
      { Accepted: 'Accepted', Connected: 'Suspended', Programmed: 'Suspended', Ready: 'Suspended' },
      'spec.suspend is set',
    ],
    [
      'a client of another node',
      given(undefined, undefined),
      { Accepted: 'Accepted', Connected: 'Pending', Programmed: 'Pending', Ready: 'Pending' },
      'spec.placement does not select this node',
    ],
    [
      'a client whose identity somebody has',
      given(undefined, undefined, { problems: [error('IdentityConflict')] }),
      { Accepted: 'Conflict', Connected: 'Pending', Ready: 'Conflict' },
      'wrong',
    ],
    [
      'a client of a network without a PKI',
      given(undefined, undefined, { problems: [error('PkiMissing')] }),
      { Accepted: 'NotAllowed', Connected: 'Pending', Ready: 'NotAllowed' },
      'wrong',
    ],
    [
      'a refused change of a client that is connected',
      given(dialIn, connected, { problems: [error('AddressConflict')] }),
      { Accepted: 'Conflict', Connected: 'Connected', Programmed: 'Programmed', Ready: 'Conflict' },
      'wrong',
    ],
    [
      'a remote without its Secret',
      given(undefined, undefined, { keyProblem: error('SecretMissing') }),
      { Accepted: 'Accepted', ResolvedRefs: 'SecretNotFound', Connected: 'Pending', Ready: 'SecretNotFound' },
      'wrong',
    ],
    [
      'a remote whose certificate is broken now, and whose tunnel stands',
      given(dialOut, connected, { keyProblem: error('CertificateInvalid') }),
      { ResolvedRefs: 'KeyInvalid', Connected: 'Connected', Ready: 'Ready' },
      '',
    ],
    [
      'a network in trouble',
      given(undefined, undefined, { facts: { networkProblem: 'no port' } }),
      { Connected: 'Pending', Programmed: 'Pending', Ready: 'Pending' },
      'no port',
    ],
  ])('%s', (_, of, expected, message) => {
    const { conditions } = peerStatus(of, undefined);
    const reasons = (Object.keys(expected) as (keyof Expected)[]).map((type) => [
      type,
      findCondition(conditions, type)?.reason,
    ]);
    expect(Object.fromEntries(reasons)).toEqual(expected);
    expect(findCondition(conditions, 'Ready')?.message).toContain(message);
    expect(conditions).toHaveLength(5);
  });

  test.each<[string, Holder | undefined, string, string, string]>([
    ['nobody', undefined, 'Pending', 'Pending', 'no node that spec.placement selects has taken it yet'],
    [
      'another node',
      { node: 'b', epoch: 3, since: stamp, reason: 'Placed' },
      'Placed',
      'Elsewhere',
      `node b has it since ${stamp}`,
    ],
    [
      'a node that took it over',
      { node: 'b', epoch: 3, since: stamp, reason: 'NodeLost', previousNode: 'a' },
      'NodeLost',
      'Elsewhere',
      'before, node a that did not renew its lease',
    ],
    [
      'a node that was given it',
      { node: 'b', epoch: 3, since: stamp, reason: 'NodeReleased', previousNode: 'a' },
      'NodeReleased',
      'Elsewhere',
      'before, node a that gave it up',
    ],
    [
      'a node that gave it up',
      { node: 'b', epoch: 3, since: stamp, reason: 'GivenUp' },
      'Pending',
      'Pending',
      'node b gave it up, and no node',
    ],
    [
      'a node of a later version',
      { node: 'b', epoch: 3, since: stamp, reason: 'Rebalanced' },
      'Placed',
      'Elsewhere',
      'node b has it',
    ],
  ])('a remote that several nodes could dial and %s has', (_, holder, placed, connected, message) => {
    const of = given(undefined, undefined, { facts: { placed: true } });
    const status = holder === undefined ? {} : { holder };
    const { conditions } = peerStatus({ ...of, peer: { ...of.peer, spec: peer(dialled).spec, status } }, undefined);
    expect(findCondition(conditions, 'Placed')).toMatchObject({
      ...{ status: placed === 'Pending' ? 'False' : 'True', reason: placed },
      message: expect.stringContaining(message) as unknown,
    });
    expect(findCondition(conditions, 'Connected')).toMatchObject({ status: 'False', reason: connected });
    expect(findCondition(conditions, 'Ready')).toMatchObject({ status: 'False', reason: connected });
  });

  test.each([
    [1, 'ResolvedRefs', ''],
    [0, 'KeyInvalid', 'our certificate expired at 2026-05-06T07:08:09Z'],
  ])('a certificate of ours that expires in %i ms: %s', (left, reason, message) => {
    const of = given({ ...dialOut, notAfter: now + left }, idle('Disconnected', 'the handshake failed'));
    const { conditions } = peerStatus(of, undefined);
    const resolved = findCondition(conditions, 'ResolvedRefs');
    expect([resolved?.reason, resolved?.message]).toEqual([reason, expect.stringContaining(message)]);
  });

  test('the last error is that of the plan, else that of the tunnel, and no longer than the API allows', () => {
    const failed = { ...idle('Disconnected'), lastError: 'x'.repeat(5000) };
    expect(peerStatus(given(dialIn, failed), undefined).lastError).toHaveLength(4096);
    const both = given(dialIn, failed, { problems: [error('AddressConflict', 'taken')] });
    expect(peerStatus(both, undefined).lastError).toContain('taken');
  });
});
