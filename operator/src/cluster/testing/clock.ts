import type { Clock } from '../clock.ts';

/** A clock that stands still until a test moves it. */
export class FakeClock implements Clock {
  #elapsed = 0;
  #epoch = 1_000_000;
  readonly #timers = new Set<{ at: number; call: () => void }>();

  now(): number {
    return this.#epoch + this.#elapsed;
  }

  monotonic(): number {
    return this.#elapsed;
  }

  /** Somebody sets the time of day, by this much. Timers do not care. */
  set(ms: number): void {
    this.#epoch += ms;
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#elapsed + ms, call };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  /** How long until the first timer; undefined when there is none. */
  get pending(): number | undefined {
    const first = Math.min(...[...this.#timers].map(({ at }) => at));
    return Number.isFinite(first) ? first - this.#elapsed : undefined;
  }

  /** Moves on and calls what is due, in order. */
  advance(ms: number): void {
    const end = this.#elapsed + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      const [next] = due;
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#elapsed = Math.max(this.#elapsed, next.at);
      next.call();
    }
    this.#elapsed = end;
  }
}

/** Waits, in real time, until something holds; fails after 30 s. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within 30 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Lets some real time pass, to see that something does not happen. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
