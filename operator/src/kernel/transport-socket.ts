import { addressBytes, isIpv6, addressText } from './address.ts';
import {
  AF_INET,
  AF_INET6,
  bind,
  close,
  getsockname,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  setsockoptBuffer,
  setsockoptInt,
  SOCK_DGRAM,
  socket,
} from './libc.ts';

/** Where a transport socket listens. */
export interface TransportAddress {
  /** `::` takes IPv4 as well. */
  readonly address: string;
  readonly port: number;
}

/** Only control packets queue up in userspace, but a flood of first packets must not push them out. */
const receiveBufferBytes = 2 * 1024 * 1024;

/**
 * Opens a bound UDP socket in the caller's network namespace and returns its descriptor. The peers that use
 * it live until its last descriptor, in whatever process, is closed.
 *
 * @throws SystemError EADDRINUSE, EADDRNOTAVAIL
 */
export function openUdpSocket({ address, port }: TransportAddress): number {
  const v6 = isIpv6(address);
  const fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
  try {
    if (v6) setsockoptInt(fd, IPPROTO_IPV6, IPV6_V6ONLY, address === '::' ? 0 : 1);
    setsockoptBuffer(fd, 'receive', receiveBufferBytes);
    bind(fd, socketAddress(address, port), `UDP ${formatEndpoint({ address, port })}`);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** The address that a UDP or TCP socket is bound to. */
export function boundAddress(fd: number): TransportAddress {
  const raw = getsockname(fd);
  const port = raw.readUInt16BE(2);
  return raw.readUInt16LE(0) === AF_INET6
    ? { address: addressText(raw.subarray(8, 24)), port }
    : { address: addressText(raw.subarray(4, 8)), port };
}

/** `192.0.2.1:1194`, `[2001:db8::1]:1194`. */
export function formatEndpoint({ address, port }: TransportAddress): string {
  return isIpv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

/** struct sockaddr_in or sockaddr_in6. */
function socketAddress(address: string, port: number): Buffer {
  const v6 = isIpv6(address);
  const raw = Buffer.alloc(v6 ? 28 : 16);
  raw.writeUInt16LE(v6 ? AF_INET6 : AF_INET, 0);
  raw.writeUInt16BE(port, 2);
  raw.set(addressBytes(address), v6 ? 8 : 4);
  return raw;
}
