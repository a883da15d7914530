import { createHash } from 'node:crypto';
import { apiVersion, formatRef, refOf } from '../api/types.ts';
import type { ObjectRef, Resource } from '../api/types.ts';
import { describe } from '../errors.ts';
import type { Meter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import { ApiError } from './api-client.ts';
import type { ApiClient } from './api-client.ts';
import { Backoff } from './backoff.ts';
import type { Random } from './backoff.ts';
import type { Clock } from './clock.ts';
import { asRecord, canonical, digestOf } from './json.ts';
import type { Health } from './list-watch.ts';
import { objectPath } from './resource-path.ts';
import { TokenBucket } from './token-bucket.ts';

export interface StatusWriterOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly meter: Meter;
  readonly fieldManager: string;
  /** Writes of figures per second in the long run, and at once. Default 5 and 20. */
  readonly perSecond?: number;
  readonly burst?: number;
  /** The same for writes that say something new. Default 50 and 100: those of a kubelet (kubeAPIQPS, kubeAPIBurst). */
  readonly newsPerSecond?: number;
  readonly newsBurst?: number;
}

/** Fields of a status that change all the time; whoever looks at them can do with those of some minutes ago. */
const FIGURES: ReadonlySet<string> = new Set(['traffic', 'lastHandshake']);

/** What is to be written for one object, and how far that went. */
interface Job {
  readonly key: string;
  readonly path: string;
  /** Made when it fails first. */
  backoff: Backoff | undefined;
  /** What is to be sent; undefined when the server has it. */
  text: string | undefined;
  /** Stands for what the object's status is to be: {@link digestOf} of the text; empty before there is one. */
  wanted: string;
  /** What stands for `wanted` without its figures. */
  news: string;
  /** That of the last text which the server took. */
  settledNews: string | undefined;
  /** That of the last text which the server took, or refused for good: not sent again. Undefined when not known. */
  settled: string | undefined;
  inFlight: boolean;
  notBefore: number;
}

/** Keys that wait, and how often one of them may be written. */
interface Lane {
  readonly keys: Set<string>;
  readonly bucket: TokenBucket;
}

const REQUEST_MS = 30_000;
const MAX_IN_FLIGHT = 4;
/** The API server's limit for the name of a field manager. */
const MAX_MANAGER = 128;

/** The field manager of a node's agent. Long node names are cut and told apart by a hash. */
export function agentFieldManager(node: string): string {
  const name = `ovpn-agent/${node}`;
  if (name.length <= MAX_MANAGER) return name;
  const hash = createHash('sha256').update(node).digest('hex').slice(0, 12);
  return `${name.slice(0, MAX_MANAGER - hash.length - 1)}-${hash}`;
}

/**
 * Writes status by server-side apply: at most one request in flight per object, the latest status wins, an
 * equal one is not written again, and all writes together are rate limited. What says something new goes before
 * what differs in figures only, and has a rate of its own: a peer that connects is told of at once, also while the
 * counters of ten thousand others wait for their turn. What fails is retried with back-off; what the server refuses
 * for good is logged and waits for a status that differs.
 */
export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #jobs = new Map<string, Job>();
  /** Keys with something to write, in the order in which they asked; a key is in one lane at most. */
  readonly #news: Lane;
  readonly #figures: Lane;
  readonly #stop = new AbortController();
  readonly #sending = new Set<Promise<void>>();
  #cancelTimer: (() => void) | undefined;
  /** Why the last attempt failed, by key, while it is being tried again. */
  readonly #failing = new Map<string, string>();

  constructor(options: StatusWriterOptions) {
    this.#options = options;
    const { clock, perSecond = 5, burst = 20, newsPerSecond = 50, newsBurst = 100 } = options;
    this.#news = { keys: new Set(), bucket: new TokenBucket(clock, newsPerSecond, newsBurst) };
    this.#figures = { keys: new Set(), bucket: new TokenBucket(clock, perSecond, burst) };
  }

  get health(): Health {
    const [message] = this.#failing.values();
    return { ok: message === undefined, message: message ?? '' };
  }

  /** Sees to it that the object's status becomes this one. */
  publish(resource: Resource, status: unknown): void {
    const ref = refOf(resource);
    const path = objectPath(ref);
    if (path === undefined) throw new TypeError(`${formatRef(ref)} has no status`);
    const key = formatRef(ref);
    const { uid, name, namespace } = resource.metadata;
    // With the uid, the status of an object that was deleted and made anew is refused, not applied.
    const text = canonical({ apiVersion, kind: ref.kind, metadata: { name, namespace, uid }, status });
    const wanted = digestOf(text);
    const news = newsOf(status);
    const job = this.#jobs.get(key) ?? this.#newJob(key, path);
    if (wanted === job.wanted) return;
    // A process that has just started says what the one before it said: that has time.
    if (job.wanted === '' && says('status' in resource ? resource.status : undefined, status)) job.settledNews = news;
    job.wanted = wanted;
    job.news = news;
    job.text = text;
    this.#jobs.set(key, job);
    if (wanted === job.settled && !job.inFlight) this.#rest(job);
    else this.#enter(job);
    this.#pump();
  }

  /** Forgets an object that is gone. */
  forget(ref: ObjectRef): void {
    const key = formatRef(ref);
    this.#jobs.delete(key);
    this.#leave(key);
    this.#failing.delete(key);
  }

  /** Gives up what is not written yet. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#cancelTimer?.();
    await Promise.all(this.#sending);
  }

  #newJob(key: string, path: string): Job {
    const unsaid = { text: undefined, wanted: '', news: '', settledNews: undefined, settled: undefined };
    return { key, path, backoff: undefined, ...unsaid, inFlight: false, notBefore: 0 };
  }

  /** Puts a key where it belongs now. One that was there keeps its place. */
  #enter({ key, news, settledNews }: Job): void {
    const isNews = news !== settledNews;
    (isNews ? this.#figures : this.#news).keys.delete(key);
    (isNews ? this.#news : this.#figures).keys.add(key);
  }

  /** The server has what is wanted. */
  #rest(job: Job): void {
    job.text = undefined;
    this.#leave(job.key);
  }

  #leave(key: string): void {
    for (const { keys } of [this.#news, this.#figures]) keys.delete(key);
  }

  /** Sends what may be sent now, and sets a timer for the rest. */
  #pump(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#stop.signal.aborted) return;
    let waitMs = Number.POSITIVE_INFINITY;
    for (const lane of [this.#news, this.#figures]) {
      if (this.#sending.size >= MAX_IN_FLIGHT) return;
      waitMs = Math.min(waitMs, this.#pumpLane(lane));
    }
    if (Number.isFinite(waitMs)) this.#cancelTimer = this.#options.clock.after(waitMs, () => this.#pump());
  }

  /** Answers in how many milliseconds more of it may be sent, if time alone changes that. */
  #pumpLane({ keys, bucket }: Lane): number {
    const now = this.#options.clock.now();
    let waitMs = Number.POSITIVE_INFINITY;
    for (const key of keys) {
      // What is under way brings us back here when it is answered.
      if (this.#sending.size >= MAX_IN_FLIGHT) break;
      const job = this.#jobs.get(key);
      if (job === undefined || job.inFlight) continue;
      if (job.notBefore > now) {
        waitMs = Math.min(waitMs, job.notBefore - now);
        continue;
      }
      const tokenMs = bucket.take();
      if (tokenMs > 0) return Math.min(waitMs, tokenMs);
      keys.delete(key);
      this.#send(job);
    }
    return waitMs;
  }

  #send(job: Job): void {
    const { text, wanted, news } = job;
    // Who wants nothing sent waits in no lane.
    if (text === undefined) return;
    job.inFlight = true;
    const sending = this.#apply(job, text, { wanted, news }).then(() => {
      job.inFlight = false;
      this.#sending.delete(sending);
      // A job that was forgotten meanwhile is no longer the one in the map.
      if (this.#jobs.get(job.key) === job) {
        if (job.wanted === job.settled) this.#rest(job);
        else this.#enter(job);
      }
      this.#pump();
    });
    this.#sending.add(sending);
  }

  /** One request; afterwards `settled` says whether it has to be made again. Never rejects. */
  async #apply(job: Job, text: string, sent: Pick<Job, 'wanted' | 'news'>): Promise<void> {
    const { client, fieldManager, log, meter, clock } = this.#options;
    try {
      await client.json({
        method: 'PATCH',
        path: `${job.path}/status`,
        query: { fieldManager, force: 'true' },
        // JSON is YAML.
        body: { type: 'application/apply-patch+yaml', text },
        signal: this.#stop.signal,
        timeoutMs: REQUEST_MS,
      });
      this.#settle(job, sent);
      meter.increment('ovpn_status_writes_total', { result: 'written' });
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      const fields = { event: 'status.failed', object: job.key, error: describe(error) };
      const status = error instanceof ApiError ? error.status : 0;
      if (status === 404) {
        this.#settle(job, sent);
        meter.increment('ovpn_status_writes_total', { result: 'gone' });
        log.debug(fields, 'the object of a status is gone');
        return;
      }
      if (status === 400 || status === 405 || status === 415 || status === 422) {
        this.#settle(job, sent);
        meter.increment('ovpn_status_writes_total', { result: 'refused' });
        log.error(fields, 'the API server refuses a status for good');
        return;
      }
      // A request without an answer may have been carried out: what the server holds is not known.
      job.settled = undefined;
      job.settledNews = undefined;
      job.backoff ??= new Backoff({ initialMs: 500, maxMs: 60_000, random: this.#options.random });
      const delayMs = job.backoff.next(error instanceof ApiError ? error.retryAfterMs : 0);
      job.notBefore = clock.now() + delayMs;
      if (this.#jobs.get(job.key) === job) this.#failing.set(job.key, `status of ${job.key}: ${describe(error)}`);
      meter.increment('ovpn_status_writes_total', { result: 'failed' });
      log.warn({ ...fields, delayMs: Math.round(delayMs) }, 'a status could not be written and is tried again');
    }
  }

  #settle(job: Job, { wanted, news }: Pick<Job, 'wanted' | 'news'>): void {
    job.settled = wanted;
    job.settledNews = news;
    job.backoff = undefined;
    job.notBefore = 0;
    this.#failing.delete(job.key);
  }
}

/** Whether an object's status has all that this one says, but for figures, and nothing that it has not. */
function says(present: unknown, status: unknown): boolean {
  const [have, want] = [asRecord(present) ?? {}, asRecord(status) ?? {}];
  const { conditions } = have;
  const known = new Set((Array.isArray(conditions) ? conditions : []).map(canonical));
  const isThere = ([name, value]: [string, unknown]): boolean =>
    FIGURES.has(name) ||
    (name === 'conditions' && Array.isArray(value)
      ? value.every((condition) => known.has(canonical(condition)))
      : have[name] !== undefined && canonical(have[name]) === canonical(value));
  // The controller's word is in `allocation`; conditions of other types are its, too. Claims are written by themselves.
  const isAnothers = (name: string): boolean => name === 'allocation' || name === 'holder';
  return Object.entries(want).every(isThere) && Object.keys(have).every((name) => isAnothers(name) || name in want);
}

/** Stands for a status without its figures. */
function newsOf(status: unknown): string {
  const fields = Object.entries(asRecord(status) ?? {}).filter(([name]) => !FIGURES.has(name));
  return digestOf(canonical(Object.fromEntries(fields)));
}
