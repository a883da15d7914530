/** A source of numbers in [0, 1), as Math.random. */
export type Random = () => number;

export interface BackoffOptions {
  readonly initialMs: number;
  readonly maxMs: number;
  readonly random: Random;
}

/**
 * Delays that double up to a limit. Each is drawn from the upper half of its range: it never comes close to
 * 0, and clients that failed together (every agent of a cluster) do not come back together.
 */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** How often `next` was called since the last `reset`. */
  get failures(): number {
    return this.#failures;
  }

  /** The delay before the next attempt. `atLeastMs` is what the server asked for (Retry-After). */
  next(atLeastMs = 0): number {
    const { initialMs, maxMs, random } = this.#options;
    // 2^30 is beyond every limit in use and keeps the power finite.
    const range = Math.min(maxMs, initialMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    const delay = range * (0.5 + random() / 2);
    // What the server asks for is a floor for everybody it refused: the spread goes on top.
    return Math.max(delay, atLeastMs * (1 + random() / 4));
  }

  reset(): void {
    this.#failures = 0;
  }
}
