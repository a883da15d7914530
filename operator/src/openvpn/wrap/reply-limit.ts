import { type Rate, TokenBuckets } from '../token-buckets.ts';
import type { Clock } from './wrapper.ts';

/**
 * How many first packets are answered per time, in all (openvpn(8), "--connect-freq-initial", 100 per 10 s there).
 * Source addresses can be forged, so without a limit anyone could have us send packets to others. An answer by which
 * a session began was none of that kind and is given back, once: so the answers that nobody followed up are never
 * more than the limit, whatever else comes.
 */
export class ReplyLimit {
  readonly #bucket: TokenBuckets;
  readonly #most: () => number;
  readonly #periodMs: number;
  #refused = 0;

  /** @param most at once, and so many more in each period; a function when it may change */
  constructor(
    clock: Clock,
    { most = 100, periodMs = 10_000 }: { most?: number | (() => number); periodMs?: number } = {},
  ) {
    this.#bucket = new TokenBuckets(1, clock);
    this.#most = typeof most === 'number' ? () => most : most;
    this.#periodMs = periodMs;
  }

  /** First packets that went without an answer since the start. */
  get refused(): number {
    return this.#refused;
  }

  /** Whether there is an answer left; takes none. Counts a refusal. */
  check(): boolean {
    const left = this.#bucket.has(0, this.#rate);
    if (!left) {
      this.#refused += 1;
    }
    return left;
  }

  take(): void {
    this.#bucket.take(0, this.#rate);
  }

  giveBack(): void {
    this.#bucket.giveBack(0, this.#rate);
  }

  get #rate(): Rate {
    const burst = this.#most();
    return { burst, perSecond: (burst * 1000) / this.#periodMs };
  }
}
