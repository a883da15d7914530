import { formatRef, type ObjectRef } from '../api/types.ts';

/** Which object refers to which, found from the one that is referred to. */
export class References {
  readonly #users = new Map<string, Map<string, ObjectRef>>();
  readonly #used = new Map<string, readonly string[]>();

  /** Says what an object refers to now; what it referred to before is forgotten. */
  set(by: ObjectRef, ...used: readonly ObjectRef[]): void {
    this.delete(by);
    const names = used.map(formatRef);
    for (const name of names) {
      let users = this.#users.get(name);
      if (users === undefined) this.#users.set(name, (users = new Map<string, ObjectRef>()));
      users.set(formatRef(by), by);
    }
    if (names.length > 0) this.#used.set(formatRef(by), names);
  }

  /** Forgets an object that refers to others. */
  delete(by: ObjectRef): void {
    const names = this.#used.get(formatRef(by)) ?? [];
    this.#used.delete(formatRef(by));
    for (const name of names) {
      const users = this.#users.get(name);
      users?.delete(formatRef(by));
      if (users?.size === 0) this.#users.delete(name);
    }
  }

  /** The objects that refer to this one. */
  of(used: ObjectRef): ObjectRef[] {
    return [...(this.#users.get(formatRef(used))?.values() ?? [])];
  }
}
