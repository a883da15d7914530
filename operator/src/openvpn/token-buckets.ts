/** So many at once, and so many more a second. */
export interface Rate {
  readonly burst: number;
  /** More than 0. */
  readonly perSecond: number;
}

/**
 * Token buckets that are full at first, each kept as the time at which it will be full again (the "generic cell rate
 * algorithm" of ITU-T I.371): a number per bucket, whatever the rate, which may change from call to call.
 */
export class TokenBuckets {
  readonly #fullAt: Float64Array;
  readonly #now: () => number;

  /** @param now milliseconds; when they go back by more than a bucket takes to fill, the bucket is full */
  constructor(count: number, now: () => number) {
    this.#fullAt = new Float64Array(count);
    this.#now = now;
  }

  /** Whether there is a token in this bucket. */
  has(bucket: number, rate: Rate): boolean {
    // A tenth of a token less than exact, against what adding up loses.
    return this.#missing(bucket, rate) < (rate.burst - 0.9) * millisecondsPerToken(rate);
  }

  take(bucket: number, rate: Rate): void {
    this.#fullAt[bucket] = this.#now() + this.#missing(bucket, rate) + millisecondsPerToken(rate);
  }

  /** Puts a token back; a full bucket takes none. */
  giveBack(bucket: number, rate: Rate): void {
    this.#fullAt[bucket] = this.#now() + Math.max(0, this.#missing(bucket, rate) - millisecondsPerToken(rate));
  }

  /** In milliseconds until the bucket is full. */
  #missing(bucket: number, rate: Rate): number {
    const missing = (this.#fullAt[bucket] ?? 0) - this.#now();
    return missing < 0 || missing > (rate.burst + 1) * millisecondsPerToken(rate) ? 0 : missing;
  }
}

function millisecondsPerToken({ perSecond }: Rate): number {
  return 1000 / perSecond;
}
