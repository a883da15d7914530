/** Where one network's numbers, or its blocks, are looked for. */
export interface Span {
  readonly first: number;
  readonly last: number;
}

/**
 * Gives out candidates of a span one after the other, from where it stopped: so that those who ask at the same time
 * get different ones, and what was given up last comes last. What is really free only the API server knows.
 */
export class FreeList {
  #span: Span = { first: 0, last: -1 };
  #next = 0;
  /** As of when everything was looked through in vain. */
  #exhausted: string | undefined;

  /**
   * The next candidate that is not known to be taken; undefined when there is none.
   *
   * @param state changes when something may have become free: until then nothing is looked through in vain twice
   */
  take(span: Span, state: string, isTaken: (candidate: number) => boolean): number | undefined {
    if (state === this.#exhausted) return undefined;
    if (span.first !== this.#span.first || span.last !== this.#span.last) {
      this.#span = span;
      this.#next = span.first;
    }
    const size = span.last - span.first + 1;
    for (let tried = 0; tried < size; tried++) {
      const candidate = this.#next;
      this.#next = candidate >= span.last ? span.first : candidate + 1;
      if (!isTaken(candidate)) return candidate;
    }
    this.#exhausted = state;
    return undefined;
  }
}
