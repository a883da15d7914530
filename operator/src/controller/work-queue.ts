import { Backoff } from '../cluster/backoff.ts';
import type { Random } from '../cluster/backoff.ts';
import type { Clock } from '../cluster/clock.ts';

export interface WorkQueueOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** How many keys are worked on at once. */
  readonly workers: number;
  /**
   * Works on one key. Answers after how many milliseconds to look at it again, if at all; throws to have it tried
   * again with back-off.
   */
  readonly work: (key: string) => Promise<number | undefined>;
  /** Told of every failure, with the delay before the next try. */
  readonly onError: (key: string, error: unknown, delayMs: number) => void;
}

const INITIAL_MS = 200;
const MAX_MS = 60_000;

/**
 * A queue of keys to look at. A key is in it at most once, is never worked on twice at a time, and when it is added
 * while it is worked on, it is looked at once more afterwards: so a worker that reads the present state when it
 * begins misses nothing.
 */
export class WorkQueue {
  readonly #options: WorkQueueOptions;
  /** In the order in which they asked. */
  readonly #ready = new Set<string>();
  readonly #later = new Map<string, { readonly at: number; readonly cancel: () => void }>();
  readonly #working = new Map<string, Promise<void>>();
  readonly #backoffs = new Map<string, Backoff>();
  #running = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  /** Keys that wait for a worker now. */
  get depth(): number {
    return this.#ready.size;
  }

  /** Whether nothing is worked on or waits for a worker. Keys that are due later do not count. */
  get idle(): boolean {
    return this.#ready.size === 0 && this.#working.size === 0;
  }

  /** Asks for a key to be looked at: now, or after that many milliseconds at the latest. */
  add(key: string, afterMs = 0): void {
    if (afterMs <= 0) {
      this.#forgetLater(key);
      this.#ready.add(key);
      this.#pump();
      return;
    }
    if (this.#ready.has(key)) return;
    const at = this.#options.clock.now() + afterMs;
    const planned = this.#later.get(key);
    if (planned !== undefined && planned.at <= at) return;
    planned?.cancel();
    const cancel = this.#options.clock.after(afterMs, () => {
      this.#later.delete(key);
      this.add(key);
    });
    this.#later.set(key, { at, cancel });
  }

  start(): void {
    this.#running = true;
    this.#pump();
  }

  /** Takes no more keys; resolves when those in work are done. */
  async stop(): Promise<void> {
    this.#running = false;
    for (const key of [...this.#later.keys()]) this.#forgetLater(key);
    this.#ready.clear();
    await Promise.all(this.#working.values());
  }

  #forgetLater(key: string): void {
    this.#later.get(key)?.cancel();
    this.#later.delete(key);
  }

  #pump(): void {
    if (!this.#running) return;
    for (const key of this.#ready) {
      if (this.#working.size >= this.#options.workers) return;
      if (this.#working.has(key)) continue;
      this.#ready.delete(key);
      const working = this.#work(key).finally(() => {
        this.#working.delete(key);
        this.#pump();
      });
      this.#working.set(key, working);
    }
  }

  /** Never rejects. */
  async #work(key: string): Promise<void> {
    const { work, onError, random } = this.#options;
    try {
      const again = await work(key);
      this.#backoffs.delete(key);
      if (again !== undefined && this.#running) this.add(key, Math.max(1, again));
    } catch (error) {
      const backoff = this.#backoffs.get(key) ?? new Backoff({ initialMs: INITIAL_MS, maxMs: MAX_MS, random });
      this.#backoffs.set(key, backoff);
      const delayMs = backoff.next();
      onError(key, error, delayMs);
      if (this.#running) this.add(key, delayMs);
    }
  }
}
