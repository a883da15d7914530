import { isIPv4, isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';

export type Family = 4 | 6;

/** An IP address in canonical text, with its bytes for comparing. */
export interface Address {
  readonly family: Family;
  readonly text: string;
  readonly bytes: readonly number[];
}

/** An address range. `bytes` are those of its first address: bits behind the prefix are always zero. */
export interface Cidr {
  readonly family: Family;
  readonly text: string;
  readonly bytes: readonly number[];
  readonly prefix: number;
}

/** Reads an IP address the way the API server's CEL library does: no zone, no IPv4 inside IPv6, no short forms. */
export function parseAddress(text: string): Address | undefined {
  if (isIPv4(text)) return { family: 4, text, bytes: ipaddr.IPv4.parse(text).toByteArray() };
  if (!isIPv6(text) || text.includes('%')) return undefined;
  const parsed = ipaddr.IPv6.parse(text);
  if (parsed.isIPv4MappedAddress()) return undefined;
  return { family: 6, text: parsed.toRFC5952String(), bytes: parsed.toByteArray() };
}

/** Reads `ADDRESS/PREFIX`. Bits behind the prefix are cleared; `hasHostBits` tells whether there were any. */
export function parseCidr(text: string): (Cidr & { readonly hasHostBits: boolean }) | undefined {
  const [, addressText, prefixText] = /^([^/]+)\/(0|[1-9]\d{0,2})$/.exec(text) ?? [];
  if (addressText === undefined || prefixText === undefined) return undefined;
  const address = parseAddress(addressText);
  const prefix = Number(prefixText);
  if (address === undefined || prefix > bitsOf(address.family)) return undefined;
  const bytes = address.bytes.map((byte, index) => byte & maskByte(prefix - 8 * index));
  return {
    family: address.family,
    prefix,
    bytes,
    text: `${addressOf(bytes).text}/${prefix}`,
    hasHostBits: bytes.some((byte, index) => byte !== address.bytes[index]),
  };
}

/** The address with these 4 or 16 bytes. */
export function addressOf(bytes: readonly number[]): Address {
  const parsed = ipaddr.fromByteArray([...bytes]);
  return parsed instanceof ipaddr.IPv6
    ? { family: 6, text: parsed.toRFC5952String(), bytes }
    : { family: 4, text: parsed.toString(), bytes };
}

/** The number of bits of an address: 32 or 128. */
export function bitsOf(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/** Whether the range holds the whole of the address or range. */
export function contains(outer: Cidr, inner: Address | Cidr): boolean {
  if (outer.family !== inner.family || ('prefix' in inner && inner.prefix < outer.prefix)) return false;
  return outer.bytes.every((byte, index) => byte === ((inner.bytes[index] ?? 0) & maskByte(outer.prefix - 8 * index)));
}

/** Whether two ranges share an address. Ranges overlap only by one holding the other. */
export function overlaps(one: Cidr, other: Cidr): boolean {
  return contains(one, other) || contains(other, one);
}

/** The last address of a range: of an IPv4 subnet, its broadcast address. */
export function lastAddress(cidr: Cidr): Address {
  return addressOf(cidr.bytes.map((byte, index) => byte | (~maskByte(cidr.prefix - 8 * index) & 0xff)));
}

/** Why no host may have this address in an IPv4 pool: the two that a subnet reserves. A /31 and a /32 reserve none. */
export function reservedIn(pool: Cidr, address: Address): 'network' | 'broadcast' | undefined {
  if (pool.family !== 4 || pool.prefix > 30 || !contains(pool, address)) return undefined;
  if (address.bytes.every((byte, index) => byte === pool.bytes[index])) return 'network';
  return address.text === lastAddress(pool).text ? 'broadcast' : undefined;
}

/** Orders by family, then address, then prefix length: the order of normalised lists. */
export function compareRanges(one: Address | Cidr, other: Address | Cidr): number {
  if (one.family !== other.family) return one.family - other.family;
  for (const [index, byte] of one.bytes.entries()) {
    const difference = byte - (other.bytes[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return ('prefix' in one ? one.prefix : 0) - ('prefix' in other ? other.prefix : 0);
}

/**
 * Whether the text is the address of one host as a socket can use it: not unspecified, multicast or the
 * broadcast address, and not a link-local IPv6 address, which means nothing without a zone.
 */
export function isHostAddress(text: string): boolean {
  const parsed = parseAddress(text);
  if (parsed === undefined || parsed.bytes.every((byte) => byte === 0)) return false;
  const [first = 0, second = 0] = parsed.bytes;
  if (parsed.family === 4) return first >> 4 !== 0xe && parsed.bytes.some((byte) => byte !== 0xff);
  return first !== 0xff && !(first === 0xfe && (second & 0xc0) === 0x80);
}

function maskByte(bits: number): number {
  return bits >= 8 ? 0xff : bits <= 0 ? 0 : (0xff << (8 - bits)) & 0xff;
}
