/** Runs tasks of the same key one after the other, in the order they came, and of different keys side by side. */
export class KeyedMutex {
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Resolves or rejects as the task does; a failed task does not hold up the next one of its key. */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const mine = before.then(task, task);
    this.#tails.set(key, mine);
    try {
      return await mine;
    } finally {
      // Only the last of a key removes it: the map holds no more keys than there are tasks.
      if (this.#tails.get(key) === mine) {
        this.#tails.delete(key);
      }
    }
  }

  /** Number of keys with a task running or waiting. */
  get size(): number {
    return this.#tails.size;
  }
}
