/** Lets so many reports a second through, and counts the others into the next one. */
export class ReportLimit {
  readonly #now: () => number;
  readonly #perSecond: number;
  #second = -Infinity;
  #told = 0;
  #leftOut = 0;
  #leftOutInAll = 0;

  constructor(now: () => number, perSecond: number) {
    this.#now = now;
    this.#perSecond = perSecond;
  }

  /** How many reports were left out since the start. */
  get leftOut(): number {
    return this.#leftOutInAll;
  }

  /** The words to report, undefined when this one is to be left out. */
  pass(reason: string): string | undefined {
    const now = this.#now();
    if (now - this.#second >= 1000) {
      this.#second = now;
      this.#told = 0;
    }
    if (this.#told >= this.#perSecond) {
      this.#leftOut += 1;
      this.#leftOutInAll += 1;
      return undefined;
    }
    this.#told += 1;
    const leftOut = this.#leftOut;
    this.#leftOut = 0;
    return leftOut === 0 ? reason : `${reason} (${leftOut} more failures before this one were not reported)`;
  }
}
