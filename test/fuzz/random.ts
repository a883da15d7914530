/** A seeded generator (mulberry32): the same seed gives the same inputs, on every machine. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 .. 2³²-1 */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }

  /** 0 .. limit-1; 0 when the limit is 0. */
  below(limit: number): number {
    return limit <= 1 ? 0 : this.next() % limit;
  }

  /** Small numbers far more often than large ones. */
  small(limit: number): number {
    return this.below(this.below(this.below(limit + 1) + 1) + 1);
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) {
      throw new RangeError('nothing to pick from');
    }
    return item;
  }

  bytes(count: number): Buffer {
    const bytes = Buffer.allocUnsafe(count);
    for (let i = 0; i < count; i++) {
      bytes[i] = this.next();
    }
    return bytes;
  }
}

/** A seed of its own for every name, so that targets do not depend on which others run. */
export function seedFor(seed: number, name: string): number {
  // FNV-1a
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(`${seed}/${name}`)) {
    hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return hash >>> 0;
}
