import { mkdir, readdir, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { formatRef, refOf } from '../api/types.ts';
import type { ObjectRef, Resource } from '../api/types.ts';
import { describe } from '../errors.ts';
import type { Meter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import { Backoff } from './backoff.ts';
import type { Random } from './backoff.ts';
import type { Clock } from './clock.ts';
import { canonical, digestOf } from './json.ts';

export interface StatusFilesOptions {
  /** Made when it is missing, for root only. */
  readonly folder: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly meter: Meter;
}

/** Writes at once; more of them only take memory and descriptors. */
const concurrency = 16;

interface Job {
  /** Made when it fails first. */
  backoff: Backoff | undefined;
  /** What is to be written; undefined when the file holds it, or there is to be none. */
  value: unknown;
  /** What the file is to hold, as {@link digestOf} its text; undefined: there is to be none. */
  wanted: string | undefined;
  /** What the file holds; undefined: there is none; the empty text: unknown. */
  written: string | undefined;
  busy: Promise<void> | undefined;
  cancelRetry: (() => void) | undefined;
}

/**
 * Status as files, where there is no API server to keep it: `<Kind>.<namespace>.<name>.json`. A reader sees
 * the old file or the new one, never half of one.
 */
export class StatusFiles {
  readonly #options: StatusFilesOptions;
  readonly #jobs = new Map<string, Job>();
  /** Those that wait for their turn, in order. */
  readonly #waiting = new Set<() => void>();
  #running = 0;
  #stopped = false;

  constructor(options: StatusFilesOptions) {
    this.#options = options;
  }

  /** Sees to it that the object's file holds this status. */
  publish(resource: Resource, status: unknown): void {
    const { apiVersion, kind } = resource;
    const { name, namespace, generation } = resource.metadata;
    const value = { apiVersion, kind, metadata: { name, namespace, generation }, status };
    this.#want(fileName(refOf(resource)), value);
  }

  /** Removes the file of an object that is gone. */
  forget(ref: ObjectRef): void {
    if (ref.kind !== 'Secret') this.#want(fileName(ref), undefined);
  }

  /** Removes files of objects that went while nobody looked. */
  async sweep(exists: (file: string) => boolean): Promise<void> {
    const names = await readdir(this.#options.folder).catch(() => []);
    for (const name of names) {
      if (/^(VpnNetwork|VpnPeer|VpnKey)\..*\.json$/.test(name) && !exists(name)) this.#want(name, undefined);
    }
  }

  /** Waits for what is being written; drops what waits for another attempt. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const job of this.#jobs.values()) job.cancelRetry?.();
    await this.idle();
  }

  /** Resolves when nothing is being written. */
  async idle(): Promise<void> {
    for (;;) {
      const busy = [...this.#jobs.values()].flatMap((job) => (job.busy === undefined ? [] : [job.busy]));
      if (busy.length === 0) return;
      await Promise.all(busy);
    }
  }

  /** @param value what the file is to hold, and nobody changes any more; undefined: there is to be none */
  #want(file: string, value: object | undefined): void {
    const job: Job = this.#jobs.get(file) ?? {
      backoff: undefined,
      value: undefined,
      wanted: undefined,
      // Unknown: a run before this one may have left a file.
      written: '',
      busy: undefined,
      cancelRetry: undefined,
    };
    this.#jobs.set(file, job);
    job.value = value;
    job.wanted = value === undefined ? undefined : digestOf(canonical(value));
    if (job.cancelRetry === undefined) this.#work(file, job);
  }

  #work(file: string, job: Job): void {
    if (this.#stopped || job.busy !== undefined) return;
    if (job.wanted === job.written) {
      job.value = undefined;
      if (job.wanted === undefined) this.#jobs.delete(file);
      return;
    }
    job.busy = this.#inTurn(async () => {
      // What is wanted when the turn comes.
      const { value, wanted } = job;
      await this.#write(file, wanted === undefined ? undefined : canonical(value));
      return wanted;
    }).then(
      (written) => {
        job.busy = undefined;
        job.written = written;
        job.backoff = undefined;
        this.#work(file, job);
      },
      (error: unknown) => {
        job.busy = undefined;
        job.backoff ??= new Backoff({ initialMs: 500, maxMs: 60_000, random: this.#options.random });
        const delayMs = Math.round(job.backoff.next());
        const fields = { event: 'status.failed', file, error: describe(error), delayMs };
        this.#options.log.warn(fields, 'a status file could not be written and is tried again');
        if (this.#stopped) return;
        job.cancelRetry = this.#options.clock.after(delayMs, () => {
          job.cancelRetry = undefined;
          this.#work(file, job);
        });
      },
    );
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < concurrency) this.#running++;
    else await new Promise<void>((resolve) => this.#waiting.add(resolve));
    try {
      return await work();
    } finally {
      const [next] = this.#waiting;
      if (next === undefined) this.#running--;
      else {
        this.#waiting.delete(next);
        next();
      }
    }
  }

  async #write(file: string, text: string | undefined): Promise<void> {
    const { folder, meter } = this.#options;
    const path = join(folder, file);
    if (text === undefined) {
      await unlink(path).catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      });
      return;
    }
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const temporary = join(folder, `.${file}.tmp`);
    await writeFile(temporary, `${JSON.stringify(JSON.parse(text), null, 2)}\n`, { mode: 0o600 });
    await rename(temporary, path);
    meter.increment('ovpn_status_writes_total', { result: 'written' });
  }
}

/** The file of an object's status. Namespaces have no dots, so two objects never share one. */
export function fileName(ref: ObjectRef): string {
  const { kind, namespace, name } = ref;
  // The parser lets no slash through; a status must not leave the folder should that ever change.
  if (/[/\0]/.test(`${namespace ?? ''}${name}`)) throw new RangeError(`${formatRef(ref)} is no name for a file`);
  return `${kind}.${namespace === undefined ? '' : `${namespace}.`}${name}.json`;
}
