import type { SetChange, SetElements } from '../../kernel/nftables/table.ts';
import type { Memberships } from './plan-access.ts';

/**
 * Which addresses are in which sets, and for whom. A change of one peer costs as much as it has addresses, whatever the
 * number of peers.
 */
export class AccessMembers {
  readonly #byPeer = new Map<string, Memberships>();
  /** Sets, their addresses, and how many peers have each: it may go over from one to another in either order. */
  readonly #sets = new Map<string, Map<string, number>>();
  /** What was set since the last call of {@link takeTouched}. */
  #touched = new Map<string, Set<string>>();

  /** What each set holds. */
  get elements(): SetElements {
    return new Map([...this.#sets].map(([set, addresses]) => [set, [...addresses.keys()]]));
  }

  /** Takes all peers anew. */
  replace(peers: ReadonlyMap<string, Memberships>): void {
    this.#byPeer.clear();
    this.#sets.clear();
    for (const [name, memberships] of peers) this.set(name, memberships);
    this.#touched.clear();
  }

  /** Takes what one peer has now. */
  set(name: string, memberships: Memberships): void {
    this.#count(this.#byPeer.get(name), -1);
    this.#count(memberships, 1);
    if (memberships.size === 0) this.#byPeer.delete(name);
    else this.#byPeer.set(name, memberships);
  }

  /** How the sets differ from what they were at the last call, where they do. */
  takeTouched(): SetChange[] {
    const touched = this.#touched;
    this.#touched = new Map();
    return [...touched].map(([set, addresses]) => {
      const present = this.#sets.get(set);
      const isPresent = (address: string): boolean => present?.has(address) === true;
      return {
        set,
        add: [...addresses].filter(isPresent),
        remove: [...addresses].filter((address) => !isPresent(address)),
      };
    });
  }

  #count(memberships: Memberships | undefined, by: 1 | -1): void {
    for (const [set, addresses] of memberships ?? []) {
      const counts = this.#sets.get(set) ?? new Map<string, number>();
      this.#sets.set(set, counts);
      const touched = this.#touched.get(set) ?? new Set<string>();
      this.#touched.set(set, touched);
      for (const address of addresses) {
        const count = (counts.get(address) ?? 0) + by;
        if (count > 0) counts.set(address, count);
        else counts.delete(address);
        const crossed = by === 1 ? count === 1 : count === 0;
        if (!crossed) continue;
        // Gone and back again, or the other way round: nothing has changed.
        if (!touched.delete(address)) touched.add(address);
      }
      if (touched.size === 0) this.#touched.delete(set);
    }
  }
}

/** What to change so that sets hold what they should. */
export function setChanges(wanted: SetElements, present: SetElements): SetChange[] {
  return [...present].flatMap(([set, addresses]) => {
    const [has, should] = [new Set(addresses), new Set(wanted.get(set) ?? [])];
    const change = {
      set,
      add: [...should].filter((address) => !has.has(address)),
      remove: addresses.filter((address) => !should.has(address)),
    };
    return change.add.length + change.remove.length === 0 ? [] : [change];
  });
}
