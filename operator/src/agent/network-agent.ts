import { describe, OvpnError } from '../errors.ts';
import { formatRef, type ObjectRef } from '../api/types.ts';
import { hostPrefix } from '../kernel/address.ts';
import type { Request, RequestCounters } from '../kernel/netlink/socket.ts';
import { createNamespace, deleteNamespace } from '../kernel/netns.ts';
import type { NewPeer, Peer } from '../kernel/ovpn/codec.ts';
import { deleteAddress, setAddress } from '../kernel/rtnetlink/addresses.ts';
import { deleteLink, type Link, newOvpnLink, setLink } from '../kernel/rtnetlink/links.ts';
import { deleteRoute, effectiveMetric, type Route, setRoute } from '../kernel/rtnetlink/routes.ts';
import { writeSysctls } from '../kernel/sysctl.ts';
import { formatEndpoint } from '../kernel/transport-socket.ts';
import type { Log } from '../telemetry/log.ts';
import { accessTable } from './access/access-filter.ts';
import type { HostAccess } from './access/host-access.ts';
import { AccessMembers } from './access/members.ts';
import type { Memberships } from './access/plan-access.ts';
import { deviations, observeAttachment } from './attachment-check.ts';
import type { AttachmentRecord, AttachmentStore } from './attachment-store.ts';
import type { DesiredNetwork, DesiredPeer, PeerRoute } from './desired.ts';
import { isForeign } from './devices.ts';
import { diffBase, diffPeer, failClosedRoute, missingRoutes, peerRoutes } from './diff.ts';
import type { PeerMemory } from './peer-memory.ts';
import { peerRefused } from './peer-refused.ts';
import { kernelRefused, KeyRotation } from './key-rotation.ts';
import { FarRoutes } from './mesh/far-routes.ts';
import type { Ledger } from './ledger.ts';
import { deviceAlias, deviceName, isVethName, namespaceName, networkOfNamespace, vethName } from './names.ts';
import { NetworkKernel } from './network-kernel.ts';
import { newPeer } from './new-peer.ts';
import { type ObservedNetwork, routeKey } from './observed.ts';
import { gatewaysFor } from './pod-addresses.ts';
import {
  ensureAttachment,
  farRoutes,
  removeAttachment,
  type SandboxLinks,
  type SandboxSettings,
  sandboxStands,
} from './sandbox.ts';
import { LivePeers } from './sessions/live-peers.ts';
import type { OpenListener } from './sessions/listener-sockets.ts';
import {
  ensureTunnelDevice,
  removeTunnelDevice,
  removeTunnelDevices,
  setTunnelAddresses,
} from './sessions/tunnel-devices.ts';
import { heldName, type TransportSockets } from './sockets.ts';

/** What a network needs from the rest of the agent. */
export interface NetworkServices {
  readonly netnsFolder: string;
  readonly sockets: TransportSockets;
  readonly ledger: Ledger;
  readonly memory: PeerMemory;
  readonly attachments: AttachmentStore;
  /** The host's side of cluster access. */
  readonly access: HostAccess;
  /** A device index that no other network of this node has. */
  readonly allocateIndex: () => number;
  /** Where the requests of all networks are counted. */
  readonly requests: RequestCounters;
  readonly clock: () => number;
  readonly log: Log;
  /** Destinations of the other networks that a sandbox is attached to. */
  readonly foreignDestinations: (network: string, netns: string) => ReadonlySet<string>;
}

/** What a whole round may do, beyond what it was told to bring about. */
export interface RoundLimits {
  /** Whether what nobody wants may go: only when all sources are complete. */
  readonly mayRemove: boolean;
  /** Peer ids that stay as they are all the same, and ids that go in any case (see PeersInForce). */
  readonly leaveAlone: ReadonlySet<number>;
  readonly out: ReadonlySet<number>;
  /** Destinations that belong to the network though no peer here has them. */
  readonly claimed: readonly string[];
  /** The sets of cluster access that peers belong to, by the names of their references. */
  readonly members: () => ReadonlyMap<string, Memberships>;
  /** The ways to what other nodes have, asked for when the control channels are up to date. */
  readonly far: () => ReadonlyMap<string, readonly PeerRoute[]>;
  /**
   * Called when the device and the sockets stand, with the peers that the kernel has: brings the control channels up
   * to date, and answers which of these peers are theirs and stay.
   */
  readonly sessions: (observed: ReadonlyMap<number, Peer>) => ReadonlySet<number>;
}

/** How a peer fared in the last round. */
export interface PeerState {
  readonly desired: DesiredPeer;
  /** What the kernel refused, or why the key cannot be installed. */
  readonly problem: OvpnError | undefined;
}

/**
 * Brings one network's kernel state to the desired one: observe, diff, apply. Level-triggered: every method
 * may be called at any time and repeats nothing that stands already.
 */
export class NetworkAgent {
  readonly name: string;
  readonly #services: NetworkServices;
  readonly #log: Log;
  readonly #peers = new Map<number, PeerState>();
  readonly #refused = new Set<number>();
  readonly #keys: KeyRotation;
  /** Peers that have a control session. */
  readonly live: LivePeers;
  #kernel: NetworkKernel | undefined;
  #observed: ObservedNetwork | undefined;
  #desired: DesiredNetwork | undefined;
  readonly #far = new FarRoutes();
  readonly #members = new AccessMembers();
  /** Routes into the cluster. */
  #accessRoutes: readonly Route[] = [];
  #accessProblem: OvpnError | undefined;
  #fds = new Map<string, number>();
  /** What pods reach: the network's pools, and every route of every peer. */
  #destinations = new Set<string>();
  /** As in the last whole round. */
  #mayRemove = false;

  constructor(name: string, services: NetworkServices) {
    this.name = name;
    this.#services = services;
    this.#log = services.log.child({ network: name });
    this.#keys = new KeyRotation(name, services.ledger, services.clock, this.#log);
    this.live = new LivePeers({
      network: name,
      kernel: () => this.#kernel,
      memory: services.memory,
      log: this.#log,
    });
  }

  /** When a key rotation wants the next look, by the services' clock. */
  get dueAt(): number | undefined {
    return this.#keys.dueAt;
  }

  /** The peers whose key rotation wants a look now. */
  duePeers(now: number): ObjectRef[] {
    return this.#keys.due(now).flatMap((id) => this.#peers.get(id)?.desired.ref ?? []);
  }

  get device(): Link | undefined {
    return this.#observed?.device;
  }

  get kernel(): NetworkKernel | undefined {
    return this.#kernel;
  }

  /** Whether pods can be attached. */
  get ready(): boolean {
    return this.#kernel !== undefined && this.#observed?.device !== undefined && this.#desired !== undefined;
  }

  get desired(): DesiredNetwork | undefined {
    return this.#desired;
  }

  /** The peers that should be in the kernel, by peer id. */
  get peers(): ReadonlyMap<number, PeerState> {
    return this.#peers;
  }

  /** How many peers the kernel refused something for: they want another try. */
  get refusedPeers(): number {
    return this.#refused.size;
  }

  /** How many peers the kernel has: static ones as they were last looked at, and those with a session. */
  get peerCount(): number {
    return (this.#observed?.peers.size ?? 0) + this.live.size;
  }

  /** Why peers do not reach the cluster as the network says; undefined when they do, or are not to. */
  get accessProblem(): OvpnError | undefined {
    return this.#accessProblem;
  }

  /** The transport sockets that are open. */
  get listeners(): OpenListener[] {
    return (this.#desired?.listeners ?? []).flatMap((listener) => {
      const { name, protocol } = listener;
      const fd = this.#fds.get(name);
      return fd === undefined
        ? []
        : [{ name, transport: protocol === 'TCP' ? 'tcp' : 'udp', fd, at: formatEndpoint(listener) }];
    });
  }

  /** Key ids in the slots of a peer, as they were when they were last looked at. */
  observedKeys(id: number): { primary: number | undefined; secondary: number | undefined } {
    const slots = this.#observed?.keys.get(id);
    return { primary: slots?.primary?.keyId, secondary: slots?.secondary?.keyId };
  }

  /**
   * A whole round: reads all of the kernel's state and mends every difference.
   *
   * @param limits whether what is not wanted may go (only when all sources are complete), which peers must be
   *   left alone all the same, and the destinations that belong to the network though no peer here has them
   * @throws what keeps the network as a whole from standing; problems of single peers are in their state
   */
  async reconcile(
    desired: DesiredNetwork,
    peers: readonly DesiredPeer[],
    { mayRemove, leaveAlone, out, claimed, members, far, sessions }: RoundLimits,
  ): Promise<void> {
    this.#mayRemove = mayRemove;
    const kernel = this.#open();
    this.#observed = await kernel.observe();
    this.#applyBase(kernel, desired);
    this.#openSockets(desired, mayRemove);
    // Not before its device and sockets stand: rounds for some peers go by what is there, not by what failed.
    this.#desired = desired;
    const live = sessions(this.#observed.peers);
    for (const id of live) this.#observed.peers.delete(id);
    this.#destinations = new Set([...desired.pools, ...claimed]);
    for (const { routes } of peers) for (const { destination } of routes) this.#destinations.add(destination);
    for (const { destination } of this.#keptRoutes(leaveAlone)) this.#destinations.add(destination);
    this.#peers.clear();
    this.#refused.clear();
    this.#keys.forgetDue();
    await this.#removeStrangers(peers, (id) => out.has(id) || (mayRemove && !leaveAlone.has(id) && !live.has(id)));
    await this.#applyPeers(peers);
    this.#guard(claimed);
    this.#far.replace(far(), this.#observed.device?.index ?? 0);
    this.#addRoutes([...this.#far.all()], noWay);
    this.#members.replace(members());
    this.#applyAccess(kernel, desired);
    if (mayRemove) this.#removeStaleRoutes(leaveAlone, claimed);
    for (const record of this.#services.attachments.ofNetwork(this.name)) this.#tryAttachment(record);
    if (mayRemove) this.#removeStrayFarEnds(kernel);
    this.#services.memory.save();
  }

  /**
   * A round for some peers only: reads and mends those, and costs nothing for the others.
   *
   * @param changed what each peer id should be now; undefined takes the peer out
   * @param claimed see {@link reconcile}
   */
  async reconcilePeers(
    changed: ReadonlyMap<number, DesiredPeer | undefined>,
    claimed: readonly string[],
  ): Promise<void> {
    const kernel = this.#kernel;
    const observed = this.#observed;
    const device = observed?.device;
    const desired = this.#desired;
    if (kernel === undefined || observed === undefined || device === undefined || desired === undefined) return;
    let destinationsChanged = false;
    const gone: number[] = [];
    const wanted: DesiredPeer[] = [];
    const staleRoutes: Route[] = [];
    this.#refresh(kernel, observed, device, [...changed.keys()]);
    for (const [id, peer] of changed) {
      const old = this.#peers.get(id)?.desired;
      const keep = new Set(peer === undefined ? [] : peerRoutes(peer, device.index).map(routeKey));
      const stale =
        old === undefined ? [] : peerRoutes(old, device.index).filter((route) => !keep.has(routeKey(route)));
      staleRoutes.push(...stale);
      for (const { destination } of stale)
        destinationsChanged = this.#destinations.delete(destination) || destinationsChanged;
      if (peer === undefined) gone.push(id);
      else wanted.push(peer);
    }
    await this.#deletePeers(gone);
    for (const id of gone) {
      this.#peers.delete(id);
      this.#refused.delete(id);
    }
    await this.#applyPeers(wanted);
    // A destination may have gone over from one of these peers to another.
    const takenOver = new Set(wanted.flatMap((peer) => peerRoutes(peer, device.index).map(routeKey)));
    this.#deleteRoutes(staleRoutes.filter((route) => !takenOver.has(routeKey(route))));
    for (const destination of [
      ...claimed,
      ...wanted.flatMap(({ routes }) => routes.map((route) => route.destination)),
    ]) {
      if (this.#destinations.has(destination)) continue;
      this.#destinations.add(destination);
      destinationsChanged = true;
    }
    this.#guard(claimed);
    if (destinationsChanged) {
      for (const record of this.#services.attachments.ofNetwork(this.name)) this.#tryAttachment(record);
    }
    this.#services.memory.save();
  }

  /** Makes the way to what another node has, and costs nothing for the others. Without a network nothing happens. */
  setFar(name: string, routes: readonly PeerRoute[]): void {
    const observed = this.#observed;
    const index = observed?.device?.index;
    if (observed === undefined || index === undefined || this.#kernel === undefined) return;
    const stale = this.#far.set(name, routes, index);
    // The destination may be that of a peer here by now, whose route took the place of this one.
    this.#deleteRoutes(stale.filter((route) => observed.routes.get(routeKey(route))?.gateway === route.gateway));
    this.#addRoutes(this.#far.of(name), noWay);
  }

  /** Takes the sets of cluster access that a peer belongs to; {@link applyMembers} brings them into the kernel. */
  setMember(name: string, memberships: Memberships): void {
    this.#members.set(name, memberships);
  }

  /** Brings what changed in the sets of cluster access into the kernel, and costs nothing for other peers. */
  applyMembers(): void {
    const changes = this.#members.takeTouched();
    if (changes.length === 0 || this.#desired?.access === undefined) return;
    try {
      this.#kernel?.changeAccess(changes);
    } catch (error) {
      // The next whole round compares all of them.
      this.#refuseAccess(error);
    }
  }

  /**
   * Lets peers reach the cluster, or ends that. The rules are there before the link, and the link goes before the rules.
   * What is wrong here ends nothing else of the network.
   */
  #applyAccess(kernel: NetworkKernel, { access, mtu }: DesiredNetwork): void {
    const { access: host } = this.#services;
    try {
      if (access === undefined) {
        host.remove(this.name);
        kernel.removeAccess();
        this.#accessRoutes = [];
        this.#accessProblem = undefined;
        return;
      }
      kernel.ensureAccess(accessTable(access), this.#members.elements);
      this.#accessRoutes = host.ensure(this.name, kernel, access.ranges, mtu);
      this.#addRoutes(this.#accessRoutes, 'peers do not reach a range of the cluster');
      this.#accessProblem = host.forwardingProblem(this.name, access.ranges);
    } catch (error) {
      this.#refuseAccess(error);
    }
  }

  #refuseAccess(error: unknown): void {
    const where = { object: `VpnNetwork ${this.name}`, field: 'spec.clusterAccess' };
    this.#accessProblem =
      error instanceof OvpnError ? error : new OvpnError('KernelRefused', describe(error), where, { cause: error });
    this.#log.error(
      { event: 'access.failed', code: this.#accessProblem.code, error: this.#accessProblem.message },
      'peers do not reach the cluster as they should',
    );
  }

  /**
   * Brings one attachment about. @throws OvpnError or NetlinkError when it cannot stand
   */
  attach(record: AttachmentRecord): SandboxLinks {
    // The kernel takes these along with a link that goes down, and the last round knows nothing of that.
    this.#forgetFarRoutes(record);
    return this.#ensure(record);
  }

  #ensure(record: AttachmentRecord): SandboxLinks {
    const { kernel, observed } = this.#ready();
    return ensureAttachment(record, this.#settings(record), kernel, observed, this.#services.requests);
  }

  /** How an attachment differs from what it should be, in words; reads the kernel. @throws OvpnError NetworkNotReady */
  check(record: AttachmentRecord): string[] {
    const { kernel } = this.#ready();
    return [
      ...deviations(record, this.#settings(record), observeAttachment(record, kernel)),
      ...(kernel.filterStands() ? [] : ["the packet filter in the network's namespace is not as it was made"]),
    ];
  }

  /** Whether the network's namespace has a route to just this address. */
  hasRouteTo(address: string): boolean {
    const destination = hostPrefix(address);
    return this.#observed?.routes.has(routeKey({ destination, metric: effectiveMetric(destination, 0) })) === true;
  }

  /** Forgets the attachments whose sandboxes are gone. @returns how many */
  collectGone(): number {
    if (!this.ready) return 0;
    const before = this.#services.attachments.ofNetwork(this.name);
    for (const record of before) if (!sandboxStands(record)) this.#collect(record);
    return before.length - this.#services.attachments.ofNetwork(this.name).length;
  }

  #forgetFarRoutes(record: AttachmentRecord): void {
    for (const route of farRoutes(record, 0)) this.#observed?.routes.delete(routeKey(route));
  }

  #settings(record: AttachmentRecord): SandboxSettings {
    const { desired } = this.#ready();
    return {
      gateways: gatewaysFor(record.addresses, { blocks: desired.podBlocks, nodeAddresses: desired.addresses }),
      destinations: [...this.#destinations],
      foreignDestinations: this.#services.foreignDestinations(this.name, record.netns),
      mtu: desired.mtu,
      mayRemove: this.#mayRemove,
    };
  }

  /** Takes an attachment away. What is gone already is no error. */
  detach(record: AttachmentRecord): void {
    const foreign = this.#services.foreignDestinations(this.name, record.netns);
    const kernel = this.#kernel?.current === true ? this.#kernel : undefined;
    removeAttachment(record, foreign, kernel, this.#services.requests);
    // The routes went with the link.
    this.#forgetFarRoutes(record);
  }

  /** The device of a remote that is dialled; made when it is missing. @throws OvpnError NetworkNotReady, NetlinkError */
  ensureTunnelDevice(ref: ObjectRef, mtu: number): Link {
    const { kernel } = this.#ready();
    return ensureTunnelDevice(kernel, this.name, ref, mtu, this.#services.allocateIndex);
  }

  /** @throws OvpnError NetworkNotReady, NetlinkError */
  setTunnelAddresses(index: number, addresses: readonly string[]): void {
    setTunnelAddresses(this.#ready().kernel, index, addresses);
  }

  removeTunnelDevice(ref: ObjectRef): void {
    if (this.#kernel !== undefined) removeTunnelDevice(this.#kernel, ref, this.#log);
  }

  /** Removes the devices of remotes that are dialled no more. */
  removeTunnelDevices(keep: readonly ObjectRef[]): void {
    if (this.#kernel !== undefined) removeTunnelDevices(this.#kernel, this.name, keep, this.#log);
  }

  get destinations(): ReadonlySet<string> {
    return this.#destinations;
  }

  /** Removes the network from this node: namespace, device, peers, sockets. */
  remove(): void {
    this.close();
    this.#services.access.remove(this.name);
    deleteNamespace(namespaceName(this.name), this.#services.netnsFolder);
    this.#services.sockets.forget(this.name);
    this.#peers.clear();
    this.#refused.clear();
    this.#keys.forgetDue();
    this.#observed = undefined;
    this.#log.info({ event: 'network.removed' }, 'removed the network from this node');
  }

  close(): void {
    this.#kernel?.close();
    this.#kernel = undefined;
  }

  #ready(): { kernel: NetworkKernel; observed: ObservedNetwork; desired: DesiredNetwork } {
    if (this.#kernel === undefined || this.#observed?.device === undefined || this.#desired === undefined) {
      throw new OvpnError('NetworkNotReady', 'is not set up on this node yet', { object: `VpnNetwork ${this.name}` });
    }
    return { kernel: this.#kernel, observed: this.#observed, desired: this.#desired };
  }

  /** The namespace, made when missing, and sockets inside it; opened anew when the namespace was replaced. */
  #open(): NetworkKernel {
    const namespace = namespaceName(this.name);
    if (this.#kernel === undefined && isForeign(this.name, this.#services.netnsFolder)) {
      throw new OvpnError(
        'NamespaceUnusable',
        `the network namespace ${namespace} exists and was not made by this agent`,
        { object: `VpnNetwork ${this.name}` },
        { remedy: 'rename or remove that namespace, or give the network another name' },
      );
    }
    const made = createNamespace(namespace, this.#services.netnsFolder);
    if (made) this.#log.info({ event: 'network.namespace', namespace }, 'made the network namespace');
    if (this.#kernel !== undefined && !this.#kernel.current) this.close();
    this.#kernel ??= NetworkKernel.open(namespace, this.#services.netnsFolder, this.#services.requests);
    return this.#kernel;
  }

  #applyBase(kernel: NetworkKernel, desired: DesiredNetwork): void {
    let observed = this.#observed;
    if (observed === undefined) return;
    const first = diffBase(desired, deviceAlias(this.name), observed);
    if (first.sysctls.size > 0) writeSysctls(kernel.path, first.sysctls);
    if (first.createDevice) {
      kernel.change([
        newOvpnLink({ name: deviceName, mode: 'mp', index: this.#services.allocateIndex(), mtu: desired.mtu }),
      ]);
      this.#observed = observed = { ...kernel.observeBase(), peers: new Map(), keys: new Map() };
    }
    const index = observed.device?.index ?? 0;
    const diff = diffBase(desired, deviceAlias(this.name), observed);
    kernel.ensureFilter();
    const requests: Request[] = [];
    if (diff.loopbackUp) requests.push(setLink(1, { up: true }));
    if (Object.keys(diff.device).length > 0) requests.push(setLink(index, diff.device));
    requests.push(...diff.addAddresses.map((address) => setAddress(index, address)));
    requests.push(...diff.deleteAddresses.map((address) => deleteAddress(index, address)));
    if (requests.length === 0) return;
    kernel.change(requests);
    // An address that goes takes routes along: look again before routes are compared.
    this.#observed = { ...kernel.observeBase(), peers: observed.peers, keys: observed.keys };
  }

  #openSockets(desired: DesiredNetwork, mayRemove: boolean): void {
    this.#fds = new Map(
      desired.listeners.map((listener) => [listener.name, this.#services.sockets.ensure(this.name, listener)]),
    );
    if (mayRemove) this.#services.sockets.release(this.name, new Set(desired.listeners.map(heldName)));
  }

  async #removeStrangers(peers: readonly DesiredPeer[], mayGo: (id: number) => boolean): Promise<void> {
    const wanted = new Set(peers.map(({ id }) => id));
    const strangers = [...(this.#observed?.peers.keys() ?? [])].filter((id) => !wanted.has(id) && mayGo(id));
    await this.#deletePeers(strangers);
  }

  async #deletePeers(ids: readonly number[]): Promise<void> {
    const observed = this.#observed;
    const device = observed?.device;
    const kernel = this.#kernel;
    if (observed === undefined || device === undefined || kernel === undefined) return;
    const present = ids.filter((id) => observed.peers.has(id));
    const outcomes = await kernel.deleteOvpn(present.map((id) => kernel.requests.peerDel(device.index, id)));
    present.forEach((id, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === false && outcome.error.code !== 'ENOENT') {
        this.#log.warn(
          { event: 'peer.delete-failed', ...this.#named(id), error: outcome.error.message },
          'the kernel kept a peer',
        );
        return;
      }
      observed.peers.delete(id);
      observed.keys.delete(id);
      this.#log.info({ event: 'peer.removed', ...this.#named(id) }, 'removed the peer from the kernel');
    });
    for (const id of ids) {
      this.#services.memory.delete(this.name, id);
      this.#keys.forget(id);
    }
  }

  /** How the log names a peer in the kernel: by the id that its whole story has, where it is known whose it is. */
  #named(id: number): { readonly peer?: string; readonly peerId: number } {
    const owner = this.#services.memory.get(this.name, id)?.owner;
    return { ...(owner === undefined ? {} : { peer: owner }), peerId: id };
  }

  /** Peers first, then routes to them, then their keys: a packet finds no half-made peer. */
  async #applyPeers(peers: readonly DesiredPeer[]): Promise<void> {
    const observed = this.#observed;
    const device = observed?.device;
    const kernel = this.#kernel;
    if (observed === undefined || device === undefined || kernel === undefined || this.#desired === undefined) return;
    const ports = new Map(this.#desired.listeners.map(({ name, port }) => [name, port]));
    const problems = new Map<number, OvpnError>();
    const requests: { peer: DesiredPeer; request: Request; verb: string | undefined }[] = [];
    const replaced: number[] = [];
    const made: number[] = [];
    for (const peer of peers) {
      const note = this.#services.memory.get(this.name, peer.id);
      const change = diffPeer(peer, observed.peers.get(peer.id), ports.get(peer.listener) ?? 0, note);
      if (change.change === 'none') {
        // Also when the remote had floated there before the spec said so: where it floats next is not undone.
        this.#remember(peer);
        continue;
      }
      if (change.change === 'set') {
        requests.push({ peer, request: kernel.requests.peerSet(device.index, change.settings), verb: 'changed' });
        continue;
      }
      if (change.change === 'replace') {
        this.#log.warn(
          { event: 'peer.replaced', peer: formatRef(peer.ref), peerId: peer.id, because: change.because },
          'the peer has to be made anew',
        );
        replaced.push(peer.id);
      }
      newPeer(kernel.requests, device.index, this.#newPeer(peer)).forEach((request, i) => {
        requests.push({ peer, request, verb: i === 0 ? 'made' : undefined });
      });
      made.push(peer.id);
    }
    await this.#deletePeers(replaced);
    this.#keys.peersAreNew(made);
    const outcomes = await kernel.changeOvpn(requests.map(({ request }) => request));
    requests.forEach(({ peer, verb }, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === false) problems.set(peer.id, peerRefused(peer, outcome.error));
      else if (verb !== undefined) {
        this.#remember(peer);
        this.#log.info(
          { event: `peer.${verb}`, peer: formatRef(peer.ref), peerId: peer.id },
          `${verb} the peer in the kernel`,
        );
      }
    });
    this.#refresh(
      kernel,
      observed,
      device,
      requests.map(({ peer }) => peer.id),
    );
    this.#applyRoutes(peers, device, observed, kernel, problems);
    const keyed = await this.#keys.apply(peers, device.index, observed, kernel);
    this.#refresh(kernel, observed, device, keyed.touched);
    for (const peer of peers) {
      const result = keyed.results.get(peer.id);
      const problem = problems.get(peer.id) ?? result?.problem;
      if (problem?.name === 'KernelRefused') this.#refused.add(peer.id);
      else this.#refused.delete(peer.id);
      this.#peers.set(peer.id, {
        desired: peer,
        problem,
      });
    }
  }

  #remember(peer: DesiredPeer): void {
    this.#services.memory.set(this.name, peer.id, { endpoint: peer.remote, owner: formatRef(peer.ref) });
  }

  #newPeer(peer: DesiredPeer): NewPeer {
    return {
      id: peer.id,
      socket: this.#fds.get(peer.listener) ?? -1,
      remote: peer.remote,
      vpnIpv4: peer.vpnIpv4,
      vpnIpv6: peer.vpnIpv6,
      ...(peer.txId === peer.id ? {} : { txId: peer.txId }),
      ...(peer.keepalive.interval === 0 ? {} : { keepalive: peer.keepalive }),
    };
  }

  #applyRoutes(
    peers: readonly DesiredPeer[],
    device: Link,
    observed: ObservedNetwork,
    kernel: NetworkKernel,
    problems: Map<number, OvpnError>,
  ): void {
    const missing = peers.flatMap((peer) =>
      missingRoutes(peerRoutes(peer, device.index), observed.routes).map((route) => ({ peer, route })),
    );
    const outcomes = kernel.tryChange(missing.map(({ route }) => setRoute(route)));
    missing.forEach(({ peer, route }, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === false) problems.set(peer.id, kernelRefused(peer.ref, outcome.error));
      else observed.routes.set(routeKey(route), route);
    });
  }

  /** Reads peers again after they were changed: the kernel's word is what counts. */
  #refresh(kernel: NetworkKernel, observed: ObservedNetwork, device: Link, ids: readonly number[]): void {
    for (const [id, { peer, keys }] of kernel.observePeers(device.index, ids)) {
      if (peer === undefined) {
        observed.peers.delete(id);
        observed.keys.delete(id);
      } else {
        observed.peers.set(id, peer);
        observed.keys.set(id, keys);
      }
    }
  }

  /** Makes destinations of peers that come and go refuse packets below the peers' own routes. */
  #guard(destinations: readonly string[]): void {
    this.#addRoutes(destinations.map(failClosedRoute), 'a destination is not guarded against other routes');
  }

  /** Makes those of the routes that are not there. @param refusal what it means when the kernel refuses one */
  #addRoutes(routes: readonly Route[], refusal: string): void {
    const observed = this.#observed;
    if (observed === undefined) return;
    const missing = missingRoutes(routes, observed.routes);
    const outcomes = this.#kernel?.tryChange(missing.map(setRoute)) ?? [];
    missing.forEach((route, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === true) observed.routes.set(routeKey(route), route);
      else this.#log.warn({ event: 'route.refused', route: route.destination, error: outcome?.error.message }, refusal);
    });
  }

  #removeStaleRoutes(leaveAlone: ReadonlySet<number>, claimed: readonly string[]): void {
    const observed = this.#observed;
    const index = observed?.device?.index;
    if (observed === undefined || index === undefined) return;
    const wanted = new Set<string>();
    for (const { desired } of this.#peers.values())
      for (const route of peerRoutes(desired, index)) wanted.add(routeKey(route));
    for (const record of this.#services.attachments.ofNetwork(this.name)) {
      for (const route of farRoutes(record, 0)) wanted.add(routeKey(route));
    }
    for (const route of this.#keptRoutes(leaveAlone)) wanted.add(routeKey(route));
    for (const { routes } of this.live.values()) for (const route of routes) wanted.add(routeKey(route));
    for (const route of this.#far.all()) wanted.add(routeKey(route));
    for (const route of this.#accessRoutes) wanted.add(routeKey(route));
    for (const destination of claimed) wanted.add(routeKey(failClosedRoute(destination)));
    this.#deleteRoutes([...observed.routes.values()].filter((route) => !wanted.has(routeKey(route))));
  }

  /** Routes over peers that must be left alone. */
  #keptRoutes(leaveAlone: ReadonlySet<number>): Route[] {
    const { peers, routes } = this.#observed ?? {};
    const hops = new Set([...leaveAlone].flatMap((id) => [peers?.get(id)?.vpnIpv4, peers?.get(id)?.vpnIpv6]));
    return [...(routes?.values() ?? [])].filter(({ gateway }) => gateway !== undefined && hops.has(gateway));
  }

  #deleteRoutes(routes: readonly Route[]): void {
    const observed = this.#observed;
    const kernel = this.#kernel;
    if (observed === undefined || kernel === undefined) return;
    const present = routes.filter((route) => observed.routes.has(routeKey(route)));
    const outcomes = kernel.tryChange(present.map(deleteRoute));
    present.forEach((route, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === false && outcome.error.code !== 'ESRCH') {
        this.#log.warn(
          { event: 'route.delete-failed', route: route.destination, error: outcome.error.message },
          'the kernel kept a route',
        );
      } else observed.routes.delete(routeKey(route));
    });
  }

  /** Far ends that nobody has: of a DEL that was served before the network's namespace was open. */
  #removeStrayFarEnds(kernel: NetworkKernel): void {
    const { attachments } = this.#services;
    // One of an attachment whose record cannot be read is in use.
    if (attachments.damaged) return;
    const wanted = new Set(attachments.ofNetwork(this.name).map(vethName));
    const stray = kernel.links().filter(({ name, kind }) => kind === 'veth' && isVethName(name) && !wanted.has(name));
    if (stray.length === 0) return;
    kernel.tryChange(stray.map(({ index }) => deleteLink(index)));
    this.#log.info({ event: 'attachment.stray', links: stray.map(({ name }) => name) }, 'removed far ends of no pod');
  }

  /**
   * Forgets an attachment whose sandbox is gone, as runtimes leave them behind when they crash. Only its far end tells
   * that surely: the kernel takes a pair away with either of its namespaces, while a path can just be out of sight.
   */
  #collect(record: AttachmentRecord): void {
    if (this.#ready().kernel.link(vethName(record)) !== undefined) return;
    this.#services.attachments.remove(record);
    this.#forgetFarRoutes(record);
    const { containerId, ifname, addresses } = record;
    this.#log.info(
      { event: 'attachment.collected', containerId, ifname, addresses },
      'the sandbox of an attachment is gone; its addresses are free',
    );
  }

  #tryAttachment(record: AttachmentRecord): void {
    try {
      if (sandboxStands(record)) this.#ensure(record);
      else this.#collect(record);
    } catch (error) {
      this.#log.warn(
        { event: 'attachment.failed', containerId: record.containerId, ifname: record.ifname, error: describe(error) },
        'an attachment does not stand as it should',
      );
    }
  }
}

const noWay = 'there is no way to what another node has';

/** Networks that have a namespace on this node, whether wanted or not. */
export function networksIn(namespaces: readonly string[]): string[] {
  return namespaces.flatMap((name) => networkOfNamespace(name) ?? []);
}
