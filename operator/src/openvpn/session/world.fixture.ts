import { setImmediate as tick } from 'node:timers/promises';
import type { Scheduler } from './scheduler.ts';

/** For tests: a clock that jumps to the next timer when nothing else is left to do, and a wire without delay. */
export class World implements Scheduler {
  time = 0;
  readonly #timers = new Set<{ at: number; task: () => void }>();
  #wire: (() => void)[] = [];

  now(): number {
    return this.time;
  }

  clock = (): number => 1_700_000_000_000 + this.time;

  after(milliseconds: number, task: () => void): () => void {
    const timer = { at: this.time + milliseconds, task };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  soon(task: () => void): void {
    setImmediate(task);
  }

  carry(deliver: () => void): void {
    this.#wire.push(deliver);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Lets things happen until `done`, or until this much time has passed. */
  async run(done: () => boolean, milliseconds = 120_000): Promise<void> {
    const end = this.time + milliseconds;
    for (let quiet = 0; !done();) {
      const wire = this.#wire;
      this.#wire = [];
      wire.forEach((deliver) => deliver());
      await tick();
      quiet = wire.length > 0 || this.#wire.length > 0 ? 0 : quiet + 1;
      if (quiet > 6) {
        const next = [...this.#timers].sort((a, b) => a.at - b.at)[0];
        if (next === undefined || next.at > end) {
          this.time = end;
          return;
        }
        this.#timers.delete(next);
        this.time = Math.max(this.time, next.at);
        next.task();
        quiet = 0;
      }
    }
  }

  /** Lets everything happen that happens within this time. */
  async settle(milliseconds = 0): Promise<void> {
    await this.run(() => false, milliseconds);
  }
}
