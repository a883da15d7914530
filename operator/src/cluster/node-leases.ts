import type { Log } from '../telemetry/log.ts';
import { ApiError } from './api-client.ts';
import type { ApiClient } from './api-client.ts';
import type { Random } from './backoff.ts';
import type { Clock } from './clock.ts';
import { metaOf } from './informer.ts';
import { asRecord, canonical } from './json.ts';
import { microTime } from './leader-election.ts';
import { ListWatch } from './list-watch.ts';
import type { Health, ListWatchTiming, WatchFigures } from './list-watch.ts';
import { apiPath } from './resource-path.ts';

/** What the Lease of a node says. */
export interface NodeLease {
  readonly node: string;
  /** For how long after a renewal others take the node for alive. Milliseconds. */
  readonly durationMs: number;
  /** The node has given up what it had. */
  readonly released: boolean;
  /** Another with every renewal. */
  readonly version: string;
}

/**
 * How nodes say that they live: by one Lease each (coordination.k8s.io/v1), in the operator's namespace. Only nodes that
 * hold placed peers have one.
 */
export interface NodeLeases {
  /** Tells of every renewal of any node from now on. The second call does nothing. */
  follow(seen: (lease: NodeLease) => void): void;
  /** What stands at the API server now; undefined when that node has none. @throws ApiError, or Error without an answer */
  read(node: string, timeoutMs: number): Promise<NodeLease | undefined>;
  /** Renews the own node's, or makes it. @throws ApiError, or Error without an answer */
  write(lease: Pick<NodeLease, 'durationMs' | 'released'>, timeoutMs: number): Promise<void>;
}

/** Before the name of the node; the admission policy of the chart has the same. */
const prefix = 'ovpn-node-';
/** The controller has a Lease in that namespace, too. */
const label = 'ovpn-operator.io/node-lease';
/** Longer ones count as this long: whoever writes nonsense does not keep its peers for ever. */
const longestMs = 600_000;

export interface ApiNodeLeasesOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly timing: Partial<ListWatchTiming>;
  readonly namespace: string;
  /** The own node's name. */
  readonly node: string;
  /** The uid of the own Node, with which its Lease goes; undefined as long as it is not known. */
  readonly nodeUid: () => string | undefined;
}

/** The Leases of nodes on a Kubernetes API server. Nothing is asked for before somebody follows, reads or writes. */
export class ApiNodeLeases implements NodeLeases {
  readonly #options: ApiNodeLeasesOptions;
  readonly #stop = new AbortController();
  #watch: ListWatch<NodeLease | undefined> | undefined;

  constructor(options: ApiNodeLeasesOptions) {
    this.#options = options;
  }

  follow(seen: (lease: NodeLease) => void): void {
    if (this.#watch !== undefined || this.#stop.signal.aborted) return;
    const { client, clock, random, log, timing, namespace } = this.#options;
    const tell = (lease: NodeLease | undefined): void => {
      if (lease !== undefined) seen(lease);
    };
    this.#watch = new ListWatch({
      ...{ client, clock, random, log, timing },
      path: apiPath('Lease', { namespace }),
      selectors: { labelSelector: `${label}=true` },
      reader: {
        decode: leaseOf,
        replaced: (leases) => leases.forEach(tell),
        put: tell,
        // A Lease that is gone is renewed no more; that is noticed as any silence is.
        deleted: () => undefined,
      },
    });
    void this.#watch.start();
  }

  async read(node: string, timeoutMs: number): Promise<NodeLease | undefined> {
    const { client, namespace } = this.#options;
    try {
      const path = apiPath('Lease', { namespace, name: `${prefix}${node}` });
      return leaseOf(await client.json({ path, signal: this.#stop.signal, timeoutMs }));
    } catch (error) {
      if (error instanceof ApiError && error.notFound) return undefined;
      throw error;
    }
  }

  async write({ durationMs, released }: Pick<NodeLease, 'durationMs' | 'released'>, timeoutMs: number): Promise<void> {
    const { client, clock, namespace, node, nodeUid } = this.#options;
    const name = `${prefix}${node}`;
    const spec = {
      holderIdentity: released ? '' : node,
      leaseDurationSeconds: Math.max(1, Math.ceil(durationMs / 1000)),
      renewTime: microTime(clock.now()),
    };
    const limits = { signal: this.#stop.signal, timeoutMs };
    try {
      await client.json({
        method: 'PATCH',
        path: apiPath('Lease', { namespace, name }),
        body: { type: 'application/merge-patch+json', text: canonical({ spec }) },
        ...limits,
      });
    } catch (error) {
      if (!(error instanceof ApiError && error.notFound)) throw error;
      const uid = nodeUid();
      const owner = { apiVersion: 'v1', kind: 'Node', name: node, uid };
      const metadata = {
        ...{ namespace, name, labels: { [label]: 'true' } },
        ...(uid === undefined ? {} : { ownerReferences: [owner] }),
      };
      const lease = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata, spec };
      await client.json({
        method: 'POST',
        path: apiPath('Lease', { namespace }),
        body: { type: 'application/json', text: canonical(lease) },
        ...limits,
      });
    }
  }

  /** Of the watch, once somebody follows. */
  get watch(): { readonly health: Health; readonly figures: WatchFigures } | undefined {
    return this.#watch;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#watch?.stop();
  }
}

function leaseOf(object: unknown): NodeLease | undefined {
  const { name, resourceVersion } = metaOf(object);
  if (!name.startsWith(prefix)) return undefined;
  const { holderIdentity, leaseDurationSeconds } = asRecord(asRecord(object)?.['spec']) ?? {};
  const seconds = typeof leaseDurationSeconds === 'number' ? leaseDurationSeconds : 0;
  return {
    node: name.slice(prefix.length),
    durationMs: Math.min(Math.max(seconds * 1000, 1_000), longestMs),
    released: typeof holderIdentity !== 'string' || holderIdentity === '',
    version: resourceVersion,
  };
}
