import { setTimeout as sleep } from 'node:timers/promises';
import { identityKeyRef } from '../../operator/src/api/issued.ts';
import { hostnameLabel, isPlaced } from '../../operator/src/api/placement.ts';
import { formatRef, type ObjectRef, refOf, type VpnNetwork, type VpnPeer } from '../../operator/src/api/types.ts';
import { isMesh } from '../../operator/src/api/vpn-network.ts';
import type { DesiredNetwork, PeerRoute } from '../../operator/src/agent/desired.ts';
import { FarRoutes, routesToPeer } from '../../operator/src/agent/mesh/far-routes.ts';
import { Neighbours } from '../../operator/src/agent/mesh/neighbours.ts';
import { nodesOf } from '../../operator/src/agent/mesh/network-nodes.ts';
import { PeerClaims } from '../../operator/src/agent/mesh/peer-claims.ts';
import { type DesiredNeighbour, planMesh } from '../../operator/src/agent/mesh/plan-mesh.ts';
import { NetworkQueue, type NetworkWork } from '../../operator/src/agent/network-queue.ts';
import { PeerBook } from '../../operator/src/agent/peer-book.ts';
import { Placement } from '../../operator/src/agent/placement/placement.ts';
import { type NodeFacts, planNetwork, secretOf, selects } from '../../operator/src/agent/plan.ts';
import { References } from '../../operator/src/agent/references.ts';
import { planServer, secretsOfNetwork } from '../../operator/src/agent/sessions/plan-sessions.ts';
import { idleFacts, type TunnelFacts } from '../../operator/src/agent/sessions/tunnel-facts.ts';
import { type BoardNetwork, StatusBoard } from '../../operator/src/agent/status-board.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import { type Clock, systemClock } from '../../operator/src/cluster/clock.ts';
import type { ApiAccess } from '../../operator/src/cluster/kube-access.ts';
import { OvpnError } from '../../operator/src/errors.ts';
import type { Peer } from '../../operator/src/kernel/ovpn/codec.ts';
import type { Log } from '../../operator/src/telemetry/log.ts';
import { type Meter, noMeter } from '../../operator/src/telemetry/metrics.ts';

/**
 * What an agent of a mesh does with an API server, without a kernel and without tunnels: its source, plans, claims,
 * placement, Lease and statuses are the agent's own, put together as NodeAgent does it. A tunnel stands a moment after
 * both its ends have planned it. Many of these fit into one process.
 */

const namespace = 'ovpn-system';
const device = 7;
/** What a handshake between two nodes, or with a remote, takes here. */
const handshakeMs = 20;
/** As in NodeAgent. */
const publishAfterMs = 100;
/** As `--status-interval` of the agent. */
const statusMs = 60_000;
/** As `--node-lease` of the agent. */
const leaseMs = 5_000;
/** The keepalive of a mesh: how long neighbours take to miss a node that is dead. */
const missedMs = 15_000;

/** The nodes of one process, to find each other. */
export type Registry = Map<string, MeshNode>;

/** A clock whose timers go with its machine. */
class MachineClock implements Clock {
  dead = false;
  now = (): number => systemClock.now();
  monotonic = (): number => systemClock.monotonic();
  after(ms: number, call: () => void): () => void {
    return systemClock.after(ms, () => {
      if (!this.dead) call();
    });
  }
}

export interface MeshNodeOptions {
  readonly name: string;
  readonly network: string;
  readonly access: ApiAccess;
  readonly log: Log;
  readonly registry: Registry;
}

export class MeshNode {
  readonly name: string;
  readonly #options: MeshNodeOptions;
  readonly #clock = new MachineClock();
  readonly #source: ApiSource;
  readonly #board: StatusBoard;
  readonly #placement: Placement;
  readonly #claims: PeerClaims;
  readonly #users = new References();
  readonly #queue = new NetworkQueue((_, work) => this.#pass(work));
  readonly #networks = new Map<string, BoardNetwork>();
  readonly #far = new FarRoutes();
  readonly #tunnels = new Map<string, TunnelFacts>();
  readonly #dialling = new Set<string>();
  readonly #unpublished = new Map<string, ObjectRef>();
  readonly #readers: Parameters<Meter['onScrape']>[0][] = [];
  #book: PeerBook | undefined;
  #desired: DesiredNetwork | undefined;
  #selected = false;
  #problem: OvpnError | undefined;
  #serverProblem: OvpnError | undefined;
  readonly #neighbours = new Neighbours();
  #publishing = false;
  #meshPublishing = false;
  #cancelFigures: (() => void) | undefined;
  #started = false;

  constructor(options: MeshNodeOptions) {
    const { name, access, log } = options;
    this.name = name;
    this.#options = options;
    const clock = this.#clock;
    const meter: Meter = { ...noMeter, onScrape: (read) => void this.#readers.push(read) };
    this.#source = new ApiSource({ access, node: name, namespace, log, clock, meter });
    const source = this.#source;
    this.#board = new StatusBoard({
      ...{ node: name, source, networks: this.#networks, clock },
      attachments: { ofNetwork: () => [] },
      ledger: { entry: () => undefined },
      users: (ref) => this.#users.of(ref),
      netlink: () => ({ writes: 0, rounds: 0 }),
    });
    const shared = { node: name, source, clock, random: Math.random, log };
    this.#claims = new PeerClaims({ ...shared, lost: (ref) => this.disconnect(ref) });
    const { leases } = source;
    this.#placement = new Placement({ ...shared, leases, leaseMs, meter, lost: (ref) => this.disconnect(ref) });
  }

  async start(): Promise<void> {
    this.#options.registry.set(this.name, this);
    this.#source.on('change', (refs) => this.#changed(refs));
    this.#source.on('nodeLabels', () => this.#queue.addWhole(this.#options.network));
    await this.#source.start();
    this.#started = true;
    const kinds = ['VpnNetwork', 'VpnPeer', 'VpnKey', 'Secret'] as const;
    this.#changed(kinds.flatMap((kind) => [...this.#source.list(kind)].map(refOf)));
    this.#publishAll();
  }

  /** The machine is gone, without a word to anybody; its neighbours miss it by their keepalives. */
  async kill(): Promise<void> {
    this.#clock.dead = true;
    this.#queue.stop();
    const { registry } = this.#options;
    registry.delete(this.name);
    await this.#source.stop();
    this.#claims.close();
    const ref: ObjectRef = { kind: 'Node', name: this.name };
    systemClock.after(missedMs, () => {
      if (!registry.has(this.name)) for (const other of registry.values()) other.#missed(ref);
    });
  }

  /** A client connects here. */
  connect(ref: ObjectRef): void {
    this.#tunnels.set(formatRef(ref), connectedSince(this.#clock.now()));
    this.#tunnelChanged(ref);
  }

  disconnect(ref: ObjectRef): void {
    if (this.#tunnels.delete(formatRef(ref))) this.#tunnelChanged(ref);
  }

  /** Whether this node has planned all of another: a session, the way to it, and its pods. */
  knows(node: string): boolean {
    const neighbour = this.#neighbours.all.get(formatRef({ kind: 'Node', name: node }));
    return neighbour?.session !== undefined && neighbour.routes.length > 0;
  }

  /** How many other nodes it has planned, and how many of them are connected. */
  get mesh(): { readonly planned: number; readonly connected: number } {
    const all = [...this.#neighbours.all.values()];
    return {
      planned: all.filter(({ session }) => session !== undefined).length,
      connected: all.filter(({ ref }) => this.#tunnels.has(formatRef(ref))).length,
    };
  }

  /** The node to which this one sends what is for a peer: its own name where it has the peer itself. */
  wayTo(ref: ObjectRef): string | undefined {
    if (this.#tunnels.has(formatRef(ref))) return this.name;
    const [route] = this.#far.of(formatRef(ref));
    const nodes = this.#book?.network.spec.nodes ?? [];
    return nodes.find(({ addresses }) => route?.gateway !== undefined && addresses.includes(route.gateway))?.name;
  }

  /** The node that has a peer by what this one has heard. */
  holderOf({ namespace: of, name }: ObjectRef): string | undefined {
    return this.#source.get('VpnPeer', of, name)?.status?.holder?.node;
  }

  /** Events of watches so far, and their bytes. */
  get watched(): { readonly events: number; readonly bytes: number } {
    let [events, bytes] = [0, 0];
    for (const read of this.#readers) {
      read((name, _labels, value) => {
        if (name === 'ovpn_watch_events_total') events += value;
        if (name === 'ovpn_watch_bytes_total') bytes += value;
      });
    }
    return { events, bytes };
  }

  get #facts(): NodeFacts {
    const labels = { [hostnameLabel]: this.name, ...this.#source.nodeLabels };
    return { name: this.name, labels, places: true, underlayMtu: 1500 };
  }

  #changed(refs: readonly ObjectRef[]): void {
    if (!this.#started) return;
    for (const ref of refs) {
      if (ref.kind === 'VpnNetwork') this.#networkChanged(ref);
      else if (ref.kind === 'VpnPeer') this.#peerChanged(ref);
      else this.#referenceChanged(ref);
    }
  }

  #networkChanged(ref: ObjectRef): void {
    const network = this.#source.get('VpnNetwork', undefined, ref.name);
    if (network === undefined || ref.name !== this.#options.network) return;
    this.#users.set(ref, ...secretsOfNetwork(network, namespace));
    if (this.#book === undefined) this.#manage(network);
    else this.#book.setNetwork(network);
    this.#queue.addWhole(ref.name);
  }

  #manage(network: VpnNetwork): void {
    const book = new PeerBook(network);
    this.#book = book;
    for (const peer of this.#source.list('VpnPeer')) book.set(peer);
    // What a status is made of, read when it is made.
    const [agent, sessions] = [this.#boardAgent(), this.#boardSessions()];
    const of = (read: () => unknown): PropertyDescriptor => ({ enumerable: true, get: read });
    const neighbours = this.#neighbours;
    const managed = Object.defineProperties({ agent, book, neighbours, sessions } as unknown as BoardNetwork, {
      selected: of(() => this.#selected),
      problem: of(() => this.#problem),
      serverProblem: of(() => this.#serverProblem),
    });
    this.#networks.set(network.metadata.name, managed);
  }

  #boardAgent(): BoardNetwork['agent'] {
    const of = (read: () => unknown): PropertyDescriptor => ({ get: read });
    const constant = { accessProblem: undefined, peers: new Map(), observedKeys: () => ({}) };
    return Object.defineProperties(constant as unknown as BoardNetwork['agent'], {
      desired: of(() => this.#desired),
      device: of(() => (this.#desired === undefined ? undefined : { name: 'ovpn0', mtu: 1400, index: device })),
      kernel: of(() => ({ getPeer: (_: number, id: number) => silentPeer(id) })),
      peerCount: of(() => this.#tunnels.size),
    });
  }

  #boardSessions(): BoardNetwork['sessions'] {
    return {
      facts: (ref) => this.#tunnels.get(formatRef(ref)),
      livePeer: (ref) => (this.#tunnels.has(formatRef(ref)) ? { ref, ifindex: device, id: 1, routes: [] } : undefined),
      used: () => undefined,
    };
  }

  #peerChanged(ref: ObjectRef): void {
    const peer = this.#source.get('VpnPeer', ref.namespace, ref.name);
    const { network } = this.#options;
    if (peer === undefined) {
      this.#board.forget(ref);
      this.#claims.gone(ref);
      this.#placement.gone(ref);
      this.#users.delete(ref);
      if (this.#book?.has(ref) === true) this.#queue.addPeers(network, this.#book.delete(ref));
      return;
    }
    this.#claims.changed(ref);
    if (this.#book !== undefined) this.#queue.addPeers(network, this.#book.set(peer));
    const key = keyOf(peer);
    this.#users.set(ref, ...(key === undefined ? [] : [key]));
  }

  #referenceChanged(ref: ObjectRef): void {
    if (ref.kind === 'VpnKey') {
      const key = this.#source.get('VpnKey', ref.namespace, ref.name);
      const secret = key === undefined ? undefined : secretOf(key);
      if (key === undefined) this.#users.delete(ref);
      else this.#users.set(ref, ...(secret === undefined ? [] : [{ kind: 'Secret', ...secret } as const]));
      if (key !== undefined) this.#board.publishKey(key);
    }
    for (const user of this.#users.of(ref)) {
      if (user.kind === 'VpnKey') this.#referenceChanged(user);
      else if (user.kind === 'VpnNetwork') this.#queue.addWhole(user.name);
      else this.#queue.addPeers(this.#options.network, [user]);
    }
  }

  async #pass(work: NetworkWork): Promise<void> {
    const book = this.#book;
    if (book === undefined) return;
    try {
      if (work.whole) this.#whole(book);
      else if (this.#desired !== undefined) this.#some(book, work.peers);
      this.#problem = undefined;
    } catch (error) {
      if (!(error instanceof OvpnError)) throw error;
      this.#problem = error;
    }
    this.#publish(book, work);
    for (const ref of work.whole ? book.refs() : work.peers) void this.#dial(book, ref);
    // As a round of the agent, which waits for the kernel.
    await Promise.resolve();
  }

  #whole(book: PeerBook): void {
    const { network } = book;
    const facts = this.#facts;
    this.#desired = planNetwork(network, facts);
    this.#selected = this.#desired !== undefined;
    if (this.#desired === undefined) {
      this.#setNeighbours([]);
      for (const ref of book.refs()) this.#place(book, ref);
      return;
    }
    for (const ref of book.refs()) book.plan(ref, (peer) => this.#refs(peer), facts);
    book.takeEnded();
    book.inForce();
    book.claimed();
    const lookup = (of: string, name: string) => this.#source.get('Secret', of, name);
    try {
      const server = planServer(network, this.#desired, namespace, lookup);
      this.#setNeighbours(planMesh(network, this.name, server, namespace, lookup));
      this.#serverProblem = undefined;
    } catch (error) {
      if (!(error instanceof OvpnError)) throw error;
      this.#serverProblem = error;
    }
    this.#far.replace(this.#allFar(book), device);
  }

  #some(book: PeerBook, refs: readonly ObjectRef[]): void {
    for (const ref of refs) book.plan(ref, (peer) => this.#refs(peer), this.#facts);
    book.takeEnded();
    book.claimed(refs);
    for (const ref of refs) this.#follow(book, ref);
  }

  #allFar(book: PeerBook): Map<string, readonly PeerRoute[]> {
    const far = new Map<string, readonly PeerRoute[]>();
    for (const [name, { routes }] of this.#neighbours.all) far.set(name, routes);
    if (!isMesh(book.network.spec)) return far;
    for (const ref of book.refs()) {
      const routes = this.#farOf(book, ref);
      if (routes.length > 0) far.set(formatRef(ref), routes);
      this.#claim(book, ref);
    }
    return far;
  }

  #farOf(book: PeerBook, ref: ObjectRef): readonly PeerRoute[] {
    const entry = book.entry(ref);
    if (entry === undefined || entry.plan.problems.length > 0 || entry.peer.spec.suspend) return [];
    if (this.#tunnels.has(formatRef(ref))) return [];
    return routesToPeer(book.network, entry.peer, this.name);
  }

  #follow(book: PeerBook, ref: ObjectRef): void {
    if (ref.kind !== 'VpnPeer') return;
    this.#claim(book, ref);
    this.#far.set(formatRef(ref), this.#farOf(book, ref), device);
  }

  #claim(book: PeerBook, ref: ObjectRef): void {
    if (this.#place(book, ref)) return;
    const tunnel = this.#tunnels.get(formatRef(ref));
    if (tunnel?.state === 'Connected') this.#claims.connected(ref, tunnel.since);
    else this.#claims.gone(ref);
  }

  #place(book: PeerBook, ref: ObjectRef): boolean {
    const entry = book.entry(ref);
    if (entry === undefined || !isPlaced(book.network, entry.peer)) {
      this.#placement.gone(ref);
      return false;
    }
    const { suspend, placement } = entry.peer.spec;
    const isSelected = this.#selected && selects(placement.nodeSelector, this.#source.nodeLabels);
    this.#claims.gone(ref);
    this.#placement.set(entry.peer, {
      nodes: nodesOf(book.network).names,
      mayTake: isSelected && !suspend && entry.plan.problems.length === 0 && !this.#source.nodeIsLeaving,
      mayKeep: isSelected,
    });
    return true;
  }

  /** As a dialer does it: it asks, and then there is a handshake. */
  async #dial(book: PeerBook, ref: ObjectRef): Promise<void> {
    const isWanted = (): boolean => {
      const session = book.entry(ref)?.session;
      return session?.kind === 'dial-out' && session.placed === true;
    };
    const name = formatRef(ref);
    const tunnel = this.#tunnels.get(name);
    if (!isWanted()) {
      if (tunnel !== undefined && book.entry(ref)?.session?.kind !== 'dial-in') this.disconnect(ref);
      return;
    }
    if (tunnel !== undefined || this.#dialling.has(name)) return;
    this.#dialling.add(name);
    const refusal = await this.#placement.refusal(ref);
    await sleep(handshakeMs);
    this.#dialling.delete(name);
    if (this.#clock.dead || !isWanted()) return;
    if (refusal === undefined) this.connect(ref);
    else this.#clock.after(1_000, () => void this.#dial(book, ref));
  }

  #setNeighbours(planned: readonly DesiredNeighbour[]): void {
    for (const ref of this.#neighbours.replace(planned)) this.#missed(ref);
    for (const { ref, session } of planned) if (session !== undefined) this.#meet(ref);
  }

  /** Two nodes are connected when both have planned it. */
  #meet(ref: ObjectRef): void {
    if (this.#tunnels.has(formatRef(ref))) return;
    const other = this.#options.registry.get(ref.name);
    if (other?.knows(this.name) !== true) return;
    this.#clock.after(handshakeMs, () => {
      if (!this.knows(ref.name) || !other.knows(this.name)) return;
      this.#met(ref);
      other.#met({ kind: 'Node', name: this.name });
    });
  }

  #met(ref: ObjectRef): void {
    this.#tunnels.set(formatRef(ref), connectedSince(this.#clock.now()));
    this.#publishMesh();
  }

  #missed(ref: ObjectRef): void {
    if (this.#tunnels.delete(formatRef(ref))) this.#publishMesh();
  }

  #tunnelChanged(ref: ObjectRef): void {
    this.#publishSoon(ref);
    if (this.#book !== undefined) this.#follow(this.#book, ref);
  }

  #publish(book: PeerBook, work: NetworkWork): void {
    this.#publishNetwork();
    for (const ref of work.whole ? book.refs() : work.peers) {
      const peer = book.entry(ref)?.peer;
      if (peer === undefined) continue;
      this.#board.publishPeer(peer);
      const { key } = this.#refs(peer);
      if (key !== undefined) this.#board.publishKey(key);
    }
  }

  #publishSoon(ref: ObjectRef): void {
    this.#unpublished.set(formatRef(ref), ref);
    if (this.#publishing) return;
    this.#publishing = true;
    this.#clock.after(publishAfterMs, () => {
      this.#publishing = false;
      const due = [...this.#unpublished.values()];
      this.#unpublished.clear();
      for (const changed of due) {
        const peer = this.#book?.entry(changed)?.peer;
        if (peer !== undefined) this.#board.publishPeer(peer);
      }
    });
  }

  #publishMesh(): void {
    this.#neighbours.changed();
    if (this.#meshPublishing) return;
    this.#meshPublishing = true;
    this.#clock.after(publishAfterMs, () => {
      this.#meshPublishing = false;
      this.#publishNetwork();
    });
  }

  #publishNetwork(): void {
    this.#cancelFigures?.();
    this.#cancelFigures = undefined;
    const managed = this.#networks.get(this.#options.network);
    const againMs = managed === undefined ? undefined : this.#board.publishNetwork(managed);
    if (againMs !== undefined) this.#cancelFigures = this.#clock.after(againMs, () => this.#publishNetwork());
  }

  #publishAll(): void {
    // Agents do not start in the same moment.
    this.#clock.after(statusMs * (0.5 + Math.random() / 2), () => {
      this.#publishNetwork();
      for (const { peer } of this.#book?.entries.values() ?? []) this.#board.publishPeer(peer);
      this.#publishAll();
    });
  }

  #refs(peer: VpnPeer) {
    const lookup = (of: string, name: string) => this.#source.get('Secret', of, name);
    const ref = keyOf(peer);
    const key = ref === undefined ? undefined : this.#source.get('VpnKey', ref.namespace, ref.name);
    const secret = key === undefined ? undefined : secretOf(key);
    return { key, secret: secret === undefined ? undefined : lookup(secret.namespace, secret.name), lookup };
  }
}

function keyOf(peer: VpnPeer): ObjectRef | undefined {
  const { spec, metadata } = peer;
  return spec.keyRef === undefined
    ? identityKeyRef(peer)
    : { kind: 'VpnKey', namespace: metadata.namespace, name: spec.keyRef.name };
}

function connectedSince(now: number): TunnelFacts {
  return { ...idleFacts('Connected', now, ''), endpoint: '192.0.2.1:1194', cipher: 'AES-256-GCM', lastHandshake: now };
}

const noTraffic = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };

/** A peer as a kernel has it that no packet went to yet. */
function silentPeer(id: number): Peer {
  return {
    ...{ id, txId: id, remote: { address: '192.0.2.1', port: 1194 }, local: undefined, localPort: undefined },
    ...{ socketNetnsid: undefined, vpnIpv4: undefined, vpnIpv6: undefined },
    ...{ keepalive: { interval: 3, timeout: 15 }, vpn: noTraffic, link: noTraffic },
  };
}
