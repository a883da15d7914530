import type { Outcome } from '../../operator/src/kernel/netlink/socket.ts';
import type { Endpoint, PeerSettings } from '../../operator/src/kernel/ovpn/codec.ts';

/** The peers of the benchmarks, by number from 1: the same as in reference/ovpn-netlink.c. */

export const remoteOf = (id: number): Endpoint => ({
  address: `198.18.${id >> 8}.${id & 255}`,
  port: 1024 + (id % 60_000),
});
export const vpnAddressOf = (id: number): string => `10.80.${id >> 8}.${id & 255}`;

/** No packet is ever sent: the keepalive is far longer than a benchmark. */
export const keepalive = { interval: 3600, timeout: 7200 };

export function peerNumber(id: number): PeerSettings {
  return { id, remote: remoteOf(id), vpnIpv4: vpnAddressOf(id), keepalive };
}

/** Checks that every request of a batch was accepted. */
export function expectOk(outcomes: readonly Outcome[]): void {
  for (const outcome of outcomes) if (!outcome.ok) throw outcome.error;
}
