import { formatRef, type ObjectRef } from '../api/types.ts';

/** What a pass has to do for one network: all of it, or some of its peers. */
export interface NetworkWork {
  readonly whole: boolean;
  readonly peers: readonly ObjectRef[];
}

interface Lane {
  whole: boolean;
  readonly peers: Map<string, ObjectRef>;
  /** The passes under way; undefined when nothing is left to do. */
  running: Promise<void> | undefined;
}

/**
 * The passes of networks: of one network one after the other, of different ones side by side, so that none waits for
 * another's thousands of peers. What comes in during a pass makes the next one.
 */
export class NetworkQueue {
  readonly #pass: (network: string, work: NetworkWork) => Promise<void>;
  readonly #lanes = new Map<string, Lane>();
  #stopped = false;

  /** @param pass must not reject */
  constructor(pass: (network: string, work: NetworkWork) => Promise<void>) {
    this.#pass = pass;
  }

  addWhole(network: string): void {
    this.#wake(network, (lane) => (lane.whole = true));
  }

  addPeers(network: string, refs: readonly ObjectRef[]): void {
    if (refs.length === 0) return;
    this.#wake(network, ({ peers }) => refs.forEach((ref) => peers.set(formatRef(ref), ref)));
  }

  /** Resolves when nothing is left to do for the network, or for any. */
  async settled(network?: string): Promise<void> {
    if (network !== undefined) {
      await this.#lanes.get(network)?.running;
      return;
    }
    while (this.#lanes.size > 0) await Promise.all([...this.#lanes.values()].map(async ({ running }) => running));
  }

  /** Begins no further pass. */
  stop(): void {
    this.#stopped = true;
  }

  #wake(network: string, add: (lane: Lane) => void): void {
    if (this.#stopped) return;
    let lane = this.#lanes.get(network);
    if (lane === undefined) this.#lanes.set(network, (lane = { whole: false, peers: new Map(), running: undefined }));
    add(lane);
    lane.running ??= this.#run(network, lane);
  }

  async #run(network: string, lane: Lane): Promise<void> {
    // Changes of one moment (a folder read anew, a list of the API server) make one pass.
    await Promise.resolve();
    while (!this.#stopped && (lane.whole || lane.peers.size > 0)) {
      const work = { whole: lane.whole, peers: [...lane.peers.values()] };
      lane.whole = false;
      lane.peers.clear();
      await this.#pass(network, work);
    }
    this.#lanes.delete(network);
  }
}
