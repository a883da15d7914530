import { ApiError } from './api-client.ts';
import type { ApiClient } from './api-client.ts';
import { sleep } from './clock.ts';
import type { Clock } from './clock.ts';
import { canonical } from './json.ts';
import { TokenBucket } from './token-bucket.ts';

export interface ObjectWriterOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  /** Aborted when nothing more may be written: shutdown, or leadership in doubt. */
  readonly signal: AbortSignal;
  /** Requests per second in the long run, and at once. Default 100 and 200. */
  readonly perSecond?: number;
  readonly burst?: number;
}

const REQUEST_MS = 30_000;

/** What a deletion insists on: the object that was looked at, and on request its very version. */
export interface Preconditions {
  readonly uid: string;
  readonly resourceVersion?: string;
}

/**
 * Reads and writes single objects, all requests together rate limited. Paths are those of `apiPath`.
 *
 * Nothing is retried here: a refusal is thrown as the ApiError that it is (`alreadyExists`, `conflict`,
 * `notFound`), because what was planned from an older state has to be planned anew.
 */
export class ObjectWriter {
  readonly #options: ObjectWriterOptions;
  readonly #bucket: TokenBucket;
  /** Callers that wait for the bucket stand in line, so that none is overtaken for ever. */
  #line: Promise<void> = Promise.resolve();

  constructor(options: ObjectWriterOptions) {
    this.#options = options;
    this.#bucket = new TokenBucket(options.clock, options.perSecond ?? 100, options.burst ?? 200);
  }

  /** The object as the server holds it; undefined when there is none. */
  async get(path: string): Promise<unknown> {
    try {
      return await this.#send({ path });
    } catch (error) {
      if (error instanceof ApiError && error.notFound) return undefined;
      throw error;
    }
  }

  /**
   * Creates an object in a collection; the server's answer is the object as stored. Throws `alreadyExists`
   * when the name is taken: of any number of writers exactly one succeeds.
   */
  create(collection: string, object: object): Promise<unknown> {
    const body = { type: 'application/json', text: canonical(object) };
    return this.#send({ method: 'POST', path: collection, body });
  }

  /** Replaces an object. Throws `conflict` unless metadata.resourceVersion is that of the stored one. */
  replace(path: string, object: object): Promise<unknown> {
    return this.#send({ method: 'PUT', path, body: { type: 'application/json', text: canonical(object) } });
  }

  /**
   * Server-side apply, with force: what the manager says becomes so, and what it said before and leaves out now goes.
   * A metadata.uid makes the server refuse when the object was deleted and made anew. One manager's fields of one
   * object must all be in each call, so every reconciler has a manager of its own.
   */
  apply(path: string, object: object, fieldManager: string): Promise<unknown> {
    return this.#send({
      method: 'PATCH',
      path,
      query: { fieldManager, force: 'true' },
      // JSON is YAML.
      body: { type: 'application/apply-patch+yaml', text: canonical(object) },
    });
  }

  /** The same for the status of an object. */
  applyStatus(path: string, object: object, fieldManager: string): Promise<unknown> {
    return this.apply(`${path}/status`, object, fieldManager);
  }

  /** Deletes the object that was looked at and no other. One that is gone already is no error. */
  async delete(path: string, preconditions: Preconditions): Promise<void> {
    const options = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions };
    try {
      await this.#send({ method: 'DELETE', path, body: { type: 'application/json', text: canonical(options) } });
    } catch (error) {
      if (!(error instanceof ApiError && error.notFound)) throw error;
    }
  }

  async #send(call: Omit<Parameters<ApiClient['json']>[0], 'signal' | 'timeoutMs'>): Promise<unknown> {
    const { client, signal } = this.#options;
    const turn = this.#line.then(() => this.#token());
    this.#line = turn;
    await turn;
    signal.throwIfAborted();
    return client.json({ ...call, signal, timeoutMs: REQUEST_MS });
  }

  async #token(): Promise<void> {
    const { clock, signal } = this.#options;
    for (let waitMs = this.#bucket.take(); waitMs > 0 && !signal.aborted; waitMs = this.#bucket.take()) {
      await sleep(clock, waitMs, signal);
    }
  }
}
