import { type ObjectRef, refOf, type VpnPeer } from './types.ts';

/** A peer as one that claims things: who it is, and since when. */
export interface Claimant {
  readonly ref: ObjectRef & { readonly namespace: string };
  /** `namespace/name`. */
  readonly key: string;
  /** Milliseconds; without a timestamp (a manifest from a folder) later than everything that has one. */
  readonly created: number;
}

/** By the version of the peer. Whoever keeps the claimant of a peer keeps the same. */
const claimants = new WeakMap<VpnPeer, Claimant>();

/** The claimant that a peer is. */
export function claimantOf(peer: VpnPeer): Claimant {
  const known = claimants.get(peer);
  if (known !== undefined) return known;
  const { namespace, name, creationTimestamp } = peer.metadata;
  const created = Date.parse(creationTimestamp ?? '');
  const claimant = {
    ref: refOf(peer) as Claimant['ref'],
    key: `${namespace}/${name}`,
    created: Number.isNaN(created) ? Infinity : created,
  };
  claimants.set(peer, claimant);
  return claimant;
}

/** The same for what it holds for certain: that is before everything that is only claimed. */
export function asHolder(claimant: Claimant): Claimant {
  return { ...claimant, created: -Infinity };
}

/** Who was first: below zero when `one` wins a conflict. The older wins; of the same age, the first by name. */
export function compareAge(one: Claimant, other: Claimant): number {
  if (one.created !== other.created) return one.created < other.created ? -1 : 1;
  return one.key < other.key ? -1 : one.key > other.key ? 1 : 0;
}

/** Those who claim the same thing, oldest first. */
export class ClaimList {
  /** No longer than it has to be: an array that grows by itself begins with room for seventeen. */
  #claimants: Claimant[] = [];

  get size(): number {
    return this.#claimants.length;
  }

  get oldest(): Claimant | undefined {
    return this.#claimants[0];
  }

  get youngest(): Claimant | undefined {
    return this.#claimants.at(-1);
  }

  add(claimant: Claimant): void {
    if (this.#claimants.length === 0) this.#claimants = [claimant];
    else this.#claimants.splice(this.#placeOf(claimant), 0, claimant);
  }

  remove(claimant: Claimant): void {
    const place = this.#placeOf(claimant);
    if (this.#claimants[place]?.key === claimant.key) this.#claimants.splice(place, 1);
  }

  /** Those who lose to the claimant. */
  youngerThan(claimant: Claimant): readonly Claimant[] {
    const place = this.#placeOf(claimant);
    return this.#claimants.slice(this.#claimants[place]?.key === claimant.key ? place + 1 : place);
  }

  /** The place of the first that is not older, by bisection. */
  #placeOf(claimant: Claimant): number {
    let [low, high] = [0, this.#claimants.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this.#claimants[middle];
      if (other !== undefined && compareAge(other, claimant) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Claims to things that are equal or not, such as addresses and peer ids. */
export class KeyClaims<K> {
  /** Most things are claimed by one alone, who stands for the list then. */
  readonly #claims = new Map<K, Claimant | ClaimList>();

  add(key: K, claimant: Claimant): void {
    const present = this.#claims.get(key);
    if (present === undefined) this.#claims.set(key, claimant);
    else if (present instanceof ClaimList) present.add(claimant);
    else {
      const list = new ClaimList();
      list.add(present);
      list.add(claimant);
      this.#claims.set(key, list);
    }
  }

  remove(key: K, claimant: Claimant): void {
    const present = this.#claims.get(key);
    if (present instanceof ClaimList) {
      present.remove(claimant);
      if (present.size === 0) this.#claims.delete(key);
    } else if (present?.key === claimant.key && compareAge(present, claimant) >= 0) this.#claims.delete(key);
  }

  oldest(key: K): Claimant | undefined {
    const present = this.#claims.get(key);
    return present instanceof ClaimList ? present.oldest : present;
  }

  youngerThan(key: K, claimant: Claimant): readonly Claimant[] {
    const present = this.#claims.get(key);
    if (present === undefined) return [];
    if (present instanceof ClaimList) return present.youngerThan(claimant);
    return present.key !== claimant.key && compareAge(present, claimant) > 0 ? [present] : [];
  }
}
