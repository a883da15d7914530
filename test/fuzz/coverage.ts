import { Session, type Profiler } from 'node:inspector';

/**
 * Which places of our sources have run, by V8's precise coverage. One look costs some hundred microseconds, too much
 * for every input: the fuzzer looks once a batch, and runs a batch with something new in it again, one by one.
 */
export class Coverage {
  readonly #session = new Session();
  /** For each source a byte per character. */
  readonly #seen = new Map<string, Uint8Array>();
  #places = 0;

  start(): void {
    this.#session.connect();
    this.#session.post('Profiler.enable');
    this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  }

  stop(): void {
    this.#session.disconnect();
  }

  /** Characters of source that have run since the start. */
  get places(): number {
    return this.#places;
  }

  /** Whether something ran since the last look that never did before. Remembers it, unless told not to. */
  look(remember: boolean): boolean {
    let found = false;
    for (const script of this.#take()) {
      const blocks = script.functions.flatMap(({ ranges }) => ranges);
      const length = Math.max(...blocks.map(({ endOffset }) => endOffset));
      const now = new Uint8Array(length);
      // Ranges come from outer to inner, and the inner ones say it more exactly.
      for (const { startOffset, endOffset, count } of blocks) {
        now.fill(count > 0 ? 1 : 0, startOffset, endOffset);
      }
      const before = this.#seen.get(script.url) ?? new Uint8Array(0);
      const all = before.length >= length ? before : Buffer.concat([before], length);
      let fresh = 0;
      for (let at = 0; at < length; at++) {
        if (now[at] === 1 && all[at] !== 1) {
          fresh += 1;
          if (remember) {
            all[at] = 1;
          }
        }
      }
      found ||= fresh > 0;
      if (remember) {
        this.#places += fresh;
        this.#seen.set(script.url, all);
      }
    }
    return found;
  }

  #take(): Profiler.ScriptCoverage[] {
    let result: Profiler.ScriptCoverage[] = [];
    this.#session.post('Profiler.takePreciseCoverage', (_error, coverage) => (result = coverage.result));
    return result.filter(({ url, functions }) => url.includes('/operator/src/') && functions.length > 0);
  }
}
