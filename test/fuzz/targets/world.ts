import type { Scheduler } from '../../../operator/src/openvpn/session/scheduler.ts';
import { World as TestWorld } from '../../../operator/src/openvpn/session/world.fixture.ts';

/** The world of the unit tests, with a scheduler for each side. */
export class World extends TestWorld {
  /** One side's view; counts its timers. */
  scheduler(): Scheduler & { readonly timers: number } {
    const own = new Set<object>();
    return {
      get timers() {
        return own.size;
      },
      now: () => this.now(),
      after: (milliseconds, task) => {
        const timer = {};
        own.add(timer);
        const cancel = this.after(milliseconds, () => {
          own.delete(timer);
          task();
        });
        return () => {
          own.delete(timer);
          cancel();
        };
      },
      soon: (task) => this.soon(task),
    };
  }
}
