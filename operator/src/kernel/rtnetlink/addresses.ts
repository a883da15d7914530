import { addressBytes, addressText, isIpv6, parsePrefix } from '../address.ts';
import { AF_INET, AF_INET6 } from '../libc.ts';
import { type Message, NLM_F_CREATE, NLM_F_REPLACE } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { emit, rt, strictly } from './codec.ts';

// The codec's enumeration; netlink messages carry plain numbers.
const replyType: number = rt.MessageType.NEWADDR;

const RT_SCOPE_LINK = 253;

/** An address of an interface. */
export interface InterfaceAddress {
  readonly index: number;
  /** With prefix length, canonical: `10.80.0.1/24`. */
  readonly address: string;
  /** True while IPv6 duplicate address detection has not finished. */
  readonly tentative: boolean;
  /** 0 universe, 253 link (link-local), 254 host. */
  readonly scope: number;
}

/**
 * Adds an address, or changes nothing when it is there. IPv6 without duplicate detection: the link has one user.
 *
 * @param scope of an IPv4 address; one of scope link is the source of nothing that leaves by other interfaces
 *   (net/ipv4/devinet.c, inet_select_addr)
 */
export function setAddress(index: number, address: string, scope: 'universe' | 'link' = 'universe'): Request {
  return addressRequest(rt.MessageType.NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 'add', index, address, scope);
}

export function deleteAddress(index: number, address: string): Request {
  return addressRequest(rt.MessageType.DELADDR, 0, 'delete', index, address);
}

function addressRequest(
  type: number,
  flags: number,
  verb: string,
  index: number,
  address: string,
  scope: 'universe' | 'link' = 'universe',
): Request {
  const prefix = parsePrefix(address);
  const bytes = addressBytes(prefix.address);
  const v6 = isIpv6(address);
  return {
    type,
    flags,
    describe: () => `${verb} address ${address} on interface ${index}`,
    write: (writer) =>
      emit(writer, (out) =>
        rt.formatAddressMessage(
          {
            kind: 'address',
            data: {
              family: v6 ? AF_INET6 : AF_INET,
              prefixlen: prefix.length,
              index,
              ...(scope === 'link' ? { scope: RT_SCOPE_LINK } : {}),
              // IFA_F_NODAD: a tentative address drops packets for a second (net/ipv6/addrconf.c).
              flags: v6 ? { nodad: true } : {},
            },
            attrs: { local: bytes, address: bytes },
          },
          out,
        ),
      ),
  };
}

/** All addresses of the socket's namespace. */
export function dumpAddresses(socket: NetlinkSocket): InterfaceAddress[] {
  return socket.dump(
    {
      type: rt.MessageType.GETADDR,
      describe: () => 'list addresses',
      write: (writer) => emit(writer, (out) => rt.formatAddressMessage({ kind: 'address', data: {}, attrs: {} }, out)),
    },
    strictly(parseAddress),
  );
}

function parseAddress(message: Message): InterfaceAddress | undefined {
  if (message.type !== replyType) return undefined;
  const { data, attrs } = rt.parseAddressMessage(message.payload);
  // IFA_LOCAL is the interface's own address; IPv6 sends IFA_ADDRESS alone (net/ipv6/addrconf.c, inet6_fill_ifaddr).
  const bytes = attrs.local ?? attrs.address;
  if (bytes === undefined) return undefined;
  return {
    index: data.index ?? 0,
    address: `${addressText(bytes)}/${data.prefixlen ?? 0}`,
    tentative: (attrs.flags ?? data.flags)?.tentative === true,
    scope: data.scope ?? 0,
  };
}
