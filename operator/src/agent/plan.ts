import { formatRef, refOf, type Secret, type VpnKey, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import { hostnameLabel, isHeldBy, isPlaced } from '../api/placement.ts';
import { isDialInPeer, isDialOutPeer, isStaticPeer, listenerOf, type StaticPeer } from '../api/peer-kind.ts';
import { contains, parseAddress, parseCidr } from '../api/ip.ts';
import { OvpnError } from '../errors.ts';
import { deriveDataKeys, parseStaticKey } from '../openvpn/static-key.ts';
import { planAccess } from './access/plan-access.ts';
import type { DesiredKey, DesiredNetwork, DesiredPeer } from './desired.ts';
import type { DesiredSession } from './sessions/desired-session.ts';
import { kernelCipher } from './sessions/live-peers.ts';
import { issuedKeyProblem, planDialIn, planDialOut, routesVia, type SecretLookup } from './sessions/plan-sessions.ts';

/**
 * The plan: resources in, desired state out. Pure; nothing here reads a clock, a file or the kernel.
 */

/** What the plan knows of the node it is for. */
export interface NodeFacts {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Whether nodes can agree on who has a peer, by Leases at an API server; default: they cannot. */
  readonly places?: boolean;
  /** MTU of the path that encrypted packets take. */
  readonly underlayMtu: number;
}

/**
 * Outer IPv6 header, UDP, OpenVPN's data header and tag, with the driver's own reserve (drivers/net/ovpn/main.c,
 * OVPN_HEAD_ROOM): what the driver subtracts from 1500 itself.
 */
export const encapsulationBytes = 84;
/** IPv6 does not run on less (RFC 8200, section 5). */
const minimumMtuV6 = 1280;
const minimumMtuV4 = 576;

/** Whether a label selector of the `matchLabels` sort takes the node. */
export function selects(selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}

/**
 * The network on this node; undefined when its node selector leaves this node out.
 *
 * @throws OvpnError AddressPending when the network has no addresses for this node
 */
export function planNetwork(network: VpnNetwork, node: NodeFacts): DesiredNetwork | undefined {
  const { spec, metadata } = network;
  if (!selects(spec.nodeSelector, node.labels)) return undefined;
  const own = spec.nodes.find(({ name }) => name === node.name);
  if (own === undefined) {
    throw new OvpnError(
      'AddressPending',
      `has no addresses for node ${node.name}`,
      { object: formatRef(refOf(network)), field: 'spec.nodes' },
      {
        remedy: `wait for the controller to give it some, and see that it runs; without one, add an entry for ${node.name} to spec.nodes, or leave the node out by spec.nodeSelector`,
      },
    );
  }
  const ranges = [...spec.pools.peers, ...spec.pools.pods];
  return {
    name: metadata.name,
    mtu:
      spec.mtu ??
      automaticMtu(
        node.underlayMtu,
        ranges.some((range) => range.includes(':')),
      ),
    addresses: own.addresses.map((address) => withPoolLength(address, spec.pools.peers)),
    podBlocks: own.podBlocks,
    listeners: spec.listeners.map(({ name, protocol, port, address }) => ({
      ...{ name, protocol, port },
      address: address ?? '::',
    })),
    pools: ranges,
    access: planAccess(network),
  };
}

function automaticMtu(underlay: number, ipv6: boolean): number {
  return Math.max(underlay - encapsulationBytes, ipv6 ? minimumMtuV6 : minimumMtuV4);
}

/** The length of the pool makes every VPN address a direct neighbour on the device. */
function withPoolLength(address: string, pools: readonly string[]): string {
  const parsed = parseAddress(address);
  const pool = pools
    .map((text) => parseCidr(text))
    .find((range) => range !== undefined && parsed !== undefined && contains(range, parsed));
  return `${address}/${pool?.prefix ?? (address.includes(':') ? 128 : 32)}`;
}

/** Whether nodes agree among themselves on who has the peer. */
function isAgreedOn(network: VpnNetwork, peer: VpnPeer, { places }: Pick<NodeFacts, 'places'>): boolean {
  return places === true && isPlaced(network, peer);
}

/** Whether the peer is suspended, or another node's: whatever else is wrong with it, it must not be in the kernel. */
export function isAway(
  network: VpnNetwork,
  peer: VpnPeer,
  node: Pick<NodeFacts, 'labels' | 'name' | 'places'>,
): boolean {
  if (peer.spec.suspend || !selects(peer.spec.placement.nodeSelector, node.labels)) return true;
  return isAgreedOn(network, peer, node) && !isHeldBy(node.name, peer.status?.holder);
}

/** What a peer refers to, as far as it is there. */
export interface PeerRefs {
  readonly key: VpnKey | undefined;
  readonly secret: Secret | undefined;
  readonly lookup: SecretLookup;
}

/** A peer's part of the plan, and what keeps it from being whole. */
export interface PeerPlan {
  /** What a static peer should be in the kernel; undefined when it must not be there. */
  readonly desired: DesiredPeer | undefined;
  /** What a peer with a control channel should be; undefined when it has none, or must not have one here. */
  readonly session: DesiredSession | undefined;
  /** A problem with the key leaves the peer as it is and its present key in use. */
  readonly keyProblem: OvpnError | undefined;
  readonly problems: readonly OvpnError[];
}

/**
 * The peer on this node.
 *
 * @param problems what the rules between objects say about it (api/rules.ts): any of them keeps it out
 */
export function planPeer(
  network: VpnNetwork,
  peer: VpnPeer,
  { key, secret, lookup }: PeerRefs,
  node: NodeFacts,
  problems: readonly OvpnError[],
): PeerPlan {
  const absent = { desired: undefined, session: undefined, keyProblem: undefined };
  if (problems.length > 0) return { ...absent, problems };
  if (isAway(network, peer, node)) return { ...absent, problems: [] };
  if (isDialInPeer(peer)) {
    const session = planDialIn(network, peer, key);
    if (session instanceof OvpnError) return { ...absent, problems: [session] };
    return { desired: undefined, session, keyProblem: issuedKeyProblem(network, peer, key), problems: noProblems };
  }
  const object = formatRef(refOf(peer));
  const placed = isAgreedOn(network, peer, node);
  if (!placed && network.spec.nodes.length > 1 && peer.spec.placement.nodeSelector[hostnameLabel] === undefined) {
    return { ...absent, problems: [manyNodes(network, peer, object)] };
  }
  if (isDialOutPeer(peer)) {
    return { ...absent, ...sessionOf(() => ({ ...planDialOut(network, peer, { key, lookup }), placed })) };
  }
  // The API lets no other kind pass.
  if (!isStaticPeer(peer)) return { ...absent, problems: [] };
  const { spec } = peer;
  const listener = listenerOf(network, peer)?.name;
  if (listener === undefined) {
    const where = { object, field: 'spec.endpoint.listener' };
    const name = spec.endpoint.listener === undefined ? '' : ` ${JSON.stringify(spec.endpoint.listener)}`;
    const missing = `VpnNetwork ${network.metadata.name} has no UDP listener${name}`;
    return { ...absent, problems: [new OvpnError('ReferenceNotFound', missing, where)] };
  }
  const vpnIpv4 = spec.addresses.find((address) => !address.includes(':'));
  const vpnIpv6 = spec.addresses.find((address) => address.includes(':'));
  const routes = routesVia(spec.routes, vpnIpv4, vpnIpv6, object);
  if (routes instanceof OvpnError) return { ...absent, problems: [routes] };

  const resolved = resolveKey(network, peer, key, secret);
  const desiredKey = resolved instanceof OvpnError ? undefined : resolved;
  return {
    desired: {
      ref: refOf(peer),
      id: spec.static.peerID,
      txId: spec.static.remotePeerID ?? spec.static.peerID,
      vpnIpv4,
      vpnIpv6,
      remote: { address: spec.endpoint.address, port: spec.endpoint.port },
      // A peer that the kernel expires takes its key along, and a static key cannot be installed twice: only
      // who asks for it gets expiry (docs/decisions/0004-static-keys.md).
      keepalive:
        spec.keepalive === undefined
          ? { interval: 0, timeout: 0 }
          : { interval: spec.keepalive.intervalSeconds, timeout: spec.keepalive.timeoutSeconds },
      listener,
      routes,
      key: desiredKey,
    },
    session: undefined,
    keyProblem: resolved instanceof OvpnError ? resolved : undefined,
    problems: [],
  };
}

const noProblems: readonly OvpnError[] = [];

/** What a dialled peer should be, or what is wrong with its credentials. */
function sessionOf(plan: () => DesiredSession): Pick<PeerPlan, 'session' | 'keyProblem' | 'problems'> {
  try {
    return { session: plan(), keyProblem: undefined, problems: [] };
  } catch (error) {
    if (error instanceof OvpnError) return { session: undefined, keyProblem: error, problems: [] };
    throw error;
  }
}

/**
 * Two nodes with one static key would both start at packet id 1, and repeat each other's nonces; two that dial one
 * remote with one certificate would take each other's place there.
 */
function manyNodes({ metadata, spec }: VpnNetwork, peer: VpnPeer, object: string): OvpnError {
  const what = isStaticPeer(peer) ? 'a static key can be used' : 'a remote can be dialled';
  return new OvpnError(
    'InvalidField',
    `${what} on one node only, and VpnNetwork ${metadata.name} has ${spec.nodes.length}`,
    { object, field: 'spec.placement.nodeSelector' },
    { remedy: `name the node that holds the peer by its label ${hostnameLabel}` },
  );
}

/** The namespace and name of the Secret that a key takes its material from; none for one that is issued to others. */
export function secretOf(key: VpnKey): { readonly namespace: string; readonly name: string } | undefined {
  const source = key.spec.static ?? key.spec.tls;
  return source === undefined ? undefined : { namespace: key.metadata.namespace, name: source.secretRef.name };
}

function resolveKey(
  network: VpnNetwork,
  peer: StaticPeer,
  key: VpnKey | undefined,
  secret: Secret | undefined,
): DesiredKey | OvpnError {
  if (key === undefined) {
    const missing = `there is no VpnKey ${peer.metadata.namespace}/${peer.spec.keyRef.name}`;
    return new OvpnError('ReferenceNotFound', missing, { object: formatRef(refOf(peer)), field: 'spec.keyRef.name' });
  }
  const object = formatRef(refOf(key));
  if (key.spec.static === undefined) {
    return new OvpnError(
      'KeyMaterialInvalid',
      'is not a static key, which a VpnPeer with spec.static needs',
      { object, field: 'spec.static' },
      { remedy: 'refer to a VpnKey with spec.static' },
    );
  }
  const { secretRef, cipher, direction, generation, derivation } = key.spec.static;
  const { namespace } = key.metadata;
  const { name } = secretRef;
  if (secret === undefined) {
    const missing = `there is no Secret ${namespace}/${name}`;
    return new OvpnError('SecretMissing', missing, { object, field: 'spec.static.secretRef.name' });
  }
  const material = secret.data[secretRef.key];
  if (material === undefined) {
    const missing = `Secret ${namespace}/${name} has no key ${JSON.stringify(secretRef.key)}`;
    return new OvpnError('SecretMissing', missing, { object, field: 'spec.static.secretRef.key' });
  }
  try {
    const where = { object: formatRef(refOf(secret)), field: `data[${secretRef.key}]` };
    const bytes = parseStaticKey(Buffer.from(material).toString('latin1'), where);
    const keys = deriveDataKeys(bytes, { cipher, direction, generation, derivation }, where);
    return {
      ref: refOf(key),
      generation,
      // Three bits on the wire: neighbours in time never share one.
      keyId: generation % 8,
      cipher: kernelCipher(cipher),
      keys,
      publishedGeneration: Math.max(0, ...(key.status?.installations ?? []).map((entry) => entry.generation)),
      transitionMs: network.spec.keyTransition.seconds * 1000,
    };
  } catch (error) {
    if (error instanceof OvpnError) return error;
    throw error;
  }
}
