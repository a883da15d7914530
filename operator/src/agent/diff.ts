import type { Endpoint, Keepalive, Peer, PeerSettings } from '../kernel/ovpn/codec.ts';
import { effectiveMetric, type Route } from '../kernel/rtnetlink/routes.ts';
import { formatRef } from '../api/types.ts';
import type { DesiredNetwork, DesiredPeer } from './desired.ts';
import { type ObservedNetwork, routeKey } from './observed.ts';
import type { PeerNote } from './peer-memory.ts';

/**
 * The difference between what is wanted and what is there. Pure. An empty difference means that nothing is
 * written: a settled node is silent.
 */

/**
 * Forwarding between the pods' veths and the device; no redirects, no autoconfiguration; a pod's IPv4 source must
 * be its own (rp_filter, which IPv6 does not have).
 */
export const namespaceSysctls: ReadonlyMap<string, string> = new Map([
  ['net.ipv4.ip_forward', '1'],
  ['net.ipv4.conf.all.send_redirects', '0'],
  ['net.ipv4.conf.all.rp_filter', '1'],
  ['net.ipv4.conf.default.rp_filter', '1'],
  ['net.ipv6.conf.all.forwarding', '1'],
  ['net.ipv6.conf.default.accept_dad', '0'],
  ['net.ipv6.conf.default.accept_ra', '0'],
]);

/** The device and what belongs to the network as a whole. */
export interface BaseDiff {
  readonly sysctls: ReadonlyMap<string, string>;
  readonly loopbackUp: boolean;
  readonly createDevice: boolean;
  readonly device: { readonly up?: true; readonly mtu?: number; readonly alias?: string };
  readonly addAddresses: readonly string[];
  readonly deleteAddresses: readonly string[];
}

export function diffBase(desired: DesiredNetwork, alias: string, observed: ObservedNetwork): BaseDiff {
  const { device } = observed;
  return {
    sysctls: new Map([...namespaceSysctls].filter(([name, value]) => observed.sysctls.get(name) !== value)),
    loopbackUp: !observed.loopbackUp,
    createDevice: device === undefined,
    device: {
      ...(device?.up === true ? {} : { up: true }),
      ...(device?.mtu === desired.mtu ? {} : { mtu: desired.mtu }),
      ...(device?.alias === alias ? {} : { alias }),
    },
    addAddresses: desired.addresses.filter((address) => !observed.addresses.has(address)),
    deleteAddresses: [...observed.addresses].filter((address) => !desired.addresses.includes(address)),
  };
}

/** What to do about one peer, routes and keys apart. */
export type PeerChange =
  | { readonly change: 'none' }
  | { readonly change: 'create' }
  | { readonly change: 'set'; readonly settings: PeerSettings }
  /** Something that PEER_SET cannot change: the peer, and with it its key, is made anew. */
  | { readonly change: 'replace'; readonly because: string };

/**
 * Compares one peer.
 *
 * @param note what this peer id was last given to, when known. Another VpnPeer's key must not serve this one.
 *   And the kernel moves an endpoint by itself when authenticated packets come from elsewhere (float);
 *   undoing that would cut the peer off, so the endpoint is set only when the wanted one changed.
 */
export function diffPeer(
  desired: DesiredPeer,
  observed: Peer | undefined,
  port: number,
  note: PeerNote | undefined,
): PeerChange {
  if (observed === undefined) return { change: 'create' };
  if (observed.localPort !== undefined && observed.localPort !== port) {
    return { change: 'replace', because: `it uses the socket on port ${observed.localPort}, not ${port}` };
  }
  if (note !== undefined && note.owner !== formatRef(desired.ref)) {
    return { change: 'replace', because: `its id belonged to ${note.owner}` };
  }
  const settings: { -readonly [K in keyof PeerSettings]: PeerSettings[K] } = { id: desired.id };
  if (
    note !== undefined &&
    !sameEndpoint(note.endpoint, desired.remote) &&
    !sameEndpoint(observed.remote, desired.remote)
  ) {
    settings.remote = desired.remote;
  }
  if (observed.txId !== desired.txId) settings.txId = desired.txId;
  if (!sameKeepalive(observed.keepalive, desired.keepalive)) settings.keepalive = desired.keepalive;
  // The driver clears a family by the unspecified address, as long as one family is left.
  if (observed.vpnIpv4 !== desired.vpnIpv4) settings.vpnIpv4 = desired.vpnIpv4 ?? '0.0.0.0';
  if (observed.vpnIpv6 !== desired.vpnIpv6) settings.vpnIpv6 = desired.vpnIpv6 ?? '::';
  return Object.keys(settings).length === 1 ? { change: 'none' } : { change: 'set', settings };
}

export function sameEndpoint(one: Endpoint | undefined, other: Endpoint | undefined): boolean {
  return one?.address === other?.address && one?.port === other?.port && (one?.scopeId ?? 0) === (other?.scopeId ?? 0);
}

function sameKeepalive(one: Keepalive, other: Keepalive): boolean {
  return one.interval === other.interval && one.timeout === other.timeout;
}

/** The routes of a peer as the kernel stores them. */
export function peerRoutes(peer: Pick<DesiredPeer, 'routes'>, deviceIndex: number): Route[] {
  return peer.routes.map(({ destination, gateway }) => ({
    destination,
    type: 'unicast',
    gateway,
    index: deviceIndex,
    metric: effectiveMetric(destination, 0),
    source: undefined,
    mtu: undefined,
  }));
}

/** Only taken when the real route is gone; one better than the highest, which the kernel keeps for itself. */
const failClosedMetric = 0xffff_fffe;

/**
 * Refuses packets to a destination while there is no other route to just this one: they must not follow a wider
 * one, out of a pod's eth0 or to a peer that has the default route.
 */
export function failClosedRoute(destination: string): Route {
  return { destination, type: 'unreachable', metric: failClosedMetric };
}

export function sameRoute(one: Route, other: Route): boolean {
  return (
    one.destination === other.destination &&
    one.metric === other.metric &&
    one.type === other.type &&
    one.gateway === other.gateway &&
    one.index === other.index &&
    one.mtu === other.mtu
  );
}

/** Routes to set so that every wanted one is there as it should be. */
export function missingRoutes(wanted: Iterable<Route>, observed: ReadonlyMap<string, Route>): Route[] {
  return [...wanted].filter((route) => {
    const present = observed.get(routeKey(route));
    return present === undefined || !sameRoute(present, route);
  });
}
