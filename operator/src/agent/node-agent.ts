import { join } from 'node:path';
import { isStaticPeer } from '../api/peer-kind.ts';
import { isPlaced } from '../api/placement.ts';
import { formatRef, type ObjectRef, refOf, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import { isMesh } from '../api/vpn-network.ts';
import { Backoff } from '../cluster/backoff.ts';
import { type Clock, sleep } from '../cluster/clock.ts';
import type { ResourceSource } from '../cluster/source.ts';
import { describe, OvpnError } from '../errors.ts';
import type { SocketKeeper } from '../holder/client.ts';
import { NotificationSocket } from '../kernel/netlink/notifications.ts';
import { NETLINK_GENERIC, NETLINK_ROUTE, NetlinkSocket, requestCounters } from '../kernel/netlink/socket.ts';
import { listNamespaces } from '../kernel/netns.ts';
import { type Notification, parseNotification, type Peer } from '../kernel/ovpn/codec.ts';
import { OvpnFamily } from '../kernel/ovpn/family.ts';
import { ReadinessPoller } from '../kernel/poller.ts';
import { RemoteNames } from '../openvpn/endpoint/remote-names.ts';
import { systemScheduler } from '../openvpn/session/scheduler.ts';
import type { Log } from '../telemetry/log.ts';
import type { Meter } from '../telemetry/metrics.ts';
import { HostAccess } from './access/host-access.ts';
import { type Memberships, membershipsOf } from './access/plan-access.ts';
import { sampleNode } from './agent-metrics.ts';
import type { AgentRequest, StatusRequest, StatusResult } from './attach-protocol.ts';
import { type AttachNode, Attacher } from './attach.ts';
import { AttachmentStore } from './attachment-store.ts';
import type { DesiredNetwork, DesiredPeer, PeerRoute } from './desired.ts';
import { freeDeviceIndex, isOurs } from './devices.ts';
import { leftDetaches } from './left-detaches.ts';
import { Ledger } from './ledger.ts';
import type { ManagedNetwork } from './managed-network.ts';
import { routesToPeer } from './mesh/far-routes.ts';
import { Neighbours } from './mesh/neighbours.ts';
import { nodesOf } from './mesh/network-nodes.ts';
import { PeerClaims } from './mesh/peer-claims.ts';
import { type DesiredNeighbour, planMesh } from './mesh/plan-mesh.ts';
import { NetworkAgent, networksIn, type NetworkServices } from './network-agent.ts';
import { NetworkQueue, type NetworkWork } from './network-queue.ts';
import { PeerBook } from './peer-book.ts';
import { PeerMemory } from './peer-memory.ts';
import { Placement } from './placement/placement.ts';
import { type NodeFacts, type PeerRefs, planNetwork, secretOf, selects } from './plan.ts';
import { identifySandbox, sandboxStands } from './sandbox.ts';
import { NetworkSessions } from './sessions/network-sessions.ts';
import { SessionMemory } from './sessions/session-memory.ts';
import { expiryProblem } from './sessions/materials.ts';
import { identityKeyRef } from '../api/issued.ts';
import { planServer, type SecretLookup, secretRefOf, secretsOfNetwork } from './sessions/plan-sessions.ts';
import { askSystem } from './sessions/system-names.ts';
import { TransportSockets } from './sockets.ts';
import { lockState } from './state-lock.ts';
import { References } from './references.ts';
import { type Readiness, readinessOf } from './readiness.ts';
import { StatusBoard } from './status-board.ts';
import { underlayMtu } from './underlay.ts';

/** A step of a rotation that does not come about is not tried more often than this. */
const shortestWaitMs = 100;
/** How long the status of a tunnel may lag behind. */
const publishAfterMs = 100;
/**
 * How long the end of this process waits for renegotiations: longer than a packet that is lost takes to come again, and
 * than a key takes to send (tunnel-keys.ts).
 */
const renegotiationPatienceMs = 7_000;

export interface NodeAgentOptions {
  readonly node: string;
  readonly stateDir: string;
  /** Where the CNI plugin leaves the DELs that it cannot hand over. */
  readonly detachFolder: string;
  readonly netnsFolder: string;
  /** The operator's namespace, where the Secrets of networks are. */
  readonly namespace: string;
  readonly source: ResourceSource;
  readonly keeper: SocketKeeper;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly meter: Meter;
  /** With more peers than this on the node, metrics have no series of single peers. */
  readonly maxPeerSeries: number;
  /** How often everything is read from the kernel again. Milliseconds. */
  readonly resyncMs: number;
  /** How often traffic figures in status are brought up to date. Milliseconds. */
  readonly statusMs: number;
  /** After how long without a word others take the peers over that this node dials. Milliseconds. */
  readonly leaseMs: number;
  /** For how long they wait instead for an agent that ended in order, and comes back. Milliseconds. */
  readonly restartMs: number;
}

/** The node agent: takes resources from a source and keeps the kernel as they say. */
export class NodeAgent {
  readonly #options: NodeAgentOptions;
  readonly #log: Log;
  readonly #networks = new Map<string, ManagedNetwork>();
  readonly #queue = new NetworkQueue((name, work) => this.#pass(name, work));
  /** Who refers to a VpnKey or Secret: to plan again when it changes. */
  readonly #users = new References();
  /** Networks by device index: how a notification finds its network. */
  readonly #byDevice = new Map<number, string>();
  readonly #poller = new ReadinessPoller();
  readonly #names = new RemoteNames(askSystem, systemScheduler);
  readonly #services: NetworkServices;
  readonly #board: StatusBoard;
  readonly #attacher: Attacher;
  readonly #claims: PeerClaims;
  /** Undefined where nobody tells nodes of each other. */
  readonly #placement: Placement | undefined;
  readonly #host: NetlinkSocket;
  readonly #unlock: () => void;
  readonly #ledger: Ledger;
  /** Peers that are gone from the source while it is incomplete. */
  readonly #vanished = new Map<string, ObjectRef>();
  readonly #timers = new Set<() => void>();
  #notifications: NotificationSocket | undefined;
  #dueTimer: (() => void) | undefined;
  /** Peers whose tunnels have something new to say in their status. */
  readonly #unpublished = new Map<string, { readonly book: PeerBook; readonly ref: ObjectRef }>();
  #publishTimer: (() => void) | undefined;
  #rounds = 0;
  /** Networks whose last pass ended by a defect of this program. */
  readonly #defects = new Set<string>();
  #started = false;
  #stopped = false;

  /** @throws OvpnError LedgerUnusable; StateUnusable, also when another agent uses the state folder */
  constructor(options: NodeAgentOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#unlock = lockState(options.stateDir);
    this.#host = NetlinkSocket.open(NETLINK_ROUTE);
    this.#ledger = Ledger.open(join(options.stateDir, 'spent-keys.jsonl'), () => options.clock.now());
    const attachments = new AttachmentStore(join(options.stateDir, 'attachments'), (file, reason) =>
      this.#log.error({ event: 'attachment.damaged', file, reason }, 'an attachment record cannot be read'),
    );
    const requests = requestCounters();
    this.#services = {
      netnsFolder: options.netnsFolder,
      sockets: new TransportSockets(options.keeper, (fd) => this.#poller.remove(fd)),
      ledger: this.#ledger,
      memory: new PeerMemory(join(options.stateDir, 'peers.json')),
      attachments,
      allocateIndex: () => freeDeviceIndex(options.netnsFolder),
      access: new HostAccess(requests),
      requests,
      clock: () => options.clock.now(),
      log: options.log,
      foreignDestinations: (network, netns) => this.#foreignDestinations(network, netns),
    };
    this.#board = new StatusBoard({
      node: options.node,
      source: options.source,
      networks: this.#networks,
      attachments,
      ledger: this.#ledger,
      users: (ref) => this.#users.of(ref),
      clock: options.clock,
      netlink: () => ({ writes: this.writes, rounds: this.#rounds }),
      lease: () => this.#placement?.lease,
    });
    this.#claims = new PeerClaims({
      node: options.node,
      source: options.source,
      clock: options.clock,
      random: options.random,
      log: options.log,
      lost: (ref) => this.#movedAway(ref),
    });
    const { leases } = options.source;
    this.#placement =
      leases === undefined ? undefined : new Placement({ ...options, leases, lost: (ref) => this.#letGo(ref) });
    this.#attacher = new Attacher(this.#attachNode(), attachments, options.log);
    const view = {
      networks: this.#networks,
      observed: (ref: ObjectRef) => this.#board.observed(ref),
      attachments,
      ledger: this.#ledger,
      requests: this.#services.requests,
      maxPeerSeries: options.maxPeerSeries,
    };
    options.meter.onScrape((sample) => sampleNode(sample, view));
  }

  /**
   * Reads all resources, adopts what is in the kernel, and goes on from there.
   *
   * @throws OvpnError KernelWithoutOvpn, NotPermitted, or what the source cannot recover from
   */
  async start(): Promise<void> {
    this.#listen();
    const { source } = this.#options;
    source.on('change', (refs) => this.#changed(refs));
    source.on('nodeLabels', () => this.#everything());
    source.on('rejections', () => {
      this.#changed([...this.#vanished.values()]);
      this.#everything();
    });
    await source.start();
    this.#started = true;
    this.#changed(allRefs(source));
    this.#everything();
    this.#every(this.#options.resyncMs, () => this.#everything());
    this.#every(this.#options.statusMs, () => this.#publishAll());
  }

  /** Resolves when nothing is left to do. */
  async settled(): Promise<void> {
    await this.#queue.settled();
  }

  /** Stops working and leaves the kernel as it is. Only where the node is to go, others get what it dials. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queue.stop();
    await this.#leavePlaces();
    for (const cancel of this.#timers) cancel();
    this.#dueTimer?.();
    this.#publishTimer?.();
    this.#claims.close();
    for (const { cancelRetry, cancelMesh, cancelFigures } of this.#networks.values()) {
      cancelRetry?.();
      cancelMesh?.();
      cancelFigures?.();
    }
    await this.#options.source.stop();
    await this.settled();
    await this.#finishRenegotiations();
    for (const { sessions } of this.#networks.values()) sessions.close();
    this.#notifications?.close();
    await this.#poller.close();
    for (const { agent } of this.#networks.values()) agent.close();
    this.#services.sockets.close();
    this.#services.access.close();
    this.#host.close();
    this.#ledger.close();
    this.#unlock();
  }

  /**
   * One that is cut off costs its peer the session: OpenVPN waits for a minute and begins anew. Where the new key does
   * not send yet, what is sent is lost when the peer throws the old one away before the next process is there
   * (decision 8).
   */
  async #finishRenegotiations(): Promise<void> {
    const { clock } = this.#options;
    const sessions = [...this.#networks.values()].map((network) => network.sessions);
    for (const each of sessions) each.pause();
    const until = clock.monotonic() + renegotiationPatienceMs;
    while (sessions.some(({ renegotiating }) => renegotiating) && clock.monotonic() < until)
      await sleep(clock, 20, new AbortController().signal);
  }

  async #leavePlaces(): Promise<void> {
    const { source, restartMs } = this.#options;
    if (!this.#started || !source.nodeIsLeaving) {
      await this.#placement?.leave({ backWithinMs: restartMs });
      return;
    }
    await this.settled();
    // First the sessions, then the word: another node dials the moment it hears it.
    for (const { book, sessions } of this.#networks.values()) {
      for (const { peer, session } of book.entries.values())
        if (session?.kind === 'dial-out' && session.placed === true) sessions.setPeer(refOf(peer), undefined);
    }
    await this.#placement?.leave('release');
  }

  /** Netlink requests that changed something since the start. */
  get writes(): number {
    return this.#services.requests.writes;
  }

  /** Whether the agent does its work; what resources or peers are to blame for does not count. */
  get readiness(): Readiness {
    return readinessOf({ started: this.#started, defects: this.#defects, networks: this.#networks });
  }

  /** Answers one request of the CNI plugin or of a person at the node. */
  async handle(request: AgentRequest): Promise<unknown> {
    switch (request.op) {
      case 'add':
        return this.#attacher.add(request);
      case 'del':
        await this.#attacher.del(request);
        return {};
      case 'check':
        this.#attacher.check(request);
        return {};
      case 'gc':
        await this.#attacher.gc(request);
        return {};
      case 'status':
        return this.#status(request);
      case 'report':
        return this.#board.report();
    }
  }

  #listen(): void {
    const family = OvpnFamily.open();
    const group = family.notificationGroup;
    family.close();
    this.#notifications = NotificationSocket.open(NETLINK_GENERIC, [group], this.#poller);
    this.#notifications.on('message', ({ payload }) => {
      try {
        const notification = parseNotification(payload);
        if (notification !== undefined) this.#notified(notification);
      } catch (error) {
        this.#log.warn({ event: 'kernel.malformed', error: describe(error) }, 'a notification cannot be read');
      }
    });
    this.#notifications.on('overrun', () => {
      this.#options.meter.increment('ovpn_netlink_overruns_total', {});
      this.#log.warn({ event: 'kernel.overrun' }, 'notifications were lost; reading everything again');
      this.#everything();
    });
  }

  /** Notifications are hints: they say where to look, the kernel's state says what is. */
  #notified(notification: Notification): void {
    this.#options.meter.increment('ovpn_kernel_notifications_total', { type: notification.kind });
    const name = this.#byDevice.get(notification.ifindex);
    const managed = name === undefined ? undefined : this.#networks.get(name);
    if (name === undefined || managed === undefined) return;
    const isStatic = notification.ifindex === managed.agent.device?.index;
    const ref = isStatic ? managed.book.holderOf(notification.peerId) : undefined;
    if (ref === undefined) {
      managed.sessions.notified(notification);
      return;
    }
    this.#log.info(
      { event: `kernel.${notification.kind}`, network: name, peer: formatRef(ref), notification },
      'the kernel reports',
    );
    this.#enqueue(name, [ref]);
  }

  #changed(refs: readonly ObjectRef[]): void {
    // Half of the resources would look like the wish to have half of the peers: start() takes them all at once.
    if (!this.#started) return;
    for (const ref of refs) {
      if (ref.kind === 'VpnNetwork') this.#networkChanged(ref);
      else if (ref.kind === 'VpnPeer') this.#peerChanged(ref);
      else this.#referenceChanged(ref);
    }
  }

  #networkChanged(ref: ObjectRef): void {
    const network = this.#options.source.get('VpnNetwork', undefined, ref.name);
    if (network === undefined) {
      this.#board.forget(ref);
      this.#users.delete(ref);
      this.#enqueueWhole(ref.name);
      return;
    }
    this.#users.set(ref, ...secretsOfNetwork(network, this.#options.namespace));
    const managed = this.#networks.get(ref.name);
    if (managed === undefined) this.#manage(network);
    else managed.book.setNetwork(network);
    this.#enqueueWhole(ref.name);
  }

  #manage(network: VpnNetwork): void {
    const { name } = network.metadata;
    const book = new PeerBook(network);
    for (const peer of this.#options.source.list('VpnPeer')) if (peer.spec.networkRef.name === name) book.set(peer);
    const agent = new NetworkAgent(name, this.#services);
    this.#networks.set(name, {
      agent,
      book,
      sessions: this.#sessionsOf(agent, book),
      backoff: new Backoff({ initialMs: 1_000, maxMs: 60_000, random: this.#options.random }),
      selected: true,
      problem: undefined,
      serverProblem: undefined,
      serverNotAfter: undefined,
      crlNotAfter: undefined,
      neighbours: new Neighbours(),
      cancelRetry: undefined,
      cancelMesh: undefined,
      cancelFigures: undefined,
    });
  }

  #sessionsOf(agent: NetworkAgent, book: PeerBook): NetworkSessions {
    const services = {
      network: agent.name,
      live: agent.live,
      memory: new SessionMemory(this.#services.sockets.shelf(agent.name), this.#log.child({ network: agent.name })),
      device: () => agent.device?.index,
      poller: this.#poller,
      scheduler: systemScheduler,
      names: this.#names,
      clock: () => this.#options.clock.now(),
      log: this.#log.child({ network: agent.name }),
      changed: (ref: ObjectRef) => {
        if (ref.kind === 'Node') this.#publishMesh(agent.name);
        else this.#publishSoon(book, ref);
        this.#follow(agent.name, ref);
      },
      refusal: async (ref: ObjectRef) => this.#placement?.refusal(ref),
    };
    return new NetworkSessions(services, {
      mtu: () => agent.desired?.mtu ?? 0,
      destinations: () => agent.destinations,
      ensure: (ref, mtu) => {
        const index = agent.ensureTunnelDevice(ref, mtu).index;
        this.#byDevice.set(index, agent.name);
        return index;
      },
      setAddresses: (index, addresses) => agent.setTunnelAddresses(index, addresses),
      shared: () => {
        const index = agent.device?.index;
        if (index !== undefined) return index;
        throw new OvpnError('NetworkNotReady', 'is not set up on this node yet', {
          object: `VpnNetwork ${agent.name}`,
        });
      },
      remove: (ref) => agent.removeTunnelDevice(ref),
    });
  }

  #movedAway(ref: ObjectRef): void {
    const peer = this.#options.source.get('VpnPeer', ref.namespace, ref.name);
    const managed = peer === undefined ? undefined : this.#networks.get(peer.spec.networkRef.name);
    managed?.sessions.movedAway(ref);
  }

  /** Another node has a peer that is dialled; what the source says of it comes later. */
  #letGo(ref: ObjectRef): void {
    const peer = this.#options.source.get('VpnPeer', ref.namespace, ref.name);
    const managed = peer === undefined ? undefined : this.#networks.get(peer.spec.networkRef.name);
    managed?.sessions.setPeer(ref, undefined);
  }

  #peerChanged(ref: ObjectRef): void {
    const peer = this.#options.source.get('VpnPeer', ref.namespace, ref.name);
    if (peer === undefined && !this.#options.source.complete) {
      // It may stand in what cannot be read just now (a file with a fault): what it made stays until that is known.
      this.#vanished.set(formatRef(ref), ref);
      return;
    }
    this.#vanished.delete(formatRef(ref));
    if (peer === undefined) {
      this.#board.forget(ref);
      this.#claims.gone(ref);
      this.#placement?.gone(ref);
    } else this.#claims.changed(ref);
    for (const [network, { book }] of this.#networks) {
      if (peer?.spec.networkRef.name === network) this.#enqueue(network, book.set(peer));
      else if (book.has(ref)) this.#enqueue(network, book.delete(ref));
    }
    if (peer === undefined) {
      this.#users.delete(ref);
      return;
    }
    if (!this.#networks.has(peer.spec.networkRef.name)) this.#board.publishPeer(peer);
    // Also when the key is not there yet: its coming is what the peer waits for.
    const { controlChannel } = peer.spec;
    const { namespace } = peer.metadata;
    const key = keyRefOf(peer);
    this.#users.set(
      ref,
      ...(key === undefined ? [] : [key]),
      ...(controlChannel?.secretRef === undefined ? [] : [secretRefOf(namespace, controlChannel.secretRef.name)]),
    );
  }

  #referenceChanged(ref: ObjectRef): void {
    if (ref.kind === 'VpnKey') {
      const key = this.#options.source.get('VpnKey', ref.namespace, ref.name);
      if (key === undefined) {
        this.#board.forget(ref);
        this.#users.delete(ref);
      } else {
        const secret = secretOf(key);
        this.#users.set(ref, ...(secret === undefined ? [] : [{ kind: 'Secret', ...secret } as const]));
        this.#board.publishKey(key);
      }
    }
    for (const user of this.#users.of(ref)) {
      if (user.kind === 'VpnKey') this.#referenceChanged(user);
      else if (user.kind === 'VpnNetwork') this.#enqueueWhole(user.name);
      else {
        const peer = this.#options.source.get('VpnPeer', user.namespace, user.name);
        if (peer !== undefined) this.#enqueue(peer.spec.networkRef.name, [user]);
      }
    }
  }

  #everything(): void {
    if (!this.#started) return;
    this.#releaseSockets();
    this.#collectStrays();
    this.#attacher.serveLeftDetaches();
    const names = new Set([...this.#networks.keys(), ...networksIn(this.#namespaces())]);
    for (const name of names) this.#enqueueWhole(name);
  }

  /** Sockets of networks that nobody wants: a crash came between the end of a network and that of its sockets. */
  #releaseSockets(): void {
    if (!this.#options.source.complete) return;
    for (const network of this.#services.sockets.names()) {
      if (!this.#networks.has(network)) this.#services.sockets.forget(network);
    }
  }

  /** Attachments of networks that are not on this node, whose sandboxes are gone. The others are their networks' part. */
  #collectStrays(): void {
    if (!this.#options.source.complete) return;
    const { attachments } = this.#services;
    for (const record of [...attachments.all()]) {
      if (this.#networks.has(record.network) || sandboxStands(record)) continue;
      attachments.remove(record);
      this.#log.info({ event: 'attachment.collected', ...record }, 'the sandbox of an attachment is gone');
    }
  }

  #enqueueWhole(network: string): void {
    this.#queue.addWhole(network);
  }

  #enqueue(network: string, refs: readonly ObjectRef[]): void {
    this.#queue.addPeers(network, refs);
  }

  async #pass(name: string, work: NetworkWork): Promise<void> {
    const { meter } = this.#options;
    const began = performance.now();
    try {
      const result = await this.#runNetwork(name, work);
      this.#defects.delete(name);
      meter.increment('ovpn_reconcile_rounds_total', { network: name, result });
    } catch (error) {
      this.#defects.add(name);
      meter.increment('ovpn_reconcile_rounds_total', { network: name, result: 'failed' });
      this.#log.error({ event: 'agent.defect', network: name, error: describe(error) }, 'a pass ended by a defect');
    }
    const scope = work.whole ? 'network' : 'peers';
    meter.observe('ovpn_reconcile_duration_seconds', { scope }, (performance.now() - began) / 1000);
    this.#scheduleDue();
  }

  async #runNetwork(name: string, work: NetworkWork): Promise<'done' | 'refused' | 'failed'> {
    const managed = this.#networks.get(name);
    const wanted = this.#options.source.get('VpnNetwork', undefined, name) !== undefined;
    managed?.cancelRetry?.();
    let result: 'done' | 'refused' | 'failed' = 'done';
    try {
      if (managed === undefined || !wanted) {
        await this.#removeNetwork(name);
        return result;
      }
      if (work.whole || managed.agent.device === undefined) await this.#whole(managed);
      else await this.#some(managed, work.peers);
      managed.problem = undefined;
      if (managed.agent.refusedPeers > 0 || managed.agent.accessProblem !== undefined) {
        result = 'refused';
        this.#retry(name, managed);
      } else managed.backoff.reset();
    } catch (error) {
      result = 'failed';
      this.#failed(name, managed, error);
    }
    if (managed !== undefined) this.#publish(managed, work);
    return result;
  }

  #failed(name: string, managed: ManagedNetwork | undefined, error: unknown): void {
    const problem =
      error instanceof OvpnError
        ? error
        : new OvpnError('KernelRefused', describe(error), { object: `VpnNetwork ${name}` }, { cause: error });
    this.#log.error(
      { event: 'network.failed', network: name, code: problem.code, error: problem.message },
      'the network does not stand as it should',
    );
    // A network that nobody wants is tried again with the next look at everything.
    if (managed === undefined) return;
    managed.problem = problem;
    this.#retry(name, managed);
  }

  #publish(managed: ManagedNetwork, work: NetworkWork): void {
    this.#publishNetwork(managed);
    for (const ref of work.whole ? managed.book.refs() : work.peers) {
      const peer = managed.book.entry(ref)?.peer;
      if (peer === undefined) continue;
      this.#board.publishPeer(peer);
      const { key } = this.#refs(peer);
      if (key !== undefined) this.#board.publishKey(key);
    }
  }

  /** What a handshake goes through in a moment makes one status, and none of its time goes into that. */
  #publishSoon(book: PeerBook, ref: ObjectRef): void {
    if (this.#stopped) return;
    this.#unpublished.set(formatRef(ref), { book, ref });
    this.#publishTimer ??= this.#options.clock.after(publishAfterMs, () => {
      this.#publishTimer = undefined;
      const due = [...this.#unpublished.values()];
      this.#unpublished.clear();
      for (const { book: of, ref: changed } of due) {
        const peer = of.entry(changed)?.peer;
        if (peer !== undefined) this.#publishPeer(peer);
      }
    });
  }

  /** Nodes of a mesh come by the hundred when it starts: once for all of them. */
  #publishMesh(network: string): void {
    const managed = this.#networks.get(network);
    if (managed === undefined || this.#stopped) return;
    managed.neighbours.changed();
    managed.cancelMesh ??= this.#options.clock.after(publishAfterMs, () => {
      managed.cancelMesh = undefined;
      this.#publishNetwork(managed);
    });
  }

  /** What has to wait for its time is said then. */
  #publishNetwork(managed: ManagedNetwork): void {
    managed.cancelFigures?.();
    managed.cancelFigures = undefined;
    const againMs = this.#board.publishNetwork(managed);
    if (againMs === undefined || this.#stopped) return;
    managed.cancelFigures = this.#options.clock.after(againMs, () => this.#publishNetwork(managed));
  }

  /** For timers: what a status cannot be made of must not end the agent. */
  #publishPeer(peer: VpnPeer): void {
    try {
      this.#board.publishPeer(peer);
    } catch (error) {
      const fields = { event: 'status.failed', peer: formatRef(refOf(peer)), error: describe(error) };
      this.#log.error(fields, 'no status');
    }
  }

  #retry(name: string, managed: ManagedNetwork): void {
    managed.cancelRetry = this.#options.clock.after(managed.backoff.next(), () => this.#enqueueWhole(name));
  }

  async #whole(managed: ManagedNetwork): Promise<void> {
    const { book, agent } = managed;
    const network = book.network;
    const facts = this.#facts(network, [...book.refs()]);
    const desired = planNetwork(network, facts);
    managed.selected = desired !== undefined;
    if (desired === undefined) {
      const here = agent.device !== undefined || isOurs(network.metadata.name, this.#options.netnsFolder);
      if (here && this.#options.source.complete) {
        await managed.sessions.stop();
        agent.remove();
      }
      for (const ref of book.refs()) this.#place(managed, ref);
      return;
    }
    for (const ref of book.refs()) {
      book.plan(ref, (peer) => this.#refs(peer), facts);
      if (!book.has(ref)) managed.sessions.setPeer(ref, undefined);
    }
    // All of them are told below what they have.
    book.takeEnded();
    const { peers, leaveAlone, out } = book.inForce();
    await agent.reconcile(desired, peers, {
      mayRemove: this.#options.source.complete,
      leaveAlone,
      out,
      claimed: book.claimed(),
      members: () => this.#allMembers(managed),
      far: () => this.#allFar(managed),
      sessions: (observed) => this.#reconcileSessions(managed, desired, observed),
    });
    if (this.#options.source.complete) agent.removeTunnelDevices(managed.sessions.dialed());
    this.#rounds++;
    const holderProblem = this.#services.sockets.renew();
    if (holderProblem !== undefined) {
      // What runs goes on with our own descriptors; a restart of the agent now would cut the tunnels.
      this.#log.warn(
        { event: 'holder.unreachable', error: holderProblem.message },
        'the socket holder does not answer',
      );
    }
    const index = agent.device?.index;
    if (index !== undefined) this.#byDevice.set(index, network.metadata.name);
  }

  /** @returns peer ids of the device that sessions have */
  #reconcileSessions(
    managed: ManagedNetwork,
    desired: DesiredNetwork,
    observed: ReadonlyMap<number, Peer>,
  ): ReadonlySet<number> {
    const { book, agent, sessions } = managed;
    sessions.open();
    try {
      const lookup: SecretLookup = (namespace, name) => this.#options.source.get('Secret', namespace, name);
      const { namespace, clock } = this.#options;
      const server = planServer(book.network, desired, namespace, lookup);
      sessions.configure(server, agent.listeners);
      this.#setNeighbours(managed, planMesh(book.network, this.#options.node, server, namespace, lookup));
      managed.serverProblem = undefined;
      managed.serverNotAfter = server?.notAfter;
      managed.crlNotAfter = server?.crlNotAfter;
      const where = { object: formatRef(refOf(book.network)), field: 'spec.pki' };
      const expired = server === undefined ? undefined : expiryProblem(server.notAfter, clock.now(), where);
      if (expired !== undefined) throw expired;
    } catch (error) {
      if (!(error instanceof OvpnError)) throw error;
      managed.serverProblem = error;
      sessions.listen(agent.listeners);
      this.#log.error(
        { event: 'server.failed', network: agent.name, code: error.code, error: error.message },
        'clients cannot connect as they should; what is connected goes on',
      );
    }
    for (const { peer, session } of book.entries.values()) sessions.setPeer(refOf(peer), session);
    return sessions.reconcile(observed, (id) => this.#services.memory.get(agent.name, id)?.owner);
  }

  async #some(managed: ManagedNetwork, refs: readonly ObjectRef[]): Promise<void> {
    const { book, agent } = managed;
    const facts: NodeFacts = { ...this.#nodeFacts(), underlayMtu: 0 };
    const changes = new Map<number, DesiredPeer | undefined>();
    for (const ref of refs) {
      for (const [id, desired] of book.plan(ref, (peer) => this.#refs(peer), facts)) {
        changes.set(id, desired);
      }
      managed.sessions.setPeer(ref, book.entry(ref)?.session);
    }
    for (const ref of book.takeEnded()) managed.sessions.setPeer(ref, book.entry(ref)?.session);
    // Before its address is another peer's.
    for (const ref of refs) agent.setMember(formatRef(ref), this.#membershipsOf(managed, ref));
    agent.applyMembers();
    await agent.reconcilePeers(changes, book.claimed(refs));
    for (const ref of refs) this.#follow(agent.name, ref);
  }

  #setNeighbours(managed: ManagedNetwork, planned: readonly DesiredNeighbour[]): void {
    const { sessions } = managed;
    for (const ref of managed.neighbours.replace(planned)) sessions.setPeer(ref, undefined);
    for (const { ref, session } of planned) sessions.setPeer(ref, session);
  }

  /** The ways to what other nodes have: their pods, and the peers that are connected there. */
  #allFar(managed: ManagedNetwork): Map<string, readonly PeerRoute[]> {
    const far = new Map<string, readonly PeerRoute[]>();
    for (const [name, { routes }] of managed.neighbours.all) far.set(name, routes);
    if (!isMesh(managed.book.network.spec)) {
      for (const ref of managed.book.refs()) this.#placement?.gone(ref);
      return far;
    }
    for (const ref of managed.book.refs()) {
      const routes = this.#far(managed, ref);
      if (routes.length > 0) far.set(formatRef(ref), routes);
      this.#claim(managed, ref);
    }
    return far;
  }

  /** The sets of cluster access that peers belong to: also those of peers that are connected to other nodes. */
  #allMembers(managed: ManagedNetwork): Map<string, Memberships> {
    const members = new Map<string, Memberships>();
    if (managed.book.network.spec.clusterAccess === undefined) return members;
    for (const ref of managed.book.refs()) {
      const memberships = this.#membershipsOf(managed, ref);
      if (memberships.size > 0) members.set(formatRef(ref), memberships);
    }
    return members;
  }

  #membershipsOf({ book }: ManagedNetwork, ref: ObjectRef): Memberships {
    const entry = book.entry(ref);
    if (entry === undefined) return noMemberships;
    return membershipsOf(book.network, entry.peer, entry.plan.problems.length === 0);
  }

  #far({ book, sessions }: ManagedNetwork, ref: ObjectRef): readonly PeerRoute[] {
    const entry = book.entry(ref);
    if (entry === undefined || entry.plan.problems.length > 0 || entry.peer.spec.suspend) return [];
    if (entry.inForce !== undefined || sessions.livePeer(ref) !== undefined) return [];
    return routesToPeer(book.network, entry.peer, this.#options.node);
  }

  /** A peer of a mesh has connected or gone, here or elsewhere. */
  #follow(network: string, ref: ObjectRef): void {
    const managed = this.#networks.get(network);
    if (managed === undefined || ref.kind !== 'VpnPeer' || !isMesh(managed.book.network.spec)) return;
    this.#claim(managed, ref);
    managed.agent.setFar(formatRef(ref), this.#far(managed, ref));
  }

  #claim(managed: ManagedNetwork, ref: ObjectRef): void {
    if (!this.#options.source.shared) return;
    if (this.#place(managed, ref)) return;
    const { sessions } = managed;
    const facts = sessions.facts(ref);
    if (sessions.livePeer(ref) === undefined || facts?.state !== 'Connected') this.#claims.gone(ref);
    else this.#claims.connected(ref, facts.since);
  }

  /** Answers whether the peer is one that several nodes could dial. */
  #place({ book, selected }: ManagedNetwork, ref: ObjectRef): boolean {
    const entry = book.entry(ref);
    if (this.#placement === undefined) return false;
    if (entry === undefined || !isPlaced(book.network, entry.peer)) {
      this.#placement.gone(ref);
      return false;
    }
    const { source } = this.#options;
    const { suspend, placement } = entry.peer.spec;
    const isSelected = selected && selects(placement.nodeSelector, source.nodeLabels);
    this.#claims.gone(ref);
    this.#placement.set(entry.peer, {
      nodes: nodesOf(book.network).names,
      mayTake: isSelected && !suspend && entry.plan.problems.length === 0 && !source.nodeIsLeaving,
      mayKeep: isSelected,
    });
    return true;
  }

  /** A namespace of ours that no network wants; kept while a source might still name it. */
  async #removeNetwork(name: string): Promise<void> {
    const managed = this.#networks.get(name);
    if (!this.#options.source.complete) return;
    if (managed === undefined && !isOurs(name, this.#options.netnsFolder)) return;
    if (managed === undefined) {
      // An agent of its own, so that what is left by an earlier process goes the same way.
      new NetworkAgent(name, this.#services).remove();
    } else {
      managed.cancelRetry?.();
      managed.cancelMesh?.();
      managed.cancelFigures?.();
      await managed.sessions.stop();
      managed.agent.remove();
      if (this.#options.source.get('VpnNetwork', undefined, name) !== undefined) {
        // It has come back meanwhile.
        this.#enqueueWhole(name);
        return;
      }
      this.#networks.delete(name);
      for (const [index, network] of this.#byDevice) if (network === name) this.#byDevice.delete(index);
      for (const ref of managed.book.refs()) this.#placement?.gone(ref);
      for (const peer of this.#options.source.list('VpnPeer'))
        if (peer.spec.networkRef.name === name) this.#board.publishPeer(peer);
    }
  }

  #namespaces(): string[] {
    return listNamespaces(this.#options.netnsFolder);
  }

  #facts(network: VpnNetwork, refs: readonly ObjectRef[]): NodeFacts {
    const endpoints = (function* (source: ResourceSource) {
      for (const ref of refs) {
        const peer = source.get('VpnPeer', ref.namespace, ref.name);
        if (peer !== undefined && isStaticPeer(peer)) yield peer.spec.endpoint.address;
      }
    })(this.#options.source);
    return {
      ...this.#nodeFacts(),
      underlayMtu: network.spec.mtu === undefined ? underlayMtu(this.#host, endpoints) : 0,
    };
  }

  #nodeFacts(): Omit<NodeFacts, 'underlayMtu'> {
    const { node, source } = this.#options;
    return { name: node, labels: source.nodeLabels, places: this.#placement !== undefined };
  }

  #refs(peer: VpnPeer): PeerRefs {
    const { source } = this.#options;
    const ref = keyRefOf(peer);
    const lookup: SecretLookup = (namespace, name) => source.get('Secret', namespace, name);
    const key = ref === undefined ? undefined : source.get('VpnKey', ref.namespace, ref.name);
    const secret = key === undefined ? undefined : secretOf(key);
    return { key, secret: secret === undefined ? undefined : lookup(secret.namespace, secret.name), lookup };
  }

  #attachNode(): AttachNode {
    const { source, detachFolder } = this.#options;
    const started = (): boolean => this.#started;
    return {
      get started() {
        return started();
      },
      find: (name) => this.#find(name),
      all: () => [...this.#networks.values()].filter(({ selected }) => selected).map(({ book }) => book.network),
      settled: async (name) => {
        if (this.#find(name)?.agent.ready !== true) await this.#queue.settled(name);
      },
      findPod: (pod) => source.findPod(pod),
      identifySandbox,
      leftDetaches: () => leftDetaches(detachFolder, this.#log),
    };
  }

  #find(name: string): { network: VpnNetwork; agent: NetworkAgent } | undefined {
    const managed = this.#networks.get(name);
    return managed?.selected === true ? { network: managed.book.network, agent: managed.agent } : undefined;
  }

  /** Runtimes ask every few seconds, so this reads nothing: a network's rounds have looked. */
  #status({ network: name }: StatusRequest): StatusResult {
    const unavailable = (reason: string): StatusResult => ({ state: 'unavailable', reason });
    if (!this.#started) return unavailable('the agent has not read all resources yet');
    if (name === undefined) return { state: 'ready' };
    const managed = this.#networks.get(name);
    if (managed?.selected !== true) return unavailable(`VpnNetwork ${name} is not on this node`);
    const { agent, problem } = managed;
    const state = this.#services.attachments.ofNetwork(name).length > 0 ? 'limited' : 'unavailable';
    if (problem !== undefined) return { state, reason: problem.message };
    return agent.ready ? { state: 'ready' } : unavailable(`VpnNetwork ${name} is not set up yet`);
  }

  #foreignDestinations(network: string, netns: string): ReadonlySet<string> {
    const foreign = new Set<string>();
    for (const record of this.#services.attachments.ofNetns(netns)) {
      if (record.network === network) continue;
      for (const destination of this.#networks.get(record.network)?.agent.destinations ?? []) foreign.add(destination);
    }
    return foreign;
  }

  #scheduleDue(): void {
    this.#dueTimer?.();
    this.#dueTimer = undefined;
    const dues = [...this.#networks].flatMap(([name, { agent }]) =>
      agent.dueAt === undefined ? [] : [{ name, at: agent.dueAt }],
    );
    if (dues.length === 0 || this.#stopped) return;
    const now = this.#options.clock.now();
    const next = Math.min(...dues.map(({ at }) => at));
    this.#dueTimer = this.#options.clock.after(Math.max(shortestWaitMs, next - now), () => {
      const then = this.#options.clock.now();
      for (const { name } of dues) this.#enqueue(name, this.#networks.get(name)?.agent.duePeers(then) ?? []);
      this.#scheduleDue();
    });
  }

  #every(ms: number, action: () => void): void {
    let cancel = (): void => undefined;
    const arm = (): void => {
      this.#timers.delete(cancel);
      cancel = this.#options.clock.after(ms, () => {
        action();
        arm();
      });
      this.#timers.add(cancel);
    };
    arm();
  }

  #publishAll(): void {
    for (const managed of this.#networks.values()) {
      this.#publishNetwork(managed);
      for (const { peer } of managed.book.entries.values()) this.#publishPeer(peer);
    }
  }
}

const noMemberships: Memberships = new Map();

function allRefs(source: ResourceSource): ObjectRef[] {
  const kinds = ['VpnNetwork', 'VpnPeer', 'VpnKey', 'Secret'] as const;
  return kinds.flatMap((kind) => [...source.list(kind)].map(refOf));
}

/** The VpnKey of a peer: its own key, or the one that its client has. */
function keyRefOf(peer: VpnPeer): ObjectRef | undefined {
  const { keyRef } = peer.spec;
  return keyRef === undefined
    ? identityKeyRef(peer)
    : { kind: 'VpnKey', namespace: peer.metadata.namespace, name: keyRef.name };
}
