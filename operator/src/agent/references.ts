import { formatRef, type ObjectRef } from '../api/types.ts';

/** Which object refers to which, found from the one that is referred to. Each object refers to one at most. */
export class References {
  readonly #users = new Map<string, Map<string, ObjectRef>>();
  readonly #used = new Map<string, string>();

  /** Says what an object refers to now; what it referred to before is forgotten. */
  set(by: ObjectRef, used: ObjectRef): void {
    this.delete(by);
    const name = formatRef(used);
    let users = this.#users.get(name);
    if (users === undefined) this.#users.set(name, (users = new Map<string, ObjectRef>()));
    users.set(formatRef(by), by);
    this.#used.set(formatRef(by), name);
  }

  /** Forgets an object that refers to others. */
  delete(by: ObjectRef): void {
    const name = this.#used.get(formatRef(by));
    if (name === undefined) return;
    this.#used.delete(formatRef(by));
    const users = this.#users.get(name);
    users?.delete(formatRef(by));
    if (users?.size === 0) this.#users.delete(name);
  }

  /** The objects that refer to this one. */
  of(used: ObjectRef): ObjectRef[] {
    return [...(this.#users.get(formatRef(used))?.values() ?? [])];
  }
}
