import { isHeldBy, type PlacementReason, standing } from '../../api/placement.ts';
import { formatRef, type Holder, type ObjectRef, refOf, type VpnPeer } from '../../api/types.ts';
import { Backoff } from '../../cluster/backoff.ts';
import type { Clock } from '../../cluster/clock.ts';
import type { NodeLeases } from '../../cluster/node-leases.ts';
import type { ResourceSource } from '../../cluster/source.ts';
import { describe } from '../../errors.ts';
import type { Log } from '../../telemetry/log.ts';
import type { Meter } from '../../telemetry/metrics.ts';
import { KeyedMutex } from '../keyed-mutex.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import { LeaseWatch } from './lease-watch.ts';
import { nextPlacement, type PlacementStep, type PlacementView } from './plan-placement.ts';

export interface PlacementOptions {
  /** The own node's name. */
  readonly node: string;
  readonly source: Pick<ResourceSource, 'claim' | 'get' | 'holderNow'>;
  readonly leases: NodeLeases;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly meter: Pick<Meter, 'increment'>;
  /** For how long a node that does not renew its Lease is taken for alive. Milliseconds. */
  readonly leaseMs: number;
  /** Told of a peer that another node has by now, before that is known by a change of the peer. */
  readonly lost: (ref: ObjectRef) => void;
}

/** Where a placed peer may be. */
export type Whereabouts = Pick<PlacementView, 'nodes' | 'mayTake' | 'mayKeep'>;

interface Placed {
  readonly ref: ObjectRef;
  where: Whereabouts;
  /** The node under which it is known in `#byNode`. */
  node: string | undefined;
  readonly backoff: Backoff;
  underWay: boolean;
  /** What is waited for; looking again does not make it later. */
  waiting: { readonly for: string; readonly cancel: () => void } | undefined;
}

/** How long the API server may take to say who has a peer. Milliseconds. */
const askMs = 2_000;
/** How many peers are claimed or asked for at a time: a node may be lost with a thousand of them. */
const atATime = 8;

/**
 * Places the peers that this node could dial: claims what nobody has or whose node is lost, keeps the Lease of this node
 * while it has any, and says whether it may dial now. What a node has it dials (plan.ts); what others have, it does not.
 * docs/decisions/0017-placement.md
 */
export class Placement {
  readonly #options: PlacementOptions;
  readonly #keeper: LeaseKeeper;
  readonly #watch: LeaseWatch;
  readonly #peers = new Map<string, Placed>();
  /** The names of peers by the node that has them. */
  readonly #byNode = new Map<string, Set<string>>();
  readonly #lanes = new KeyedMutex();
  #turn = 0;
  #left = false;

  constructor(options: PlacementOptions) {
    this.#options = options;
    const { leases, clock, log, meter, leaseMs } = options;
    const regained = (): void => void this.#lookAtOwn();
    this.#keeper = new LeaseKeeper({ leases, clock, log, meter, durationMs: leaseMs, regained });
    this.#watch = new LeaseWatch({ leases, clock, durationMs: leaseMs, changed: (node) => this.#changed(node) });
  }

  /** Takes a placed peer as it is now. */
  set(peer: VpnPeer, where: Whereabouts): void {
    if (this.#left) return;
    const ref = refOf(peer);
    const name = formatRef(ref);
    let placed = this.#peers.get(name);
    if (placed === undefined) {
      const backoff = new Backoff({ initialMs: 100, maxMs: 5_000, random: this.#options.random });
      placed = { ref, where, node: undefined, backoff, underWay: false, waiting: undefined };
      this.#peers.set(name, placed);
    }
    placed.where = where;
    const { holder } = peer.status ?? {};
    this.#file(name, placed, standing(holder)?.node);
    if (!placed.underWay) this.#look(placed);
  }

  /** The peer is gone, or not to be placed any more. */
  gone(ref: ObjectRef): void {
    const name = formatRef(ref);
    const placed = this.#peers.get(name);
    if (placed === undefined) return;
    placed.waiting?.cancel();
    this.#peers.delete(name);
    this.#file(name, placed, undefined);
  }

  /**
   * Whether this node may dial the peer: it has it by the API server's own word of this moment. So a node that cannot
   * reach the API server dials nothing anew, and one that was stopped and does not know for how long finds out first.
   *
   * @returns why not; undefined when it may
   */
  async refusal(ref: ObjectRef): Promise<string | undefined> {
    if (this.#left) return 'this agent ends';
    if (!this.#keeper.held && !(await this.#keeper.renew()))
      return 'the API server does not take the lease of this node: another node may have the peer by now';
    return this.#inTurn(() => this.#ask(ref));
  }

  async #ask(ref: ObjectRef): Promise<string | undefined> {
    const { node, source, clock } = this.#options;
    const sentAt = clock.monotonic();
    try {
      const holder = await source.holderNow(ref, askMs);
      // An answer that lay about while this process was stopped says nothing of now.
      if (clock.monotonic() - sentAt > 2 * askMs) return 'the API server took too long to say who has the peer';
      return isHeldBy(node, holder) ? undefined : 'another node has the peer by now';
    } catch (error) {
      return `the API server does not say that this node still has the peer: ${describe(error)}`;
    }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    return this.#lanes.run(String(this.#turn++ % atATime), task);
  }

  /** How the Lease of this node stands; undefined when it needs none. */
  get lease():
    { readonly renewedAgoMs: number | undefined; readonly held: boolean; readonly peers: number } | undefined {
    if (!this.#keeper.wanted) return undefined;
    const peers = this.#byNode.get(this.#options.node)?.size ?? 0;
    return { renewedAgoMs: this.#keeper.ageMs, held: this.#keeper.held, peers };
  }

  /**
   * This process ends. Either another one follows, to which everything is left for a while; or the node goes, and others
   * may have its peers as soon as their sessions have ended.
   */
  async leave(how: { readonly backWithinMs: number } | 'release'): Promise<void> {
    this.#left = true;
    for (const { waiting } of this.#peers.values()) waiting?.cancel();
    this.#watch.close();
    await this.#keeper.leave(how);
  }

  /**
   * Others may have taken over while the Lease was not renewed. Watches bring that, too, but TCP may take as long again
   * as it was cut off.
   */
  async #lookAtOwn(): Promise<void> {
    const { node, source, log } = this.#options;
    for (const name of [...(this.#byNode.get(node) ?? [])]) {
      const ref = this.#peers.get(name)?.ref;
      if (ref === undefined || this.#left) continue;
      try {
        const holder = await source.holderNow(ref, askMs);
        if (isHeldBy(node, holder) || this.#peers.get(name)?.ref !== ref) continue;
        log.info({ event: 'placement.lost', peer: name, node: holder?.node }, 'another node has the peer by now');
        this.#options.lost(ref);
      } catch {
        // The watch says it in its time; and nothing is dialled without asking.
      }
    }
  }

  #file(name: string, placed: Placed, node: string | undefined): void {
    const { node: before } = placed;
    const self = this.#options.node;
    placed.node = node;
    if (before !== undefined && before !== node) {
      const there = this.#byNode.get(before);
      there?.delete(name);
      if (there?.size === 0) {
        this.#byNode.delete(before);
        if (before !== self) this.#watch.unwatch(before);
      }
    }
    if (node !== undefined && node !== before) {
      const there = this.#byNode.get(node) ?? new Set();
      this.#byNode.set(node, there.add(name));
    }
    // Who could not take the peer over need not know.
    if (node !== undefined && node !== self && placed.where.mayTake) this.#watch.watch(node);
    this.#keeper.keep(this.#byNode.has(self));
  }

  /** A node is silent, or not any more. */
  #changed(node: string): void {
    for (const name of this.#byNode.get(node) ?? []) {
      const placed = this.#peers.get(name);
      if (placed !== undefined && !placed.underWay) this.#look(placed);
    }
  }

  #stepOf({ ref, where }: Placed, peer: VpnPeer): PlacementStep {
    const { holder } = peer.status ?? {};
    const liveness = holder === undefined ? 'alive' : this.#watch.liveness(holder.node);
    return nextPlacement({
      ...{ self: this.#options.node, uid: peer.metadata.uid ?? formatRef(ref), holder, liveness },
      ...where,
    });
  }

  #look(placed: Placed): void {
    const peer = this.#present(placed);
    const step: PlacementStep = peer === undefined ? { do: 'rest' } : this.#stepOf(placed, peer);
    switch (step.do) {
      case 'rest':
      case 'hold':
        placed.waiting?.cancel();
        placed.waiting = undefined;
        placed.backoff.reset();
        return;
      case 'give-up':
        void this.#act(placed);
        return;
      case 'take':
        this.#wait(placed, `${step.reason} ${step.epoch}`, step.afterMs, () => void this.#act(placed));
    }
  }

  #present({ ref }: Placed): VpnPeer | undefined {
    return this.#options.source.get('VpnPeer', ref.namespace, ref.name);
  }

  #wait(placed: Placed, what: string, ms: number, then: () => void): void {
    if (placed.waiting?.for === what) return;
    placed.waiting?.cancel();
    const cancel = this.#options.clock.after(ms, () => {
      placed.waiting = undefined;
      then();
    });
    placed.waiting = { for: what, cancel };
  }

  /** Does what is due by now. Never rejects. */
  async #act(placed: Placed): Promise<void> {
    if (placed.underWay) return;
    placed.underWay = true;
    let done = false;
    try {
      done = await this.#inTurn(() => this.#do(placed));
    } catch (error) {
      this.#options.log.warn(
        { event: 'placement.failed', peer: formatRef(placed.ref), error: describe(error) },
        'the peer is not placed yet',
      );
    }
    placed.underWay = false;
    if (this.#left || this.#peers.get(formatRef(placed.ref)) !== placed) return;
    // What was claimed comes by the watch, which tells.
    if (!done) this.#wait(placed, 'another try', placed.backoff.next(), () => this.#look(placed));
  }

  /** What that is, is seen when its turn comes. Answers whether nothing is left to do. */
  async #do(placed: Placed): Promise<boolean> {
    const peer = this.#present(placed);
    if (peer === undefined || this.#left) return true;
    const step = this.#stepOf(placed, peer);
    if (step.do === 'give-up') return this.#giveUp(peer, step.holder);
    return step.do !== 'take' || this.#take(peer, step.epoch, step.reason);
  }

  async #take(peer: VpnPeer, epoch: number, reason: PlacementReason): Promise<boolean> {
    const { node, source, clock, log, meter } = this.#options;
    const before = peer.status?.holder;
    // First the Lease: who has a peer has to be known to live.
    if (!this.#keeper.held && !(await this.#keeper.renew())) return false;
    if (reason === 'NodeLost' && !(await this.#watch.isStillSilent(before?.node ?? ''))) return false;
    const holder: Holder = {
      ...{ node, epoch, since: new Date(clock.now()).toISOString(), reason },
      ...(before === undefined || before.node === node ? {} : { previousNode: before.node }),
    };
    if ((await source.claim(peer, holder)) !== 'taken') return false;
    meter.increment('ovpn_placement_takeovers_total', { reason });
    const fields = { event: 'placement.taken', peer: formatRef(refOf(peer)), epoch, reason, from: before?.node };
    log.info(fields, 'this node has the peer now');
    return true;
  }

  async #giveUp(peer: VpnPeer, holder: Holder): Promise<boolean> {
    if ((await this.#options.source.claim(peer, holder)) !== 'taken') return false;
    const fields = { event: 'placement.given-up', peer: formatRef(refOf(peer)) };
    this.#options.log.info(fields, 'this node may not have the peer any more');
    return true;
  }
}
