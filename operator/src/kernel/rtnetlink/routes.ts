import { addressBytes, addressText, hostLength, isIpv6, parsePrefix } from '../address.ts';
import { AF_INET, AF_INET6 } from '../libc.ts';
import { NetlinkError } from '../netlink/error.ts';
import { type Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { emit, rt, strictly } from './codec.ts';

// The codec's enumeration; netlink messages carry plain numbers.
const replyType: number = rt.MessageType.NEWROUTE;

/**
 * Marks a route as ours (`ip route show proto 79`): the kernel keeps the number and gives it no meaning
 * (include/uapi/linux/rtnetlink.h, "not interpreted by kernel").
 */
export const ourProtocol: number = 79;

const TABLE_MAIN = 254;
/** IPv6 routes get this metric when none is given (net/ipv6/route.c, IP6_RT_PRIO_USER). */
const defaultMetricV6 = 1024;

/** A unicast or unreachable route of the main table. */
export interface Route {
  /** Canonical destination prefix; `0.0.0.0/0` and `::/0` are the default routes. */
  readonly destination: string;
  readonly type: 'unicast' | 'unreachable';
  readonly gateway?: string | undefined;
  /** Output interface index; undefined for an unreachable route. */
  readonly index?: number | undefined;
  readonly metric: number;
  /** Source address that the host itself uses on this route. */
  readonly source?: string | undefined;
  readonly mtu?: number | undefined;
  /** `link` scope for a directly connected destination. */
  readonly onLink?: boolean;
}

/** A metric as the kernel stores it: IPv6 turns 0 into 1024. */
export function effectiveMetric(destination: string, metric: number): number {
  return isIpv6(destination) && metric === 0 ? defaultMetricV6 : metric;
}

/** Adds the route, or replaces the one with the same destination and metric. */
export function setRoute(route: Route): Request {
  return routeRequest(rt.MessageType.NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 'set', route);
}

/** Adds the route where there is none with the same destination and metric, whoever made that: EEXIST then. */
export function addRoute(route: Route): Request {
  return routeRequest(rt.MessageType.NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 'add', route);
}

/** Deletes the route of ours with this destination, metric and next hop. */
export function deleteRoute(route: Route): Request {
  return routeRequest(rt.MessageType.DELROUTE, 0, 'delete', route);
}

function routeRequest(type: number, flags: number, verb: string, route: Route): Request {
  const destination = parsePrefix(route.destination);
  const attrs: rt.RouteAttrs = {};
  if (destination.length > 0) attrs.dst = addressBytes(destination.address);
  if (route.gateway !== undefined) attrs.gateway = addressBytes(route.gateway);
  if (route.index !== undefined) attrs.oif = route.index;
  if (route.metric !== 0) attrs.priority = route.metric;
  if (route.source !== undefined) attrs.prefsrc = addressBytes(route.source);
  if (route.mtu !== undefined) attrs.metrics = { mtu: u32(route.mtu) };
  const direct = route.type === 'unicast' && route.gateway === undefined;
  return {
    type,
    flags,
    describe: () => `${verb} route ${formatRoute(route)}`,
    write: (writer) =>
      emit(writer, (out) =>
        rt.formatRouteMessage(
          {
            kind: 'route',
            data: {
              family: isIpv6(route.destination) ? AF_INET6 : AF_INET,
              dstLen: destination.length,
              table: TABLE_MAIN,
              // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- ours is not in the codec's list, on purpose
              protocol: ourProtocol,
              scope: direct && !isIpv6(route.destination) ? rt.RouteScope.LINK : rt.RouteScope.UNIVERSE,
              type: route.type === 'unreachable' ? rt.RouteType.UNREACHABLE : rt.RouteType.UNICAST,
              // The next hop of a pod is on its veth though no prefix says so.
              ...(route.onLink === true ? { flags: onLinkFlag } : {}),
            },
            attrs,
          },
          out,
        ),
      ),
  };
}

// RTNH_F_ONLINK sits in rtm_flags beside the RTM_F_ bits; the codec's type knows only the latter.
const onLinkFlag: rt.RouteFlags = { __unknown: 4 };

/** As ip-route(8) would print it. */
export function formatRoute(route: Route): string {
  const parts = [route.type === 'unreachable' ? `unreachable ${route.destination}` : route.destination];
  if (route.gateway !== undefined) parts.push(`via ${route.gateway}`);
  if (route.index !== undefined) parts.push(`dev ${route.index}`);
  if (route.metric !== 0) parts.push(`metric ${route.metric}`);
  return parts.join(' ');
}

/** Our routes (by protocol number) in the main table of the socket's namespace, both families. */
export function dumpOurRoutes(socket: NetlinkSocket): Route[] {
  return [...dumpFamily(socket, AF_INET), ...dumpFamily(socket, AF_INET6)];
}

function dumpFamily(socket: NetlinkSocket, family: number): Route[] {
  const request: Request = {
    type: rt.MessageType.GETROUTE,
    describe: () => `list IPv${family === AF_INET6 ? 6 : 4} routes of protocol ${ourProtocol}`,
    // With strict checking on, the kernel filters by what the header says (net/ipv4/fib_frontend.c, ip_valid_fib_dump_req).
    write: (writer) =>
      emit(writer, (out) =>
        rt.formatRouteMessage(
          // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- as above
          { kind: 'route', data: { family, protocol: ourProtocol }, attrs: { table: TABLE_MAIN } },
          out,
        ),
      ),
  };
  try {
    return socket.dump(request, strictly(parseOurRoute));
  } catch (error) {
    // A namespace that never had an IPv4 address has no main table yet (net/ipv4/fib_frontend.c, inet_dump_fib).
    if (error instanceof NetlinkError && error.code === 'ENOENT') return [];
    throw error;
  }
}

function parseOurRoute(message: Message): Route | undefined {
  const parsed = parseRoute(message);
  return parsed?.protocol === ourProtocol && parsed.table === TABLE_MAIN ? parsed.route : undefined;
}

function parseRoute(message: Message): { route: Route; protocol: number; table: number } | undefined {
  if (message.type !== replyType) return undefined;
  const { data, attrs } = rt.parseRouteMessage(message.payload);
  // The codec gives the name of a value it knows, else the number.
  if (data.type !== 'UNICAST' && data.type !== 'UNREACHABLE') return undefined;
  const v6 = data.family === AF_INET6;
  const zero = v6 ? '::' : '0.0.0.0';
  const unreachable = data.type === 'UNREACHABLE';
  const mtu = attrs.metrics?.mtu;
  return {
    protocol: typeof data.protocol === 'number' ? data.protocol : 0,
    table: attrs.table ?? data.table ?? 0,
    route: {
      destination: `${attrs.dst === undefined ? zero : addressText(attrs.dst)}/${data.dstLen ?? 0}`,
      type: unreachable ? 'unreachable' : 'unicast',
      gateway: attrs.gateway === undefined ? undefined : addressText(attrs.gateway),
      // IPv6 shows an unreachable route on `lo` (net/ipv6/route.c); it has no interface of its own.
      index: unreachable ? undefined : attrs.oif,
      metric: attrs.priority ?? 0,
      source: attrs.prefsrc === undefined ? undefined : addressText(attrs.prefsrc),
      mtu: mtu?.length === 4 ? mtu.readUInt32LE() : undefined,
    },
  };
}

/**
 * The route the kernel takes to an address (`ip route get`), with its device index and MTU if the route has
 * one, or undefined when there is none.
 */
export function lookupRoute(socket: NetlinkSocket, address: string): Route | undefined {
  try {
    const reply = socket.get({
      type: rt.MessageType.GETROUTE,
      describe: () => `look up the route to ${address}`,
      write: (writer) =>
        emit(writer, (out) =>
          rt.formatRouteMessage(
            {
              kind: 'route',
              data: { family: isIpv6(address) ? AF_INET6 : AF_INET, dstLen: hostLength(address) },
              attrs: { dst: addressBytes(address) },
            },
            out,
          ),
        ),
    });
    return strictly(parseRoute)(reply)?.route;
  } catch (error) {
    if (error instanceof NetlinkError && (error.code === 'ENETUNREACH' || error.code === 'EHOSTUNREACH')) {
      return undefined;
    }
    throw error;
  }
}

function u32(value: number): Buffer {
  const data = Buffer.alloc(4);
  data.writeUInt32LE(value);
  return data;
}
