import type { Scheduler } from '../session/scheduler.ts';

/**
 * The addresses of remotes that are named: an answer is used until its time to live is over, for all who ask. While no
 * answer is to be had, the last one counts (RFC 8767): a tunnel must not wait for a name server that is perhaps behind
 * it, and whether the address is still right, the remote's certificate shows.
 */

/** What a name resolves to. */
export interface NameAnswer {
  /** In the order to try them. */
  readonly addresses: readonly string[];
  /** Undefined when nobody says: then it counts for this one time. */
  readonly ttlSeconds: number | undefined;
}

/** There is an answer: that nothing has this name. */
export class NameGone extends Error {}

interface Known {
  readonly addresses: readonly string[];
  readonly freshUntil: number;
  readonly usableUntil: number;
}

/** RFC 8767, section 5: one to three days. */
const usableMs = 86_400_000;
/** The same: how long to leave a resolver alone that did not answer, */
const pauseMs = 30_000;
/** and how long to wait for it when there is a last answer. */
const patienceMs = 1_800;
/** More names than a node dials. Those that were asked for longest ago go first. */
const maxNames = 4_096;

export class RemoteNames {
  readonly #source: (host: string) => Promise<NameAnswer>;
  readonly #scheduler: Pick<Scheduler, 'now' | 'after'>;
  readonly #known = new Map<string, Known>();
  readonly #asking = new Map<string, Promise<readonly string[]>>();

  /**
   * @param source rejects with {@link NameGone} when nothing has the name, with anything else when there is no answer
   */
  constructor(source: (host: string) => Promise<NameAnswer>, scheduler: Pick<Scheduler, 'now' | 'after'>) {
    this.#source = source;
    this.#scheduler = scheduler;
  }

  /** All addresses of a name, in the order to try them. Rejects with what the source says. */
  resolve(host: string): Promise<readonly string[]> {
    const known = this.#known.get(host);
    const now = this.#scheduler.now();
    if (known !== undefined && now < known.freshUntil) return Promise.resolve(known.addresses);
    const asking = this.#asking.get(host) ?? this.#ask(host).finally(() => this.#asking.delete(host));
    this.#asking.set(host, asking);
    return known === undefined || now >= known.usableUntil ? asking : this.#orLast(asking, known);
  }

  /** The question goes on: who comes later has its answer. */
  async #orLast(asking: Promise<readonly string[]>, { addresses }: Known): Promise<readonly string[]> {
    const { promise: patience, resolve } = Promise.withResolvers<readonly string[]>();
    const cancel = this.#scheduler.after(patienceMs, () => resolve(addresses));
    try {
      return await Promise.race([asking, patience]);
    } finally {
      cancel();
    }
  }

  async #ask(host: string): Promise<readonly string[]> {
    try {
      const { addresses, ttlSeconds = 0 } = await this.#source(host);
      const now = this.#scheduler.now();
      this.#keep(host, { addresses, freshUntil: now + ttlSeconds * 1000, usableUntil: now + usableMs });
      return addresses;
    } catch (error) {
      const known = this.#known.get(host);
      const now = this.#scheduler.now();
      if (known === undefined || error instanceof NameGone || now >= known.usableUntil) {
        this.#known.delete(host);
        throw error;
      }
      this.#keep(host, { ...known, freshUntil: now + pauseMs });
      return known.addresses;
    }
  }

  #keep(host: string, known: Known): void {
    this.#known.delete(host);
    this.#known.set(host, known);
    const [oldest] = this.#known.keys();
    if (this.#known.size > maxNames && oldest !== undefined) this.#known.delete(oldest);
  }
}
