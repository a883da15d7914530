import type { ObjectRef, VpnPeer } from './types.ts';

/** A peer as one that claims things: who it is, and since when. */
export interface Claimant {
  readonly ref: ObjectRef & { readonly namespace: string };
  /** `namespace/name`. */
  readonly key: string;
  /** Milliseconds; without a timestamp (a manifest from a folder) later than everything that has one. */
  readonly created: number;
}

/** The claimant that a peer is. */
export function claimantOf(peer: VpnPeer): Claimant {
  const { namespace, name, creationTimestamp } = peer.metadata;
  const created = Date.parse(creationTimestamp ?? '');
  return {
    ref: { kind: 'VpnPeer', namespace, name },
    key: `${namespace}/${name}`,
    created: Number.isNaN(created) ? Infinity : created,
  };
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
  readonly #claimants: Claimant[] = [];

  get oldest(): Claimant | undefined {
    return this.#claimants[0];
  }

  get youngest(): Claimant | undefined {
    return this.#claimants.at(-1);
  }

  add(claimant: Claimant): void {
    this.#claimants.splice(this.#placeOf(claimant), 0, claimant);
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
  readonly #lists = new Map<K, ClaimList>();

  add(key: K, claimant: Claimant): void {
    const list = this.#lists.get(key) ?? new ClaimList();
    list.add(claimant);
    this.#lists.set(key, list);
  }

  remove(key: K, claimant: Claimant): void {
    const list = this.#lists.get(key);
    list?.remove(claimant);
    if (list?.oldest === undefined) this.#lists.delete(key);
  }

  oldest(key: K): Claimant | undefined {
    return this.#lists.get(key)?.oldest;
  }

  youngerThan(key: K, claimant: Claimant): readonly Claimant[] {
    return this.#lists.get(key)?.youngerThan(claimant) ?? [];
  }
}
