/** Where progress goes: one line per step, with the seconds since the start. */
export interface Progress {
  /** Announces a step. */
  step(text: string): void;
  /** Reports inside a step that takes long. */
  detail(text: string): void;
}

/** Progress on stderr, so that stdout stays the command's own. */
export function screenProgress(prefix: string): Progress {
  const start = performance.now();
  const line = (text: string): void => {
    const seconds = Math.round((performance.now() - start) / 1000);
    process.stderr.write(`${prefix}: [${String(seconds).padStart(4)} s] ${text}\n`);
  };
  return { step: line, detail: (text) => line(`  ${text}`) };
}
