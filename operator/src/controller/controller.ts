import { ApiClient, ApiError } from '../cluster/api-client.ts';
import type { Random } from '../cluster/backoff.ts';
import type { Clock } from '../cluster/clock.ts';
import { EventRecorder } from '../cluster/event-recorder.ts';
import type { ApiAccess } from '../cluster/kube-access.ts';
import { LeaderElection } from '../cluster/leader-election.ts';
import type { LeaderElectionTiming } from '../cluster/leader-election.ts';
import type { Health, ListWatchTiming } from '../cluster/list-watch.ts';
import { sampleWatches } from '../cluster/watch-metrics.ts';
import { ObjectWriter } from '../cluster/object-writer.ts';
import { describe, OvpnError } from '../errors.ts';
import type { Meter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import { Caches } from './caches.ts';
import type { Reconciler, ReconcilerFactory } from './reconciler.ts';
import { WorkQueue } from './work-queue.ts';

export interface ControllerOptions {
  readonly access: ApiAccess;
  /** Who this process is among its replicas; unique, also after a restart. */
  readonly identity: string;
  /** The operator's own namespace: of the Lease, and of the Secrets that agents read. */
  readonly namespace: string;
  readonly reconcilers: readonly ReconcilerFactory[];
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly meter: Meter;
  readonly electionTiming?: Partial<LeaderElectionTiming>;
  readonly timing?: Partial<ListWatchTiming>;
  /** Keys that are worked on at once, for each reconciler. Default 8. */
  readonly workers?: number;
  /** Requests of the reconcilers per second in the long run, and at once. Default 100 and 200. */
  readonly perSecond?: number;
  readonly burst?: number;
}

const LEASE = 'ovpn-controller';

interface Lane {
  readonly reconciler: Reconciler;
  readonly queue: WorkQueue;
}

/**
 * The cluster-wide part: caches of what it watches, one queue for each reconciler, and a lease that says which
 * replica works. A replica that waits keeps its caches warm and does nothing else. Losing all of them never touches
 * traffic: what was decided stands in the API server, and agents go by that.
 */
export class Controller {
  readonly #options: ControllerOptions;
  readonly #client: ApiClient;
  readonly #caches: Caches;
  readonly #events: EventRecorder;
  readonly #election: LeaderElection;
  readonly #stop = new AbortController();
  readonly #writing = new AbortController();
  readonly #lanes: readonly Lane[];
  #done: Promise<'stopped' | 'lost'> | undefined;

  constructor(options: ControllerOptions) {
    const { access, identity, namespace, clock, random, log, meter } = options;
    this.#options = options;
    this.#client = new ApiClient(access, clock, 'ovpn-controller');
    const shared = { client: this.#client, clock, log };
    this.#caches = new Caches({ ...shared, random, namespace, timing: options.timing ?? {} });
    this.#events = new EventRecorder({ ...shared, controller: 'ovpn-operator.io/controller', instance: identity });
    const timing = options.electionTiming ?? {};
    this.#election = new LeaderElection({ ...shared, random, namespace, name: LEASE, identity, timing });
    const writer = new ObjectWriter({
      ...shared,
      signal: this.#writing.signal,
      ...(options.perSecond === undefined ? {} : { perSecond: options.perSecond }),
      ...(options.burst === undefined ? {} : { burst: options.burst }),
    });
    const context = { caches: this.#caches, events: this.#events, writer, clock, random, log, meter, namespace };
    this.#lanes = options.reconcilers.map((make) => this.#lane(make(context)));
    meter.onScrape((sample) => {
      sample('ovpn_controller_leader', {}, this.leading ? 1 : 0);
      sampleWatches(sample, this.#caches.watches);
    });
  }

  get leading(): boolean {
    return this.#election.leading;
  }

  /** Whether all that is known to be there was looked at and nothing waits to be tried again at once. */
  get idle(): boolean {
    return this.#lanes.every(({ queue }) => queue.idle);
  }

  /** Whether the API server answers; standing by is healthy, too. */
  health(): Health {
    const { ok, message } = this.#caches.health();
    return ok ? { ok, message } : { ok, message: new OvpnError('ApiUnavailable', message).message };
  }

  /**
   * Runs until `stop`. Resolves to `lost` when the leadership was lost: then the process has to end, because writes
   * may be on their way, and be started anew.
   */
  run(): Promise<'stopped' | 'lost'> {
    return (this.#done ??= this.#run());
  }

  /** Ends the work, releases the lease and closes the connections. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }

  async #run(): Promise<'stopped' | 'lost'> {
    const { signal } = this.#stop;
    try {
      await Promise.race([this.#caches.start(), aborted(signal)]);
      if (signal.aborted) return 'stopped';
      return await this.#election.run(signal, (leading) => this.#lead(AbortSignal.any([signal, leading])));
    } finally {
      this.#writing.abort();
      await this.#caches.stop();
      await this.#events.stop();
      this.#client.close();
    }
  }

  async #lead(signal: AbortSignal): Promise<void> {
    // What stands in the caches was told before anybody listened.
    this.#caches.replay();
    for (const { queue } of this.#lanes) queue.start();
    await aborted(signal);
    this.#writing.abort();
    await Promise.all(this.#lanes.map(({ queue }) => queue.stop()));
  }

  #lane(reconciler: Reconciler): Lane {
    const { clock, random, meter, workers = 8 } = this.#options;
    const log = this.#options.log.child({ reconciler: reconciler.name });
    const queue = new WorkQueue({
      clock,
      random,
      workers,
      work: async (key) => {
        const began = performance.now();
        try {
          const again = await reconciler.reconcile(key);
          meter.increment('ovpn_controller_reconciles_total', { reconciler: reconciler.name, result: 'done' });
          return again;
        } finally {
          const seconds = (performance.now() - began) / 1000;
          meter.observe('ovpn_controller_reconcile_duration_seconds', { reconciler: reconciler.name }, seconds);
        }
      },
      onError: (key, error, delayMs) => {
        if (this.#writing.signal.aborted) return;
        const conflict = error instanceof ApiError && (error.conflict || error.notFound);
        const result = conflict ? 'conflict' : 'failed';
        meter.increment('ovpn_controller_reconciles_total', { reconciler: reconciler.name, result });
        const fields = { event: 'reconcile.failed', key, error: describe(error), delayMs: Math.round(delayMs) };
        if (conflict) log.debug(fields, 'an object has changed meanwhile; looked at again');
        else log.warn(fields, 'tried again');
      },
    });
    // While standing by, changes only fill the caches: taking the lead tells of everything.
    reconciler.watch((key, afterMs) => {
      if (this.leading) queue.add(key, afterMs);
    });
    return { reconciler, queue };
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
