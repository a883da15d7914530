import { addressBytes, isIpv6, parsePrefix } from '../../kernel/address.ts';
import {
  accept,
  atLeast,
  atMost,
  connectionIs,
  drop,
  equals,
  type Expression,
  goTo,
  inputName,
  isIn,
  masked,
  masquerade,
  networkBytes,
  outputName,
  packetFamily,
  transportBytes,
  transportProtocol,
} from '../../kernel/nftables/expressions.ts';
import type { FilterRule, FilterTable } from '../../kernel/nftables/table.ts';
import { clusterLinkName, deviceName, vethPrefix } from '../names.ts';
import { linkRanges } from './link-addresses.ts';
import { type DesiredAccess, type DesiredPorts, setName } from './plan-access.ts';

/** The rules of cluster access: which packets pass between a network's namespace and the host. Pure. */

/** The table of cluster access, in a network's namespace. */
export const accessTableName = 'ovpn-cluster-access';
/** The table in the host's namespace, one for all networks. */
export const hostTableName = 'ovpn-operator';

/** enum nf_ip_hook_priorities: NF_IP_PRI_FILTER, NF_IP_PRI_NAT_SRC. */
const [filter, sourceNat] = [0, 100];
const families = { 4: 2, 6: 10 } as const;
const protocols = { TCP: 6, UDP: 17, SCTP: 132 } as const;
/** Where addresses stand in the headers (RFC 791, 3.1; RFC 8200, 3). */
const offsets = {
  4: { source: 12, destination: 16, length: 4 },
  6: { source: 8, destination: 24, length: 16 },
} as const;
/** Bytes of the ports' place that TCP, UDP and SCTP share: the destination port. */
const destinationPort = transportBytes(2, 2);

/** A name with its end, so that it is compared as a whole. */
const wholeName = (name: string): Expression => equals(Buffer.from(`${name}\0`));
const rule = (comment: string, ...expressions: readonly Expression[]): FilterRule => ({ comment, expressions });

/**
 * The rules of one network. They see packets as peers send them, before the host translates the address of a Service:
 * what the spec says of Services is compared with their own addresses and ports. Packets of a connection that was let
 * in are judged each by itself, so that a rule that is taken away ends connections, too.
 */
export function accessTable({ rules }: DesiredAccess): FilterTable {
  const numbers = rules.flatMap(({ members }) => members ?? []);
  return {
    name: accessTableName,
    sets: numbers.flatMap((number) => ([4, 6] as const).map((family) => ({ name: setName(number, family), family }))),
    chains: [
      { name: 'allowed', rules: [...allowed(rules), rule('nothing else (1)', drop)] },
      {
        name: 'forward',
        base: { type: 'filter', hook: 'forward', priority: filter },
        rules: [
          rule('answers (1)', inputName, wholeName(clusterLinkName), ...connectionIs('established', 'related'), accept),
          rule('nothing else from the cluster (1)', inputName, wholeName(clusterLinkName), drop),
          rule(
            'no pod (1)',
            ...[outputName, wholeName(clusterLinkName), inputName, equals(Buffer.from(vethPrefix)), drop],
          ),
          // They would leave with the peer's own address: no connection is known that they could be translated by.
          rule('nothing unknown (1)', outputName, wholeName(clusterLinkName), ...connectionIs('invalid'), drop),
          rule('errors (1)', outputName, wholeName(clusterLinkName), ...connectionIs('related'), accept),
          rule('peers (1)', outputName, wholeName(clusterLinkName), goTo('allowed')),
        ],
      },
      {
        name: 'sources',
        base: { type: 'nat', hook: 'postrouting', priority: sourceNat },
        rules: [rule('one source for all peers (1)', outputName, wholeName(clusterLinkName), masquerade)],
      },
    ],
  };
}

function allowed(rules: DesiredAccess['rules']): FilterRule[] {
  const all = rules.flatMap(({ members, to }) =>
    to.map(({ cidr, ports }) => {
      const family = isIpv6(cidr) ? 6 : 4;
      const from = members === undefined ? undefined : setName(members, family);
      return rule(
        [`to ${cidr}`, ...(ports === undefined ? [] : [portText(ports)]), ...(from === undefined ? [] : [from])].join(
          ' ',
        ),
        packetFamily,
        equals(Buffer.from([families[family]])),
        ...(from === undefined ? [] : sourceIn(from, family)),
        ...destinationIn(cidr, family),
        ...(ports === undefined ? [] : portIn(ports)),
        accept,
      );
    }),
  );
  return [...new Map(all.map((each) => [each.comment, each])).values()];
}

const portText = ({ protocol, first, last }: DesiredPorts): string =>
  `${protocol.toLowerCase()} ${first === last ? first : `${first}-${last}`}`;

/** On the device where the driver checks sources. */
function sourceIn(set: string, family: 4 | 6): Expression[] {
  const { source, length } = offsets[family];
  return [inputName, wholeName(deviceName), networkBytes(source, length), isIn(set)];
}

function destinationIn(cidr: string, family: 4 | 6): Expression[] {
  const { address, length } = parsePrefix(cidr);
  return length === 0
    ? []
    : within(addressBytes(address), length, networkBytes(offsets[family].destination, offsets[family].length));
}

function within(address: Buffer, length: number, load: Expression): Expression[] {
  const mask = Buffer.from(address.map((_, index) => (0xff00 >> Math.min(8, Math.max(0, length - 8 * index))) & 0xff));
  const whole = length === 8 * address.length;
  return [load, ...(whole ? [] : [masked(mask)]), equals(address)];
}

function portIn({ protocol, first, last }: DesiredPorts): Expression[] {
  const isProtocol = [transportProtocol, equals(Buffer.from([protocols[protocol]]))];
  if (first === last) return [...isProtocol, destinationPort, equals(port(first))];
  return [...isProtocol, destinationPort, atLeast(port(first)), atMost(port(last))];
}

function port(number: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(number);
  return bytes;
}

/**
 * The rules in the host's namespace. They name the addresses that only our links have, and so concern no other packet
 * and no single network.
 */
export const hostTable: FilterTable = {
  name: hostTableName,
  chains: [
    {
      name: 'cluster-access',
      base: { type: 'nat', hook: 'postrouting', priority: sourceNat },
      rules: ([4, 6] as const).map((family) => {
        const { address, length } = parsePrefix(linkRanges[family]);
        const { source, length: bytes } = offsets[family];
        return rule(
          `${linkRanges[family]} leaves as the node`,
          packetFamily,
          equals(Buffer.from([families[family]])),
          ...within(addressBytes(address), length, networkBytes(source, bytes)),
          masquerade,
        );
      }),
    },
  ],
};
