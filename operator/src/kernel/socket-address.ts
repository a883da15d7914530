import { addressBytes, addressText, isIpv6 } from './address.ts';
import { AF_INET, AF_INET6 } from './libc.ts';

/** Raw `struct sockaddr_in` and `sockaddr_in6`, and addresses in text as the rest of the program has them. */

/** The transport address of a peer. IPv4 is always plain text, never v4-mapped; text is canonical (RFC 5952). */
export interface PeerAddress {
  readonly address: string;
  readonly port: number;
  /** Interface index of a link-local IPv6 address. */
  readonly scopeId?: number | undefined;
}

/** Where a peer is, and which of our addresses it called (undefined when unknown): replies go out from that one. */
export interface Path {
  readonly remote: PeerAddress;
  readonly local: string | undefined;
}

export type AddressFamily = typeof AF_INET | typeof AF_INET6;

export const sockaddrBytes = { [AF_INET]: 16, [AF_INET6]: 28 } as const;

export function familyOf(address: string): AddressFamily {
  return isIpv6(address) ? AF_INET6 : AF_INET;
}

/** fe80::/10 (RFC 4291 section 2.4): only with its interface does such an address mean something. */
export function isLinkLocal(address: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(address);
}

/**
 * Writes the address for a socket of a family and returns its length; on an IPv6 socket an IPv4 address becomes
 * v4-mapped.
 *
 * @throws TypeError for an IPv6 address on an IPv4 socket
 */
export function writeSockaddr(
  { address, port, scopeId }: PeerAddress,
  family: AddressFamily,
  raw: Buffer,
  offset = 0,
): number {
  raw.writeUInt16LE(family, offset);
  raw.writeUInt16BE(port, offset + 2);
  if (family === AF_INET) {
    writeAddress(address, family, raw, offset + 4);
    raw.fill(0, offset + 8, offset + 16);
  } else {
    raw.writeUInt32LE(0, offset + 4);
    writeAddress(address, family, raw, offset + 8);
    raw.writeUInt32LE(scopeId ?? 0, offset + 24);
  }
  return sockaddrBytes[family];
}

/** The raw address for bind and connect, of the address's own family. */
export function sockaddr(address: PeerAddress): Buffer {
  const family = familyOf(address.address);
  const raw = Buffer.alloc(sockaddrBytes[family]);
  writeSockaddr(address, family, raw);
  return raw;
}

export function readSockaddr(raw: Buffer, offset = 0): PeerAddress {
  const port = raw.readUInt16BE(offset + 2);
  if (raw.readUInt16LE(offset) === AF_INET) return { address: readAddress(raw, AF_INET, offset + 4), port };
  const address = readAddress(raw, AF_INET6, offset + 8);
  // The kernel fills it in for link-local addresses only.
  const scopeId = raw.readUInt32LE(offset + 24);
  return scopeId === 0 ? { address, port } : { address, port, scopeId };
}

/** Writes 4 or 16 bytes, v4-mapped where needed. @throws TypeError for an IPv6 address in 4 bytes */
export function writeAddress(address: string, family: AddressFamily, raw: Buffer, offset: number): void {
  const bytes = isIpv6(address) ? v6Bytes.get(address) : addressBytes(address);
  if (family === AF_INET && bytes.length !== 4) throw new TypeError(`${address} is no address for an IPv4 socket`);
  if (family === AF_INET6 && bytes.length === 4) {
    raw.fill(0, offset, offset + 10);
    raw.writeUInt16LE(0xffff, offset + 10);
    raw.set(bytes, offset + 12);
  } else raw.set(bytes, offset);
}

/** Reads 4 or 16 bytes; v4-mapped ones give IPv4 text. */
export function readAddress(raw: Buffer, family: AddressFamily, offset: number): string {
  if (family === AF_INET) return addressText(raw.subarray(offset, offset + 4));
  return isMapped(raw, offset)
    ? addressText(raw.subarray(offset + 12, offset + 16))
    : v6Text.get(raw.toString('latin1', offset, offset + 16));
}

/** ::ffff:0:0/96 (RFC 4291 section 2.5.5.2). */
function isMapped(raw: Buffer, offset: number): boolean {
  return (
    raw.readUInt32LE(offset) === 0 && raw.readUInt32LE(offset + 4) === 0 && raw.readUInt32LE(offset + 8) === 0xffff0000
  );
}

/** The last results of a function, some thousands of them: with IPv6, its text would cost more than the packet. */
class Remembered<T> {
  readonly #compute: (key: string) => T;
  readonly #known = new Map<string, T>();

  constructor(compute: (key: string) => T) {
    this.#compute = compute;
  }

  get(key: string): T {
    let value = this.#known.get(key);
    if (value === undefined) {
      value = this.#compute(key);
      if (this.#known.size >= 4096) this.#known.clear();
      this.#known.set(key, value);
    }
    return value;
  }
}

const v6Bytes = new Remembered((text) => addressBytes(text));
const v6Text = new Remembered((bytes) => addressText(Buffer.from(bytes, 'latin1')));
