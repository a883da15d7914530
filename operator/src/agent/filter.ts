import {
  drop,
  equals,
  inputName,
  masked,
  routeSegmentSize,
  setAnnouncedSegmentSize,
  transportBytes,
  transportProtocol,
  wayBack,
} from '../kernel/nftables/expressions.ts';
import type { FilterTable } from '../kernel/nftables/table.ts';
import { vethPrefix } from './names.ts';

const IPPROTO_TCP = 6;
const [SYN, RST] = [0x02, 0x04];
/** Byte of the TCP header that holds the flags (RFC 9293, 3.1). */
const tcpFlagsOffset = 13;
/** enum nf_ip_hook_priorities: NF_IP_PRI_RAW, before connection tracking; NF_IP_PRI_MANGLE. */
const [raw, mangle] = [-300, -150];

/**
 * The packet filter in a network's namespace. It names no pod, so it is the same for all networks and never changes:
 * where a packet of a pod may come from is what the routing table says.
 *
 * rp_filter would do for IPv4, and IPv6 has no such thing. Route attributes (advmss) would do for the pods' own
 * connections, and not for those that are only forwarded, between LANs behind two peers.
 */
export const networkFilter: FilterTable = {
  name: 'ovpn-operator',
  chains: [
    {
      name: 'sources',
      base: { type: 'filter', hook: 'prerouting', priority: raw },
      rules: [
        {
          comment: 'a pod sends with its own addresses only (1)',
          expressions: [inputName, equals(Buffer.from(vethPrefix)), wayBack, equals(Buffer.alloc(4)), drop],
        },
      ],
    },
    {
      name: 'segments',
      base: { type: 'filter', hook: 'forward', priority: mangle },
      rules: [
        {
          comment: 'TCP segments fit the way (1)',
          expressions: [
            transportProtocol,
            equals(Buffer.from([IPPROTO_TCP])),
            transportBytes(tcpFlagsOffset, 1),
            masked(Buffer.from([SYN | RST])),
            equals(Buffer.from([SYN])),
            ...routeSegmentSize,
            setAnnouncedSegmentSize,
          ],
        },
      ],
    },
  ],
};
