import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Coverage } from './coverage.ts';
import type { Finding, Progress } from './finding.ts';
import { mutate, type MutateOptions } from './mutate.ts';
import { Random, seedFor } from './random.ts';
import type { Target } from './target.ts';

/**
 * Feeds one target: first with its corpus, then with mutants of it until the time is over. Mutants that reach code that
 * none before did join the inputs that further ones are made from.
 */

const defaultMaxBytes = 5000;
const defaultMaxMilliseconds = 50;
const defaultMaxHeldBytes = 1024 * 1024;
/** The program's own growth: compiled code, coverage, this loop. */
const maxGrowthBytes = 48 * 1024 * 1024;
const maxPool = 4000;
const batchInputs = 200;
const batchMs = 150;
const memoryEveryMs = 5000;
/** By then the compiler has seen most of the code. */
const warmUpMs = 2000;
const heldInputs = 2000;

export interface LoopOptions {
  readonly seed: number;
  /** 0: only the corpus. */
  readonly seconds: number;
  readonly corpus: readonly Buffer[];
  /** Called before every input. */
  readonly running: (input: Buffer) => void;
  readonly progress: (progress: Progress) => void;
}

export function maxBytesOf(target: Target): number {
  return target.maxBytes ?? defaultMaxBytes;
}

export class Loop {
  readonly #target: Target;
  readonly #options: LoopOptions;
  readonly #random: Random;
  readonly #mutations: MutateOptions;
  readonly #pool: Buffer[] = [];
  readonly #coverage = new Coverage();
  #runs = 0;
  /** Thrown outside of a run: from a timer, or a promise that nobody waits for. */
  #stray: { readonly error: unknown } | undefined;

  constructor(target: Target, options: LoopOptions) {
    this.#target = target;
    this.#options = options;
    this.#random = new Random(seedFor(options.seed, target.name));
    this.#mutations = {
      maxBytes: maxBytesOf(target),
      words: (target.words ?? []).map((word) => Buffer.from(word, 'latin1')),
    };
  }

  /** For errors that nothing catches while this loop runs. */
  stray(error: unknown): void {
    this.#stray ??= { error };
  }

  get progress(): Progress {
    return { runs: this.#runs, pool: this.#pool.length, places: this.#coverage.places };
  }

  /** The first finding, or undefined when there was none in the given time. */
  async run(): Promise<Finding | undefined> {
    const { corpus, seconds, progress } = this.#options;
    this.#coverage.start();
    try {
      // Now and not later: compiling and certificates are no input's fault.
      await this.#judge(Buffer.alloc(0), true);
      const finding = (await this.#each(corpus)) ?? (await this.#held(corpus));
      if (finding !== undefined || seconds === 0) {
        return finding;
      }
      this.#coverage.look(true);
      this.#pool.push(...corpus.map((input) => input.subarray(0, this.#mutations.maxBytes)));
      return await this.#fuzz(performance.now() + seconds * 1000);
    } finally {
      progress(this.progress);
      this.#coverage.stop();
    }
  }

  async #fuzz(end: number): Promise<Finding | undefined> {
    let baseline: number | undefined;
    let memoryAt = performance.now() + warmUpMs;
    while (performance.now() < end) {
      const { batch, finding } = await this.#batch(end);
      const found = finding ?? (this.#coverage.look(false) ? await this.#keepNew(batch) : undefined);
      if (found !== undefined) {
        return found;
      }
      if (performance.now() >= memoryAt) {
        const used = usedBytes();
        baseline ??= used;
        if (used - baseline > maxGrowthBytes) {
          return memory(`${megabytes(used - baseline)} more are in use than at the start`);
        }
        const held = await this.#held(batch);
        if (held !== undefined) {
          return held;
        }
        memoryAt = performance.now() + memoryEveryMs;
        this.#options.progress(this.progress);
      }
    }
    return undefined;
  }

  async #batch(end: number): Promise<{ batch: Buffer[]; finding: Finding | undefined }> {
    const batch: Buffer[] = [];
    const stopAt = Math.min(end, performance.now() + batchMs);
    while (batch.length < batchInputs && (batch.length === 0 || performance.now() < stopAt)) {
      const input = mutate(this.#random, this.#pool, this.#mutations);
      batch.push(input);
      const finding = await this.#judge(input);
      if (finding !== undefined) {
        return { batch, finding };
      }
    }
    return { batch, finding: undefined };
  }

  /** Runs the inputs of a batch again and keeps those that brought something new. */
  async #keepNew(batch: readonly Buffer[]): Promise<Finding | undefined> {
    // What the batch did stays unseen until now: looking has reset V8's counters, not our memory.
    for (const input of batch) {
      const finding = await this.#judge(input);
      if (finding !== undefined) {
        return finding;
      }
      if (this.#coverage.look(true)) {
        // A copy: a mutant may be a view of something larger.
        this.#pool[this.#pool.length < maxPool ? this.#pool.length : this.#random.below(maxPool)] = Buffer.from(input);
      }
    }
    return undefined;
  }

  async #each(inputs: readonly Buffer[]): Promise<Finding | undefined> {
    for (const input of inputs) {
      const finding = await this.#judge(input);
      if (finding !== undefined) {
        return finding;
      }
    }
    return undefined;
  }

  async #judge(input: Buffer, untimed = false): Promise<Finding | undefined> {
    const limit = this.#target.maxMilliseconds ?? defaultMaxMilliseconds;
    const wall = performance.now();
    const error = await this.#once(input);
    if (error !== undefined) {
      return { kind: 'error', message: text(error.error), input };
    }
    if (untimed || performance.now() - wall < limit) {
      return undefined;
    }
    // Garbage collection, compiling and other programs take time as well: the best of three, and of the CPU only.
    let best = Infinity;
    for (let i = 0; i < 3 && best > limit; i++) {
      const before = process.threadCpuUsage();
      await this.#once(input);
      const { user, system } = process.threadCpuUsage(before);
      best = Math.min(best, (user + system) / 1000);
    }
    return best > limit
      ? { kind: 'slow', message: `takes ${best.toFixed(0)} ms of CPU time, more than ${limit} ms`, input }
      : undefined;
  }

  async #once(input: Buffer): Promise<{ readonly error: unknown } | undefined> {
    this.#runs += 1;
    this.#options.running(input);
    try {
      // A copy of its own: what the target keeps of it is seen by `hold`.
      const pending = this.#target.run(Buffer.from(input));
      if (pending !== undefined) {
        await pending;
      }
    } catch (error) {
      return { error };
    }
    return this.#stray;
  }

  /** Whether one object that got all these inputs holds on to too much. */
  async #held(inputs: readonly Buffer[]): Promise<Finding | undefined> {
    const target = this.#target;
    const { maxHeldBytes = defaultMaxHeldBytes } = target;
    if (target.hold === undefined || inputs.length === 0) {
      return undefined;
    }
    const many = Array.from({ length: heldInputs }, (_, i) => inputs[i % inputs.length] ?? Buffer.alloc(0));
    // Once before, so that code compiled for it is not taken for what it holds.
    await heldBytes(target, many);
    const held = await heldBytes(target, many);
    return held > maxHeldBytes ? memory(`holds on to ${megabytes(held)} after ${many.length} inputs`) : undefined;
  }
}

async function heldBytes(target: Target, inputs: readonly Buffer[]): Promise<number> {
  const before = usedBytes();
  const object = await target.hold?.(inputs);
  const held = usedBytes() - before;
  return object === undefined ? 0 : held;
}

/** A shorter input with the same error, as far as a little time allows. */
export async function shrink(target: Target, finding: Finding, milliseconds = 3000): Promise<Finding> {
  if (finding.kind !== 'error' || finding.input === undefined) {
    return finding;
  }
  const end = performance.now() + milliseconds;
  const firstLine = (message: string): string => message.split('\n', 1)[0] ?? '';
  let best = finding.input;
  for (let piece = Math.ceil(best.length / 2); piece >= 1; piece = piece === 1 ? 0 : Math.ceil(piece / 2)) {
    for (let at = 0; at < best.length && performance.now() < end;) {
      const shorter = Buffer.concat([best.subarray(0, at), best.subarray(at + piece)]);
      if (firstLine(await messageOf(target, shorter)) === firstLine(finding.message)) {
        best = shorter;
      } else {
        at += piece;
      }
    }
  }
  return { ...finding, input: best };
}

async function messageOf(target: Target, input: Buffer): Promise<string> {
  try {
    await target.run(Buffer.from(input));
    return '';
  } catch (error) {
    return text(error);
  }
}

function text(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : `threw ${JSON.stringify(error)}`;
}

function memory(message: string): Finding {
  return { kind: 'memory', message, input: undefined };
}

function megabytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function usedBytes(): number {
  collectGarbage();
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
