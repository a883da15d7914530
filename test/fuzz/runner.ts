import { Worker } from 'node:worker_threads';
import { currentHeaderBytes, type Finding, type FromWorker, type FuzzJob, type Progress } from './finding.ts';
import { maxBytesOf } from './loop.ts';
import type { Target } from './target.ts';

export interface RunOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly inputs: readonly Buffer[];
  readonly progress?: (progress: Progress) => void;
  /** How long one input may take before it counts as one that never ends (default 20 s). */
  readonly hangMs?: number;
  /** Memory for JavaScript objects (default 512 MiB). */
  readonly heapMegabytes?: number;
  /** The worker's program; tests bring theirs. */
  readonly program?: URL;
}

export interface Outcome extends Progress {
  readonly finding: Finding | undefined;
}

/** Runs one target in a thread of its own, and watches it. */
export async function runTarget(target: Pick<Target, 'name' | 'maxBytes'>, options: RunOptions): Promise<Outcome> {
  const {
    seed,
    seconds,
    inputs,
    hangMs = 20_000,
    heapMegabytes = 512,
    program = new URL('./worker.ts', import.meta.url),
  } = options;
  const longest = Math.max(maxBytesOf(target as Target), ...inputs.map(({ length }) => length));
  const current = new SharedArrayBuffer(currentHeaderBytes + longest);
  const job: FuzzJob = {
    target: target.name,
    seed,
    seconds,
    inputs: inputs.map((input) => new Uint8Array(input)),
    current,
  };
  const worker = new Worker(program, { workerData: job, resourceLimits: { maxOldGenerationSizeMb: heapMegabytes } });
  let latest: Progress = { runs: 0, pool: 0, places: 0 };
  let finding: Finding | undefined;
  worker.on('message', (message: FromWorker) => {
    if (message.type === 'finding') {
      const { kind, message: text, input } = message;
      finding ??= { kind, message: text, input: input === undefined ? undefined : Buffer.from(input) };
      return;
    }
    latest = message;
    options.progress?.(message);
  });
  worker.on('error', (error: Error & { code?: string }) => {
    finding ??=
      error.code === 'ERR_WORKER_OUT_OF_MEMORY'
        ? { kind: 'memory', message: `takes more than ${heapMegabytes} MiB`, input: runningInput(current) }
        : { kind: 'error', message: error.stack ?? error.message, input: runningInput(current) };
  });
  let runs = -1;
  const watch = setInterval(() => {
    const now = Atomics.load(new Int32Array(current, 0, 1), 0);
    if (now === runs && now > 0) {
      finding ??= { kind: 'hang', message: `runs for more than ${hangMs / 1000} s`, input: runningInput(current) };
      void worker.terminate();
    }
    runs = now;
  }, hangMs);
  await new Promise((resolve) => worker.once('exit', resolve));
  clearInterval(watch);
  return { ...latest, finding };
}

function runningInput(current: SharedArrayBuffer): Buffer {
  const length = Atomics.load(new Int32Array(current, 0, 2), 1);
  return Buffer.from(new Uint8Array(current, currentHeaderBytes, length));
}
