import { addressBytes, addressText, hostLength, isIpv6 } from '../address.ts';
import { AF_INET, AF_INET6 } from '../libc.ts';
import { NetlinkError } from '../netlink/error.ts';
import type { Message } from '../netlink/message.ts';
import type { NetlinkSocket } from '../netlink/socket.ts';
import { emit, rt, strictly } from './codec.ts';

/** A packet to ask about. */
export interface Question {
  readonly destination: string;
  /** Without it the kernel chooses; needed beside `input`. */
  readonly source?: string | undefined;
  /** Index of the interface on which the packet arrives; without it the host itself sends it. */
  readonly input?: number | undefined;
}

/** What the kernel does with the packet. */
export type Way =
  | {
      readonly kind: 'forward';
      /** Index of the interface on which it leaves. */
      readonly index: number;
      /** Undefined when the destination itself is the next hop. */
      readonly gateway: string | undefined;
      /** The source address that the host uses when it has the choice. */
      readonly source: string | undefined;
      /** Bytes, when the route has one. */
      readonly mtu: number | undefined;
    }
  | { readonly kind: 'local' }
  /** `code` is an errno name, e.g. EHOSTUNREACH. */
  | { readonly kind: 'refused'; readonly code: string; readonly reason: string };

/**
 * What a route lookup answers for a packet that is not forwarded. With an input interface the kernel checks as it does
 * for packets: net/ipv4/route.c, ip_route_input_slow, and net/ipv4/fib_frontend.c, __fib_validate_source.
 */
const reasons: Readonly<Record<string, string>> = {
  EHOSTUNREACH: 'the destination is unreachable by its routes, or forwarding is off',
  ENETUNREACH: 'there is no route',
  EACCES: 'a route prohibits it',
  EINVAL: 'a route swallows it, or the source address is an impossible one',
  EXDEV: 'the way back to the source leads elsewhere (rp_filter)',
};

/** Asks the kernel which way a packet takes in the socket's namespace (`ip route get`). @throws NetlinkError */
export function lookupWay(socket: NetlinkSocket, { destination, source, input }: Question): Way {
  try {
    const reply = socket.get({
      type: rt.MessageType.GETROUTE,
      describe: () => `look up the way to ${destination}`,
      write: (writer) =>
        emit(writer, (out) =>
          rt.formatRouteMessage(
            {
              kind: 'route',
              data: {
                family: isIpv6(destination) ? AF_INET6 : AF_INET,
                dstLen: hostLength(destination),
                ...(source === undefined ? {} : { srcLen: hostLength(source) }),
              },
              attrs: {
                dst: addressBytes(destination),
                ...(source === undefined ? {} : { src: addressBytes(source) }),
                ...(input === undefined ? {} : { iif: input }),
              },
            },
            out,
          ),
        ),
    });
    return strictly(parseWay)(reply);
  } catch (error) {
    const reason = error instanceof NetlinkError ? reasons[error.code] : undefined;
    if (!(error instanceof NetlinkError) || reason === undefined) throw error;
    return { kind: 'refused', code: error.code, reason };
  }
}

function parseWay({ payload }: Message): Way {
  const { data, attrs } = rt.parseRouteMessage(payload);
  // The codec gives the name of a value it knows, else the number.
  if (data.type === 'LOCAL') return { kind: 'local' };
  if (data.type !== 'UNICAST') {
    return { kind: 'refused', code: String(data.type), reason: `the route is of type ${String(data.type)}` };
  }
  const mtu = attrs.metrics?.mtu;
  return {
    kind: 'forward',
    index: attrs.oif ?? 0,
    gateway: attrs.gateway === undefined ? undefined : addressText(attrs.gateway),
    source: attrs.prefsrc === undefined ? undefined : addressText(attrs.prefsrc),
    mtu: mtu?.length === 4 ? mtu.readUInt32LE() : undefined,
  };
}
