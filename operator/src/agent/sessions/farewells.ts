import type { ServedClient } from '../../openvpn/endpoint/server-settings.ts';
import type { Scheduler } from '../../openvpn/session/scheduler.ts';

/** Time for a word that was lost to be repeated; who has not heard it then will notice by its keepalive. */
const longestMs = 3_000;

/** Clients that were told to go, and have not acknowledged it yet: what carries their farewell has to stay so long. */
export class Farewells {
  readonly #scheduler: Scheduler;
  readonly #clients = new Set<ServedClient>();
  #done: (() => void) | undefined;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /**
   * Says goodbye to some clients. Resolves when all of them have heard it, or after some seconds, or with `cancel`.
   *
   * @param say to one of them; its session may be over with it at once
   */
  async say(clients: Iterable<ServedClient>, say: (client: ServedClient) => void): Promise<void> {
    for (const client of clients) this.#clients.add(client);
    for (const client of [...this.#clients]) say(client);
    if (this.#clients.size === 0) return;
    await new Promise<void>((resolve) => {
      const cancel = this.#scheduler.after(longestMs, () => this.cancel());
      this.#done = () => {
        cancel();
        resolve();
      };
    });
  }

  /** The session of a client is over. */
  over(client: ServedClient): void {
    if (this.#clients.delete(client) && this.#clients.size === 0) this.cancel();
  }

  /** Waits no longer. */
  cancel(): void {
    this.#clients.clear();
    this.#done?.();
    this.#done = undefined;
  }
}
