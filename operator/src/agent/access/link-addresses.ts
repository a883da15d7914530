import { addressBytes, addressText, parsePrefix } from '../../kernel/address.ts';

/**
 * The addresses of the links between networks' namespaces and the host. Both ends are on the node and nobody else sees
 * them; all networks of a node share the two ranges, and each has a number in them.
 */

/**
 * IPv4: link-local addresses (RFC 3927), apart from those that nodes use for other things: 169.254.1.1 (the next hop
 * of Calico's pods), 169.254.20.10 (the DNS cache of a node) and 169.254.169.254 (the metadata of clouds).
 * IPv6: a unique local range (RFC 4193) with `ovpn` in it.
 */
export const linkRanges = { 4: '169.254.112.0/20', 6: 'fd6f:7670:6e00::/64' } as const;

/** The link-local address of the host's end, which is enough for a next hop: it never is the source of anything else. */
export const hostIpv6 = 'fe80::1';
export const insideLinkLocal = 'fe80::2';

/** How many links there can be on a node. */
export const linkCount = 2048;

export interface LinkAddresses {
  /** With the length of the pair, /31 (RFC 3021). */
  readonly hostIpv4: string;
  readonly insideIpv4: string;
  readonly insideIpv6: string;
}

/** The addresses of the link with a number, from 0. */
export function linkAddresses(number: number): LinkAddresses {
  const at = (family: 4 | 6, offset: number): string => {
    const bytes = Buffer.from(addressBytes(parsePrefix(linkRanges[family]).address));
    bytes.writeUInt16BE(bytes.readUInt16BE(bytes.length - 2) + offset, bytes.length - 2);
    return addressText(bytes);
  };
  return {
    hostIpv4: `${at(4, 2 * number)}/31`,
    insideIpv4: `${at(4, 2 * number + 1)}/31`,
    insideIpv6: `${at(6, number + 1)}/128`,
  };
}

/** The number of the link that has an address on the host's end; undefined when the address is of no link. */
export function linkNumber(address: string): number | undefined {
  if (address.includes(':')) return undefined;
  const [base, own] = [parsePrefix(linkRanges[4]).address, parsePrefix(address).address].map((text) =>
    Buffer.from(addressBytes(text)).readUInt32BE(),
  );
  const offset = (own ?? 0) - (base ?? 0);
  return offset < 0 || offset >= 2 * linkCount ? undefined : offset >> 1;
}
