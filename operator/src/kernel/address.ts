import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/**
 * Addresses between text and the bytes of netlink attributes. Text is always canonical (RFC 5952), so that
 * two spellings of one address compare equal.
 */

/** The 4 or 16 bytes of an address. @throws TypeError when the text is not an IP address */
export function addressBytes(text: string): Buffer {
  const v4 = canonicalV4(text);
  if (v4 !== undefined) return v4;
  // ipaddr.js also takes the shorthand of inet_aton(3) (10.1 for 10.0.0.1, octal digits) and zones.
  if (isIP(text) === 0 || text.includes('%')) throw new TypeError(`${JSON.stringify(text)} is not an IP address`);
  return Buffer.from(ipaddr.parse(text).toByteArray());
}

/** The bytes of four decimal numbers without leading zeros: the usual case, without a regular expression. */
function canonicalV4(text: string): Buffer | undefined {
  const bytes = Buffer.allocUnsafe(4);
  let part = 0;
  let digits = 0;
  let value = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 0x30 && code <= 0x39) {
      value = value * 10 + (code - 0x30);
      if (++digits > 3 || value > 255 || (digits === 2 && value < 10)) return undefined;
    } else if (code === 0x2e && digits > 0 && part < 3) {
      bytes[part++] = value;
      digits = value = 0;
    } else return undefined;
  }
  if (part !== 3 || digits === 0) return undefined;
  bytes[3] = value;
  return bytes;
}

/** Canonical text of 4 or 16 bytes. @throws TypeError on any other length */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length === 16) return canonicalV6(bytes);
  throw new TypeError(`an IP address has 4 or 16 bytes, not ${bytes.length}`);
}

/** RFC 5952 text: the longest run of two or more zero groups is shortened, the first one on a tie. */
function canonicalV6(bytes: Uint8Array): string {
  return new ipaddr.IPv6([...bytes]).toRFC5952String();
}

export function isIpv6(address: string): boolean {
  return address.includes(':');
}

/** Splits `192.0.2.0/24`. @throws TypeError when it is not a prefix */
export function parsePrefix(prefix: string): { readonly address: string; readonly length: number } {
  const [, address, digits] = /^([^/]+)\/(\d{1,3})$/.exec(prefix) ?? [];
  const length = Number(digits);
  if (address === undefined || length > hostLength(address)) {
    throw new TypeError(`${JSON.stringify(prefix)} is not an IP prefix`);
  }
  return { address, length };
}

/** The prefix length of a single host: 32 or 128. */
export function hostLength(address: string): number {
  return isIpv6(address) ? 128 : 32;
}

/** The prefix of one address: `192.0.2.1/32`. */
export function hostPrefix(address: string): string {
  return `${address}/${hostLength(address)}`;
}

/** The canonical text of an address in any spelling. */
export function canonicalAddress(text: string): string {
  return addressText(addressBytes(text));
}
