import ipaddr from 'ipaddr.js';
import { contains, parseAddress, parseCidr } from '../api/ip.ts';
import { OvpnError } from '../errors.ts';
import { addressText, isIpv6, parsePrefix } from '../kernel/address.ts';

/**
 * Addresses of pods. A node gives them out of its blocks. The first one of a block is the gateway, which every
 * attachment has at its far end; an IPv4 block's network and broadcast address are left out.
 */

/** What of a network on this node decides about addresses of pods. */
export interface PodAddressSpace {
  readonly network: string;
  /** The node's blocks, of one or two families. */
  readonly blocks: readonly string[];
  /** The network's pools of pod addresses, which the blocks are cut from. */
  readonly pools: readonly string[];
  /** The blocks of other nodes, as far as they are known here. */
  readonly elsewhere: readonly { readonly node: string; readonly block: string }[];
  /** The node's own VPN addresses, with or without a length. */
  readonly nodeAddresses: readonly string[];
  readonly isTaken: (address: string) => boolean;
}

interface Block {
  readonly first: bigint;
  readonly last: bigint;
  readonly bytes: 4 | 16;
}

/** How many pods a block has addresses for. A number of metrics: beyond 2^53 it is rounded. */
export function podAddressesIn(block: string): number {
  const { first, last } = range(block);
  return Number(last - first);
}

/** The first usable address of a block. */
export function gatewayOf(block: string): string {
  return textOf(range(block).first, range(block).bytes);
}

/**
 * The next hop of a pod, one for each family of its addresses: that of the block which the address is of, else of the
 * node's first block of the family, else the node's own address (pods with addresses of another IPAM plugin).
 */
export function gatewaysFor(
  addresses: readonly string[],
  { blocks, nodeAddresses }: Pick<PodAddressSpace, 'blocks' | 'nodeAddresses'>,
): string[] {
  return [false, true].flatMap((v6) => {
    const address = addresses.find((candidate) => isIpv6(candidate) === v6);
    if (address === undefined) return [];
    const ofFamily = blocks.filter((block) => isIpv6(block) === v6);
    const block = ofFamily.find((candidate) => lies(address, candidate)) ?? ofFamily[0];
    if (block !== undefined) return [gatewayOf(block)];
    const own = nodeAddresses.find((candidate) => isIpv6(candidate) === v6);
    return own === undefined ? [] : [parsePrefix(own).address];
  });
}

/**
 * Addresses for a new pod: one of each family that the node has blocks of.
 *
 * @param wanted addresses that it must get (static ones), without length, canonical
 * @throws OvpnError PoolExhausted naming the blocks; AddressOutsidePool, AddressConflict for what is wanted
 */
export function allocateAddresses(space: PodAddressSpace, wanted: readonly string[]): string[] {
  for (const address of wanted) requireOwn(address, space);
  const v6 = [false, true].filter((family) => space.blocks.some((block) => isIpv6(block) === family));
  if (v6.length === 0) {
    throw new OvpnError(
      'PoolExhausted',
      'this node has no block of pod addresses',
      { object: `VpnNetwork ${space.network}`, field: 'spec.nodes[].podBlocks' },
      { remedy: "add podBlocks to this node's entry in spec.nodes" },
    );
  }
  return v6.map(
    (family) =>
      wanted.find((address) => isIpv6(address) === family) ??
      allocateAddress(
        space.blocks.filter((block) => isIpv6(block) === family),
        space.isTaken,
        space.network,
      ),
  );
}

/**
 * Judges addresses that another IPAM plugin has given out.
 *
 * @param addresses without length, canonical
 * @throws OvpnError AddressOutsidePool, AddressConflict
 */
export function requireDelegated(addresses: readonly string[], space: PodAddressSpace): void {
  const object = `VpnNetwork ${space.network}`;
  if (addresses.length === 0) {
    throw new OvpnError('AddressOutsidePool', 'the IPAM plugin gave no address', { object, field: 'spec.pools.pods' });
  }
  for (const address of addresses) {
    if (!space.pools.some((pool) => lies(address, pool))) {
      const pools = space.pools.length === 0 ? 'there is none' : space.pools.join(', ');
      throw new OvpnError(
        'AddressOutsidePool',
        `address ${address} of the IPAM plugin lies in no pool of pods (${pools})`,
        { object, field: 'spec.pools.pods' },
        { remedy: 'have the IPAM plugin give addresses of that pool' },
      );
    }
    if (gatewaysFor([address], space).length === 0) {
      throw new OvpnError(
        'AddressOutsidePool',
        `the node has no VPN address of the family of ${address}, which a pod could send to`,
        { object, field: 'spec.nodes[].addresses' },
        { remedy: "add an address of that family to this node's entry in spec.nodes" },
      );
    }
    requireFree(address, space);
  }
}

/** The lowest free address of blocks of one family. @throws OvpnError PoolExhausted naming the blocks */
export function allocateAddress(
  blocks: readonly string[],
  isTaken: (address: string) => boolean,
  network: string,
): string {
  let size = 0n;
  for (const block of blocks) {
    const { first, last, bytes } = range(block);
    // Addresses are taken from the bottom, so the search is as long as the node has pods, not as the block is wide.
    for (let value = first + 1n; value <= last; value++) {
      const address = textOf(value, bytes);
      if (!isTaken(address)) return address;
    }
    size += last - first;
  }
  throw new OvpnError(
    'PoolExhausted',
    `all ${size} pod addresses of ${blocks.length === 1 ? 'block' : 'blocks'} ${blocks.join(', ')} are in use`,
    { object: `VpnNetwork ${network}`, field: 'spec.nodes[].podBlocks' },
  );
}

/** A static address must be of this node's blocks: only there is it sure that no other node gives it out. */
function requireOwn(address: string, space: PodAddressSpace): void {
  const where = { object: `VpnNetwork ${space.network}`, field: 'spec.nodes[].podBlocks' };
  const block = space.blocks.find((candidate) => lies(address, candidate));
  if (block === undefined) {
    const owner = space.elsewhere.find((other) => lies(address, other.block));
    const blocks = space.blocks.length === 0 ? 'it has none' : space.blocks.join(', ');
    throw new OvpnError(
      'AddressOutsidePool',
      owner === undefined
        ? `static address ${address} lies in no pod block of this node (${blocks})`
        : `static address ${address} lies in block ${owner.block} of node ${owner.node}, and this node has ${blocks}`,
      where,
      { remedy: 'choose an address of a block of the node that the pod runs on' },
    );
  }
  const { first, last } = range(block);
  const value = valueOf(address);
  if (value <= first || value > last) {
    throw new OvpnError(
      'AddressConflict',
      `static address ${address} is the gateway, network or broadcast address of block ${block}`,
      where,
      { remedy: 'choose another address of the block' },
    );
  }
  requireFree(address, space);
}

function requireFree(address: string, { isTaken, blocks, nodeAddresses, network }: PodAddressSpace): void {
  const own = [...blocks.map(gatewayOf), ...nodeAddresses.map((text) => parsePrefix(text).address)];
  if (!isTaken(address) && !own.includes(address)) return;
  throw new OvpnError(
    'AddressConflict',
    `address ${address} is in use on this node by ${own.includes(address) ? 'the node itself' : 'another pod'}`,
    { object: `VpnNetwork ${network}` },
    { remedy: 'choose another address, or delete the pod that has it' },
  );
}

function lies(address: string, block: string): boolean {
  const [parsed, cidr] = [parseAddress(address), parseCidr(block)];
  return parsed !== undefined && cidr !== undefined && contains(cidr, parsed);
}

function range(block: string): Block {
  const [address, length] = ipaddr.parseCIDR(block);
  const bytes = address.toByteArray();
  const bits = BigInt(bytes.length * 8);
  const size = 1n << (bits - BigInt(length));
  const base = numberOf(bytes);
  const wide = size > 2n;
  // An IPv6 block keeps its first address too: it is the subnet-router anycast address (RFC 4291, 2.6.1).
  return {
    first: wide ? base + 1n : base,
    last: base + size - (wide && bytes.length === 4 ? 2n : 1n),
    bytes: bytes.length === 4 ? 4 : 16,
  };
}

function valueOf(address: string): bigint {
  return numberOf(ipaddr.parse(address).toByteArray());
}

function numberOf(bytes: readonly number[]): bigint {
  return BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
}

function textOf(value: bigint, bytes: 4 | 16): string {
  return addressText(Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex'));
}
