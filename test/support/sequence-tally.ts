/** What became of packets that were numbered 0, 1, 2 … when they were sent. */
export interface Tally {
  readonly received: number;
  /** Came once more. */
  readonly duplicates: number;
  /** Came after one with a greater number. */
  readonly late: number;
}

/** Keeps account of numbered packets as they come. */
export class SequenceTally {
  #seen = new Uint8Array(1 << 16);
  #greatest = -1;
  #received = 0;
  #duplicates = 0;
  #late = 0;

  take(number: number): void {
    while (number >= this.#seen.length) {
      const larger = new Uint8Array(2 * this.#seen.length);
      larger.set(this.#seen);
      this.#seen = larger;
    }
    if (this.#seen[number] === 1) {
      this.#duplicates += 1;
      return;
    }
    this.#seen[number] = 1;
    this.#received += 1;
    if (number < this.#greatest) this.#late += 1;
    else this.#greatest = number;
  }

  get tally(): Tally {
    return { received: this.#received, duplicates: this.#duplicates, late: this.#late };
  }

  /** Those of the first so many that have not come: from and to, both included. */
  missing(sent: number): [number, number][] {
    const ranges: [number, number][] = [];
    for (let number = 0; number < sent; number++) {
      if (this.#seen[number] === 1) continue;
      const last = ranges.at(-1);
      if (last?.[1] === number - 1) last[1] = number;
      else ranges.push([number, number]);
    }
    return ranges;
  }
}
