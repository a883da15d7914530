import { closeSync, openSync } from 'node:fs';
import { OvpnError } from '../../errors.ts';
import { isIpv6 } from '../../kernel/address.ts';
import { NETLINK_ROUTE, NetlinkSocket, type Request, type RequestCounters } from '../../kernel/netlink/socket.ts';
import { deleteTable, NETLINK_NETFILTER, replaceTable, tableExists, tableStands } from '../../kernel/nftables/table.ts';
import { deleteAddress, dumpAddresses, type InterfaceAddress, setAddress } from '../../kernel/rtnetlink/addresses.ts';
import {
  deleteLink,
  dumpLinks,
  getLinkByName,
  type Link,
  type LinkChange,
  newVeth,
  setLink,
} from '../../kernel/rtnetlink/links.ts';
import { dumpOurRoutes, effectiveMetric, type Route, setRoute } from '../../kernel/rtnetlink/routes.ts';
import { readSysctls, writeSysctls } from '../../kernel/sysctl.ts';
import { missingRoutes } from '../diff.ts';
import { clusterLinkName, deviceAlias, hostLinkName, isHostLinkName } from '../names.ts';
import type { NetworkKernel } from '../network-kernel.ts';
import { routeKey } from '../observed.ts';
import { freeFarIndex } from '../sandbox.ts';
import { hostTable, hostTableName } from './access-filter.ts';
import {
  hostIpv6,
  insideLinkLocal,
  linkAddresses,
  type LinkAddresses,
  linkCount,
  linkNumber,
  linkRanges,
} from './link-addresses.ts';

/** The namespace of the thread, which is the host's. */
const ownNamespace = '/proc/thread-self/ns/net';
const forwardingSysctls = { 4: 'net.ipv4.ip_forward', 6: 'net.ipv6.conf.all.forwarding' } as const;

interface Ends {
  readonly inside: Link;
  readonly host: Link;
}

/**
 * The links between networks' namespaces and the host, by which peers reach the cluster, and the host's packet filter
 * rules for them. Reads what is there and writes the difference.
 */
export class HostAccess {
  readonly #counters: RequestCounters;
  #sockets: { readonly routes: NetlinkSocket; readonly filter: NetlinkSocket } | undefined;
  /** Networks that have no link: nobody else makes one. */
  readonly #unlinked = new Set<string>();

  constructor(counters: RequestCounters) {
    this.#counters = counters;
  }

  /**
   * Makes the link of a network and what it needs on the host.
   *
   * @param ranges what the network's namespace is to reach over it
   * @returns the routes that its namespace needs
   * @throws NetlinkError; OvpnError NamespaceUnusable
   */
  ensure(network: string, kernel: NetworkKernel, ranges: readonly string[], mtu: number): Route[] {
    const { routes: socket, filter } = this.#open();
    this.#unlinked.delete(network);
    // Before the link is up: no packet of it leaves the node with the address of the link.
    if (!tableStands(filter, hostTable)) replaceTable(filter, hostTable);
    const ends = this.#ensureEnds(network, kernel, mtu);
    const ipv6 = ranges.some(isIpv6);
    if (ipv6) {
      enableIpv6(ownNamespace, ends.host.name);
      enableIpv6(kernel.path, ends.inside.name);
    }
    const addresses = this.#addressesOf(network, ends.host);
    change(socket, [
      ...addressChanges(ends.host, dumpAddresses(socket), [
        { address: addresses.hostIpv4, scope: 'link' },
        ...(ipv6 ? [{ address: `${hostIpv6}/64` }] : []),
      ]),
      ...linkChanges(ends.host, mtu, deviceAlias(network)),
    ]);
    const inside = [addresses.insideIpv4, ...(ipv6 ? [addresses.insideIpv6, `${insideLinkLocal}/64`] : [])];
    kernel.change([
      ...addressChanges(
        ends.inside,
        kernel.addresses(),
        inside.map((address) => ({ address })),
      ),
      ...linkChanges(ends.inside, mtu),
    ]);
    if (ipv6) {
      const back = { ...direct, destination: addresses.insideIpv6, index: ends.host.index };
      const present = new Map(dumpOurRoutes(socket).map((route) => [routeKey(route), route]));
      change(socket, missingRoutes([{ ...back, metric: effectiveMetric(back.destination, 0) }], present).map(setRoute));
    }
    forwardFrom(ends.host.name);
    const [hostIpv4] = addresses.hostIpv4.split('/');
    return ranges.map((destination) => ({
      ...direct,
      destination,
      gateway: isIpv6(destination) ? hostIpv6 : hostIpv4,
      index: ends.inside.index,
      metric: effectiveMetric(destination, 0),
    }));
  }

  /**
   * Takes a network's link away, and the host's rules with the last link. What is gone already is no error, and is
   * looked for once only.
   */
  remove(network: string): void {
    if (this.#unlinked.has(network)) return;
    const { routes: socket, filter } = this.#open();
    const links = dumpLinks(socket).filter(({ name, kind }) => kind === 'veth' && isHostLinkName(name));
    const own = links.find(({ name }) => name === hostLinkName(network));
    if (own !== undefined) change(socket, [deleteLink(own.index)]);
    const isLast = links.every((link) => link === own);
    if (isLast && tableExists(filter, hostTableName)) deleteTable(filter, hostTableName);
    this.#unlinked.add(network);
  }

  /**
   * Why the host does not forward what comes over a link; undefined when it does. The node's owner decides about that,
   * and Kubernetes needs it, too.
   */
  forwardingProblem(network: string, ranges: readonly string[]): OvpnError | undefined {
    const needed = ([4, 6] as const).filter((family) => ranges.some((range) => isIpv6(range) === (family === 6)));
    const values = readSysctls(ownNamespace, Object.values(forwardingSysctls));
    const off = needed.filter((family) => values.get(forwardingSysctls[family]) !== '1');
    const [first] = off;
    if (first === undefined) return undefined;
    const names = off.map((family) => `IPv${family}`).join(' and ');
    return new OvpnError(
      'ForwardingDisabled',
      `the node does not forward ${names} packets, and peers are to reach the cluster by it`,
      { object: `VpnNetwork ${network}`, field: 'spec.clusterAccess' },
      { remedy: `on the node: ${off.map((family) => `sysctl -w ${forwardingSysctls[family]}=1`).join('; ')}` },
    );
  }

  close(): void {
    this.#sockets?.routes.close();
    this.#sockets?.filter.close();
    this.#sockets = undefined;
  }

  #open(): { readonly routes: NetlinkSocket; readonly filter: NetlinkSocket } {
    this.#sockets ??= {
      routes: NetlinkSocket.open(NETLINK_ROUTE, undefined, this.#counters),
      filter: NetlinkSocket.open(NETLINK_NETFILTER, undefined, this.#counters),
    };
    return this.#sockets;
  }

  #ensureEnds(network: string, kernel: NetworkKernel, mtu: number): Ends {
    const { routes: socket } = this.#open();
    const name = hostLinkName(network);
    const [inside, host] = [kernel.link(clusterLinkName), getLinkByName(socket, name)];
    if (inside !== undefined && host !== undefined) {
      if (inside.peerIndex === host.index && host.peerIndex === inside.index) return { inside, host };
    }
    if (host !== undefined && host.kind !== 'veth') {
      throw new OvpnError(
        'NamespaceUnusable',
        `the node has an interface ${name} that was not made by this agent`,
        { object: `VpnNetwork ${network}`, field: 'spec.clusterAccess' },
        { remedy: 'rename or remove that interface' },
      );
    }
    // Half a pair, or two halves: the namespace was made anew.
    if (host !== undefined) change(socket, [deleteLink(host.index)]);
    const left = kernel.link(clusterLinkName);
    if (left !== undefined) kernel.change([deleteLink(left.index)]);
    const namespaceFd = openSync(ownNamespace, 'r');
    try {
      const index = freeFarIndex(kernel.links());
      kernel.change([newVeth({ name: clusterLinkName, index, mtu, peer: { name, namespaceFd } })]);
    } finally {
      closeSync(namespaceFd);
    }
    const made = { inside: kernel.link(clusterLinkName), host: getLinkByName(socket, name) };
    if (made.inside !== undefined && made.host !== undefined) return { inside: made.inside, host: made.host };
    throw new OvpnError('KernelRefused', `the veth pair ${name} is not there after it was made`, {
      object: `VpnNetwork ${network}`,
    });
  }

  /** The addresses that the link has, or else the first that are free. */
  #addressesOf(network: string, host: Link): LinkAddresses {
    const all = dumpAddresses(this.#open().routes).flatMap(({ index, address }) => {
      const number = linkNumber(address);
      return number === undefined ? [] : [{ number, own: index === host.index }];
    });
    const taken = new Set(all.filter(({ own }) => !own).map(({ number }) => number));
    const present = all.find(({ number, own }) => own && !taken.has(number));
    if (present !== undefined) return linkAddresses(present.number);
    for (let number = 0; number < linkCount; number++) if (!taken.has(number)) return linkAddresses(number);
    throw new OvpnError('KernelRefused', `all addresses of ${linkRanges[4]} are taken on this node`, {
      object: `VpnNetwork ${network}`,
      field: 'spec.clusterAccess',
    });
  }
}

const direct = { type: 'unicast', gateway: undefined, source: undefined, mtu: undefined } as const;

function change(socket: NetlinkSocket, requests: readonly Request[]): void {
  for (const outcome of socket.batch(requests)) if (!outcome.ok) throw outcome.error;
}

interface WantedAddress {
  readonly address: string;
  readonly scope?: 'link';
}

/** Sets what is wanted and removes what an earlier number left; what the kernel gives a link by itself stays. */
function addressChanges(
  { index }: Link,
  all: readonly InterfaceAddress[],
  wanted: readonly WantedAddress[],
): Request[] {
  const present = all.filter((address) => address.index === index).map(({ address }) => address);
  const isStale = (address: string): boolean =>
    !address.startsWith('fe80:') && !wanted.some((one) => one.address === address);
  return [
    ...present.filter(isStale).map((address) => deleteAddress(index, address)),
    ...wanted
      .filter(({ address }) => !present.includes(address))
      .map(({ address, scope }) => setAddress(index, address, scope)),
  ];
}

function linkChanges(link: Link, mtu: number, alias = link.alias): Request[] {
  const changes: LinkChange = {
    ...(link.up ? {} : { up: true }),
    ...(link.mtu === mtu ? {} : { mtu }),
    ...(alias === undefined || link.alias === alias ? {} : { alias }),
  };
  return Object.keys(changes).length === 0 ? [] : [setLink(link.index, changes)];
}

/** Nodes of IPv4 clusters may have IPv6 off for new interfaces. */
function enableIpv6(namespace: string, device: string): void {
  const name = `net.ipv6.conf.${device}.disable_ipv6`;
  if (readSysctls(namespace, [name]).get(name) !== '0') writeSysctls(namespace, new Map([[name, '0']]));
}

/** A node may forward, and yet not from new interfaces (net.ipv4.conf.default.forwarding). */
function forwardFrom(device: string): void {
  const name = `net.ipv4.conf.${device}.forwarding`;
  const values = readSysctls(ownNamespace, [name, forwardingSysctls[4]]);
  if (values.get(forwardingSysctls[4]) !== '1' || values.get(name) === '1') return;
  writeSysctls(ownNamespace, new Map([[name, '1']]));
}
