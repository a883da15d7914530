import { isIpv6 } from './address.ts';
import {
  AF_INET6,
  bind,
  close,
  getsockname,
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVPKTINFO,
  IPV6_V6ONLY,
  listen,
  setsockoptBuffer,
  setsockoptInt,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socket,
  SOL_SOCKET,
} from './libc.ts';
import { type AddressFamily, familyOf, readSockaddr, sockaddr } from './socket-address.ts';

/** Where a transport socket listens. */
export interface TransportAddress {
  /** `::` takes IPv4 as well. */
  readonly address: string;
  readonly port: number;
}

/** Only control packets queue up in userspace, but a flood of first packets must not push them out. */
const receiveBufferBytes = 2 * 1024 * 1024;

/** Connections that wait to be accepted; the kernel lowers it to net.core.somaxconn. */
const backlog = 4096;

/**
 * Opens a bound, non-blocking UDP socket in the caller's network namespace and returns its descriptor. The peers
 * that use it live until its last descriptor, in whatever process, is closed.
 *
 * @throws SystemError EADDRINUSE, EADDRNOTAVAIL
 */
export function openUdpSocket(at: TransportAddress): number {
  return open(at, SOCK_DGRAM, (fd, family) => {
    setsockoptBuffer(fd, 'receive', receiveBufferBytes);
    tellLocalAddress(fd, family);
    bind(fd, sockaddr(at), `UDP ${formatEndpoint(at)}`);
  });
}

/**
 * Opens a bound, listening, non-blocking TCP socket in the caller's network namespace and returns its descriptor.
 *
 * @throws SystemError EADDRINUSE, EADDRNOTAVAIL
 */
export function openTcpListener(at: TransportAddress): number {
  return open(at, SOCK_STREAM, (fd) => {
    // Else connections of before that linger in TIME_WAIT keep the port from us.
    setsockoptInt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    bind(fd, sockaddr(at), `TCP ${formatEndpoint(at)}`);
    listen(fd, backlog);
  });
}

function open(
  { address }: TransportAddress,
  type: number,
  prepare: (fd: number, family: AddressFamily) => void,
): number {
  const family = familyOf(address);
  const fd = socket(family, type | SOCK_NONBLOCK, 0);
  try {
    if (family === AF_INET6) setsockoptInt(fd, IPPROTO_IPV6, IPV6_V6ONLY, address === '::' ? 0 : 1);
    prepare(fd, family);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/**
 * Has the kernel tell with each datagram which of our addresses it was sent to. On an IPv6 socket the one option
 * does so for IPv4 datagrams too, v4-mapped (net/ipv6/datagram.c, ip6_datagram_recv_common_ctl).
 */
export function tellLocalAddress(fd: number, family: AddressFamily): void {
  if (family === AF_INET6) setsockoptInt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  else setsockoptInt(fd, IPPROTO_IP, IP_PKTINFO, 1);
}

/** The address that a UDP or TCP socket is bound to. */
export function boundAddress(fd: number): TransportAddress {
  const { address, port } = readSockaddr(getsockname(fd));
  return { address, port };
}

/** `192.0.2.1:1194`, `[2001:db8::1]:1194`. */
export function formatEndpoint({ address, port }: TransportAddress): string {
  return isIpv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}
