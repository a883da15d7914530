import { createHmac } from 'node:crypto';
import { type Rate, TokenBuckets } from '../token-buckets.ts';
import { sourceNetwork } from './path.ts';

/**
 * How many handshakes may begin per time, from one source and in all (openvpn(8), "--connect-freq"). Each has us sign
 * and make a TLS session, and ends at once when its client sends something bad: so the places for handshakes on their
 * way do not limit how many there are a second.
 *
 * Sources share a table of fixed size, by a keyed hash, so that who has many addresses neither makes it grow nor
 * chooses whom to share a bucket with. Each source has two buckets, and may begin if one of them has a token: to be
 * kept out by others it would have to share both with sources that are at their limit.
 */

/** For 200 clients behind one address that come at once, and again soon. */
export const beginsPerSource: Rate = { burst: 256, perSecond: 10 };
/** For all clients of a gateway that come at once, such as after its restart; then about what one core can do. */
export const beginsInAll: Rate = { burst: 2048, perSecond: 200 };

const tableSize = 4096;

export type BeginRefusal = 'rate' | 'source-rate';

export interface BeginLimitOptions {
  /** Asked every time, as they may change. */
  readonly limits: () => { readonly beginsPerSource?: Rate | undefined; readonly begins?: Rate | undefined };
  /** Milliseconds that never go back. */
  readonly now: () => number;
  readonly random: (bytes: number) => Buffer;
}

export class BeginLimit {
  readonly #options: BeginLimitOptions;
  readonly #secret: Buffer;
  /** The first buckets of all sources, and then the second ones. */
  readonly #sources: TokenBuckets;
  readonly #all: TokenBuckets;

  constructor(options: BeginLimitOptions) {
    this.#options = options;
    this.#secret = options.random(32);
    this.#sources = new TokenBuckets(2 * tableSize, options.now);
    this.#all = new TokenBuckets(1, options.now);
  }

  /** Why a handshake with this address may not begin now; counts none. */
  refusal(address: string): BeginRefusal | undefined {
    const { perSource, inAll } = this.#rates;
    if (!this.#bucketsOf(address).some((bucket) => this.#sources.has(bucket, perSource))) {
      return 'source-rate';
    }
    return this.#all.has(0, inAll) ? undefined : 'rate';
  }

  /** Counts one that begins. */
  count(address: string): void {
    const { perSource, inAll } = this.#rates;
    for (const bucket of this.#bucketsOf(address)) {
      // An empty one is others' doing.
      if (this.#sources.has(bucket, perSource)) {
        this.#sources.take(bucket, perSource);
      }
    }
    this.#all.take(0, inAll);
  }

  get #rates(): { readonly perSource: Rate; readonly inAll: Rate } {
    const limits = this.#options.limits();
    return { perSource: limits.beginsPerSource ?? beginsPerSource, inAll: limits.begins ?? beginsInAll };
  }

  #bucketsOf(address: string): readonly [number, number] {
    const hash = createHmac('sha256', this.#secret).update(sourceNetwork(address)).digest();
    return [hash.readUInt32BE(0) % tableSize, tableSize + (hash.readUInt32BE(4) % tableSize)];
  }
}
