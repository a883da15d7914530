import { isRecord } from './schema-view.ts';
import { apiVersion } from './types.ts';

/**
 * For every rule about one object a manifest that keeps it and one that breaks it, as data: the unit
 * tests hold our parser to it, and the tests with a control plane hold the API server to the same answers.
 */
export interface RuleCase {
  readonly rule: string;
  readonly accepted: Manifest;
  readonly rejected: Manifest;
  /** For rules about a change: the object before it. */
  readonly before?: Manifest;
  /** The field that the rejection names. */
  readonly field: string;
  /** Text that the rejection holds, both ours and the API server's. */
  readonly says?: string;
  /**
   * What the API server does with the rejected manifest: refuse it; drop the unknown field (refuse it only
   * under strict field validation); or accept it, because the rule is beyond its cost budget.
   */
  readonly apiServer: 'refuses' | 'prunes' | 'accepts';
}

export type Manifest = Readonly<Record<string, unknown>>;

const network: Manifest = {
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name: 'offices' },
  spec: {
    pools: { peers: ['10.8.0.0/24', 'fd00:8::/64'], pods: ['10.9.0.0/16'] },
    nodes: [
      { name: 'worker-1', addresses: ['10.8.0.1', 'fd00:8::1'], podBlocks: ['10.9.1.0/24'] },
      { name: 'worker-2', addresses: ['10.8.0.2'] },
    ],
    listeners: [{ name: 'udp', port: 1194 }],
  },
};

const peer: Manifest = {
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'ovpn-system', name: 'office' },
  spec: {
    networkRef: { name: 'offices' },
    endpoint: { address: '198.51.100.7', port: 1194 },
    keyRef: { name: 'office' },
    static: { peerID: 7 },
    addresses: ['10.8.0.7', 'fd00:8::7'],
    routes: ['10.20.0.0/16'],
  },
};

const key: Manifest = {
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace: 'ovpn-system', name: 'office' },
  spec: { static: { secretRef: { name: 'office-key' }, direction: 'Normal', generation: 3 } },
};

const dialIn: Manifest = {
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'ovpn-system', name: 'alice' },
  spec: {
    networkRef: { name: 'offices' },
    identity: { commonName: 'alice' },
    addresses: ['10.8.0.10'],
  },
};

const dialOut: Manifest = {
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'ovpn-system', name: 'partner' },
  spec: {
    networkRef: { name: 'offices' },
    endpoint: { address: 'vpn.partner.example', port: 1194 },
    keyRef: { name: 'partner' },
  },
};

const tlsKey: Manifest = {
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace: 'ovpn-system', name: 'partner' },
  spec: { tls: { secretRef: { name: 'partner-client-tls' } } },
};

const allocation: Manifest = {
  apiVersion,
  kind: 'VpnAllocation',
  metadata: { name: 'offices.7' },
  spec: {
    networkRef: { name: 'offices' },
    holder: { kind: 'VpnPeer', namespace: 'ovpn-system', name: 'alice' },
  },
};

const issuedKey: Manifest = {
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace: 'ovpn-system', name: 'alice' },
  spec: { issued: { networkRef: { name: 'offices' } } },
};

/** A small good manifest of each kind and sort. */
export const baseManifests = {
  VpnNetwork: network,
  VpnPeer: peer,
  VpnKey: key,
  VpnAllocation: allocation,
  dialIn,
  dialOut,
  tlsKey,
  issuedKey,
};

/** A JSON merge patch (RFC 7386): null removes a field, lists are replaced. */
function patch(base: Manifest, change: Manifest): Manifest {
  const result = new Map(Object.entries(base));
  for (const [name, value] of Object.entries(change)) {
    const old = result.get(name);
    if (value === null) result.delete(name);
    else result.set(name, isRecord(value) ? patch(isRecord(old) ? old : {}, value) : value);
  }
  return Object.fromEntries(result);
}

type Options = Partial<Pick<RuleCase, 'says' | 'apiServer'>>;

/** One case: the base with a spec patch that is right, and with one that is wrong at `field`. */
const of =
  (base: Manifest) =>
  (rule: string, field: string, accepted: Manifest, rejected: Manifest, options: Options = {}): RuleCase => ({
    rule,
    field,
    accepted: patch(base, { spec: accepted }),
    rejected: patch(base, { spec: rejected }),
    apiServer: 'refuses',
    ...options,
  });

const ofChange =
  (base: Manifest) =>
  (rule: string, field: string, accepted: Manifest, rejected: Manifest, options: Options = {}): RuleCase => ({
    ...of(base)(rule, field, accepted, rejected, options),
    before: base,
  });

const ofNetwork = of(network);
const ofPeer = of(peer);
const ofDialIn = of(dialIn);
const ofDialOut = of(dialOut);
const ofKey = of(key);
const ofTlsKey = of(tlsKey);
const ofIssuedKey = of(issuedKey);
const ofAllocation = of(allocation);
const changeOfAllocation = ofChange(allocation);
const changeOfNetwork = ofChange(network);
const changeOfPeer = ofChange(peer);
const changeOfKey = ofChange(key);

const networkNamed = (name: string) => patch(network, { metadata: { name } });
const nodes = (...entries: Manifest[]): Manifest => ({ nodes: entries });
const listeners = (...entries: Manifest[]): Manifest => ({ listeners: entries });
const selectedBy = (requirement: Manifest): Manifest => ({
  namespaces: { from: 'Selector', selector: { matchExpressions: [requirement] } },
});
const many = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index));
const prunes: Options = { apiServer: 'prunes' };
const accepts: Options = { apiServer: 'accepts' };

/** A mesh at that listener, with the certificates that it needs. */
function mesh(listener?: string): Manifest {
  return { pki: { builtIn: {} }, mesh: listener === undefined ? {} : { listener } };
}

/** Cluster access, good but for the changes. */
function access(change: Manifest): Manifest {
  return { clusterAccess: { services: ['10.96.0.0/12'], allow: [{}], ...change } };
}

/** A rule of cluster access for peers whose labels are as it says. */
const peersWith = (requirement: Manifest): Manifest => ({ peers: { selector: { matchExpressions: [requirement] } } });

/** The rules about a control channel, which stands in two kinds. */
function controlChannels(whose: string, of: typeof ofNetwork): RuleCase[] {
  const secretRef = { name: 'wrap' };
  const channel = (fields: Manifest): Manifest => ({ controlChannel: fields });
  return [
    of(
      `the control channel of ${whose} is wrapped by a known means`,
      'spec.controlChannel.wrap',
      channel({ wrap: 'TLSCryptV2', secretRef }),
      channel({ wrap: 'tls-crypt-v2', secretRef }),
    ),
    of(
      `wrapping the control channel of ${whose} needs a key`,
      'spec.controlChannel.secretRef',
      channel({ wrap: 'TLSCrypt', secretRef }),
      channel({ wrap: 'TLSCrypt' }),
      { says: 'secretRef is needed' },
    ),
    of(
      `an unwrapped control channel of ${whose} has no key`,
      'spec.controlChannel.secretRef',
      channel({}),
      channel({ secretRef }),
      { says: 'must be left out when wrap is None' },
    ),
    ...Object.entries({ keyDirection: 'Inverse', digest: 'SHA512' }).map(([field, value]) =>
      of(
        `the ${field} of the control channel of ${whose} is for TLSAuth`,
        `spec.controlChannel.${field}`,
        channel({ wrap: 'TLSAuth', secretRef, [field]: value }),
        channel({ wrap: 'TLSCrypt', secretRef, [field]: value }),
        { says: 'must be left out when wrap is not TLSAuth' },
      ),
    ),
    of(
      `the digest of the control channel of ${whose} is a known one`,
      'spec.controlChannel.digest',
      channel({ wrap: 'TLSAuth', secretRef, digest: 'SHA1' }),
      channel({ wrap: 'TLSAuth', secretRef, digest: 'MD5' }),
    ),
    of(
      `the key's direction in the control channel of ${whose} is in words`,
      'spec.controlChannel.keyDirection',
      channel({ wrap: 'TLSAuth', secretRef, keyDirection: 'Normal' }),
      channel({ wrap: 'TLSAuth', secretRef, keyDirection: '1' }),
    ),
  ];
}

export const ruleCases: readonly RuleCase[] = [
  // VpnNetwork
  {
    rule: 'a network has a short name',
    field: 'metadata.name',
    accepted: networkNamed('n'.repeat(40)),
    rejected: networkNamed('n'.repeat(41)),
    says: 'at most 40 characters',
    apiServer: 'refuses',
  },
  {
    rule: "a network's name has no dots",
    field: 'metadata.name',
    accepted: networkNamed('a-1'),
    rejected: networkNamed('a.b'),
    apiServer: 'refuses',
  },
  ofNetwork(
    'label names in a node selector',
    'spec.nodeSelector["no good"]',
    { nodeSelector: { 'a.b/c': 'd' } },
    { nodeSelector: { 'no good': 'd' } },
    accepts,
  ),
  ofNetwork(
    'label values in a node selector',
    'spec.nodeSelector["zone"]',
    { nodeSelector: { zone: '' } },
    { nodeSelector: { zone: '-' } },
  ),
  ofNetwork(
    'few labels in a node selector',
    'spec.nodeSelector',
    { nodeSelector: Object.fromEntries(many(32, (n) => [`l${n}`, 'x'])) },
    { nodeSelector: Object.fromEntries(many(33, (n) => [`l${n}`, 'x'])) },
  ),
  ofNetwork('pools are needed', 'spec.pools', { pools: { pods: null }, nodes: null }, { pools: null }),
  ofNetwork('a peer pool is needed', 'spec.pools.peers', {}, { pools: { peers: [] } }),
  ofNetwork(
    'at most two peer pools',
    'spec.pools.peers',
    {},
    { pools: { peers: ['10.8.0.0/24', 'fd00:8::/64', 'fd00:9::/64'] } },
  ),
  ofNetwork(
    'a range of peers is a range',
    'spec.pools.peers[0]',
    { nodes: null },
    { nodes: null, pools: { peers: ['10.8.0.1-10.8.0.9'] } },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'a range of peers begins at its first address',
    'spec.pools.peers[0]',
    { nodes: null },
    { nodes: null, pools: { peers: ['10.8.0.1/24'] } },
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    "a node's pod block is a range",
    'spec.nodes[0].podBlocks[0]',
    {},
    nodes({ name: 'worker-1', addresses: ['10.8.0.1'], podBlocks: ['10.9.1.0'] }),
    { says: 'CIDR' },
  ),
  ofNetwork(
    "a node's pod block begins at its first address",
    'spec.nodes[0].podBlocks[0]',
    {},
    nodes({ name: 'worker-1', addresses: ['10.8.0.1'], podBlocks: ['10.9.1.1/24'] }),
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    'pushed routes begin at their first address',
    'spec.push.routes[0]',
    { push: { routes: ['10.1.0.0/16'] } },
    { push: { routes: ['10.1.0.1/16'] } },
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    'allowed routes begin at their first address',
    'spec.allowedPeers.routes[0]',
    { allowedPeers: { routes: ['10.1.0.0/16'] } },
    { allowedPeers: { routes: ['10.1.0.1/16'] } },
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    'a pool is a range',
    'spec.pools.pods[0]',
    { pools: { pods: [] }, nodes: [] },
    { pools: { pods: ['10.9.0.0'] }, nodes: [] },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'a range is a valid one',
    'spec.pools.pods[0]',
    {},
    { pools: { pods: ['10.9.0.0/33'] }, nodes: [] },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'no IPv4 inside IPv6 in a range',
    'spec.pools.pods[0]',
    {},
    { pools: { pods: ['::ffff:10.9.0.0/112'] }, nodes: [] },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'a range begins at its first address',
    'spec.pools.pods[0]',
    { pools: { pods: ['10.10.0.0/15'] }, nodes: [] },
    { pools: { pods: ['10.9.1.0/16'] }, nodes: [] },
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    'an IPv6 range begins at its first address',
    'spec.pools.pods[0]',
    { pools: { pods: ['fd00:9:0::/48'] }, nodes: [] },
    { pools: { pods: ['fd00:9::1/48'] }, nodes: [] },
    { says: 'write the first address of the range' },
  ),
  ofNetwork(
    'one peer pool per family',
    'spec.pools.peers[1]',
    {},
    { pools: { peers: ['10.8.0.0/24', '10.7.0.0/24'] }, nodes: [] },
    { says: 'at most one IPv4 and one IPv6 range' },
  ),
  ofNetwork(
    'one pod pool per family',
    'spec.pools.pods[1]',
    { pools: { pods: ['10.9.0.0/16', 'fd00:9::/64'] } },
    { pools: { pods: ['fd00:a::/64', 'fd00:9::/64'] }, nodes: [] },
    { says: 'at most one IPv4 and one IPv6 range' },
  ),
  ofNetwork(
    'peer and pod pools are disjoint',
    'spec.pools.pods[0]',
    { pools: { pods: ['10.8.1.0/24'] }, nodes: [] },
    { pools: { pods: ['10.8.0.0/16'] }, nodes: [] },
    { says: 'must not share addresses between peers and pods' },
  ),
  ofNetwork(
    'no entry of a set stands twice',
    'spec.allowedPeers.routes[1]',
    {},
    { allowedPeers: { routes: ['10.0.0.0/8', '10.0.0.0/8'] } },
  ),
  ofNetwork(
    'a choice of namespaces by their labels has a selector',
    'spec.allowedPeers.namespaces.selector',
    { allowedPeers: { namespaces: { from: 'Selector', selector: { matchLabels: { team: 'a' } } } } },
    { allowedPeers: { namespaces: { from: 'Selector' } } },
    { says: 'must have a selector' },
  ),
  ofNetwork(
    'a block of IPv4 addresses is a /30 at least',
    'spec.pools.podBlockLengths.ipv4',
    { pools: { podBlockLengths: { ipv4: 30 } } },
    { pools: { podBlockLengths: { ipv4: 31 } } },
  ),
  ofNetwork(
    'a block of IPv6 addresses is a /64 at most',
    'spec.pools.podBlockLengths.ipv6',
    { pools: { podBlockLengths: { ipv6: 64 } } },
    { pools: { podBlockLengths: { ipv6: 63 } } },
  ),
  changeOfNetwork(
    'the size of blocks is immutable',
    'spec.pools.podBlockLengths',
    { pools: { podBlockLengths: { ipv4: 25 } } },
    { pools: { podBlockLengths: { ipv4: 26 } } },
    { says: 'is immutable' },
  ),
  changeOfAllocation('an allocation is immutable', 'spec', {}, { holder: { name: 'bob' } }, { says: 'is immutable' }),
  ofAllocation(
    'a holder is a peer or a node',
    'spec.holder.kind',
    { holder: { kind: 'Node', namespace: null } },
    { holder: { kind: 'Pod' } },
  ),
  ofNetwork('a node has a name', 'spec.nodes[0].name', {}, nodes({ addresses: ['10.8.0.1'] })),
  ofNetwork('a node has an address', 'spec.nodes[0].addresses', {}, nodes({ name: 'a', addresses: [] })),
  ofNetwork(
    'a node stands once',
    'spec.nodes[1]',
    nodes({ name: 'a', addresses: ['10.8.0.1'] }, { name: 'b', addresses: ['10.8.0.2'] }),
    nodes({ name: 'a', addresses: ['10.8.0.1'] }, { name: 'a', addresses: ['10.8.0.2'] }),
  ),
  ofNetwork(
    'not too many nodes',
    'spec.nodes',
    {
      pools: { peers: ['10.8.0.0/16'], pods: [] },
      nodes: many(512, (n) => ({ name: `n${n}`, addresses: [`10.8.${1 + (n >> 8)}.${n & 255}`] })),
    },
    {
      pools: { peers: ['10.8.0.0/16'], pods: [] },
      nodes: many(513, (n) => ({ name: `n${n}`, addresses: [`10.8.${1 + (n >> 8)}.${n & 255}`] })),
    },
  ),
  ofNetwork(
    'an address of a node is one',
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.300'] }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'no leading zeros in an address',
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.010'] }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'no IPv4 inside IPv6',
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['::ffff:10.8.0.1'] }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'no zone in an address',
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['fd00:8::1%eth0'] }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'one address of a node per family',
    'spec.nodes[0].addresses[1]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.1', '10.8.0.3'] }),
    { says: 'at most one IPv4 and one IPv6 address' },
  ),
  ofNetwork(
    "a node's address is in the pool",
    'spec.nodes[0].addresses[0]',
    nodes({ name: 'a', addresses: ['10.8.0.254'] }),
    nodes({ name: 'a', addresses: ['10.8.1.1'] }),
    { says: 'inside pools.peers' },
  ),
  ofNetwork(
    "a node's address is not the network address",
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.0'] }),
    accepts,
  ),
  ofNetwork(
    "a node's address is not the broadcast address",
    'spec.nodes[0].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.255'] }),
    accepts,
  ),
  ofNetwork(
    'two nodes have different addresses',
    'spec.nodes[1].addresses[0]',
    {},
    nodes({ name: 'a', addresses: ['fd00:8::1'] }, { name: 'b', addresses: ['fd00:8:0::1'] }),
    accepts,
  ),
  ofNetwork(
    "a node's pod block is in the pool",
    'spec.nodes[0].podBlocks[0]',
    nodes({ name: 'a', addresses: ['10.8.0.1'], podBlocks: ['10.9.0.0/16'] }),
    nodes({ name: 'a', addresses: ['10.8.0.1'], podBlocks: ['10.0.0.0/8'] }),
    { says: 'inside pools.pods' },
  ),
  ofNetwork(
    'one pod block per family',
    'spec.nodes[0].podBlocks[1]',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.1'], podBlocks: ['10.9.1.0/24', '10.9.2.0/24'] }),
    { says: 'at most one IPv4 and one IPv6 range' },
  ),
  ofNetwork(
    'pod blocks of nodes are disjoint',
    'spec.nodes[0].podBlocks[0]',
    nodes(
      { name: 'a', addresses: ['10.8.0.1'], podBlocks: ['10.9.2.0/24'] },
      { name: 'b', addresses: ['10.8.0.2'], podBlocks: ['10.9.3.0/24'] },
    ),
    nodes(
      { name: 'a', addresses: ['10.8.0.1'], podBlocks: ['10.9.3.0/24'] },
      { name: 'b', addresses: ['10.8.0.2'], podBlocks: ['10.9.2.0/23'] },
    ),
    accepts,
  ),
  ofNetwork('a listener is needed', 'spec.listeners', {}, { listeners: null }),
  ofNetwork('at least one listener', 'spec.listeners', {}, listeners()),
  ofNetwork(
    'at most eight listeners',
    'spec.listeners',
    listeners(...many(8, (n) => ({ name: `l${n}`, port: 1 + n }))),
    listeners(...many(9, (n) => ({ name: `l${n}`, port: 1 + n }))),
  ),
  ofNetwork(
    'listeners have different names',
    'spec.listeners[1]',
    {},
    listeners({ name: 'a', port: 1 }, { name: 'a', port: 2 }),
  ),
  ofNetwork("a listener's name is a label", 'spec.listeners[0].name', {}, listeners({ name: 'Udp', port: 1194 })),
  ofNetwork(
    'a listener uses a known protocol',
    'spec.listeners[0].protocol',
    listeners({ name: 'a', protocol: 'UDP', port: 1194 }),
    listeners({ name: 'a', protocol: 'udp', port: 1194 }),
  ),
  ofNetwork(
    'a listener has a port',
    'spec.listeners[0].port',
    listeners({ name: 'a', port: 65535 }),
    listeners({ name: 'a', port: 65536 }),
  ),
  ofNetwork('a port is a number', 'spec.listeners[0].port', {}, listeners({ name: 'a', port: '1194' })),
  ofNetwork(
    'a listener binds an address',
    'spec.listeners[0].address',
    listeners({ name: 'a', port: 1194, address: '192.0.2.1' }),
    listeners({ name: 'a', port: 1194, address: 'eth0' }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    "a listener's address is one of a host",
    'spec.listeners[0].address',
    {},
    listeners({ name: 'a', port: 1194, address: '0.0.0.0' }),
    { says: 'leave the field out' },
  ),
  ofNetwork(
    'listeners do not collide',
    'spec.listeners[1].port',
    listeners({ name: 'a', port: 1, address: '192.0.2.1' }, { name: 'b', port: 1, address: '192.0.2.2' }),
    listeners({ name: 'a', port: 1, address: '192.0.2.1' }, { name: 'b', port: 1 }),
    { says: 'must not listen twice' },
  ),
  ofNetwork(
    'listeners of two protocols do not collide',
    'spec.listeners[1].port',
    listeners({ name: 'a', port: 1 }, { name: 'b', port: 1, protocol: 'TCP' }),
    listeners({ name: 'a', port: 1, protocol: 'TCP' }, { name: 'b', port: 1, protocol: 'TCP' }),
    { says: 'must not listen twice' },
  ),
  ofNetwork(
    'listeners do not collide in other words',
    'spec.listeners[1].port',
    {},
    listeners({ name: 'a', port: 1, address: 'fd00::1' }, { name: 'b', port: 1, address: 'fd00:0::1' }),
    accepts,
  ),
  ofNetwork(
    'keepalive gives a peer time to answer',
    'spec.keepalive.timeoutSeconds',
    { keepalive: { intervalSeconds: 59 } },
    { keepalive: { intervalSeconds: 60 } },
    { says: 'must be greater than intervalSeconds' },
  ),
  ofNetwork(
    'keepalive has bounds',
    'spec.keepalive.timeoutSeconds',
    { keepalive: { timeoutSeconds: 86400 } },
    { keepalive: { timeoutSeconds: 86401 } },
  ),
  ofNetwork(
    'a transition has bounds',
    'spec.keyTransition.seconds',
    { keyTransition: { seconds: 3600 } },
    { keyTransition: { seconds: 0 } },
  ),
  ofNetwork(
    'the MTU has a lower bound',
    'spec.mtu',
    { pools: { peers: ['10.8.0.0/24'] }, nodes: [], mtu: 576 },
    { pools: { peers: ['10.8.0.0/24'] }, nodes: [], mtu: 575 },
  ),
  ofNetwork('the MTU has an upper bound', 'spec.mtu', { mtu: 65451 }, { mtu: 65452 }),
  ofNetwork('the MTU is enough for IPv6', 'spec.mtu', { mtu: 1280 }, { mtu: 1279 }, { says: 'must be at least 1280' }),
  ofNetwork(
    'a pki has a source',
    'spec.pki',
    { pki: { secretRef: { name: 'server' } } },
    { pki: { minTLSVersion: '1.3' } },
    { says: 'exactly one of builtIn, secretRef and issuerRef' },
  ),
  ofNetwork(
    'an issuer and a Secret are not both the source',
    'spec.pki',
    { pki: { issuerRef: { name: 'corp-ca' } } },
    { pki: { issuerRef: { name: 'corp-ca' }, secretRef: { name: 'server' } } },
  ),
  ofNetwork(
    'an issuer has the name of a kind',
    'spec.pki.issuerRef.kind',
    { pki: { issuerRef: { name: 'corp-ca', kind: 'ClusterIssuer' } } },
    { pki: { issuerRef: { name: 'corp-ca', kind: 'clusterissuers' } } },
  ),
  ofNetwork(
    'the group of an issuer is a domain',
    'spec.pki.issuerRef.group',
    { pki: { issuerRef: { name: 'corp-ca', group: 'awspca.cert-manager.io' } } },
    { pki: { issuerRef: { name: 'corp-ca', group: 'no group' } } },
  ),
  ofNetwork(
    'a pki has one source',
    'spec.pki',
    { pki: { builtIn: {} } },
    { pki: { builtIn: {}, secretRef: { name: 'server' } } },
    { says: 'exactly one of builtIn, secretRef and issuerRef' },
  ),
  ofNetwork(
    'a CRL goes with certificates from elsewhere',
    'spec.pki.crlSecretRef',
    { pki: { secretRef: { name: 'server' }, crlSecretRef: { name: 'crl' } } },
    { pki: { builtIn: {}, crlSecretRef: { name: 'crl' } } },
    { says: 'revoking a VpnKey refuses its certificates' },
  ),
  ofNetwork(
    'a CRL is an entry of a Secret',
    'spec.pki.crlSecretRef.key',
    { pki: { issuerRef: { name: 'corp-ca' }, crlSecretRef: { name: 'crl', key: 'crl.pem' } } },
    { pki: { issuerRef: { name: 'corp-ca' }, crlSecretRef: { name: 'crl', key: 'no key' } } },
  ),
  ofNetwork(
    'a CA outlives its certificates',
    'spec.pki.builtIn.caDays',
    { pki: { builtIn: { caDays: 90, certificateDays: 30 } } },
    { pki: { builtIn: { caDays: 89, certificateDays: 30 } } },
    { says: 'at least three times certificateDays' },
  ),
  ofNetwork(
    'certificates are valid for a day at least',
    'spec.pki.builtIn.certificateDays',
    { pki: { builtIn: { certificateDays: 1 } } },
    { pki: { builtIn: { certificateDays: 0 } } },
  ),
  ofNetwork(
    'a CA is valid for a month at least',
    'spec.pki.builtIn.caDays',
    { pki: { builtIn: { caDays: 30, certificateDays: 10 } } },
    { pki: { builtIn: { caDays: 29, certificateDays: 9 } } },
  ),
  ofNetwork(
    'nodes of a mesh know each other by certificates of the network',
    'spec.mesh',
    { pki: { builtIn: {} }, mesh: {} },
    { pki: { secretRef: { name: 'server' } }, mesh: {} },
    { says: 'mesh needs pki.builtIn' },
  ),
  ofNetwork(
    'a mesh that is switched off needs nothing',
    'spec.mesh',
    { mesh: { enabled: false } },
    { mesh: { enabled: true } },
    { says: 'mesh needs pki.builtIn' },
  ),
  ofNetwork(
    'the listener of a mesh is one of UDP',
    'spec.mesh',
    { ...listeners({ name: 'tcp', protocol: 'TCP', port: 443 }, { name: 'udp', port: 1194 }), ...mesh('udp') },
    { ...listeners({ name: 'tcp', protocol: 'TCP', port: 443 }, { name: 'udp', port: 1194 }), ...mesh('tcp') },
    { says: 'mesh needs a UDP listener' },
  ),
  ofNetwork(
    'nodes of a mesh reach each other on all addresses',
    'spec.mesh',
    { ...listeners({ name: 'udp', port: 1194, address: '192.0.2.1' }), ...mesh('udp') },
    { ...listeners({ name: 'udp', port: 1194, address: '192.0.2.1' }), ...mesh() },
    { says: 'mesh needs a UDP listener' },
  ),
  ofNetwork(
    'cluster access names what is reached',
    'spec.clusterAccess',
    access({}),
    access({ services: [], allow: [{}] }),
    { says: 'must name what is reached' },
  ),
  ofNetwork(
    'cluster access that is switched off needs nothing',
    'spec.clusterAccess',
    access({ enabled: false, services: [] }),
    access({ enabled: true, services: [] }),
    { says: 'must name what is reached' },
  ),
  ofNetwork('cluster access says who has it', 'spec.clusterAccess.allow', access({}), access({ allow: null })),
  ofNetwork('cluster access lets somebody in', 'spec.clusterAccess.allow', access({}), access({ allow: [] })),
  ofNetwork(
    'cluster access has 16 rules at most',
    'spec.clusterAccess.allow',
    access({ allow: many(16, () => ({})) }),
    access({ allow: many(17, () => ({})) }),
  ),
  ofNetwork(
    'pods are reached in 8 ranges at most',
    'spec.clusterAccess.pods',
    access({ pods: many(8, (n) => `10.${100 + n}.0.0/16`) }),
    access({ pods: many(9, (n) => `10.${100 + n}.0.0/16`) }),
  ),
  ofNetwork(
    'Services are reached in 4 ranges at most',
    'spec.clusterAccess.services',
    access({ services: many(4, (n) => `10.${100 + n}.0.0/16`) }),
    access({ services: many(5, (n) => `10.${100 + n}.0.0/16`) }),
  ),
  ofNetwork(
    'what is reached has other addresses than the pool of peers',
    'spec.clusterAccess.services[0]',
    access({ services: ['10.96.0.0/12'] }),
    access({ services: ['10.8.0.0/16'] }),
    { says: 'clusterAccess must not share addresses' },
  ),
  ofNetwork(
    'what is reached has other addresses than the pool of pods',
    'spec.clusterAccess.pods[0]',
    access({ pods: ['10.244.0.0/16'] }),
    access({ pods: ['10.9.4.0/24'] }),
    { says: 'clusterAccess must not share addresses' },
  ),
  ofNetwork(
    'the DNS of the cluster is in what is reached',
    'spec.clusterAccess.dns.servers[0]',
    access({ dns: { servers: ['10.96.0.10'] } }),
    access({ dns: { servers: ['192.0.2.53'] } }),
    { says: 'dns.servers must be inside pods or services' },
  ),
  ofNetwork(
    'the DNS of the cluster is named once',
    'spec.clusterAccess.dns.servers[1]',
    access({ dns: { servers: ['10.96.0.10', '10.96.0.11'] } }),
    access({ dns: { servers: ['10.96.0.10', '10.96.0.10'] } }),
    { says: 'must not hold anything twice' },
  ),
  ofNetwork(
    'domains of the cluster are names',
    'spec.clusterAccess.dns.domains[0]',
    access({ dns: { domains: ['cluster.local'] } }),
    access({ dns: { domains: ['cluster local'] } }),
  ),
  ofNetwork(
    'domains of the cluster are named once',
    'spec.clusterAccess.dns.domains[1]',
    access({ dns: { domains: ['cluster.local', 'corp.example'] } }),
    access({ dns: { domains: ['cluster.local', 'cluster.local'] } }),
    { says: 'must not hold anything twice' },
  ),
  ofNetwork(
    'a rule of cluster access is about what is reached',
    'spec.clusterAccess.allow[0].to[0].cidr',
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32' }] }] }),
    access({ allow: [{ to: [{ cidr: '192.0.2.0/24' }] }] }),
    { ...accepts, says: 'must be inside pods or services' },
  ),
  ofNetwork(
    'a range of ports does not end before it begins',
    'spec.clusterAccess.allow[0].to[0].ports[0].endPort',
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32', ports: [{ port: 80, endPort: 80 }] }] }] }),
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32', ports: [{ port: 80, endPort: 79 }] }] }] }),
    { says: 'endPort must not be less than port' },
  ),
  ofNetwork(
    'ports are those of a transport protocol that has ports',
    'spec.clusterAccess.allow[0].to[0].ports[0].protocol',
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32', ports: [{ protocol: 'UDP', port: 53 }] }] }] }),
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32', ports: [{ protocol: 'ICMP', port: 53 }] }] }] }),
  ),
  ofNetwork(
    'a rule of cluster access is for peers of namespaces',
    'spec.clusterAccess.allow[0].peers.namespaces[0]',
    access({ allow: [{ peers: { namespaces: ['team-a'] } }] }),
    access({ allow: [{ peers: { namespaces: ['Team A'] } }] }),
  ),
  ofNetwork(
    'a range of pods that are reached is a range',
    'spec.clusterAccess.pods[0]',
    access({ services: null, pods: ['10.244.0.0/16'] }),
    access({ services: null, pods: ['10.244.0.0'] }),
    { says: 'must be an address range in CIDR notation' },
  ),
  ofNetwork(
    'a range of pods that are reached begins with its first address',
    'spec.clusterAccess.pods[0]',
    access({ pods: ['10.244.0.0/16'] }),
    access({ pods: ['10.244.1.0/16'] }),
    { says: 'has bits set behind the prefix' },
  ),
  ofNetwork(
    'a range of Services is a range',
    'spec.clusterAccess.services[0]',
    access({ services: ['10.96.0.0/12'] }),
    access({ services: ['10.96.0.0'] }),
    { says: 'must be an address range in CIDR notation' },
  ),
  ofNetwork(
    'a range of Services begins with its first address',
    'spec.clusterAccess.services[0]',
    access({ services: ['10.96.0.0/12'] }),
    access({ services: ['10.97.0.0/12'] }),
    { says: 'has bits set behind the prefix' },
  ),
  ofNetwork(
    'the DNS of the cluster is an address',
    'spec.clusterAccess.dns.servers[0]',
    access({ dns: { servers: ['10.96.0.10'] } }),
    access({ dns: { servers: ['kube-dns'] } }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'what a rule of cluster access is about is a range',
    'spec.clusterAccess.allow[0].to[0].cidr',
    access({ allow: [{ to: [{ cidr: '10.96.0.5/32' }] }] }),
    access({ allow: [{ to: [{ cidr: '10.96.0.5' }] }] }),
    { says: 'must be an address range in CIDR notation' },
  ),
  ofNetwork(
    'what a rule of cluster access is about begins with its first address',
    'spec.clusterAccess.allow[0].to[0].cidr',
    access({ allow: [{ to: [{ cidr: '10.96.0.0/24' }] }] }),
    access({ allow: [{ to: [{ cidr: '10.96.0.5/24' }] }] }),
    { says: 'has bits set behind the prefix' },
  ),
  ofNetwork(
    'a condition on labels of peers has values where it needs them',
    'spec.clusterAccess.allow[0].peers.selector.matchExpressions[0].values',
    access({ allow: [peersWith({ key: 'team', operator: 'In', values: ['dev'] })] }),
    access({ allow: [peersWith({ key: 'team', operator: 'In' })] }),
    { says: 'must have values for In and NotIn' },
  ),
  ofNetwork(
    'a condition on labels of peers is of a known sort',
    'spec.clusterAccess.allow[0].peers.selector.matchExpressions[0].operator',
    access({ allow: [peersWith({ key: 'team', operator: 'Exists' })] }),
    access({ allow: [peersWith({ key: 'team', operator: 'Has' })] }),
  ),
  ofNetwork(
    'labels of peers have names',
    'spec.clusterAccess.allow[0].peers.selector.matchLabels["-x"]',
    access({ allow: [{ peers: { selector: { matchLabels: { x: '1' } } } }] }),
    access({ allow: [{ peers: { selector: { matchLabels: { '-x': '1' } } } }] }),
    accepts,
  ),
  ofNetwork(
    'a node is reached at the address of a host',
    'spec.nodes[0].underlayAddresses[0]',
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: ['192.0.2.1', '2001:db8::1'] }),
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: ['0.0.0.0'] }),
    { says: 'must be an address of one host' },
  ),
  ofNetwork(
    'where a node is reached is an address',
    'spec.nodes[0].underlayAddresses[0]',
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: ['192.0.2.1'] }),
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: ['node-a'] }),
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'a node is reached at four addresses at most',
    'spec.nodes[0].underlayAddresses',
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: many(4, (n) => `192.0.2.${n + 1}`) }),
    nodes({ name: 'a', addresses: ['10.8.0.1'], underlayAddresses: many(5, (n) => `192.0.2.${n + 1}`) }),
  ),
  ofNetwork(
    'client keys are made where certificates are',
    'spec.controlChannel.secretRef',
    { pki: { builtIn: {} }, controlChannel: { wrap: 'TLSCryptV2' } },
    { pki: { secretRef: { name: 'server' } }, controlChannel: { wrap: 'TLSCryptV2' } },
    { says: 'unless pki.builtIn makes the key' },
  ),
  ofNetwork(
    'clients reach a listener by an address or a name',
    'spec.listeners[0].endpoints[0].address',
    listeners({ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }, { address: '2001:db8::1' }] }),
    listeners({ name: 'udp', port: 1194, endpoints: [{ address: 'vpn example' }] }),
  ),
  ofNetwork(
    'clients reach a listener by a port',
    'spec.listeners[0].endpoints[0].port',
    listeners({ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com', port: 443 }] }),
    listeners({ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com', port: 0 }] }),
  ),
  ofNetwork(
    'a known version of TLS',
    'spec.pki.minTLSVersion',
    { pki: { secretRef: { name: 'server' }, minTLSVersion: '1.3' } },
    { pki: { secretRef: { name: 'server' }, minTLSVersion: '1.1' } },
  ),
  ofNetwork(
    'a version of TLS is text',
    'spec.pki.minTLSVersion',
    { pki: { secretRef: { name: 'server' }, minTLSVersion: '1.2' } },
    { pki: { secretRef: { name: 'server' }, minTLSVersion: 1.2 } },
  ),
  ...controlChannels('a network', ofNetwork),
  ofNetwork(
    'the age of client keys is limited where there are any',
    'spec.controlChannel.maxKeyAgeDays',
    { controlChannel: { wrap: 'TLSCryptV2', secretRef: { name: 'wrap' }, maxKeyAgeDays: 365 } },
    { controlChannel: { wrap: 'TLSCrypt', secretRef: { name: 'wrap' }, maxKeyAgeDays: 365 } },
    { says: 'must be left out when wrap is not TLSCryptV2' },
  ),
  ofNetwork(
    'the age of client keys is a day at least',
    'spec.controlChannel.maxKeyAgeDays',
    { controlChannel: { wrap: 'TLSCryptV2', secretRef: { name: 'wrap' }, maxKeyAgeDays: 1 } },
    { controlChannel: { wrap: 'TLSCryptV2', secretRef: { name: 'wrap' }, maxKeyAgeDays: 0 } },
  ),
  ofNetwork('a cipher is allowed', 'spec.dataCiphers', { dataCiphers: ['AES-192-GCM'] }, { dataCiphers: [] }),
  ofNetwork(
    'a cipher is one of the driver',
    'spec.dataCiphers[1]',
    { dataCiphers: ['CHACHA20-POLY1305', 'AES-256-GCM', 'AES-128-GCM', 'AES-192-GCM'] },
    { dataCiphers: ['AES-256-GCM', 'AES-256-CBC'] },
  ),
  ofNetwork(
    'a cipher stands once',
    'spec.dataCiphers[1]',
    {},
    { dataCiphers: ['AES-256-GCM', 'AES-256-GCM'] },
    { says: 'remove the repetition' },
  ),
  ofNetwork(
    'keys live for a day at most',
    'spec.rekey.seconds',
    { rekey: { seconds: 0 } },
    { rekey: { seconds: 86401 } },
  ),
  ofNetwork(
    'bytes per key are counted exactly',
    'spec.rekey.bytes',
    { rekey: { bytes: 9007199254740991 } },
    { rekey: { bytes: -1 } },
  ),
  ofNetwork(
    'packets per key fit 32 bits',
    'spec.rekey.packets',
    { rekey: { packets: 4294967295 } },
    { rekey: { packets: 4294967296 } },
  ),
  ofNetwork(
    'a pushed route is a range',
    'spec.push.routes[0]',
    { push: { routes: ['10.96.0.0/12', '::/0'] } },
    { push: { routes: ['10.96.0.0'] } },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'not too many pushed routes',
    'spec.push.routes',
    { push: { routes: many(64, (n) => `10.96.${n}.0/24`) } },
    { push: { routes: many(65, (n) => `10.96.${n}.0/24`) } },
  ),
  ofNetwork(
    'a DNS server is an address',
    'spec.push.dns.servers[0]',
    { push: { dns: { servers: ['10.96.0.10', 'fd00::10'] } } },
    { push: { dns: { servers: ['dns.example.com'] } } },
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ofNetwork(
    'a DNS server stands once',
    'spec.push.dns.servers[1]',
    {},
    { push: { dns: { servers: ['10.96.0.10', '10.96.0.10'] } } },
    { says: 'remove the repetition' },
  ),
  ofNetwork(
    'a search domain is a domain',
    'spec.push.dns.searchDomains[0]',
    { push: { dns: { searchDomains: ['cluster.local', 'Example.com.'] } } },
    { push: { dns: { searchDomains: ['cluster local'] } } },
  ),
  ofNetwork(
    'a search domain stands once',
    'spec.push.dns.searchDomains[2]',
    {},
    { push: { dns: { searchDomains: ['a.example', 'b.example', 'a.example'] } } },
    { says: 'remove the repetition' },
  ),
  ofNetwork(
    'allowed namespaces by a known choice',
    'spec.allowedPeers.namespaces.from',
    { allowedPeers: { namespaces: { from: 'All' } } },
    { allowedPeers: { namespaces: { from: 'Some' } } },
  ),
  ofNetwork(
    'attaching namespaces by a known choice',
    'spec.attach.namespaces.from',
    { attach: selectedBy({ key: 'team', operator: 'Exists' }) },
    { attach: { namespaces: { from: 'Some' } } },
  ),
  ofNetwork(
    'a selector of namespaces compares by a known operator',
    'spec.attach.namespaces.selector.matchExpressions[0].operator',
    { attach: selectedBy({ key: 'team', operator: 'NotIn', values: ['shop'] }) },
    { attach: selectedBy({ key: 'team', operator: 'Equals', values: ['shop'] }) },
  ),
  ofNetwork(
    'a selector of namespaces has values to compare with',
    'spec.attach.namespaces.selector.matchExpressions[0].values',
    { attach: selectedBy({ key: 'team', operator: 'In', values: ['shop'] }) },
    { attach: selectedBy({ key: 'team', operator: 'In' }) },
    { says: 'must have values for In and NotIn' },
  ),
  ofNetwork(
    'a selector of allowed namespaces compares by a known operator',
    'spec.allowedPeers.namespaces.selector.matchExpressions[0].operator',
    { allowedPeers: selectedBy({ key: 'team', operator: 'Exists' }) },
    { allowedPeers: selectedBy({ key: 'team', operator: 'Equals', values: ['shop'] }) },
  ),
  ofNetwork(
    'a selector of allowed namespaces has values to compare with',
    'spec.allowedPeers.namespaces.selector.matchExpressions[0].values',
    { allowedPeers: selectedBy({ key: 'team', operator: 'In', values: ['shop'] }) },
    { allowedPeers: selectedBy({ key: 'team', operator: 'In' }) },
    { says: 'must have values for In and NotIn' },
  ),
  ofNetwork(
    'allowed namespaces have names',
    'spec.allowedPeers.namespaces.names[0]',
    {},
    { allowedPeers: { namespaces: { names: ['*'] } } },
  ),
  ofNetwork(
    'allowed routes are ranges',
    'spec.allowedPeers.routes[0]',
    { allowedPeers: { routes: ['0.0.0.0/0'] } },
    { allowedPeers: { routes: ['default'] } },
    { says: 'CIDR' },
  ),
  ofNetwork(
    'attaching namespaces have names',
    'spec.attach.namespaces.names[0]',
    {},
    { attach: { namespaces: { names: ['Shop'] } } },
  ),
  ofNetwork(
    'attaching namespaces have a selector where they are selected',
    'spec.attach.namespaces.selector',
    { attach: { namespaces: { from: 'Selector', selector: { matchLabels: { team: 'shop' } } } } },
    { attach: { namespaces: { from: 'Selector' } } },
    { says: 'must have a selector when from is Selector, and only then' },
  ),
  ofNetwork(
    'attaching namespaces have a selector only there',
    'spec.attach.namespaces.selector',
    { attach: { namespaces: { from: 'All' } } },
    { attach: { namespaces: { from: 'All', selector: {} } } },
    { says: 'must have a selector when from is Selector, and only then' },
  ),
  ofNetwork(
    'a condition on labels has a known operator',
    'spec.attach.podSelector.matchExpressions[0].operator',
    { attach: { podSelector: { matchExpressions: [{ key: 'vpn', operator: 'Exists' }] } } },
    { attach: { podSelector: { matchExpressions: [{ key: 'vpn', operator: 'Equals', values: ['x'] }] } } },
  ),
  ofNetwork(
    'a condition on labels has values where they count',
    'spec.attach.podSelector.matchExpressions[0].values',
    { attach: { podSelector: { matchExpressions: [{ key: 'vpn', operator: 'In', values: ['yes', ''] }] } } },
    { attach: { podSelector: { matchExpressions: [{ key: 'vpn', operator: 'NotIn' }] } } },
    { says: 'must have values for In and NotIn' },
  ),
  ofNetwork(
    'a condition on labels has no values where they do not count',
    'spec.attach.podSelector.matchExpressions[0].values',
    {},
    { attach: { podSelector: { matchExpressions: [{ key: 'vpn', operator: 'Exists', values: ['yes'] }] } } },
    { says: 'must have values for In and NotIn' },
  ),
  ofNetwork(
    'a condition on labels names a label',
    'spec.attach.podSelector.matchExpressions[0].key',
    { attach: { podSelector: { matchExpressions: [{ key: 'example.com/vpn', operator: 'Exists' }] } } },
    { attach: { podSelector: { matchExpressions: [{ key: 'a b', operator: 'Exists' }] } } },
    { says: 'must be the name of a label', apiServer: 'accepts' },
  ),
  ofNetwork(
    'labels of pods have values of their form',
    'spec.attach.podSelector.matchLabels["vpn"]',
    { attach: { podSelector: { matchLabels: { vpn: 'yes' } } } },
    { attach: { podSelector: { matchLabels: { vpn: 'a b' } } } },
  ),
  ofNetwork('no unknown field', 'spec.keepAlive', {}, { keepAlive: { intervalSeconds: 1 } }, prunes),
  ofNetwork(
    'no unknown field in a list',
    'spec.nodes[0].podBlock',
    {},
    nodes({ name: 'a', addresses: ['10.8.0.1'], podBlock: [] }),
    prunes,
  ),

  // VpnPeer
  ofPeer('a network is needed', 'spec.networkRef', {}, { networkRef: null }),
  changeOfPeer(
    'the network is immutable',
    'spec.networkRef.name',
    { suspend: true },
    { networkRef: { name: 'other' } },
    { says: 'is immutable' },
  ),
  ofPeer('an endpoint is needed', 'spec.endpoint', {}, { endpoint: null }),
  ofPeer(
    'an endpoint is an address',
    'spec.endpoint.address',
    { endpoint: { address: '2001:db8::1' } },
    { endpoint: { address: 'vpn.example.com' } },
    { says: 'must be an IPv4 or IPv6 address' },
  ),
  ...['0.0.0.0', '::', '224.0.0.1', 'ff02::1', '255.255.255.255', 'fe80::1'].map((address) =>
    ofPeer(
      `an endpoint is not ${address}`,
      'spec.endpoint.address',
      { endpoint: { address: '169.254.1.1' } },
      { endpoint: { address } },
      { says: 'one host that can be routed to' },
    ),
  ),
  ofPeer('an endpoint has a port', 'spec.endpoint.port', {}, { endpoint: { port: 0 } }),
  ofPeer('a key is needed', 'spec.keyRef.name', {}, { keyRef: { name: null } }),
  ofPeer(
    'a peer id leaves the upper half of its 24 bits to peers with a control channel',
    'spec.static.peerID',
    { static: { peerID: 8388607 } },
    { static: { peerID: 8388608 } },
  ),
  ofPeer(
    'a remote peer id fits 24 bits',
    'spec.static.remotePeerID',
    { static: { remotePeerID: 0 } },
    { static: { remotePeerID: -1 } },
  ),
  ofPeer(
    'a peer with a static key has an address',
    'spec.addresses',
    {},
    { addresses: [] },
    { says: 'must hold a VPN address' },
  ),
  ofPeer(
    'one address per family',
    'spec.addresses[1]',
    {},
    { addresses: ['fd00:8::7', 'fd00:8::8'] },
    { says: 'at most one IPv4 and one IPv6 address' },
  ),
  ofPeer(
    'a route is a range',
    'spec.routes[1]',
    { routes: ['0.0.0.0/0', '::/0'] },
    { routes: ['10.20.0.0/16', 'office'] },
    { says: 'CIDR' },
  ),
  ofPeer(
    'a route begins at its first address',
    'spec.routes[0]',
    {},
    { routes: ['10.20.30.1/24'] },
    { says: 'write the first address of the range' },
  ),
  ofPeer(
    'not too many routes',
    'spec.routes',
    { routes: many(256, (n) => `10.20.${n}.0/24`) },
    { routes: many(257, (n) => `10.${20 + (n >> 8)}.${n & 255}.0/24`) },
  ),
  ofPeer(
    'a keepalive override is whole',
    'spec.keepalive.timeoutSeconds',
    { keepalive: { intervalSeconds: 5, timeoutSeconds: 6 } },
    { keepalive: { intervalSeconds: 5 } },
  ),
  ofPeer(
    'a keepalive override gives time to answer',
    'spec.keepalive.timeoutSeconds',
    { keepalive: null },
    { keepalive: { intervalSeconds: 5, timeoutSeconds: 5 } },
    { says: 'must be greater than intervalSeconds' },
  ),
  ofPeer('suspend is true or false', 'spec.suspend', { suspend: true }, { suspend: 'yes' }),
  ofPeer('no unknown field', 'spec.endpoint.prot', {}, { endpoint: { prot: 1194 } }, prunes),

  // VpnPeer: what sort it is
  ofPeer(
    'a peer is of some sort',
    'spec',
    { static: null, addresses: null },
    { static: null, addresses: null, endpoint: null, keyRef: null },
    { says: 'must have identity' },
  ),
  ofPeer('a static key needs a VpnKey', 'spec.keyRef', {}, { keyRef: null }, { says: 'keyRef is needed' }),
  ofPeer(
    'a static key needs UDP',
    'spec.endpoint.protocol',
    { endpoint: { protocol: 'UDP' } },
    { endpoint: { protocol: 'TCP' } },
    { says: 'must be UDP next to static' },
  ),
  ofPeer(
    'without a static key the remote assigns addresses',
    'spec.addresses',
    { static: null, addresses: [] },
    { static: null },
    { says: 'the remote assigns them' },
  ),
  ...Object.entries({
    serverIdentity: { commonName: 'server' },
    controlChannel: { wrap: 'None' },
    dataCiphers: ['AES-256-GCM'],
    fallbackEndpoints: [{ address: '192.0.2.2', port: 1194 }],
  }).flatMap(([field, value]) =>
    [ofPeer, ofDialIn].map((of) =>
      of(
        `${field} is only for a peer that is dialled${of === ofPeer ? '' : ', not for a client'}`,
        `spec.${field}`,
        { fallbackEndpoints: [] },
        { [field]: value },
        { says: 'only for a peer that is dialled' },
      ),
    ),
  ),
  ...Object.entries({
    endpoint: { address: '192.0.2.2', port: 1194 },
    keyRef: { name: 'alice' },
    static: { peerID: 1 },
  }).map(([field, value]) =>
    ofDialIn(
      `a client that dials in has no ${field}`,
      `spec.${field}`,
      {},
      { [field]: value },
      { says: 'must be left out next to identity' },
    ),
  ),
  ofDialIn(
    "a client's address is one",
    'spec.addresses[0]',
    { addresses: ['fd00:8::10'] },
    { addresses: ['fe80::1%eth0'] },
    { says: 'without a zone' },
  ),
  ofDialIn(
    'an identity is one',
    'spec.identity',
    { identity: { commonName: null, subjectAltName: 'DNS:alice.example' } },
    { identity: { subjectAltName: 'DNS:alice.example' } },
    { says: 'exactly one of commonName, subjectAltName, fingerprint and key' },
  ),
  ofDialIn(
    'an identity may be a key',
    'spec.identity.key',
    { identity: { commonName: null, key: 'alice.laptop' } },
    { identity: { commonName: null, key: 'Alice' } },
  ),
  ofDialIn(
    'an identity is given',
    'spec.identity',
    {},
    { identity: { commonName: null } },
    { says: 'exactly one of commonName, subjectAltName, fingerprint and key' },
  ),
  ofDialIn(
    'a common name has up to 64 characters',
    'spec.identity.commonName',
    { identity: { commonName: 'ä'.repeat(64) } },
    { identity: { commonName: 'a'.repeat(65) } },
  ),
  ...['alice ', ' alice', 'al\nice', 'al\0ice', 'alice\u007f'].map((commonName) =>
    ofDialIn(
      `a common name is not ${JSON.stringify(commonName)}`,
      'spec.identity.commonName',
      { identity: { commonName: 'Alice, Example & Söhne' } },
      { identity: { commonName } },
    ),
  ),
  ...[
    ['DNS:alice.example', 'DNS:'],
    ['DNS:*.alice.example', 'alice.example'],
    ['DNS:_a.Example', 'dns:alice.example'],
    ['IP:10.0.0.1', 'IP:10.0.0.256'],
    ['IP:fd00:0::1', 'IP:::ffff:10.0.0.1'],
    ['email:Alice.O"Hara@Example.com', 'email:example.com'],
    ['email:alice@example.com', 'email:alice@example.com, bob@example.com'],
    ['email:a@a', 'email:al\nice@example.com'],
    ['URI:spiffe://example.com/a?b#c', 'URI:alice'],
    ['URI:urn:uuid:1', 'URI:urn:a b'],
  ].map(([good, bad]) =>
    ofDialIn(
      `an alternative name is not ${bad}`,
      'spec.identity.subjectAltName',
      { identity: { commonName: null, subjectAltName: good } },
      { identity: { commonName: null, subjectAltName: bad } },
      { says: 'must be "DNS:" with a name' },
    ),
  ),
  ...[
    ['ab'.repeat(32), 'ab'.repeat(31)],
    [many(32, () => 'AB').join(':'), 'ab'.repeat(32) + ':'],
    [many(32, () => 'a0').join(':'), 'ag'.repeat(32)],
    ['AB'.repeat(32), many(20, () => 'AB').join(':')],
  ].map(([good, bad]) =>
    ofDialIn(
      `a fingerprint is not ${bad}`,
      'spec.identity.fingerprint',
      { identity: { commonName: null, fingerprint: good } },
      { identity: { commonName: null, fingerprint: bad } },
    ),
  ),

  // VpnPeer: one that is dialled
  ...controlChannels('a peer', ofDialOut),
  ...[
    ['2001:db8::1', 'vpn partner.example'],
    ['192.0.2.1', '192.0.2.256'],
    ['VPN.Partner.example.', '192.0.2.010'],
    ['xn--bcher-kva.example', 'bücher.example'],
    ['a', '-a.example'],
    ['1.example', 'example.1'],
    ['a-b.c', 'a..c'],
    ['0a.a0', 'vpn.partner.example:1194'],
    ['localhost', '::ffff:192.0.2.1'],
  ].map(([good, bad]) =>
    ofDialOut(
      `a remote is not ${bad}`,
      'spec.endpoint.address',
      { endpoint: { address: good } },
      { endpoint: { address: bad } },
      { says: 'or a host name' },
    ),
  ),
  ofDialOut(
    'a remote is one host',
    'spec.endpoint.address',
    { endpoint: { address: '::1' } },
    { endpoint: { address: '0.0.0.0' } },
    { says: 'one host that can be routed to' },
  ),
  ofDialOut(
    'a remote has a known protocol',
    'spec.endpoint.protocol',
    { endpoint: { protocol: 'TCP' } },
    { endpoint: { protocol: 'tcp' } },
  ),
  ofDialOut(
    'a peer that is dialled has no listener',
    'spec.endpoint.listener',
    {},
    { endpoint: { listener: 'udp' } },
    { says: 'only for a static key' },
  ),
  ofDialOut('a peer that is dialled has a key', 'spec.keyRef', {}, { keyRef: null }, { says: 'keyRef is needed' }),
  ofDialOut(
    'a fallback endpoint is a host',
    'spec.fallbackEndpoints[1].address',
    { fallbackEndpoints: [{ address: '203.0.113.9', port: 443, protocol: 'TCP' }] },
    {
      fallbackEndpoints: [
        { address: 'b.example', port: 443 },
        { address: 'b_example', port: 443 },
      ],
    },
    { says: 'or a host name' },
  ),
  ofDialOut(
    'a further server is one host',
    'spec.fallbackEndpoints[0].address',
    { fallbackEndpoints: [{ address: '192.0.2.1', port: 443 }] },
    { fallbackEndpoints: [{ address: '224.0.0.1', port: 443 }] },
    { says: 'one host' },
  ),
  ofDialOut(
    'a further server is reached over UDP or TCP',
    'spec.fallbackEndpoints[0].protocol',
    { fallbackEndpoints: [{ address: 'b.example', port: 443, protocol: 'TCP' }] },
    { fallbackEndpoints: [{ address: 'b.example', port: 443, protocol: 'SCTP' }] },
  ),
  ofDialOut(
    'a fallback endpoint has no listener',
    'spec.fallbackEndpoints[0].listener',
    {},
    { fallbackEndpoints: [{ address: 'b.example', port: 443, listener: 'udp' }] },
    prunes,
  ),
  ofDialOut(
    'not too many fallback endpoints',
    'spec.fallbackEndpoints',
    { fallbackEndpoints: many(8, () => ({ address: 'b.example', port: 443 })) },
    { fallbackEndpoints: many(9, () => ({ address: 'b.example', port: 443 })) },
  ),
  ofDialOut(
    "a server's identity is one",
    'spec.serverIdentity',
    { serverIdentity: { fingerprint: 'ab'.repeat(32) } },
    { serverIdentity: { fingerprint: 'ab'.repeat(32), commonName: 'server' } },
    { says: 'exactly one of commonName and fingerprint' },
  ),
  ofDialOut(
    "a server's cipher stands once",
    'spec.dataCiphers[2]',
    { dataCiphers: ['AES-128-GCM', 'AES-256-GCM'] },
    { dataCiphers: ['AES-128-GCM', 'AES-256-GCM', 'AES-128-GCM'] },
    { says: 'remove the repetition' },
  ),

  // VpnKey
  ofKey('key material is needed', 'spec', {}, { static: null }, { says: 'exactly one of static, tls and issued' }),
  ofTlsKey(
    'key material is of one sort',
    'spec',
    {},
    { static: (key['spec'] as Manifest)['static'] },
    { says: 'exactly one of static, tls and issued' },
  ),
  ofTlsKey('a certificate is in a Secret', 'spec.tls.secretRef', {}, { tls: { secretRef: null } }),
  ofTlsKey(
    'a Secret has a name',
    'spec.tls.secretRef.name',
    { tls: { secretRef: { name: 'a.b' } } },
    { tls: { secretRef: { name: 'A' } } },
  ),
  ofTlsKey(
    'the entries of a Secret have fixed names',
    'spec.tls.secretRef.key',
    {},
    { tls: { secretRef: { key: 'a' } } },
    prunes,
  ),
  changeOfKey(
    'a key keeps its sort',
    'spec.tls',
    { static: { generation: 4 } },
    { static: null, ...(tlsKey['spec'] as Manifest) },
    { says: 'must keep its sort' },
  ),
  ofChange(tlsKey)(
    'a certificate keeps its sort',
    'spec.static',
    { tls: { secretRef: { name: 'another' } } },
    { tls: null, ...(key['spec'] as Manifest) },
    { says: 'must keep its sort' },
  ),
  ofIssuedKey(
    'a certificate is issued by a network',
    'spec.issued.networkRef.name',
    { issued: { networkRef: { name: 'offices' } } },
    { issued: { networkRef: { name: 'a.b' } } },
  ),
  ofIssuedKey(
    'a certificate is issued by some network',
    'spec.issued.networkRef',
    {},
    { issued: { networkRef: null } },
  ),
  ofChange(issuedKey)(
    'a key stays with its network',
    'spec.issued.networkRef.name',
    { issued: { revoked: true } },
    { issued: { networkRef: { name: 'homes' } } },
    { says: 'networkRef is immutable' },
  ),
  ofChange(issuedKey)(
    'an issued key keeps its sort',
    'spec.tls',
    { issued: { certificateDays: 30 } },
    { issued: null, ...(tlsKey['spec'] as Manifest) },
    { says: 'must keep its sort' },
  ),
  ofIssuedKey(
    'an issued certificate is valid for a day at least',
    'spec.issued.certificateDays',
    { issued: { certificateDays: 1 } },
    { issued: { certificateDays: 0 } },
  ),
  ofIssuedKey(
    "a client's Secret has a name",
    'spec.issued.secretName',
    { issued: { secretName: 'alice.vpn' } },
    { issued: { secretName: 'Alice' } },
  ),
  ofKey('a Secret is needed', 'spec.static.secretRef.name', {}, { static: { secretRef: { name: null } } }),
  ofKey(
    "a Secret's key has plain letters",
    'spec.static.secretRef.key',
    { static: { secretRef: { key: 'a_B-c.1' } } },
    { static: { secretRef: { key: 'a/b' } } },
  ),
  ofKey('a direction is needed', 'spec.static.direction', {}, { static: { direction: null } }),
  ofKey(
    'a known cipher',
    'spec.static.cipher',
    { static: { cipher: 'CHACHA20-POLY1305' } },
    { static: { cipher: 'AES-256-CBC' } },
  ),
  ofKey(
    'a known derivation',
    'spec.static.derivation',
    { static: { derivation: 'None' } },
    { static: { derivation: 'none' } },
  ),
  ofKey(
    'a generation counts from one',
    'spec.static.generation',
    { static: { generation: null } },
    { static: { generation: 0 } },
  ),
  changeOfKey(
    'a generation does not go back',
    'spec.static.generation',
    { static: { generation: 4 } },
    { static: { generation: 2 } },
    { says: 'must not decrease' },
  ),
  ...Object.entries({
    cipher: 'AES-128-GCM',
    direction: 'Inverse',
    derivation: 'None',
    secretRef: { key: 'new.key' },
  }).map(([field, value]) =>
    changeOfKey(
      `another ${field} needs another generation`,
      'spec.static.generation',
      { static: { [field]: value, generation: 4 } },
      { static: { [field]: value } },
      { says: 'must be raised' },
    ),
  ),
  ofKey('no key material inline', 'spec.static.key', {}, { static: { key: 'c2VjcmV0' } }, prunes),
];
