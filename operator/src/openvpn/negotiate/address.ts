import { isIPv4, isIPv6 } from 'node:net';

/** Addresses in the forms that options have them. */

export interface Prefix {
  readonly address: string;
  readonly length: number;
}

/** 255.255.255.0 → 24; undefined when it is no netmask. */
export function netmaskLength(netmask: string): number | undefined {
  if (!isIPv4(netmask)) {
    return undefined;
  }
  const bits = netmask
    .split('.')
    .map((byte) => Number(byte).toString(2).padStart(8, '0'))
    .join('');
  return /^1*0*$/.test(bits) ? bits.replaceAll('0', '').length : undefined;
}

/** 24 → 255.255.255.0 */
export function netmask(length: number): string {
  const bits = '1'.repeat(length).padEnd(32, '0');
  return [0, 8, 16, 24].map((start) => Number.parseInt(bits.slice(start, start + 8), 2)).join('.');
}

/** 2001:db8::/64, or an address alone for all its 128 bits. */
export function parseIpv6Prefix(text: string): Prefix | undefined {
  const [, address, digits = '128'] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const length = Number(digits);
  return address !== undefined && isIPv6(address) && length <= 128 ? { address, length } : undefined;
}
