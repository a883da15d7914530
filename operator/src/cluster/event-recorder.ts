import { randomBytes } from 'node:crypto';
import { describe } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import type { ApiClient } from './api-client.ts';
import type { Clock } from './clock.ts';
import { canonical } from './json.ts';
import { microTime } from './leader-election.ts';
import { apiPath } from './resource-path.ts';
import { TokenBucket } from './token-bucket.ts';

/** The object that an Event is about. */
export interface Regarding {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace?: string;
  readonly name: string;
  readonly uid: string;
}

export interface EventNote {
  readonly type: 'Normal' | 'Warning';
  /** Why, in one CamelCase word; the reason of the condition that changed, where there is one. */
  readonly reason: string;
  /** What the reporter did or tried, in one CamelCase word. */
  readonly action: string;
  /** For a person to read. */
  readonly note: string;
}

export interface EventRecorderOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly log: Log;
  /** The name of the component, such as `ovpn-operator.io/controller`. */
  readonly controller: string;
  /** The process. */
  readonly instance: string;
}

const REQUEST_MS = 10_000;
/** What is said of an object in the same words within this time is said once: our cache was behind our own write. */
const echoMs = 10_000;
/** The API server's limit for the note (events.k8s.io/v1). */
const MAX_NOTE = 1024;

/**
 * Writes Events (events.k8s.io/v1). Call it when something changed, never with every look: it counts nothing
 * together. An Event is a courtesy: one that cannot be written is logged and dropped, and above five a second
 * they are dropped, too. What must not be lost is in conditions.
 */
export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #bucket: TokenBucket;
  readonly #stop = new AbortController();
  readonly #sending = new Set<Promise<void>>();
  /** When what was said, in the order of saying. Monotonic milliseconds. */
  readonly #said = new Map<string, number>();

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#bucket = new TokenBucket(options.clock, 5, 50);
  }

  record(regarding: Regarding, { type, reason, action, note }: EventNote): void {
    if (this.#stop.signal.aborted) return;
    const { client, clock, log, controller, instance } = this.#options;
    if (this.#isEcho(canonical([regarding.uid, type, reason, action, note]))) return;
    const fields = { event: 'event', object: `${regarding.kind} ${regarding.name}`, reason, note };
    if (this.#bucket.take() > 0) {
      log.info({ ...fields, dropped: true }, 'an Event is dropped: too many of them');
      return;
    }
    // Events of cluster-scoped objects are kept in the namespace default.
    const namespace = regarding.namespace ?? 'default';
    const object = {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { namespace, name: `${regarding.name.slice(0, 230)}.${randomBytes(8).toString('hex')}` },
      eventTime: microTime(clock.now()),
      reportingController: controller,
      reportingInstance: instance.slice(0, 128),
      regarding,
      type,
      reason,
      action,
      note: note.length > MAX_NOTE ? `${note.slice(0, MAX_NOTE - 1)}…` : note,
    };
    const sending: Promise<void> = client
      .json({
        method: 'POST',
        path: apiPath('Event', { namespace }),
        body: { type: 'application/json', text: canonical(object) },
        signal: this.#stop.signal,
        timeoutMs: REQUEST_MS,
      })
      .then(
        () => undefined,
        (error: unknown) => log.info({ ...fields, error: describe(error) }, 'an Event could not be written'),
      )
      .finally(() => this.#sending.delete(sending));
    this.#sending.add(sending);
  }

  #isEcho(text: string): boolean {
    const now = this.#options.clock.monotonic();
    for (const [old, at] of this.#said) {
      if (now - at < echoMs) break;
      this.#said.delete(old);
    }
    if (this.#said.has(text)) return true;
    this.#said.set(text, now);
    return false;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#sending);
  }
}
