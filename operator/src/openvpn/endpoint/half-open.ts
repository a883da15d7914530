import { sourceNetwork } from './path.ts';

/**
 * The places for handshakes on their way. Every one costs memory and, sooner or later, work for TLS, and its client
 * has shown no more than that it receives packets at its address.
 *
 * When all places are taken, a newcomer gets one of the source that has the most, if that is more than the newcomer's
 * own source would have then: the place of the handshake that has stood still longest. So sources share the places
 * evenly, and one that takes many, however busy it keeps them, loses them first; a source with a single handshake
 * loses it to nobody as long as another has two. Between sources with equally many, a newcomer gets the place of a
 * handshake that stands still, by which only new messages in their order count, not whatever packet; else it is
 * turned away. To be turned away costs a client little: on UDP it repeats its packet, and comes in when there is room.
 *
 * Whoever has as many addresses as there are places (IPv6 networks of 56 bits count as one) can still keep others out
 * by going on with that many handshakes, as long as the handshake window lasts, and then with others.
 */

/**
 * OpenVPN repeats an unanswered control packet after 2 s and again 4 s later: who is there has said something new by
 * then, unless three packets in a row were lost.
 */
const stalledMs = 8000;

export interface Place {
  readonly source: string;
  /** Gives the handshake up, whose place another gets. */
  readonly evict: () => void;
  progressAt: number;
}

export type Refusal = 'full' | 'source-full';

export interface HalfOpenOptions {
  /** Asked every time, as they may change. */
  readonly limits: () => { readonly halfOpen: number; readonly halfOpenPerSource: number };
  /** Milliseconds that never go back. */
  readonly now: () => number;
}

export class HalfOpenPlaces {
  readonly #options: HalfOpenOptions;
  /** The one that has stood still longest first. */
  readonly #places = new Set<Place>();
  readonly #perSource = new Map<string, number>();

  constructor(options: HalfOpenOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#places.size;
  }

  /** A place for a handshake with this address, or why there is none. */
  take(address: string, evict: () => void): Place | Refusal {
    const { halfOpen, halfOpenPerSource } = this.#options.limits();
    const source = sourceNetwork(address);
    if (this.#placesOf(source) >= halfOpenPerSource) {
      return 'source-full';
    }
    const progressAt = this.#options.now();
    if (this.#places.size >= halfOpen) {
      const victim = this.#victimFor(source, progressAt);
      if (victim === undefined) {
        return 'full';
      }
      this.release(victim);
      victim.evict();
    }
    const place = { source, evict, progressAt };
    this.#places.add(place);
    this.#perSource.set(source, this.#placesOf(source) + 1);
    return place;
  }

  /** The client has said something new: the handshake goes on. */
  progressed(place: Place): void {
    if (this.#places.delete(place)) {
      place.progressAt = this.#options.now();
      this.#places.add(place);
    }
  }

  /** The handshake is over, in whatever way; once more does nothing. */
  release(place: Place): void {
    if (!this.#places.delete(place)) {
      return;
    }
    const left = this.#placesOf(place.source) - 1;
    if (left > 0) {
      this.#perSource.set(place.source, left);
    } else {
      this.#perSource.delete(place.source);
    }
  }

  #victimFor(newcomer: string, now: number): Place | undefined {
    const most = [...this.#perSource.values()].reduce((max, count) => Math.max(max, count), 0);
    const unfair = most > this.#placesOf(newcomer) + 1;
    for (const place of this.#places) {
      if (this.#placesOf(place.source) === most) {
        return unfair || now - place.progressAt >= stalledMs ? place : undefined;
      }
    }
    return undefined;
  }

  #placesOf(source: string): number {
    return this.#perSource.get(source) ?? 0;
  }
}
