import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, OvpnError } from '../errors.ts';
import {
  NETLINK_ROUTE,
  NetlinkSocket,
  type Outcome,
  type Request,
  requestCounters,
  type RequestCounters,
} from '../kernel/netlink/socket.ts';
import { defaultNetnsFolder, namespaceId } from '../kernel/netns.ts';
import {
  changeSets,
  deleteTable,
  dumpElements,
  type FilterTable,
  NETLINK_NETFILTER,
  replaceTable,
  type SetChange,
  type SetElements,
  tableExists,
  tableStands,
} from '../kernel/nftables/table.ts';
import { OvpnFamily, type OvpnRequests } from '../kernel/ovpn/family.ts';
import type { KeyInfo, Peer } from '../kernel/ovpn/codec.ts';
import { dumpAddresses, type InterfaceAddress } from '../kernel/rtnetlink/addresses.ts';
import { dumpLinks, getLinkByName, type Link } from '../kernel/rtnetlink/links.ts';
import { dumpOurRoutes, type Route } from '../kernel/rtnetlink/routes.ts';
import { readSysctls } from '../kernel/sysctl.ts';
import { accessTableName } from './access/access-filter.ts';
import { setChanges } from './access/members.ts';
import { namespaceSysctls } from './diff.ts';
import { emptySlots, type KeySlots } from './key-slots.ts';
import { networkFilter } from './filter.ts';
import { deviceName } from './names.ts';
import { type ObservedNetwork, routeKey } from './observed.ts';

const LINK_SCOPE = 253;
/** How many peers are asked for, or requests sent, between two turns of the event loop. */
const chunk = 256;
/**
 * Deleting a peer waits for an RCU grace period, 10 to 30 ms (drivers/net/ovpn/socket.c, ovpn_socket_release):
 * a few at a time, so that the CNI socket and notifications get their turn.
 */
const deleteChunk = 4;

/** The kernel state of one network: its namespace, with netlink sockets inside. */
export class NetworkKernel {
  readonly namespace: string;
  readonly path: string;
  readonly #id: string | undefined;
  readonly #routes: NetlinkSocket;
  readonly #ovpn: OvpnFamily;
  readonly #filter: NetlinkSocket;

  private constructor(namespace: string, path: string, routes: NetlinkSocket, ovpn: OvpnFamily, filter: NetlinkSocket) {
    this.namespace = namespace;
    this.path = path;
    this.#id = namespaceId(path);
    this.#routes = routes;
    this.#ovpn = ovpn;
    this.#filter = filter;
  }

  /**
   * @param counters where the requests of all its sockets are counted
   * @throws OvpnError KernelWithoutOvpn; SystemError when the namespace is not there
   */
  static open(namespace: string, folder = defaultNetnsFolder, counters = requestCounters()): NetworkKernel {
    const path = join(folder, namespace);
    const opened: { close(): void }[] = [];
    const opening = <T extends { close(): void }>(socket: T): T => {
      opened.push(socket);
      return socket;
    };
    try {
      return new NetworkKernel(
        namespace,
        path,
        opening(NetlinkSocket.open(NETLINK_ROUTE, path, counters)),
        opening(OvpnFamily.open(path, undefined, counters)),
        opening(openFilter(path, counters)),
      );
    } catch (error) {
      for (const socket of opened) socket.close();
      throw error;
    }
  }

  /** Whether the path still names the namespace that the sockets are in. */
  get current(): boolean {
    return this.#id !== undefined && namespaceId(this.path) === this.#id;
  }

  get requests(): OvpnRequests {
    return this.#ovpn.requests;
  }

  close(): void {
    this.#routes.close();
    this.#ovpn.close();
    this.#filter.close();
  }

  /** Reads everything. Gives way to other work in between when there are many peers. */
  async observe(): Promise<ObservedNetwork> {
    const base = this.observeBase();
    const { device } = base;
    const peers = device === undefined ? [] : this.#ovpn.dumpPeers(device.index);
    const keys = new Map<number, KeySlots>();
    for (let start = 0; device !== undefined && start < peers.length; start += chunk) {
      const ids = peers.slice(start, start + chunk).map(({ id }) => id);
      for (const [id, found] of this.#ovpn.getKeys(device.index, ids)) keys.set(id, toSlots(found));
      await nextTurn();
    }
    return { ...base, peers: new Map(peers.map((peer) => [peer.id, peer])), keys };
  }

  /** Reads what does not grow with the number of peers, and the routes. */
  observeBase(): ObservedNetwork {
    const links = dumpLinks(this.#routes);
    const device = links.find(({ name, kind }) => name === deviceName && kind === 'ovpn');
    const addresses = dumpAddresses(this.#routes).filter(
      ({ index, scope }) => index === device?.index && scope !== LINK_SCOPE,
    );
    return {
      device,
      addresses: new Set(addresses.map(({ address }) => address)),
      routes: new Map(dumpOurRoutes(this.#routes).map((route) => [routeKey(route), route])),
      peers: new Map(),
      keys: new Map(),
      sysctls: readSysctls(this.path, [...namespaceSysctls.keys()]),
      loopbackUp: links.find(({ loopback }) => loopback)?.up === true,
    };
  }

  /** Reads some peers and their keys again; `peer` is undefined where the kernel has none. */
  observePeers(
    deviceIndex: number,
    ids: readonly number[],
  ): Map<number, { readonly peer: Peer | undefined; readonly keys: KeySlots }> {
    const peers = this.#ovpn.getPeers(deviceIndex, ids);
    const keys = this.#ovpn.getKeys(deviceIndex, [...peers.keys()]);
    return new Map(ids.map((id) => [id, { peer: peers.get(id), keys: toSlots(keys.get(id) ?? []) }]));
  }

  /** One peer with its counters. */
  getPeer(deviceIndex: number, id: number): Peer | undefined {
    return this.#ovpn.getPeer(deviceIndex, id);
  }

  /** One interface by name. */
  link(name: string): Link | undefined {
    return getLinkByName(this.#routes, name);
  }

  links(): Link[] {
    return dumpLinks(this.#routes);
  }

  addresses(): InterfaceAddress[] {
    return dumpAddresses(this.#routes);
  }

  /** Whether the packet filter is as it should be. */
  filterStands(): boolean {
    return tableStands(this.#filter, networkFilter);
  }

  /** Makes the packet filter what it should be. @throws NetlinkError */
  ensureFilter(): void {
    if (!this.filterStands()) replaceTable(this.#filter, networkFilter);
  }

  /** Makes the rules of cluster access, and what their sets hold, what they should be. @throws NetlinkError */
  ensureAccess(table: FilterTable, elements: SetElements): void {
    if (!tableStands(this.#filter, table)) {
      replaceTable(this.#filter, table, elements);
      return;
    }
    const present = new Map((table.sets ?? []).map(({ name }) => [name, dumpElements(this.#filter, table.name, name)]));
    changeSets(this.#filter, table.name, setChanges(elements, present));
  }

  /** Changes what the sets of cluster access hold. @throws NetlinkError */
  changeAccess(changes: readonly SetChange[]): void {
    changeSets(this.#filter, accessTableName, changes);
  }

  /** Takes the rules of cluster access away; none is no error. @throws NetlinkError */
  removeAccess(): void {
    if (tableExists(this.#filter, accessTableName)) deleteTable(this.#filter, accessTableName);
  }

  /** The routes that carry our protocol number. */
  ourRoutes(): Route[] {
    return dumpOurRoutes(this.#routes);
  }

  /** Sends changes of links, addresses and routes. @throws NetlinkError the first refusal */
  change(requests: readonly Request[]): void {
    for (const outcome of this.#routes.batch(requests)) if (!outcome.ok) throw outcome.error;
  }

  /** Sends changes of links, addresses and routes; each has its own outcome. */
  tryChange(requests: readonly Request[]): Outcome[] {
    return this.#routes.batch(requests);
  }

  /** Sends changes of peers and keys at once; each has its own outcome. */
  ovpnBatch(requests: readonly Request[]): Outcome[] {
    return this.#ovpn.batch(requests);
  }

  /** Sends changes of peers and keys, giving way to other work between chunks. */
  async changeOvpn(requests: readonly Request[]): Promise<Outcome[]> {
    return this.#inChunks(requests, chunk);
  }

  /** Like {@link changeOvpn} for requests that end peers. */
  async deleteOvpn(requests: readonly Request[]): Promise<Outcome[]> {
    return this.#inChunks(requests, deleteChunk);
  }

  async #inChunks(requests: readonly Request[], size: number): Promise<Outcome[]> {
    const outcomes: Outcome[] = [];
    for (let start = 0; start < requests.length; start += size) {
      if (start > 0) await nextTurn();
      for (const outcome of this.#ovpn.batch(requests.slice(start, start + size))) outcomes.push(outcome);
    }
    return outcomes;
  }
}

function openFilter(path: string, counters: RequestCounters): NetlinkSocket {
  try {
    return NetlinkSocket.open(NETLINK_NETFILTER, path, counters);
  } catch (error) {
    throw new OvpnError(
      'KernelRefused',
      `the kernel has no packet filter: ${describe(error)}`,
      { object: path },
      { cause: error, remedy: 'boot a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NFT_FIB_INET' },
    );
  }
}

function toSlots(keys: readonly KeyInfo[]): KeySlots {
  if (keys.length === 0) return emptySlots;
  const find = (slot: KeyInfo['slot']): KeySlots['primary'] => {
    const key = keys.find((candidate) => candidate.slot === slot);
    return key === undefined ? undefined : { keyId: key.keyId, cipher: key.cipher };
  };
  return { primary: find('primary'), secondary: find('secondary') };
}
