import type { Peer } from '../kernel/ovpn/codec.ts';
import type { Link } from '../kernel/rtnetlink/links.ts';
import type { Route } from '../kernel/rtnetlink/routes.ts';
import type { KeySlots } from './key-slots.ts';

/** What the kernel has of one network, in the same terms as the desired state. */
export interface ObservedNetwork {
  readonly device: Link | undefined;
  /** Addresses of the device that are not link-local. */
  readonly addresses: ReadonlySet<string>;
  /** By {@link routeKey}; only routes that carry our protocol number. */
  readonly routes: Map<string, Route>;
  readonly peers: Map<number, Peer>;
  readonly keys: Map<number, KeySlots>;
  /** Values of the sysctls that matter. */
  readonly sysctls: ReadonlyMap<string, string | undefined>;
  readonly loopbackUp: boolean;
}

/** The kernel allows one route per destination and metric. */
export function routeKey(route: Pick<Route, 'destination' | 'metric'>): string {
  return `${route.destination} ${route.metric}`;
}
