import { formatRef, type ObjectRef } from '../../api/types.ts';
import type { DesiredNeighbour } from './plan-mesh.ts';

/** The other nodes of a mesh as they are planned, and how many of them are connected. */
export class Neighbours {
  #all: ReadonlyMap<string, DesiredNeighbour> = new Map();
  /** Undefined when it has to be counted again. */
  #connected: number | undefined;

  /** Takes the plan; answers whom it had and has no more. */
  replace(planned: readonly DesiredNeighbour[]): ObjectRef[] {
    const next = new Map(planned.map((neighbour) => [formatRef(neighbour.ref), neighbour]));
    const gone = [...this.#all].filter(([name]) => !next.has(name)).map(([, { ref }]) => ref);
    this.#all = next;
    this.#connected = undefined;
    return gone;
  }

  /** By the names of their references. */
  get all(): ReadonlyMap<string, DesiredNeighbour> {
    return this.#all;
  }

  /** One of them has come or gone. */
  changed(): void {
    this.#connected = undefined;
  }

  /** How many are connected. Counted when one has come or gone, and not for whatever else happens on the node. */
  count(isConnected: (ref: ObjectRef) => boolean): number {
    return (this.#connected ??= [...this.#all.values()].filter(({ ref }) => isConnected(ref)).length);
  }
}
