export type Labels = Readonly<Record<string, string>>;

/** One figure as it stands now. */
export interface Sample {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly labels: Labels;
  readonly value: number;
}

type MutableSample = Omit<Sample, 'value'> & { value: number };

/**
 * Named counters and gauges of one process. Whoever exports them reads them all with `read`; nothing here
 * knows an export format. Label values must come from a bounded set (a kind, an operation, a result), never
 * from names that users choose.
 */
export class Counters {
  readonly #samples = new Map<string, MutableSample>();

  /** Adds to a counter; it starts at 0. */
  increment(name: string, labels: Labels = {}, by = 1): void {
    if (!(by >= 0)) throw new RangeError(`counter ${name} can only grow, not by ${by}`);
    this.#sample('counter', name, labels).value += by;
  }

  /** Sets a gauge. */
  set(name: string, labels: Labels, value: number): void {
    this.#sample('gauge', name, labels).value = value;
  }

  /** Forgets one figure, for example the gauge of something that is gone. */
  drop(name: string, labels: Labels = {}): void {
    this.#samples.delete(keyOf(name, labels));
  }

  /** The value of one figure; 0 when nobody touched it. */
  value(name: string, labels: Labels = {}): number {
    return this.#samples.get(keyOf(name, labels))?.value ?? 0;
  }

  /** All figures, sorted by name and labels. */
  read(): readonly Sample[] {
    return [...this.#samples.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sample]) => ({ ...sample }));
  }

  #sample(type: Sample['type'], name: string, labels: Labels): MutableSample {
    const key = keyOf(name, labels);
    const known = this.#samples.get(key);
    if (known !== undefined) {
      if (known.type !== type) throw new TypeError(`${name} is a ${known.type}, not a ${type}`);
      return known;
    }
    const created: MutableSample = { name, type, labels: { ...labels }, value: 0 };
    this.#samples.set(key, created);
    return created;
  }
}

function keyOf(name: string, labels: Labels): string {
  return JSON.stringify([name, ...Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))]);
}
