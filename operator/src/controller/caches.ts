import { parseResource } from '../api/parse.ts';
import {
  apiVersion,
  type ResourceKind,
  type ResourceOf,
  type Secret,
  type VpnAllocation,
  type VpnKey,
  type VpnNetwork,
  type VpnPeer,
} from '../api/types.ts';
import type { ApiClient } from '../cluster/api-client.ts';
import type { Random } from '../cluster/backoff.ts';
import type { Clock } from '../cluster/clock.ts';
import { Informer, type ObjectCache } from '../cluster/informer.ts';
import { asRecord } from '../cluster/json.ts';
import type { Health, ListWatchTiming, WatchFigures } from '../cluster/list-watch.ts';
import { NewerFields } from '../cluster/newer-fields.ts';
import { apiPath } from '../cluster/resource-path.ts';
import { describe, type OvpnError } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import { caNamespace } from './pki/secret-store.ts';

export interface CachesOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** The operator's own namespace. */
  readonly namespace: string;
  readonly timing?: Partial<ListWatchTiming>;
}

/** The labels of an object of which nothing else is read. */
export interface Labelled {
  readonly labels: Readonly<Record<string, string>>;
}

/** What the controller sees of the cluster, for reconcilers to read. */
export interface View {
  readonly networks: ObjectCache<VpnNetwork>;
  readonly peers: ObjectCache<VpnPeer>;
  readonly keys: ObjectCache<VpnKey>;
  readonly allocations: ObjectCache<VpnAllocation>;
  readonly nodes: ObjectCache<Labelled>;
  readonly namespaces: ObjectCache<Labelled>;
  /** All Secrets of the operator's own namespace. */
  readonly secrets: ObjectCache<Secret>;
  /** The Secrets with the networks' own CAs. */
  readonly caSecrets: ObjectCache<Secret>;
}

/**
 * What the controller watches. Resources are checked as the agents check them: one that is there but cannot be used
 * has no `value`, and what depends on it stays as it is.
 *
 * Secrets are watched in the operator's own namespace only. Those of users are read by name (see MaterialCopies).
 */
export class Caches implements View {
  readonly networks: Informer<VpnNetwork>;
  readonly peers: Informer<VpnPeer>;
  readonly keys: Informer<VpnKey>;
  readonly allocations: Informer<VpnAllocation>;
  readonly nodes: Informer<Labelled>;
  readonly namespaces: Informer<Labelled>;
  readonly secrets: Informer<Secret>;
  readonly caSecrets: Informer<Secret>;
  readonly #all: readonly Informer<unknown>[];

  constructor({ namespace, ...shared }: CachesOptions) {
    const newer = new NewerFields(shared.log);
    const read =
      <K extends ResourceKind>(kind: K) =>
      (object: unknown): ResourceOf<K> | undefined =>
        usable(kind, object, shared.log, newer);
    const labels = (_object: unknown, meta: Labelled): Labelled => ({ labels: meta.labels });
    this.networks = new Informer<VpnNetwork>({ ...shared, path: apiPath('VpnNetwork'), read: read('VpnNetwork') });
    this.peers = new Informer<VpnPeer>({ ...shared, path: apiPath('VpnPeer'), read: read('VpnPeer') });
    this.keys = new Informer<VpnKey>({ ...shared, path: apiPath('VpnKey'), read: read('VpnKey') });
    this.allocations = new Informer<VpnAllocation>({
      ...shared,
      path: apiPath('VpnAllocation'),
      read: read('VpnAllocation'),
    });
    this.nodes = new Informer<Labelled>({ ...shared, path: apiPath('Node'), metadataOnly: true, read: labels });
    this.namespaces = new Informer<Labelled>({
      ...shared,
      path: apiPath('Namespace'),
      metadataOnly: true,
      read: labels,
    });
    this.secrets = new Informer<Secret>({ ...shared, path: apiPath('Secret', { namespace }), read: read('Secret') });
    const ofCas = apiPath('Secret', { namespace: caNamespace(namespace) });
    this.caSecrets = new Informer<Secret>({ ...shared, path: ofCas, read: read('Secret') });
    this.#all = [
      this.networks,
      this.peers,
      this.keys,
      this.allocations,
      this.nodes,
      this.namespaces,
      this.secrets,
      this.caSecrets,
    ] as readonly Informer<unknown>[];
  }

  /** Resolves when all were listed once. */
  async start(): Promise<void> {
    await Promise.all(this.#all.map((informer) => informer.start()));
  }

  async stop(): Promise<void> {
    await Promise.all(this.#all.map((informer) => informer.stop()));
  }

  get synced(): boolean {
    return this.#all.every(({ synced }) => synced);
  }

  /** Tells all change handlers of everything that is there, as if it were new. */
  replay(): void {
    for (const informer of this.#all) informer.replay();
  }

  get watches(): readonly WatchFigures[] {
    return this.#all.map(({ figures }) => figures);
  }

  health(): Health {
    return this.#all.map(({ health }) => health).find(({ ok }) => !ok) ?? { ok: true, message: '' };
  }
}

/** The object as a checked resource; undefined (and a line in the log) when it is none. */
function usable<K extends ResourceKind>(
  kind: K,
  object: unknown,
  log: Log,
  newer: NewerFields,
): ResourceOf<K> | undefined {
  const version = kind === 'Secret' ? 'v1' : apiVersion;
  const result = parseResource({ apiVersion: version, kind, ...asRecord(object) }, 'the API server', {
    onNewerField: (field) => newer.tell(kind, field),
  });
  // The server gives what was asked for: the kind is that of the path.
  if (result.ok) return result.resource as ResourceOf<K>;
  const { errors } = result;
  log.warn({ event: 'object.unusable', kind, errors: errors.map((error: OvpnError) => describe(error)) }, 'left alone');
  return undefined;
}
