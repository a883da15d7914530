import { NetworkIndex } from '../api/rules.ts';
import { formatRef, type ObjectRef, refOf, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import type { ErrorName, OvpnError } from '../errors.ts';
import type { DesiredPeer } from './desired.ts';
import type { DesiredSession } from './sessions/desired-session.ts';
import { isAway, type NodeFacts, type PeerPlan, type PeerRefs, planPeer } from './plan.ts';
import { type Holder, Possessions } from './possessions.ts';

/** A peer as it is planned, and what is in force for it. */
export interface BookEntry {
  readonly peer: VpnPeer;
  readonly plan: PeerPlan;
  /**
   * What the kernel should hold. It differs from the plan when a new version of the peer cannot be accepted:
   * the version that worked stays in force until the new one is mended.
   */
  readonly inForce: DesiredPeer | undefined;
  /** The same for a peer with a control channel. */
  readonly session: DesiredSession | undefined;
  /** The peer is suspended or placed elsewhere: whatever else is wrong with it, it must not be in the kernel. */
  readonly away: boolean;
}

/** What the kernel should hold of a network's peers. */
export interface PeersInForce {
  readonly peers: DesiredPeer[];
  /** Ids whose peers are refused but may have been good before: they stay as they are. */
  readonly leaveAlone: ReadonlySet<number>;
  /** Ids whose peers are known and must not be here: suspended, placed elsewhere, not allowed any more. */
  readonly out: ReadonlySet<number>;
}

/** Problems after which the last good version must not go on: someone took the permission away. */
const revoking: ReadonlySet<ErrorName> = new Set<ErrorName>(['NotAllowed', 'PkiMissing']);

/**
 * The peers of one network on this node: plans, kept up to date peer by peer. No kernel, no clock.
 */
export class PeerBook {
  readonly #index: NetworkIndex;
  readonly #peers = new Map<string, VpnPeer>();
  readonly #entries = new Map<string, BookEntry>();
  /** What is in force because it is accepted. */
  readonly #accepted = new Possessions();
  /** What is in force as the last good version though the present one is refused. */
  readonly #retained = new Possessions();
  /** Who has a peer id in force. */
  readonly #holders = new Map<number, string>();
  /** Peers whose sessions ended for the sake of others, and not by a plan of their own. */
  #ended: ObjectRef[] = [];

  constructor(network: VpnNetwork) {
    this.#index = new NetworkIndex(network);
  }

  get network(): VpnNetwork {
    return this.#index.network;
  }

  get entries(): ReadonlyMap<string, BookEntry> {
    return this.#entries;
  }

  /** Whether the peer is in the book, planned or not. */
  has(ref: ObjectRef): boolean {
    return this.#peers.has(formatRef(ref));
  }

  /** The peer that has this id in force. */
  holderOf(id: number): ObjectRef | undefined {
    const name = this.#holders.get(id);
    const peer = name === undefined ? undefined : this.#entries.get(name)?.peer;
    return peer === undefined ? undefined : refOf(peer);
  }

  entry(ref: ObjectRef): BookEntry | undefined {
    return this.#entries.get(formatRef(ref));
  }

  setNetwork(network: VpnNetwork): void {
    this.#index.setNetwork(network);
  }

  /** Takes a peer or its new version. Answers the peers to plan again, itself among them. */
  set(peer: VpnPeer): ObjectRef[] {
    this.#peers.set(formatRef(refOf(peer)), peer);
    return this.#index.set(peer);
  }

  /** Forgets a peer. Answers the peers to plan again, and it among them. */
  delete(ref: ObjectRef): ObjectRef[] {
    this.#peers.delete(formatRef(ref));
    return [ref, ...this.#index.delete(ref)];
  }

  /** The peers to plan: all, and those that are gone and still have something in force. */
  refs(): ObjectRef[] {
    const gone = [...this.#entries].filter(([name]) => !this.#peers.has(name)).map(([, { peer }]) => refOf(peer));
    return [...gone, ...[...this.#peers.values()].map(refOf)];
  }

  /** The peers whose sessions ended since the last call because others were accepted for what they had. */
  takeEnded(): ObjectRef[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }

  /**
   * Plans one peer again.
   *
   * @returns what changes in the kernel, by peer id: undefined takes that peer out. Of the changes of several
   *   peers the later ones count.
   */
  plan(ref: ObjectRef, lookup: (peer: VpnPeer) => PeerRefs, node: NodeFacts): Map<number, DesiredPeer | undefined> {
    const name = formatRef(ref);
    const { inForce: before, session: sessionBefore } = this.#entries.get(name) ?? {};
    const old = before ?? sessionBefore;
    const peer = this.#peers.get(name);
    const changes = new Map<number, DesiredPeer | undefined>();
    this.#accepted.remove(name);
    this.#retained.remove(name);
    if (before !== undefined) this.#takeOut(name, before, changes);
    if (peer === undefined) {
      this.#entries.delete(name);
      return changes;
    }
    const plan = planPeer(this.network, peer, lookup(peer), node, this.#index.problemsOf(ref));
    const away = isAway(this.network, peer, node);
    const planned = plan.desired ?? plan.session;
    // Credentials that cannot be used just now end nothing that works, either.
    const mayStay = !away && (isMendable(plan.problems) || (plan.keyProblem !== undefined && planned === undefined));
    const stays = mayStay && old !== undefined && !this.#isTaken(old);
    const inForce = stays ? before : plan.desired;
    const session = stays ? sessionBefore : plan.session;
    if (stays) this.#retained.add(name, old);
    else if (planned !== undefined) {
      this.#displaceRetained(planned, changes);
      this.#accepted.add(name, planned);
    }
    this.#entries.set(name, { peer, plan, inForce, session, away });
    if (inForce !== undefined) {
      this.#holders.set(inForce.id, name);
      changes.set(inForce.id, inForce);
    }
    return changes;
  }

  /** What the kernel should hold, and what to do about peer ids that nobody has in force. */
  inForce(): PeersInForce {
    const peers: DesiredPeer[] = [];
    const leaveAlone = new Set<number>();
    const out = new Set<number>();
    for (const { peer, plan, inForce, away } of this.#entries.values()) {
      const id = peer.spec.static?.peerID;
      if (inForce !== undefined) peers.push(inForce);
      else if (id === undefined) continue;
      else if (!away && isMendable(plan.problems)) leaveAlone.add(id);
      else out.add(id);
    }
    for (const { id } of peers) {
      leaveAlone.delete(id);
      out.delete(id);
    }
    for (const id of leaveAlone) out.delete(id);
    return { peers, leaveAlone, out };
  }

  /**
   * Destinations of peers (of all, or of some) that are accepted but may not be in the kernel of this node:
   * suspended, placed elsewhere, without a usable key, or with a control channel that comes and goes. Pods must
   * not reach them by another way.
   */
  claimed(refs: Iterable<ObjectRef> = this.refs()): string[] {
    const destinations: string[] = [];
    for (const ref of refs) {
      const entry = this.entry(ref);
      if (entry === undefined) continue;
      const absent = entry.plan.desired === undefined;
      if (absent && entry.plan.problems.length === 0) destinations.push(...entry.peer.spec.routes);
      else if (entry.session !== undefined) destinations.push(...destinationsOf(entry.session));
    }
    return destinations;
  }

  /** Gives a peer's id free, unless another peer has it already. */
  #takeOut(name: string, desired: DesiredPeer, changes: Map<number, DesiredPeer | undefined>): void {
    if (this.#holders.get(desired.id) !== name) return;
    this.#holders.delete(desired.id);
    changes.set(desired.id, undefined);
  }

  /** A peer that is accepted goes before an old version that is only kept. */
  #displaceRetained(accepted: Holder, changes: Map<number, DesiredPeer | undefined>): void {
    for (const name of this.#retained.colliding(accepted)) {
      this.#retained.remove(name);
      const entry = this.#entries.get(name);
      if (entry === undefined) continue;
      if (entry.inForce !== undefined) this.#takeOut(name, entry.inForce, changes);
      if (entry.session !== undefined) this.#ended.push(refOf(entry.peer));
      this.#entries.set(name, { ...entry, inForce: undefined, session: undefined });
    }
  }

  /** Whether an accepted peer has something of an old version that might be kept. */
  #isTaken(old: Holder): boolean {
    return this.#accepted.colliding(old).size > 0;
  }
}

function destinationsOf(session: DesiredSession): string[] {
  return session.kind === 'dial-in' ? session.routes.map(({ destination }) => destination) : [...session.routes];
}

/**
 * Whether an earlier version that was good may go on. One that a restarted agent finds in the kernel is left
 * alone, too, until the object is mended.
 */
function isMendable(problems: readonly OvpnError[]): boolean {
  return problems.length > 0 && !problems.some((problem) => revoking.has(problem.name));
}
