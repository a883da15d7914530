import ipaddr from 'ipaddr.js';
import { OvpnError } from '../errors.ts';
import { addressText } from '../kernel/address.ts';

/**
 * Addresses of a node's pod block. The first one is the gateway, which every attachment has at its far end;
 * an IPv4 block's network and broadcast address are left out.
 */

interface Block {
  readonly first: bigint;
  readonly last: bigint;
  readonly bytes: 4 | 16;
}

/** The next hop of the pods: the block's first usable address. */
export function gatewayOf(block: string): string {
  return textOf(range(block).first, range(block).bytes);
}

/** The lowest free address of a block. @throws OvpnError PoolExhausted naming the block */
export function allocateAddress(block: string, isTaken: (address: string) => boolean, network: string): string {
  const { first, last, bytes } = range(block);
  // Addresses are taken from the bottom, so the search is as long as the node has pods, not as the block is wide.
  for (let value = first + 1n; value <= last; value++) {
    const address = textOf(value, bytes);
    if (!isTaken(address)) return address;
  }
  const size = last - first;
  throw new OvpnError('PoolExhausted', `all ${size} pod addresses of block ${block} are in use`, {
    object: `VpnNetwork ${network}`,
    field: 'spec.nodes[].podBlocks',
  });
}

function range(block: string): Block {
  const [address, length] = ipaddr.parseCIDR(block);
  const bytes = address.toByteArray();
  const bits = BigInt(bytes.length * 8);
  const size = 1n << (bits - BigInt(length));
  const base = BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
  const wide = size > 2n;
  // An IPv6 block keeps its first address too: it is the subnet-router anycast address (RFC 4291, 2.6.1).
  return {
    first: wide ? base + 1n : base,
    last: base + size - (wide && bytes.length === 4 ? 2n : 1n),
    bytes: bytes.length === 4 ? 4 : 16,
  };
}

function textOf(value: bigint, bytes: 4 | 16): string {
  return addressText(Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex'));
}
