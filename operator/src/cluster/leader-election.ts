import { describe } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import { ApiError } from './api-client.ts';
import type { ApiCall, ApiClient } from './api-client.ts';
import type { Random } from './backoff.ts';
import { sleep } from './clock.ts';
import type { Clock } from './clock.ts';
import { metaOf } from './informer.ts';
import { asRecord, canonical } from './json.ts';
import { apiPath } from './resource-path.ts';

export interface LeaderElectionTiming {
  /** How long others take a leader that does not renew for alive. */
  readonly leaseMs: number;
  /**
   * For how long from sending a renewal its sender leads, if it succeeds. Less than `leaseMs`, by which others go from
   * when they see the renewal, so that two never overlap.
   */
  readonly renewDeadlineMs: number;
  /** How often it is tried. */
  readonly retryMs: number;
}

/** The times of client-go's LeaderElectionConfig for core components. */
export const defaultElectionTiming: LeaderElectionTiming = {
  leaseMs: 15_000,
  renewDeadlineMs: 10_000,
  retryMs: 2_000,
};

export interface LeaderElectionOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly namespace: string;
  /** The name of the Lease. */
  readonly name: string;
  /** Who this process is; unique, also after a restart. */
  readonly identity: string;
  readonly timing?: Partial<LeaderElectionTiming>;
}

/** What a Lease says (coordination.k8s.io/v1 LeaseSpec). */
interface LeaseRecord {
  readonly holderIdentity: string;
  readonly leaseDurationSeconds: number;
  readonly acquireTime: string;
  readonly renewTime: string;
  readonly leaseTransitions: number;
}

type Limits = Pick<ApiCall, 'signal' | 'timeoutMs'>;

/** How an attempt went: the lease is ours, somebody else's, or nobody knows. */
type Attempt = 'held' | 'taken' | 'unknown';

/**
 * Leader election by a Lease, with the rules of client-go: whether a holder is alive is judged by how long its
 * record has not changed on the own clock, never by comparing clocks; a leader that cannot renew within the
 * deadline stops leading before anybody else may begin. Stricter than there: a renewal counts from when it was sent,
 * not from its answer, which may be late; nothing begins that would outlast the deadline; and a leader that reads
 * another's name stops at once.
 *
 * This is no fence: a process that was stopped for a while may still send one write afterwards. So nothing in the
 * controller relies on there being one leader; election only keeps two from doing the same work.
 */
export class LeaderElection {
  readonly #options: LeaderElectionOptions;
  readonly #timing: LeaderElectionTiming;
  readonly #path: string;
  /** The record that was seen last, and since when it has not changed, on the monotonic clock. */
  #seen: { readonly text: string; readonly since: number } | undefined;
  #leading = false;
  /** When the last write that took or renewed the lease was sent. */
  #sentAt = 0;

  constructor(options: LeaderElectionOptions) {
    this.#options = options;
    this.#timing = { ...defaultElectionTiming, ...options.timing };
    this.#path = apiPath('Lease', { namespace: options.namespace, name: options.name });
  }

  get leading(): boolean {
    return this.#leading;
  }

  /**
   * Waits for the lead, then calls `lead` with a signal that is aborted when leadership ends, whatever the reason.
   * Resolves to `stopped` when `signal` ended it (the Lease is released once `lead` has returned) and to `lost`
   * when the Lease could not be renewed.
   */
  async run(signal: AbortSignal, lead: (signal: AbortSignal) => Promise<void>): Promise<'stopped' | 'lost'> {
    const { clock, random, log, identity } = this.#options;
    const { retryMs } = this.#timing;
    // It changes while something is waited for.
    const over = (): boolean => signal.aborted;
    while ((await this.#try(signal, clock.monotonic() + this.#timing.renewDeadlineMs)) !== 'held') {
      // Spread, so that candidates do not try in step (client-go's JitterFactor).
      await sleep(clock, retryMs * (1 + 1.2 * random()), signal);
      if (over()) return 'stopped';
    }
    if (over()) return 'stopped';
    this.#leading = true;
    log.info({ event: 'leader.elected', identity }, 'leading');
    const ended = new AbortController();
    const leading = lead(ended.signal);
    const renewing = this.#renewUntilLost(AbortSignal.any([signal, ended.signal]));
    try {
      // A `lead` that fails ends the leadership, too.
      await Promise.race([renewing, leading.then(() => renewing)]);
    } finally {
      this.#leading = false;
      ended.abort();
      await Promise.allSettled([leading, renewing]);
    }
    if (!over()) {
      log.error(
        { event: 'leader.lost', identity },
        'the lease is lost: somebody else has it, or it could not be renewed in time',
      );
      return 'lost';
    }
    await this.#release();
    return 'stopped';
  }

  async #renewUntilLost(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const { retryMs, renewDeadlineMs } = this.#timing;
    const over = (): boolean => signal.aborted;
    while (!over()) {
      const deadline = this.#sentAt + renewDeadlineMs;
      await sleep(clock, Math.min(retryMs, Math.max(0, deadline - clock.monotonic())), signal);
      if (over() || clock.monotonic() >= deadline) return;
      if ((await this.#try(signal, deadline)) === 'taken') return;
    }
  }

  /** Takes or renews the lease, within the deadline on the monotonic clock. */
  async #try(signal: AbortSignal, deadline: number): Promise<Attempt> {
    const { clock, log, identity } = this.#options;
    const limits = (): Limits => ({ signal, timeoutMs: Math.max(1, deadline - clock.monotonic()) });
    try {
      const found = await this.#read(limits());
      const now = microTime(clock.now());
      const sentAt = clock.monotonic();
      const fresh = { holderIdentity: identity, leaseDurationSeconds: Math.ceil(this.#timing.leaseMs / 1000) };
      if (found === undefined) {
        await this.#write('POST', { ...fresh, acquireTime: now, renewTime: now, leaseTransitions: 0 }, '', limits());
        this.#sentAt = sentAt;
        return 'held';
      }
      const { record, resourceVersion } = found;
      const text = canonical(record);
      if (this.#seen?.text !== text) this.#seen = { text, since: sentAt };
      const mine = record.holderIdentity === identity;
      const validMs = Math.max(record.leaseDurationSeconds * 1000, 0);
      if (!mine && record.holderIdentity !== '' && sentAt < this.#seen.since + validMs) return 'taken';
      const next = mine
        ? { ...fresh, acquireTime: record.acquireTime, renewTime: now, leaseTransitions: record.leaseTransitions }
        : { ...fresh, acquireTime: now, renewTime: now, leaseTransitions: record.leaseTransitions + 1 };
      await this.#write('PUT', next, resourceVersion, limits());
      this.#sentAt = sentAt;
      return 'held';
    } catch (error) {
      if (signal.aborted) return 'unknown';
      const lostRace = error instanceof ApiError && error.status === 409;
      const fields = { event: 'leader.attempt_failed', error: describe(error) };
      if (lostRace) log.debug(fields, 'another candidate was faster');
      else log.warn(fields, 'the lease could not be read or written');
      return 'unknown';
    }
  }

  async #read(limits: Limits): Promise<{ record: LeaseRecord; resourceVersion: string } | undefined> {
    try {
      const lease = await this.#options.client.json({ path: this.#path, ...limits });
      return { record: recordOf(lease), resourceVersion: metaOf(lease).resourceVersion };
    } catch (error) {
      if (error instanceof ApiError && error.notFound) return undefined;
      throw error;
    }
  }

  async #write(method: 'POST' | 'PUT', spec: LeaseRecord, resourceVersion: string, limits: Limits): Promise<void> {
    const { client, namespace, name } = this.#options;
    const metadata = { namespace, name, ...(resourceVersion === '' ? {} : { resourceVersion }) };
    const lease = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata, spec };
    await client.json({
      method,
      path: method === 'POST' ? apiPath('Lease', { namespace }) : this.#path,
      body: { type: 'application/json', text: canonical(lease) },
      ...limits,
    });
  }

  /** Gives the lease away, so that a successor need not wait for it to run out. */
  async #release(): Promise<void> {
    const { clock, log, identity } = this.#options;
    const limits = { signal: new AbortController().signal, timeoutMs: this.#timing.retryMs };
    try {
      const found = await this.#read(limits);
      if (found?.record.holderIdentity !== identity) return;
      const now = microTime(clock.now());
      const { leaseTransitions } = found.record;
      const empty = { holderIdentity: '', leaseDurationSeconds: 1, acquireTime: now, renewTime: now, leaseTransitions };
      await this.#write('PUT', empty, found.resourceVersion, limits);
      log.info({ event: 'leader.released', identity }, 'the lease is released');
    } catch (error) {
      log.warn({ event: 'leader.release_failed', error: describe(error) }, 'the lease runs out by itself');
    }
  }
}

function recordOf(lease: unknown): LeaseRecord {
  const spec = asRecord(asRecord(lease)?.['spec']) ?? {};
  const text = (field: string): string => (typeof spec[field] === 'string' ? spec[field] : '');
  const number = (field: string): number => (typeof spec[field] === 'number' ? spec[field] : 0);
  return {
    holderIdentity: text('holderIdentity'),
    leaseDurationSeconds: number('leaseDurationSeconds'),
    acquireTime: text('acquireTime'),
    renewTime: text('renewTime'),
    leaseTransitions: number('leaseTransitions'),
  };
}

/** metav1.MicroTime: the API server takes six digits after the second. */
export function microTime(ms: number): string {
  return new Date(ms).toISOString().replace(/\.(\d{3})Z$/, '.$1000Z');
}
