import type { Clock } from './wrapper.ts';

/**
 * How many first packets are answered per time, in all (openvpn(8), "--connect-freq-initial", 100 per 10 s there).
 * Source addresses can be forged, so without a limit anyone could have us send packets to others. An answer that was
 * followed up by its receiver was none of that kind and is given back.
 */
export class ReplyLimit {
  readonly #clock: Clock;
  readonly #most: () => number;
  readonly #periodMs: number;
  #periodStart = -Infinity;
  #used = 0;
  #refused = 0;

  /** @param most a function when it may change */
  constructor(
    clock: Clock,
    { most = 100, periodMs = 10_000 }: { most?: number | (() => number); periodMs?: number } = {},
  ) {
    this.#clock = clock;
    this.#most = typeof most === 'number' ? () => most : most;
    this.#periodMs = periodMs;
  }

  /** First packets that went without an answer since the start. */
  get refused(): number {
    return this.#refused;
  }

  /** Whether there is an answer left; takes none. Counts a refusal. */
  check(): boolean {
    const now = this.#clock();
    // A clock set back begins a new period, too.
    if (now - this.#periodStart >= this.#periodMs || now < this.#periodStart) {
      this.#periodStart = now;
      this.#used = 0;
    }
    if (this.#used < this.#most()) {
      return true;
    }
    this.#refused += 1;
    return false;
  }

  take(): void {
    this.#used += 1;
  }

  giveBack(): void {
    this.#used = Math.max(0, this.#used - 1);
  }
}
