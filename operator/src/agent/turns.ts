import { setImmediate as nextTurn } from 'node:timers/promises';

/**
 * Runs work that blocks, one piece after the other and each in a turn of the event loop of its own. The kernel waits for
 * grace periods when it takes a link away (net/core/dev.c, synchronize_net), so fifty pods that end at once would
 * hold up everything else for seconds.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Resolves or rejects as the work does; what fails does not hold up what comes after it. */
  run<T>(work: () => T): Promise<T> {
    const mine = this.#last.then(() => nextTurn()).then(work);
    this.#last = mine.catch(() => undefined);
    return mine;
  }
}
