import { setImmediate as tick } from 'node:timers/promises';
import type { Scheduler } from '../../../operator/src/openvpn/session/scheduler.ts';

/** A clock that jumps to the next timer when nothing else is left to do, and a wire without delay. */
export class World {
  time = 0;
  #timers: { readonly at: number; readonly task: () => void }[] = [];
  #wire: (() => void)[] = [];

  /** One side's view; counts its timers. */
  scheduler(): Scheduler & { readonly timers: number } {
    const own = new Set<object>();
    return {
      get timers() {
        return own.size;
      },
      now: () => this.time,
      after: (milliseconds, task) => {
        const timer = {
          at: this.time + milliseconds,
          task: () => {
            own.delete(timer);
            task();
          },
        };
        own.add(timer);
        this.#timers.push(timer);
        return () => {
          own.delete(timer);
          this.#timers = this.#timers.filter((other) => other !== timer);
        };
      },
      soon: (task) => void setImmediate(task),
    };
  }

  carry(deliver: () => void): void {
    this.#wire.push(deliver);
  }

  /** Lets things happen until `done`, or until this much time has passed. */
  async run(done: () => boolean, milliseconds: number): Promise<void> {
    const end = this.time + milliseconds;
    for (let quiet = 0; !done();) {
      const wire = this.#wire;
      this.#wire = [];
      wire.forEach((deliver) => deliver());
      await tick();
      quiet = wire.length > 0 || this.#wire.length > 0 ? 0 : quiet + 1;
      if (quiet <= 6) {
        continue;
      }
      const next = this.#timers.toSorted((a, b) => a.at - b.at)[0];
      if (next === undefined || next.at > end) {
        this.time = end;
        return;
      }
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.time = Math.max(this.time, next.at);
      next.task();
      quiet = 0;
    }
  }
}
