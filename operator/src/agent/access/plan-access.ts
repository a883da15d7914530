import { isInside, type AccessRule, takesPeer } from '../../api/cluster-access.ts';
import { peerKind } from '../../api/peer-kind.ts';
import type { VpnNetwork, VpnPeer } from '../../api/types.ts';
import { hostPrefix } from '../../kernel/address.ts';

/** The plan of cluster access: the spec in, what the node should let pass and what clients are told out. Pure. */

/** What a network lets its peers reach of the cluster. */
export interface DesiredAccess {
  /** The cluster's ranges, which the network's namespace routes to the host. */
  readonly ranges: readonly string[];
  readonly rules: readonly DesiredAccessRule[];
}

export interface DesiredAccessRule {
  /** For whom: a number that the rule's sets are named by, or everybody. */
  readonly members: number | undefined;
  readonly to: readonly DesiredDestination[];
}

export interface DesiredDestination {
  readonly cidr: string;
  /** Undefined: all ports of all protocols. */
  readonly ports: DesiredPorts | undefined;
}

export interface DesiredPorts {
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly first: number;
  readonly last: number;
}

/** What one client is told of the cluster. */
export interface ToldOfCluster {
  readonly routes: readonly string[];
  readonly dnsServers: readonly string[];
  readonly dnsDomains: readonly string[];
}

const dnsPort = 53;

/** The access that a network's spec asks for; undefined when it is off. */
export function planAccess({ spec }: Pick<VpnNetwork, 'spec'>): DesiredAccess | undefined {
  const { clusterAccess } = spec;
  if (clusterAccess?.enabled !== true) return undefined;
  const ranges = [...clusterAccess.services, ...clusterAccess.pods];
  return {
    ranges,
    rules: clusterAccess.allow.map((rule, index) => ({
      members: rule.peers === undefined ? undefined : index,
      to: [
        ...destinationsOf(rule, ranges).flatMap(({ cidr, ports }): DesiredDestination[] =>
          ports.length === 0
            ? [{ cidr, ports: undefined }]
            : ports.map(({ protocol, port, endPort }) => ({
                cidr,
                ports: { protocol, first: port, last: endPort ?? port },
              })),
        ),
        ...clusterAccess.dns.servers.flatMap((server) =>
          (['UDP', 'TCP'] as const).map((protocol) => ({
            cidr: hostPrefix(server),
            ports: { protocol, first: dnsPort, last: dnsPort },
          })),
        ),
      ],
    })),
  };
}

function destinationsOf({ to }: AccessRule, ranges: readonly string[]): AccessRule['to'] {
  return to.length > 0 ? to : ranges.map((cidr) => ({ cidr, ports: [] }));
}

/** What a client is told: routes to what its rules let it reach, and the DNS; undefined when no rule is for it. */
export function toldOfCluster({ spec }: Pick<VpnNetwork, 'spec'>, peer: VpnPeer): ToldOfCluster | undefined {
  const { clusterAccess } = spec;
  if (clusterAccess?.enabled !== true) return undefined;
  const rules = clusterAccess.allow.filter((rule) => takesPeer(rule, peer.metadata));
  if (rules.length === 0) return undefined;
  const ranges = [...clusterAccess.services, ...clusterAccess.pods];
  const reached = new Set(rules.flatMap((rule) => destinationsOf(rule, ranges).map(({ cidr }) => cidr)));
  const { servers, domains } = clusterAccess.dns;
  const further = servers.filter((server) => !isInside(server, [...reached])).map(hostPrefix);
  return { routes: [...reached, ...further], dnsServers: servers, dnsDomains: domains };
}

/** The name of the set with the members of a rule, of one family. */
export function setName(rule: number, family: 4 | 6): string {
  return `peers-${rule}-ipv${family}`;
}

/** The addresses of one peer, by the sets that they belong to. */
export type Memberships = ReadonlyMap<string, readonly string[]>;

const none: Memberships = new Map();

/**
 * The sets that a peer's addresses belong to. Only addresses that the driver checks count: it drops a packet that comes
 * from a peer with the address of another one (drivers/net/ovpn/peer.c, ovpn_peer_check_by_src), but takes whatever a
 * remote sends that is dialled and has a device for itself.
 *
 * @param accepted whether the peer has its addresses for itself: one that is refused may name another's
 */
export function membershipsOf({ spec }: Pick<VpnNetwork, 'spec'>, peer: VpnPeer, accepted: boolean): Memberships {
  const { clusterAccess } = spec;
  if (clusterAccess?.enabled !== true || !accepted || peer.spec.suspend || peerKind(peer) === 'dial-out') return none;
  const sets = new Map<string, string[]>();
  clusterAccess.allow.forEach((rule, index) => {
    if (rule.peers === undefined || !takesPeer(rule, peer.metadata)) return;
    for (const address of peer.spec.addresses) {
      const name = setName(index, address.includes(':') ? 6 : 4);
      sets.set(name, [...(sets.get(name) ?? []), address]);
    }
  });
  return sets;
}
