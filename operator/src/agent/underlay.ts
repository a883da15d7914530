import { NetlinkError } from '../kernel/netlink/error.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { dumpAddresses } from '../kernel/rtnetlink/addresses.ts';
import { dumpLinks } from '../kernel/rtnetlink/links.ts';
import { lookupRoute, type Route } from '../kernel/rtnetlink/routes.ts';

const ethernetMtu = 1500;
/** Peers of one network mostly share a path: a sample of their endpoints finds it. */
const sampleSize = 32;

/**
 * The MTU that encrypted packets meet on the host: the least of the routes to the given endpoints, or, when
 * none is known, of the interfaces that have a global address.
 */
export function underlayMtu(host: NetlinkSocket, endpoints: Iterable<string>): number {
  const links = new Map(dumpLinks(host).map((link) => [link.index, link]));
  const mtus: number[] = [];
  let sampled = 0;
  for (const endpoint of endpoints) {
    if (++sampled > sampleSize) break;
    const route = routeTo(host, endpoint);
    const link = route?.index === undefined ? undefined : links.get(route.index);
    if (link !== undefined && !link.loopback) mtus.push(Math.min(link.mtu, route?.mtu ?? link.mtu));
  }
  if (mtus.length === 0) {
    const global = new Set(
      dumpAddresses(host)
        .filter(({ scope }) => scope === 0)
        .map(({ index }) => index),
    );
    mtus.push(
      ...[...links.values()]
        .filter(({ index, up, loopback }) => up && !loopback && global.has(index))
        .map(({ mtu }) => mtu),
    );
  }
  return mtus.length === 0 ? ethernetMtu : Math.min(...mtus);
}

/** A route that refuses (blackhole: EINVAL, prohibit: EACCES) tells no MTU, and is that one peer's trouble. */
function routeTo(host: NetlinkSocket, endpoint: string): Route | undefined {
  try {
    return lookupRoute(host, endpoint);
  } catch (error) {
    if (error instanceof NetlinkError) return undefined;
    throw error;
  }
}
