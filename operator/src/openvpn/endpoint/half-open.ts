import { sourceNetwork } from './path.ts';

/**
 * The places for handshakes on their way. Every one costs memory and, sooner or later, work for TLS, and its client
 * has shown no more than that it receives packets at its address.
 *
 * When all places are taken, a new handshake gets that of the one that has been silent longest, if that was long
 * enough for a client that is there to repeat itself twice; else it is turned away, and no handshake that goes on
 * is ever cut. So whoever opens handshakes and leaves them holds places for seconds and not for the whole handshake
 * window, and cannot push honest clients out by opening more. To be turned away costs a client little: on UDP it
 * repeats its packet, and comes in when there is room.
 */

/** OpenVPN repeats an unanswered control packet after 2 s and again after 4 s. */
const stalledMs = 8000;

export interface Place {
  readonly source: string;
  /** Gives the handshake up, whose place another gets. */
  readonly evict: () => void;
  heardAt: number;
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
  /** The one silent longest first, give or take a second. */
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
    if ((this.#perSource.get(source) ?? 0) >= halfOpenPerSource) {
      return 'source-full';
    }
    const heardAt = this.#options.now();
    if (this.#places.size >= halfOpen) {
      const [stalled] = this.#places;
      if (stalled === undefined || heardAt - stalled.heardAt < stalledMs) {
        return 'full';
      }
      this.release(stalled);
      stalled.evict();
    }
    const place = { source, evict, heardAt };
    this.#places.add(place);
    this.#perSource.set(source, (this.#perSource.get(source) ?? 0) + 1);
    return place;
  }

  /** The handshake goes on. */
  heard(place: Place): void {
    const now = this.#options.now();
    // Not for each packet: the order needs to be no finer.
    if (now - place.heardAt >= 1000 && this.#places.delete(place)) {
      place.heardAt = now;
      this.#places.add(place);
    }
  }

  /** The handshake is over, in whatever way; once more does nothing. */
  release(place: Place): void {
    if (!this.#places.delete(place)) {
      return;
    }
    const left = (this.#perSource.get(place.source) ?? 1) - 1;
    if (left > 0) {
      this.#perSource.set(place.source, left);
    } else {
      this.#perSource.delete(place.source);
    }
  }
}
