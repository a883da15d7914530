import { hostPrefix } from '../../kernel/address.ts';
import type { Route } from '../../kernel/rtnetlink/routes.ts';
import { hostnameLabel } from '../../api/placement.ts';
import type { VpnNetwork, VpnPeer } from '../../api/types.ts';
import { isMesh } from '../../api/vpn-network.ts';
import type { PeerRoute } from '../desired.ts';
import { peerRoutes } from '../diff.ts';
import { nodesOf } from './network-nodes.ts';
import { routesTo } from './plan-mesh.ts';

/**
 * Routes to what other nodes have: their pods, and the peers that are connected there. They lead to the VPN address of
 * that node, whether it is connected just now or not: without it the driver finds no peer, and nothing leaks.
 */

/** The node that has a peer, as far as is known: the one that says so, or else the one that it is placed on by name. */
export function holderOf({ spec, status }: Pick<VpnPeer, 'spec' | 'status'>): string | undefined {
  return status?.holder?.node ?? spec.placement.nodeSelector[hostnameLabel];
}

/** The way to a peer that another node has; none when this node has it, or nobody, or without a mesh. */
export function routesToPeer(network: VpnNetwork, peer: VpnPeer, self: string): PeerRoute[] {
  const holder = holderOf(peer);
  if (!isMesh(network.spec) || holder === undefined || holder === self) return [];
  const node = nodesOf(network).byName.get(holder);
  return node === undefined ? [] : routesTo(node, [...peer.spec.addresses.map(hostPrefix), ...peer.spec.routes]);
}

/** Which far routes are wanted, by the name of the peer or node that they lead to. */
export class FarRoutes {
  #routes = new Map<string, readonly Route[]>();

  /** Takes all of them. */
  replace(wanted: ReadonlyMap<string, readonly PeerRoute[]>, device: number): void {
    this.#routes = new Map();
    for (const [name, routes] of wanted) this.set(name, routes, device);
  }

  /** Takes those of one; answers those that it had and has no more. */
  set(name: string, wanted: readonly PeerRoute[], device: number): Route[] {
    const before = this.#routes.get(name) ?? [];
    const routes = peerRoutes({ routes: wanted }, device);
    if (routes.length === 0) this.#routes.delete(name);
    else this.#routes.set(name, routes);
    return before.filter((old) => !routes.some((route) => isSame(old, route)));
  }

  of(name: string): readonly Route[] {
    return this.#routes.get(name) ?? [];
  }

  *all(): Iterable<Route> {
    for (const routes of this.#routes.values()) yield* routes;
  }
}

function isSame(one: Route, other: Route): boolean {
  return one.destination === other.destination && one.gateway === other.gateway && one.index === other.index;
}
