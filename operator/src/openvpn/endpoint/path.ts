/** Same shape as the kernel's endpoint. The text is canonical (RFC 5952), and IPv4 is never mapped into IPv6. */
export interface PeerAddress {
  readonly address: string;
  readonly port: number;
  /** Of a link-local IPv6 address. */
  readonly scopeId?: number | undefined;
}

/** Where a peer is, and which of our addresses it called (undefined when unknown): replies go out from that one. */
export interface Path {
  readonly remote: PeerAddress;
  readonly local: string | undefined;
}

/** The address as a key of a map. */
export function addressKey({ address, port, scopeId }: PeerAddress): string {
  return scopeId === undefined ? `${address} ${port}` : `${address} ${port} ${scopeId}`;
}

/**
 * Who is behind an address, as far as limits go: an IPv4 address, or the /56 of an IPv6 address, as that much is what
 * many providers give to each customer (RFC 6177).
 */
export function sourceNetwork(address: string): string {
  if (!address.includes(':')) {
    return address;
  }
  const [before = '', after] = address.split('::');
  const head = before === '' ? [] : before.split(':');
  const missing = after === undefined ? 0 : 8 - head.length - (after === '' ? 0 : after.split(':').length);
  const tail = after === undefined || after === '' ? [] : after.split(':');
  const [a, b, c, d = '0'] = [...head, ...Array<string>(Math.max(0, missing)).fill('0'), ...tail];
  return `${a}:${b}:${c}:${(Number.parseInt(d, 16) & 0xff00).toString(16)}`;
}
