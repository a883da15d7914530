import { addressOf, bitsOf, contains, overlaps, parseAddress, parseCidr, type Cidr } from './ip.ts';
import { isMesh } from './vpn-network.ts';
import type { NetworkNode, VpnAllocation, VpnNetwork, VpnPeer } from './types.ts';

/**
 * What the numbers and blocks of a network stand for. A number is one VPN address of each family: the pool's first
 * address plus the number. A block is one range of pod addresses of each family: the block of that index. Everything
 * else follows from these: allocations store numbers, never addresses, so a pool that moves takes all along.
 */

/** Peer ids have 24 bits, the upper half of which is the agents' (api/vpn-peer.ts): no number that is given out is larger. */
const maxNumber = 0x7fffff;
/** As many blocks as a network may have nodes, and more. */
const maxBlocks = 65_536;

/** The label of allocations by what sort of object holds them, for watches of one sort. */
export const holderLabel = 'ovpn-operator.io/holder';

/** What an allocation's name says. Numbers of fixed IPv6 addresses go beyond what a double holds. */
export type Claim =
  | { readonly kind: 'number'; readonly network: string; readonly number: bigint }
  | { readonly kind: 'pods'; readonly network: string; readonly index: number };

/** `offices.7` and `offices.pods.3`: whoever creates the object of this name has the number or block. */
export function claimName(claim: Claim): string {
  return claim.kind === 'number' ? `${claim.network}.${claim.number}` : `${claim.network}.pods.${claim.index}`;
}

/** What a name claims; undefined when it is of another form. Names of networks have no dots. */
export function parseClaimName(name: string): Claim | undefined {
  const [, network = '', pods, digits = ''] = /^([^.]+)\.(pods\.)?(0|[1-9]\d{0,38})$/.exec(name) ?? [];
  if (digits === '') return undefined;
  return pods === undefined
    ? { kind: 'number', network, number: BigInt(digits) }
    : { kind: 'pods', network, index: Number(digits) };
}

type Pools = VpnNetwork['spec']['pools'];

/** The VPN addresses of a number: at most one of each family, of those families in which the pool is that wide. */
export function addressesOfNumber({ peers }: Pick<Pools, 'peers'>, number: bigint): string[] {
  return peers.flatMap((text) => {
    const pool = parseCidr(text);
    return pool === undefined || !isUsable(pool, number) ? [] : [offset(pool, number)];
  });
}

/** The number that an address stands for; undefined outside the pools. */
export function numberOfAddress({ peers }: Pick<Pools, 'peers'>, text: string): bigint | undefined {
  const address = parseAddress(text);
  const pool = peers.map((range) => parseCidr(range)).find((range) => range && address && contains(range, address));
  return address === undefined || pool === undefined ? undefined : valueOf(address.bytes) - valueOf(pool.bytes);
}

/**
 * The numbers that may be given out, from the first to the last: usable in the pools of all families, so that every
 * peer gets an address of each.
 */
export function numberRange({ peers }: Pick<Pools, 'peers'>): { readonly first: number; readonly last: number } {
  let [first, last] = [0, maxNumber];
  for (const pool of peers.map((text) => parseCidr(text))) {
    if (pool === undefined) continue;
    const { low, high } = usable(pool);
    if (low > first) first = Number(low);
    if (high < last) last = Number(high);
  }
  return { first, last };
}

/** Whether a number may be given out. */
export function isGivable(pools: Pick<Pools, 'peers'>, number: bigint): boolean {
  const { first, last } = numberRange(pools);
  return number >= first && number <= last;
}

/** How many blocks of pod addresses there are: as many as fit into the pools of all families. */
export function blockCount(pools: Pick<Pools, 'pods' | 'podBlockLengths'>): number {
  const counts = blockPools(pools).map(({ pool, length }) => 2 ** Math.min(30, length - pool.prefix));
  return counts.length === 0 ? 0 : Math.min(maxBlocks, ...counts);
}

/** The ranges of the block of an index: one of each family that has a pool. */
export function podBlocksOf(pools: Pick<Pools, 'pods' | 'podBlockLengths'>, index: number): string[] {
  if (index >= blockCount(pools)) return [];
  return blockPools(pools).map(({ pool, length }) => {
    const size = 1n << BigInt(bitsOf(pool.family) - length);
    return `${offset(pool, BigInt(index) * size)}/${length}`;
  });
}

/** Whether a block shares an address with ranges that spec.nodes gives out by hand. */
export function isFixedBlock({ spec }: VpnNetwork, index: number): boolean {
  const blocks = podBlocksOf(spec.pools, index).flatMap((text) => parseCidr(text) ?? []);
  return spec.nodes.some(({ podBlocks }) =>
    podBlocks.some((text) => {
      const fixed = parseCidr(text);
      return fixed !== undefined && blocks.some((block) => overlaps(block, fixed));
    }),
  );
}

/** Whether an allocation is in force: claimed and not given up. */
export function isHeld({ status }: VpnAllocation): boolean {
  return status?.releasedAt === undefined;
}

/**
 * The network with the addresses and blocks of nodes that hold some, besides those that spec.nodes gives by hand.
 * The same object when there are none.
 */
export function withAllocatedNodes(network: VpnNetwork, allocations: Iterable<VpnAllocation>): VpnNetwork {
  const { pools, nodes } = network.spec;
  const fixed = new Set(nodes.map(({ name }) => name));
  const found = new Map<string, { addresses: string[]; podBlocks: string[] }>();
  for (const { spec, metadata, ...rest } of allocations) {
    const { holder } = spec;
    const claim = parseClaimName(metadata.name);
    if (holder.kind !== 'Node' || fixed.has(holder.name) || claim === undefined) continue;
    if (!isHeld({ spec, metadata, ...rest })) continue;
    const node = found.get(holder.name) ?? { addresses: [], podBlocks: [] };
    found.set(holder.name, node);
    // Of several, which only a crash at the wrong moment leaves for a moment, the first by name counts.
    if (claim.kind === 'number') node.addresses = lower(node.addresses, addressesOfNumber(pools, claim.number));
    else node.podBlocks = lower(node.podBlocks, podBlocksOf(pools, claim.index));
  }
  const allocated: NetworkNode[] = [...found].flatMap(([name, node]) =>
    node.addresses.length === 0 ? [] : [{ name, ...node, underlayAddresses: [] }],
  );
  if (allocated.length === 0) return network;
  return { ...network, spec: { ...network.spec, nodes: [...nodes, ...allocated] } };
}

/**
 * The network with the underlay addresses of nodes that say theirs in its status, where spec.nodes does not. The same
 * object when there are none.
 */
export function withUnderlayAddresses(network: VpnNetwork): VpnNetwork {
  const said = new Map(
    network.status?.nodes?.flatMap(({ name, underlayAddresses }) =>
      underlayAddresses === undefined || underlayAddresses.length === 0 ? [] : [[name, underlayAddresses] as const],
    ),
  );
  if (said.size === 0 || !isMesh(network.spec)) return network;
  const nodes = network.spec.nodes.map((node) =>
    node.underlayAddresses.length > 0 ? node : { ...node, underlayAddresses: [...(said.get(node.name) ?? [])] },
  );
  return { ...network, spec: { ...network.spec, nodes } };
}

/** The peer with the addresses that it was given, where its spec names none. */
export function withAllocatedAddresses(peer: VpnPeer): VpnPeer {
  const given = peer.status?.allocation?.addresses ?? [];
  if (peer.spec.addresses.length > 0 || given.length === 0) return peer;
  return { ...peer, spec: { ...peer.spec, addresses: [...given] } };
}

/**
 * The network with the namespaces that its selector takes as a list of names, as the controller publishes them. One
 * without a selector is the same object.
 */
export function withAdmittedNamespaces(network: VpnNetwork): VpnNetwork {
  const { allowedPeers } = network.spec;
  if (allowedPeers.namespaces.from !== 'Selector') return network;
  const names = [...(network.status?.peerNamespaces ?? [])];
  const namespaces = { from: 'Names' as const, names };
  return { ...network, spec: { ...network.spec, allowedPeers: { ...allowedPeers, namespaces } } };
}

function lower(one: string[], other: string[]): string[] {
  if (one.length === 0 || other.length === 0) return one.length === 0 ? other : one;
  return compareTexts(one[0] ?? '', other[0] ?? '') <= 0 ? one : other;
}

function compareTexts(one: string, other: string): number {
  const [a, b] = [one, other].map((text) => valueOf(parseAddress(text.split('/')[0] ?? '')?.bytes ?? []));
  return a === undefined || b === undefined || a === b ? 0 : a < b ? -1 : 1;
}

function blockPools({ pods, podBlockLengths }: Pick<Pools, 'pods' | 'podBlockLengths'>) {
  return pods.flatMap((text) => {
    const pool = parseCidr(text);
    if (pool === undefined) return [];
    const wanted = pool.family === 4 ? podBlockLengths.ipv4 : podBlockLengths.ipv6;
    // A pool that is smaller than a block is one block.
    return [{ pool, length: Math.max(wanted, pool.prefix) }];
  });
}

/**
 * The numbers of a pool that a host may have. Left out are an IPv4 subnet's own and its broadcast address (a /31 and a
 * /32 have none) and the Subnet-Router anycast address of IPv6 (RFC 4291, 2.6.1), which a /127 and a /128 do not have.
 */
function usable(pool: Cidr): { low: bigint; high: bigint } {
  const size = 1n << BigInt(bitsOf(pool.family) - pool.prefix);
  if (size <= 2n) return { low: 0n, high: size - 1n };
  return { low: 1n, high: pool.family === 4 ? size - 2n : size - 1n };
}

function isUsable(pool: Cidr, number: bigint): boolean {
  const { low, high } = usable(pool);
  return number >= low && number <= high;
}

function offset(pool: Cidr, by: bigint): string {
  const value = valueOf(pool.bytes) + by;
  const length = pool.bytes.length;
  return addressOf(Array.from({ length }, (_, i) => Number((value >> BigInt(8 * (length - 1 - i))) & 0xffn))).text;
}

function valueOf(bytes: readonly number[]): bigint {
  return bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);
}
