import { type Cidr, overlaps, parseCidr } from '../api/ip.ts';
import { NetworkIndex } from '../api/rules.ts';
import { formatRef, type ObjectRef, refOf, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import type { ErrorName, OvpnError } from '../errors.ts';
import type { DesiredPeer } from './desired.ts';
import { type NodeFacts, type PeerPlan, type PeerRefs, planPeer, selects } from './plan.ts';

/** A peer as it is planned, and what is in force for it. */
export interface BookEntry {
  readonly peer: VpnPeer;
  readonly plan: PeerPlan;
  /**
   * What the kernel should hold. It differs from the plan when a new version of the peer cannot be accepted:
   * the version that worked stays in force until the new one is mended.
   */
  readonly inForce: DesiredPeer | undefined;
  /** The peer is suspended or placed elsewhere: whatever else is wrong with it, it must not be in the kernel. */
  readonly away: boolean;
}

/** Problems after which the last good version must not go on: someone took the permission away. */
const revoking: ReadonlySet<ErrorName> = new Set<ErrorName>(['NotAllowed']);

/**
 * The peers of one network on this node: plans, kept up to date peer by peer. No kernel, no clock.
 */
export class PeerBook {
  readonly #index: NetworkIndex;
  readonly #peers = new Map<string, VpnPeer>();
  readonly #entries = new Map<string, BookEntry>();
  /** Entries whose last good version is in force though the present one is refused. */
  readonly #retained = new Set<string>();
  /** Who has a peer id in force. */
  readonly #holders = new Map<number, string>();

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

  refs(): ObjectRef[] {
    return [...this.#peers.values()].map(refOf);
  }

  /**
   * Plans one peer again.
   *
   * @returns what changes in the kernel, by peer id: undefined takes that peer out. Of the changes of several
   *   peers the later ones count.
   */
  plan(ref: ObjectRef, lookup: (peer: VpnPeer) => PeerRefs, node: NodeFacts): Map<number, DesiredPeer | undefined> {
    const name = formatRef(ref);
    const before = this.#entries.get(name)?.inForce;
    const peer = this.#peers.get(name);
    const changes = new Map<number, DesiredPeer | undefined>();
    this.#retained.delete(name);
    if (before !== undefined) this.#takeOut(name, before, changes);
    if (peer === undefined) {
      this.#entries.delete(name);
      return changes;
    }
    const plan = planPeer(this.network, peer, lookup(peer), node, this.#index.problemsOf(ref));
    const away = peer.spec.suspend || !selects(peer.spec.placement.nodeSelector, node.labels);
    let inForce = plan.desired;
    if (before !== undefined && !away && isMendable(plan.problems) && !this.#isTaken(before, name)) {
      inForce = before;
      this.#retained.add(name);
    } else if (inForce !== undefined) this.#displaceRetained(inForce, changes);
    this.#entries.set(name, { peer, plan, inForce, away });
    if (inForce !== undefined) {
      this.#holders.set(inForce.id, name);
      changes.set(inForce.id, inForce);
    }
    return changes;
  }

  /** What the kernel should hold, and which peer ids it must leave alone because their peers are refused. */
  inForce(): { readonly peers: DesiredPeer[]; readonly leaveAlone: ReadonlySet<number> } {
    const peers: DesiredPeer[] = [];
    const leaveAlone = new Set<number>();
    for (const { peer, plan, inForce, away } of this.#entries.values()) {
      if (inForce !== undefined) peers.push(inForce);
      else if (!away && isMendable(plan.problems)) leaveAlone.add(peer.spec.static.peerID);
    }
    for (const { id } of peers) leaveAlone.delete(id);
    return { peers, leaveAlone };
  }

  /**
   * Destinations of peers that are accepted but not on this node: suspended, or placed elsewhere. Pods must not
   * reach them by another way.
   */
  claimed(): string[] {
    return [...this.#entries.values()].flatMap(({ peer, plan, away }) =>
      away && plan.problems.length === 0 ? peer.spec.routes : [],
    );
  }

  /** Gives a peer's id free, unless another peer has it already. */
  #takeOut(name: string, desired: DesiredPeer, changes: Map<number, DesiredPeer | undefined>): void {
    if (this.#holders.get(desired.id) !== name) return;
    this.#holders.delete(desired.id);
    changes.set(desired.id, undefined);
  }

  /** A peer that is accepted goes before an old version that is only kept. */
  #displaceRetained(accepted: DesiredPeer, changes: Map<number, DesiredPeer | undefined>): void {
    for (const name of this.#retained) {
      const entry = this.#entries.get(name);
      if (entry?.inForce === undefined || !collide(entry.inForce, accepted)) continue;
      this.#takeOut(name, entry.inForce, changes);
      this.#retained.delete(name);
      this.#entries.set(name, { ...entry, inForce: undefined });
    }
  }

  /** Whether an accepted peer has something of an old version that might be kept. */
  #isTaken(old: DesiredPeer, name: string): boolean {
    return [...this.#entries].some(
      ([other, { inForce }]) =>
        other !== name && inForce !== undefined && !this.#retained.has(other) && collide(old, inForce),
    );
  }
}

/**
 * Whether an earlier version that was good may go on. One that a restarted agent finds in the kernel is left
 * alone, too, until the object is mended.
 */
function isMendable(problems: readonly OvpnError[]): boolean {
  return problems.length > 0 && !problems.some((problem) => revoking.has(problem.name));
}

function collide(one: DesiredPeer, other: DesiredPeer): boolean {
  if (one.id === other.id) return true;
  if (one.vpnIpv4 !== undefined && one.vpnIpv4 === other.vpnIpv4) return true;
  if (one.vpnIpv6 !== undefined && one.vpnIpv6 === other.vpnIpv6) return true;
  const theirs = rangesOf(other);
  return rangesOf(one).some((mine) => theirs.some((range) => rangesCollide(mine, range)));
}

/** The rule of api/rules.ts: a default route means "everything else", so it meets nothing but another one. */
function rangesCollide(one: Cidr, other: Cidr): boolean {
  return one.prefix === 0 || other.prefix === 0 ? one.text === other.text : overlaps(one, other);
}

/** Desired peers never change, and are compared with many others. */
const ranges = new WeakMap<DesiredPeer, readonly Cidr[]>();

function rangesOf(peer: DesiredPeer): readonly Cidr[] {
  let known = ranges.get(peer);
  if (known === undefined) {
    known = peer.routes.flatMap(({ destination }) => parseCidr(destination) ?? []);
    ranges.set(peer, known);
  }
  return known;
}
