import { isHeldBy, standing } from '../../api/placement.ts';
import type { Holder, ObjectRef, VpnPeer } from '../../api/types.ts';
import type { Clock } from '../../cluster/clock.ts';
import type { NodeLease, NodeLeases } from '../../cluster/node-leases.ts';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { Placement, type Whereabouts } from './placement.ts';

/**
 * A cluster on one clock that is held: an API server, nodes that reach it or do not, and a remote that knows clients by
 * their certificate, so that of two with the same one the latest counts, as with OpenVPN's server without
 * --duplicate-cn. Only the nodes' placement is real.
 */

export const office: ObjectRef = { kind: 'VpnPeer', namespace: 'team', name: 'office' };
export const leaseMs = 6_000;
/** From a node to the API server, and from there to a node. */
const wayMs = 20;

/** A machine's clock; stopped with it, or going on, as hypervisors do it. */
class MachineClock implements Clock {
  readonly #real: FakeClock;
  #behind = 0;
  #stoppedAt: number | undefined;
  #stands = false;
  #held: (() => void)[] = [];
  wentOnAt = -Infinity;

  constructor(real: FakeClock) {
    this.#real = real;
  }

  now(): number {
    return 1_000_000_000 + this.monotonic();
  }

  monotonic(): number {
    return (this.#stands && this.#stoppedAt !== undefined ? this.#stoppedAt : this.#real.monotonic()) - this.#behind;
  }

  /** What comes about while the machine is stopped, it does when it goes on. */
  after(ms: number, call: () => void): () => void {
    let wanted = true;
    const cancel = this.#real.after(ms, () => this.run(() => wanted && call()));
    return () => {
      wanted = false;
      cancel();
    };
  }

  run(call: () => void): void {
    if (this.#stoppedAt === undefined) call();
    else this.#held.push(call);
  }

  get stopped(): boolean {
    return this.#stoppedAt !== undefined;
  }

  /** @param stands whether the monotonic clock stands still meanwhile */
  stop(stands: boolean): void {
    this.#stoppedAt ??= this.#real.monotonic();
    this.#stands = stands;
  }

  goOn(): void {
    if (this.#stoppedAt === undefined) return;
    if (this.#stands) this.#behind += this.#real.monotonic() - this.#stoppedAt;
    this.#stoppedAt = undefined;
    this.wentOnAt = this.#real.monotonic();
    for (const call of this.#held.splice(0)) call();
  }
}

/** One agent and its session with the remote. */
export class Node {
  readonly name: string;
  readonly clock: MachineClock;
  readonly placement: Placement;
  readonly #cluster: Cluster;
  /** Whether it reaches the API server. */
  linked = true;
  /** Whether its watches bring nothing, while it can ask. */
  deaf = false;
  dead = false;
  where: Whereabouts;
  seen: VpnPeer;
  seesLeases: ((lease: NodeLease) => void) | undefined;
  /** What it was told of Leases. */
  readonly knownLeases = new Map<string, string>();
  /** Its tunnel stands, as far as it knows. */
  session = false;
  #asking = false;
  readonly meter: string[] = [];

  constructor(cluster: Cluster, name: string, nodes: readonly string[]) {
    this.name = name;
    this.#cluster = cluster;
    this.clock = new MachineClock(cluster.clock);
    this.seen = cluster.peer;
    this.where = { nodes, mayTake: true, mayKeep: true };
    this.placement = new Placement({
      ...{ node: name, clock: this.clock, random: () => 0.5, log: recordingLog().log, leaseMs },
      meter: { increment: (metric, labels) => void this.meter.push(`${metric} ${Object.values(labels).join()}`) },
      source: {
        get: (() => this.seen) as never,
        claim: (peer, holder) => cluster.ask(this, () => cluster.claim(peer, holder), 10_000),
        holderNow: (_, timeoutMs) => cluster.ask(this, () => cluster.holder, timeoutMs),
      },
      leases: this.#leases(),
      lost: () => (this.session = false),
    });
  }

  #leases(): NodeLeases {
    return {
      follow: (seen) => {
        this.seesLeases ??= seen;
        this.#cluster.tell(this);
      },
      read: (node, timeoutMs) => this.#cluster.ask(this, () => this.#cluster.leases.get(node), timeoutMs),
      write: (lease, timeoutMs) => this.#cluster.ask(this, () => this.#cluster.renew(this.name, lease), timeoutMs),
    };
  }

  /** The watch brings the present state. */
  look(peer: VpnPeer, leases: ReadonlyMap<string, NodeLease>): void {
    this.seen = peer;
    for (const [node, lease] of leases) {
      if (this.seesLeases === undefined || this.knownLeases.get(node) === lease.version) continue;
      this.knownLeases.set(node, lease.version);
      this.seesLeases(lease);
    }
    this.plan();
  }

  /** As the node's agent does after every change: what it has it dials, what it has not it lets go. */
  plan(): void {
    if (!isHeldBy(this.name, this.seen.status?.holder)) this.session = false;
    this.placement.set(this.seen, this.where);
    if (isHeldBy(this.name, this.seen.status?.holder) && !this.session) void this.dial();
  }

  /** Asks before each try, a second apart. */
  async dial(): Promise<void> {
    if (this.#asking || this.dead) return;
    this.#asking = true;
    const refusal = await this.placement.refusal(office);
    this.#asking = false;
    if (this.#mayNot()) return;
    if (refusal === undefined) this.#cluster.connect(this);
    else this.clock.after(1_000, () => void this.dial());
  }

  #mayNot(): boolean {
    return this.dead || this.session || !isHeldBy(this.name, this.seen.status?.holder);
  }
}

export class Cluster {
  readonly clock = new FakeClock();
  readonly nodes: readonly Node[];
  readonly leases = new Map<string, NodeLease>();
  holder: Holder | undefined;
  up = true;
  #version = 1;
  #renewals = 0;
  /** Since when each node is able to know what the API server knows. */
  readonly #knowsSince = new Map<string, number>();
  #stale = new Set<Node>();
  /** When each node was last the holder, by the API server. */
  readonly wasHolder = new Map<string, number>();
  readonly history: Holder[] = [];
  /** The remote lets two clients with one certificate be. */
  duplicates = false;
  /** What must not happen. */
  readonly faults: string[] = [];

  constructor(names: readonly string[] = ['a', 'b', 'c']) {
    this.nodes = names.map((name) => new Node(this, name, names));
    for (const node of this.nodes) node.plan();
  }

  get peer(): VpnPeer {
    const metadata = {
      name: 'office',
      namespace: 'team',
      uid: 'uid-of-office',
      resourceVersion: String(this.#version),
    };
    return { kind: 'VpnPeer', metadata, status: { holder: this.holder } } as unknown as VpnPeer;
  }

  node(name: string | undefined): Node {
    const found = this.nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`no node ${name}`);
    return found;
  }

  /** The node that has the peer. */
  get present(): Node {
    return this.node(standing(this.holder)?.node);
  }

  reaches(node: Node): boolean {
    return this.up && node.linked && !node.dead;
  }

  /** A request, which is served on its arrival, and may be lost on either way. */
  ask<T>(node: Node, serve: () => T, timeoutMs: number): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancel = node.clock.after(timeoutMs, () => reject(new Error('no answer in time')));
      this.clock.after(wayMs, () => {
        if (!this.reaches(node)) return;
        const answer = serve();
        this.clock.after(wayMs, () => {
          if (!this.reaches(node)) return;
          node.clock.run(() => {
            cancel();
            resolve(answer);
          });
        });
      });
    });
  }

  claim(peer: VpnPeer, holder: Holder): 'taken' | 'conflict' {
    if (peer.metadata.resourceVersion !== String(this.#version)) return 'conflict';
    if (this.holder !== undefined && holder.reason !== 'GivenUp' && holder.epoch <= this.holder.epoch)
      this.faults.push(`epoch ${holder.epoch} after ${this.holder.epoch}`);
    this.holder = holder;
    if (holder.reason !== 'GivenUp') this.history.push(holder);
    this.#version++;
    this.#tellAll();
    return 'taken';
  }

  renew(node: string, { durationMs, released }: Pick<NodeLease, 'durationMs' | 'released'>): void {
    this.leases.set(node, { node, durationMs, released, version: `lease ${++this.#renewals}` });
    this.#tellAll();
  }

  #tellAll(): void {
    for (const node of this.nodes) this.tell(node);
  }

  /** Also what it missed, when it reaches the server again. */
  tell(node: Node): void {
    if (this.#stale.has(node)) return;
    this.#stale.add(node);
    this.clock.after(wayMs, () => this.#bring(node));
  }

  #bring(node: Node): void {
    if (!this.reaches(node) || node.deaf) return;
    this.#stale.delete(node);
    const { peer } = this;
    const leases = new Map(this.leases);
    node.clock.run(() => {
      if (node.deaf) this.#stale.add(node);
      else node.look(peer, leases);
    });
  }

  connect(node: Node): void {
    node.session = true;
    const since = this.clock.monotonic() - (this.wasHolder.get(node.name) ?? -Infinity);
    // An answer that was on its way when the machine stopped is the one thing that nobody can tell to be old.
    const wasStopped = this.clock.monotonic() - node.clock.wentOnAt < 3 * wayMs;
    if (since > 3 * wayMs && !wasStopped) this.faults.push(`${node.name} dials ${since} ms after it had the peer`);
    // The remote drops who was there before; it notices by its keepalive, and would dial again.
    for (const other of this.nodes) {
      if (other === node || !other.session || this.duplicates) continue;
      this.clock.after(1_000, () =>
        other.clock.run(() => {
          if (!other.session) return;
          other.session = false;
          if (isHeldBy(other.name, other.seen.status?.holder)) void other.dial();
        }),
      );
    }
  }

  /** Lets time pass, and promises that wait for nothing go on. */
  async pass(ms: number, check: () => void = () => undefined): Promise<void> {
    for (let left = ms; left > 0; left -= 10) {
      this.clock.advance(Math.min(10, left));
      const { holder } = this;
      if (holder !== undefined && standing(holder) !== undefined)
        this.wasHolder.set(holder.node, this.clock.monotonic());
      for (const node of this.#stale) this.#bring(node);
      for (let turn = 0; turn < 4; turn++) await Promise.resolve();
      this.#watchOver();
      check();
    }
  }

  /** Two tunnels at a time: the one that lost the claim must go as soon as it can know. */
  #watchOver(): void {
    const now = this.clock.monotonic();
    const owner = standing(this.holder)?.node;
    for (const node of this.nodes) {
      const knows = this.reaches(node) && !node.deaf && !node.clock.stopped;
      const since = this.#knowsSince.get(node.name);
      if (!knows) this.#knowsSince.delete(node.name);
      else if (since === undefined) this.#knowsSince.set(node.name, now);
      const lost = Math.max(this.wasHolder.get(node.name) ?? now, since ?? now);
      if (node.session && !node.dead && node.name !== owner && knows && now - lost > 100)
        this.faults.push(`${node.name} keeps a tunnel ${now - lost} ms after it lost the peer`);
    }
  }
}
