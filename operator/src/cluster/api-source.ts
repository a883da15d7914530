import { EventEmitter } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import type { PodFacts } from '../api/attach-rules.ts';
import { parseResource } from '../api/parse.ts';
import { apiVersion } from '../api/types.ts';
import type { ObjectRef, Resource, ResourceKind, ResourceOf } from '../api/types.ts';
import { OvpnError } from '../errors.ts';
import { Counters } from '../telemetry/counters.ts';
import type { Log } from '../telemetry/log.ts';
import { ApiClient } from './api-client.ts';
import type { Random } from './backoff.ts';
import { systemClock } from './clock.ts';
import type { Clock } from './clock.ts';
import { asRecord } from './json.ts';
import type { ApiAccess } from './kube-access.ts';
import { ListWatch } from './list-watch.ts';
import type { Health, ListWatchReader, ListWatchTiming } from './list-watch.ts';
import { materialLabel, presentSecret } from './material-secret.ts';
import { podFromApi, type PodName } from './pods.ts';
import { collectionPath } from './resource-path.ts';
import type { Rejection, ResourceSource, SourceEvents } from './source.ts';
import { StatusWriter, agentFieldManager } from './status-writer.ts';
import { ObjectStore } from './store.ts';
import type { Claim, Outcome } from './store.ts';

export interface ApiSourceOptions {
  readonly access: ApiAccess;
  /** The own node's name. */
  readonly node: string;
  /** The operator's namespace: the only one where Secrets are read. Default `ovpn-system`. */
  readonly namespace?: string;
  readonly log: Log;
  readonly counters?: Counters;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly userAgent?: string;
  readonly timing?: Partial<ListWatchTiming>;
  /** Status writes per second, and at once. Default 5 and 20. */
  readonly statusPerSecond?: number;
  readonly statusBurst?: number;
}

const customKinds = ['VpnNetwork', 'VpnPeer', 'VpnKey'] as const;

/** Resources from a Kubernetes API server. What was read stays in force while the server is away. */
export class ApiSource extends EventEmitter<SourceEvents> implements ResourceSource {
  readonly #client: ApiClient;
  readonly #store: ObjectStore;
  readonly #statuses: StatusWriter;
  readonly #watches: readonly {
    readonly listed: boolean;
    readonly health: Health;
    start(): Promise<void>;
    stop(): Promise<void>;
  }[];
  /** Undefined until the Node object was seen; it stays when the Node object goes. */
  #nodeLabels: Readonly<Record<string, string>> | undefined;

  constructor(options: ApiSourceOptions) {
    super();
    const { log, node, namespace = 'ovpn-system', clock = systemClock, random = Math.random } = options;
    this.#client = new ApiClient(options.access, clock, options.userAgent ?? 'ovpn-operator');
    this.#store = new ObjectStore({
      onChange: (refs) => this.#tellChange(refs),
      onRejections: (rejections) => void this.emit('rejections', rejections),
    });
    this.#statuses = new StatusWriter({
      client: this.#client,
      clock,
      random,
      log,
      counters: options.counters ?? new Counters(),
      fieldManager: agentFieldManager(node),
      ...(options.statusPerSecond === undefined ? {} : { perSecond: options.statusPerSecond }),
      ...(options.statusBurst === undefined ? {} : { burst: options.statusBurst }),
    });
    const shared = { client: this.#client, clock, random, log, timing: options.timing ?? {} };
    const secrets = `/api/v1/namespaces/${encodeURIComponent(namespace)}/secrets`;
    this.#watches = [
      ...customKinds.map((kind) => {
        const path = collectionPath(kind);
        return new ListWatch({
          ...shared,
          path,
          reader: this.#reader(path, (object) => customClaim(kind, path, object)),
        });
      }),
      new ListWatch({
        ...shared,
        path: secrets,
        selectors: { labelSelector: `${materialLabel}=true` },
        reader: this.#reader(secrets, (object) => secretClaim(secrets, object)),
      }),
      new ListWatch({
        ...shared,
        path: '/api/v1/nodes',
        selectors: { fieldSelector: `metadata.name=${node}` },
        reader: this.#nodeReader(log),
      }),
    ];
  }

  async start(): Promise<void> {
    await Promise.all(this.#watches.map((watch) => watch.start()));
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#watches.map((watch) => watch.stop()), this.#statuses.stop()]);
    this.#client.close();
  }

  get complete(): boolean {
    // Without the node's labels nobody can say which networks belong here.
    return this.#nodeLabels !== undefined && this.#watches.every(({ listed }) => listed) && this.#store.whole;
  }

  get rejections(): readonly Rejection[] {
    return this.#store.rejections;
  }

  get nodeLabels(): Readonly<Record<string, string>> {
    return this.#nodeLabels ?? {};
  }

  /** Whether the API server answers; the message is that of an ApiUnavailable error. */
  health(): Health {
    const bad = [...this.#watches.map((watch) => watch.health), this.#statuses.health].find(({ ok }) => !ok);
    return bad === undefined
      ? { ok: true, message: '' }
      : { ok: false, message: new OvpnError('ApiUnavailable', bad.message).message };
  }

  get<K extends ResourceKind>(kind: K, namespace: string | undefined, name: string): ResourceOf<K> | undefined {
    return this.#store.get(kind, namespace, name);
  }

  list<K extends ResourceKind>(kind: K): Iterable<ResourceOf<K>> {
    return this.#store.list(kind);
  }

  findPod(pod: PodName): Promise<PodFacts> {
    return podFromApi(this.#client, pod);
  }

  publishStatus(resource: Resource, status: unknown): void {
    this.#statuses.publish(resource, status);
  }

  #tellChange(refs: readonly ObjectRef[]): void {
    for (const ref of refs) {
      if (this.#store.get(ref.kind, ref.namespace, ref.name) === undefined) this.#statuses.forget(ref);
    }
    this.emit('change', refs);
  }

  #reader(feed: string, decode: (object: unknown) => Claim): ListWatchReader<Claim> {
    return {
      decode,
      replaced: (claims) => this.#store.update((update) => update.replace(feed, claims)),
      put: (claim) => this.#store.update((update) => update.put(feed, claim)),
      deleted: ({ id }) => this.#store.update((update) => update.drop(feed, id)),
    };
  }

  #nodeReader(log: Log): ListWatchReader<Readonly<Record<string, string>>> {
    const put = (labels: Readonly<Record<string, string>>): void => {
      if (isDeepStrictEqual(labels, this.#nodeLabels)) return;
      this.#nodeLabels = labels;
      this.emit('nodeLabels', labels);
    };
    const gone = (): void =>
      log.warn({ event: 'node.missing' }, 'the API server has no Node of the own name; its last labels stay in force');
    return {
      decode: labelsOf,
      replaced: ([labels]) => (labels === undefined ? gone() : put(labels)),
      put,
      deleted: gone,
    };
  }
}

function customClaim(kind: (typeof customKinds)[number], path: string, object: unknown): Claim {
  const { namespace, name } = nameOf(object);
  const ref: ObjectRef = { kind, name, ...(namespace === undefined ? {} : { namespace }) };
  const id = `${path}/${namespace ?? ''}/${name}`;
  const origin =
    namespace === undefined ? `${path}/${name}` : path.replace(/[^/]+$/, `namespaces/${namespace}/$&/${name}`);
  // The server names its objects, so a rejection can always say which one it means.
  return { id, origin, outcome: parse({ apiVersion, kind, ...asRecord(object) }, origin, ref) };
}

function secretClaim(path: string, object: unknown): Claim {
  const origin = `${path}/${nameOf(object).name}`;
  const presented = presentSecret(object, origin);
  const outcome: Outcome =
    'error' in presented ? { ok: false, errors: [presented.error] } : parse(presented.value, origin, undefined);
  return { id: origin, origin, outcome };
}

function parse(value: unknown, origin: string, ref: ObjectRef | undefined): Outcome {
  const result = parseResource(value, origin);
  return result.ok ? result : { ok: false, ref: ref ?? result.ref, errors: result.errors };
}

function nameOf(object: unknown): { namespace: string | undefined; name: string } {
  const { namespace, name } = asRecord(asRecord(object)?.['metadata']) ?? {};
  return {
    namespace: typeof namespace === 'string' && namespace !== '' ? namespace : undefined,
    name: typeof name === 'string' ? name : '',
  };
}

function labelsOf(object: unknown): Readonly<Record<string, string>> {
  const labels = asRecord(asRecord(asRecord(object)?.['metadata'])?.['labels']) ?? {};
  return Object.fromEntries(
    Object.entries(labels).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}
