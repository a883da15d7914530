import { describe } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import { ApiError, statusError } from './api-client.ts';
import type { ApiClient } from './api-client.ts';
import { Backoff } from './backoff.ts';
import type { Random } from './backoff.ts';
import { sleep } from './clock.ts';
import type { Clock } from './clock.ts';
import { asRecord } from './json.ts';
import { LineSplitter } from './lines.ts';

/** What a list/watch gives out. `T` is what the reader makes of one object. */
export interface ListWatchReader<T> {
  /** Makes something of one object. Must not throw: a bad object is the reader's to report. */
  decode(object: unknown): T;
  /** A complete list: what is not in it does not exist (any more). */
  replaced(items: readonly T[]): void;
  /** An object was added or changed. */
  put(item: T): void;
  /** An object was deleted; `item` is its last state. */
  deleted(item: T): void;
}

export interface Health {
  readonly ok: boolean;
  /** Why not, for people; empty while all is well. */
  readonly message: string;
}

export interface WatchFigures {
  readonly path: string;
  readonly restarts: number;
  /** Undefined before the first list. */
  readonly activeAt: number | undefined;
  /** Events that the server sent, and their bytes; lists are not among them. */
  readonly events: number;
  readonly bytes: number;
}

export interface ListWatchOptions<T> {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** The collection's path: `/apis/ovpn-operator.io/v1alpha1/vpnpeers`. */
  readonly path: string;
  readonly selectors?: { readonly labelSelector?: string; readonly fieldSelector?: string };
  /** Asks for the metadata of the objects alone (PartialObjectMetadata). */
  readonly metadataOnly?: boolean;
  readonly reader: ListWatchReader<T>;
  readonly timing?: Partial<ListWatchTiming>;
}

export interface ListWatchTiming {
  /** Objects per page of a list. */
  readonly pageSize: number;
  /** How long one page, or the head of a watch, may take. */
  readonly requestMs: number;
  /** A watch without any event or bookmark for this long is taken for dead. Servers send a bookmark a minute. */
  readonly stallMs: number;
  /** After how many seconds the server is asked to end a watch; up to as much again is added at random. */
  readonly watchSeconds: number;
  readonly backoffMs: number;
  readonly backoffMaxMs: number;
}

export const defaultTiming: ListWatchTiming = {
  pageSize: 500,
  requestMs: 60_000,
  stallMs: 120_000,
  watchSeconds: 300,
  backoffMs: 500,
  backoffMaxMs: 30_000,
};

/** How often a paged list may expire midway before it is asked for in one piece. */
const MAX_EXPIRED_LISTS = 3;
/** A watch that ended within this time and brought nothing did not work, whatever the server says. */
const SHORT_WATCH_MS = 1_000;
/** etcd holds objects of 1.5 MB; this is far beyond, and bounds what a broken stream can make us keep. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

/** What was received can no longer be trusted to be all there was: list anew. */
class StreamBroken extends Error {
  override readonly name = 'StreamBroken';
}

/** Nothing came for too long. */
class Stalled extends Error {
  override readonly name = 'Stalled';
}

/**
 * Follows one collection of the API server: a complete list, then a watch from there, for ever.
 *
 * The watch goes on from the last resource version after a disconnect, an end by the server or a first
 * stall, since nothing is lost then. It starts again from a complete list when something may have been lost:
 * the version expired (410), a line was no event, an ERROR event came, two stalls came in a row, or the server
 * turns out to be behind what it once told. What the reader holds stays as it is until the new list is complete.
 *
 * Behind is a server whose store was restored from a backup: it takes a watch from a version that is still to come,
 * and says nothing until that has come. So when a watch broke, the server's present version is asked for.
 */
export class ListWatch<T> {
  readonly #options: ListWatchOptions<T>;
  readonly #timing: ListWatchTiming;
  readonly #backoff: Backoff;
  readonly #log: Log;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #onSynced: () => void = () => {};
  readonly #synced: Promise<void>;
  /** The version to watch from; undefined when a list is needed. */
  #version: string | undefined;
  #stalls = 0;
  /** The watch broke, so the server may have been away, and be back with an older store. */
  #doubtful = false;
  #health: Health = { ok: false, message: 'not listed yet' };
  #listed = false;
  #restarts = 0;
  #activeAt: number | undefined;
  #events = 0;
  #bytes = 0;

  constructor(options: ListWatchOptions<T>) {
    this.#options = options;
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#log = options.log.child({ path: options.path });
    this.#backoff = new Backoff({
      initialMs: this.#timing.backoffMs,
      maxMs: this.#timing.backoffMaxMs,
      random: options.random,
    });
    this.#synced = new Promise((resolve) => {
      this.#onSynced = resolve;
    });
  }

  /** True once a list was complete. */
  get listed(): boolean {
    return this.#listed;
  }

  get health(): Health {
    return this.#health;
  }

  /** For metrics: how often it broke, when it last brought anything (milliseconds since 1970), and how much. */
  get figures(): WatchFigures {
    const { path } = this.#options;
    return { path, restarts: this.#restarts, activeAt: this.#activeAt, events: this.#events, bytes: this.#bytes };
  }

  /** Begins; resolves when the first list is complete, or when stopped. */
  start(): Promise<void> {
    this.#running ??= this.#run(this.#stop.signal);
    return this.#synced;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#onSynced();
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const began = this.#options.clock.now();
      try {
        if (this.#doubtful) await this.#compareVersions(signal);
        this.#version ??= await this.#list(signal);
        const progress = await this.#watch(this.#version, signal);
        if (progress || this.#options.clock.now() - began >= SHORT_WATCH_MS) this.#backoff.reset();
        else await sleep(this.#options.clock, this.#backoff.next(), signal);
      } catch (error) {
        await this.#recover(error, signal);
      }
    }
  }

  async #recover(error: unknown, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const expired = error instanceof ApiError && error.expired;
    if (error instanceof Stalled) {
      this.#stalls += 1;
      if (this.#stalls > 1) this.#version = undefined;
    } else if (expired || error instanceof StreamBroken || isRefusal(error, 400, 404)) {
      this.#version = undefined;
    }
    const delayMs = Math.round(this.#backoff.next(error instanceof ApiError ? error.retryAfterMs : 0));
    const fields = { event: 'watch.interrupted', error: describe(error), relist: this.#version === undefined, delayMs };
    // An expired version or one dropped connection is daily business of a watch; what repeats is not.
    if (expired || this.#backoff.failures === 1) {
      this.#log.info(fields, `the watch is taken up again: ${describe(error)}`);
    } else {
      this.#log.warn(fields, `the API server is not answering as it should: ${describe(error)}`);
    }
    // Also after a single lost connection: the next one may be held until a server with an older store is up.
    this.#doubtful = true;
    this.#restarts += 1;
    if (!expired) this.#health = { ok: false, message: `${this.#options.path}: ${describe(error)}` };
    await sleep(this.#options.clock, delayMs, signal);
  }

  /** Has all listed anew when the server does not have the version yet that the watch would go on from. */
  async #compareVersions(signal: AbortSignal): Promise<void> {
    if (this.#version !== undefined) {
      const { client, path, selectors } = this.#options;
      // The least that a server can be asked for: of a list, also of a part of one, it says how new its store is.
      const query = { ...selectors, limit: '1' };
      const timeoutMs = this.#timing.requestMs;
      const accept = metadataOf('PartialObjectMetadataList');
      const page = asRecord(await client.json({ path, query, accept, signal, timeoutMs }));
      const present = asRecord(page?.['metadata'])?.['resourceVersion'];
      if (typeof present === 'string' && isOlder(present, this.#version)) {
        const fields = { event: 'watch.behind', version: this.#version, present };
        this.#log.warn(
          fields,
          'the API server is behind what it told before, as after a restored backup: all is listed',
        );
        this.#version = undefined;
      }
    }
    this.#doubtful = false;
  }

  /** Reads all pages and hands them over as one list. Gives the version that a watch goes on from. */
  async #list(signal: AbortSignal): Promise<string> {
    for (let expired = 0; ; expired += 1) {
      try {
        const version = await this.#listOnce(signal, expired < MAX_EXPIRED_LISTS);
        this.#listed = true;
        this.#activeAt = this.#options.clock.now();
        this.#health = { ok: true, message: '' };
        this.#onSynced();
        return version;
      } catch (error) {
        // The snapshot that the pages come from was compacted away: begin with the first page of a new one.
        if (!(error instanceof ApiError && error.expired) || expired >= MAX_EXPIRED_LISTS) throw error;
        this.#log.info({ event: 'list.expired', times: expired + 1 }, 'a paged list expired midway and begins anew');
      }
    }
  }

  async #listOnce(signal: AbortSignal, paged: boolean): Promise<string> {
    const { client, path, selectors, metadataOnly = false, reader } = this.#options;
    const accept = metadataOnly ? metadataOf('PartialObjectMetadataList') : 'application/json';
    const items: T[] = [];
    let next: string | undefined;
    let version: string | undefined;
    do {
      const query = {
        ...selectors,
        ...(paged ? { limit: String(this.#timing.pageSize) } : {}),
        ...(next === undefined ? {} : { continue: next }),
      };
      const page = asRecord(await client.json({ path, query, accept, signal, timeoutMs: this.#timing.requestMs }));
      const metadata = asRecord(page?.['metadata']) ?? {};
      // Some typed lists give `null` for "none".
      const objects = page?.['items'] ?? [];
      if (page === undefined || !Array.isArray(objects) || typeof metadata['resourceVersion'] !== 'string') {
        throw new StreamBroken('the answer to a list is no list');
      }
      for (const object of objects as unknown[]) items.push(reader.decode(object));
      version ??= metadata['resourceVersion'];
      next = typeof metadata['continue'] === 'string' && metadata['continue'] !== '' ? metadata['continue'] : undefined;
    } while (next !== undefined);
    this.#log.debug({ event: 'list.complete', objects: items.length, version }, 'listed');
    reader.replaced(items);
    return version;
  }

  /** Follows the watch until the server ends it. True when it brought anything. */
  async #watch(version: string, signal: AbortSignal): Promise<boolean> {
    const { client, path, selectors, metadataOnly = false, clock, random } = this.#options;
    const { stallMs, requestMs, watchSeconds } = this.#timing;
    // Spread, so that the watches of all agents do not end in the same second.
    const timeoutSeconds = String(Math.round(watchSeconds * (1 + random())));
    const query = { ...selectors, watch: '1', allowWatchBookmarks: 'true', resourceVersion: version, timeoutSeconds };
    const stalled = new AbortController();
    const response = await client.open({
      path,
      query,
      accept: metadataOnly ? metadataOf('PartialObjectMetadata') : 'application/json',
      signal: AbortSignal.any([signal, stalled.signal]),
      timeoutMs: requestMs,
    });
    this.#health = { ok: true, message: '' };
    const arm = (): (() => void) => clock.after(stallMs, () => stalled.abort());
    let disarm = arm();
    let progress = false;
    try {
      const splitter = new LineSplitter(MAX_LINE_BYTES);
      for await (const chunk of response as AsyncIterable<Buffer>) {
        this.#bytes += chunk.length;
        for (const line of split(splitter, chunk)) {
          this.#events += 1;
          this.#handle(line);
          progress = true;
          this.#stalls = 0;
          this.#activeAt = clock.now();
          this.#backoff.reset();
          // Only a whole event counts as a sign of life: the server can hang in the middle of a line, too.
          disarm();
          disarm = arm();
        }
      }
      return progress;
    } catch (error) {
      throw stalled.signal.aborted ? new Stalled(`nothing came for ${stallMs / 1000} s`) : error;
    } finally {
      disarm();
      response.destroy();
    }
  }

  #handle(line: string): void {
    const { reader } = this.#options;
    const { type, object } = asRecord(parseLine(line)) ?? {};
    if (type === 'ERROR') throw watchError(object);
    const version = asRecord(asRecord(object)?.['metadata'])?.['resourceVersion'];
    if (typeof version !== 'string' || version === '') throw new StreamBroken('an event without a resource version');
    switch (type) {
      case 'ADDED':
      case 'MODIFIED':
        reader.put(reader.decode(object));
        break;
      case 'DELETED':
        reader.deleted(reader.decode(object));
        break;
      case 'BOOKMARK':
        if (this.#version !== undefined && isOlder(version, this.#version))
          throw new StreamBroken(`the server is at version ${version}, and was at ${this.#version}`);
        break;
      default:
        throw new StreamBroken(`an event of unknown type ${JSON.stringify(type)}`);
    }
    this.#version = version;
  }
}

/** Asks for the metadata alone; a server that knows no such form sends the whole (Kubernetes API concepts). */
function metadataOf(form: 'PartialObjectMetadata' | 'PartialObjectMetadataList'): string {
  return `application/json;as=${form};g=meta.k8s.io;v=v1,application/json`;
}

/** The error of an ERROR event: expired as such; after any other, it is unknown what was missed. */
function watchError(object: unknown): Error {
  const error = statusError(0, object, 'an error without text');
  return error.expired ? error : new StreamBroken(`the server ended the watch: ${error.message}`);
}

function isRefusal(error: unknown, ...statuses: number[]): boolean {
  return error instanceof ApiError && statuses.includes(error.status);
}

function split(splitter: LineSplitter, chunk: Buffer): string[] {
  try {
    return splitter.push(chunk);
  } catch (error) {
    throw new StreamBroken(describe(error), { cause: error });
  }
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    // Not the text itself: it may hold a Secret.
    throw new StreamBroken(`a line of ${line.length} characters that is no JSON`, { cause: error });
  }
}

/** Versions are numbers that grow (KEP-5504); what is none is not compared. */
function isOlder(version: string, than: string): boolean {
  return /^\d+$/.test(version) && /^\d+$/.test(than) && BigInt(version) < BigInt(than);
}
