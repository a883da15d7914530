import { EventEmitter } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import {
  holderLabel,
  parseClaimName,
  withAdmittedNamespaces,
  withAllocatedAddresses,
  withAllocatedNodes,
  withUnderlayAddresses,
} from '../api/allocation.ts';
import type { PodFacts } from '../api/attach-rules.ts';
import { parseResource } from '../api/parse.ts';
import { apiVersion, formatRef, refOf } from '../api/types.ts';
import type {
  Holder,
  ObjectRef,
  Resource,
  ResourceKind,
  ResourceOf,
  VpnAllocation,
  VpnNetwork,
  VpnPeer,
} from '../api/types.ts';
import { parseAddress } from '../api/ip.ts';
import { OvpnError } from '../errors.ts';
import { type Meter, noMeter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import { ApiClient, ApiError } from './api-client.ts';
import type { Random } from './backoff.ts';
import { systemClock } from './clock.ts';
import type { Clock } from './clock.ts';
import { metaOf } from './informer.ts';
import { asRecord } from './json.ts';
import type { ApiAccess } from './kube-access.ts';
import { ListWatch } from './list-watch.ts';
import type { Health, ListWatchReader, ListWatchTiming, WatchFigures } from './list-watch.ts';
import { materialLabel, presentSecret } from './material-secret.ts';
import { ApiNodeLeases } from './node-leases.ts';
import { NewerFields } from './newer-fields.ts';
import { podFromApi, type PodName } from './pods.ts';
import { collectionPath, objectPath } from './resource-path.ts';
import type { Rejection, ResourceSource, SourceEvents } from './source.ts';
import { StatusWriter, agentFieldManager, type StatusWriterOptions } from './status-writer.ts';
import { sampleWatches } from './watch-metrics.ts';
import { ObjectStore } from './store.ts';
import type { Claim, Outcome } from './store.ts';

export interface ApiSourceOptions {
  readonly access: ApiAccess;
  /** The own node's name. */
  readonly node: string;
  /** The operator's namespace: the only one where Secrets are read. Default `ovpn-system`. */
  readonly namespace?: string;
  readonly log: Log;
  readonly meter?: Meter;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly userAgent?: string;
  readonly timing?: Partial<ListWatchTiming>;
  /** Rates of status writes, where they are not those of StatusWriter. */
  readonly statusRates?: Pick<StatusWriterOptions, 'perSecond' | 'burst' | 'newsPerSecond' | 'newsBurst'>;
}

/** All nodes write in one name, so that a claim takes the place of the one before. */
const claimFieldManager = 'ovpn-agent-claim';
const claimMs = 10_000;

/** What of the own Node object counts here. */
interface NodeFacts {
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: readonly string[];
  readonly leaving: boolean;
}

const customKinds = ['VpnNetwork', 'VpnPeer', 'VpnKey', 'VpnAllocation'] as const;

/** Resources from a Kubernetes API server. What was read stays in force while the server is away. */
export class ApiSource extends EventEmitter<SourceEvents> implements ResourceSource {
  readonly #client: ApiClient;
  readonly #store: ObjectStore;
  readonly #statuses: StatusWriter;
  readonly #watches: readonly {
    readonly listed: boolean;
    readonly health: Health;
    readonly figures: WatchFigures;
    start(): Promise<void>;
    stop(): Promise<void>;
  }[];
  /** Allocations of nodes, by network and name. */
  readonly #allocations = new Map<string, Map<string, VpnAllocation>>();
  /** Networks together with what their nodes hold, as long as neither changes. */
  readonly #networks = new Map<string, { readonly from: VpnNetwork; readonly whole: VpnNetwork }>();
  /** Undefined until the Node object was seen; it stays when the Node object goes. */
  #nodeLabels: Readonly<Record<string, string>> | undefined;
  #nodeAddresses: readonly string[] = [];
  #nodeIsLeaving = false;
  #nodeUid: string | undefined;
  readonly leases: ApiNodeLeases;
  readonly #stop = new AbortController();

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
      meter: options.meter ?? noMeter,
      fieldManager: agentFieldManager(node),
      ...options.statusRates,
    });
    const shared = { client: this.#client, clock, random, log, timing: options.timing ?? {} };
    this.leases = new ApiNodeLeases({ ...shared, namespace, node, nodeUid: () => this.#nodeUid });
    const newer = new NewerFields(log);
    const secrets = `/api/v1/namespaces/${encodeURIComponent(namespace)}/secrets`;
    this.#watches = [
      ...customKinds.map((kind) => {
        const path = collectionPath(kind);
        return new ListWatch({
          ...shared,
          path,
          // Of allocations only those of nodes: a peer's stand in its status.
          ...(kind === 'VpnAllocation' ? { selectors: { labelSelector: `${holderLabel}=Node` } } : {}),
          reader: this.#reader(path, (object) => customClaim(kind, path, object, newer)),
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
    options.meter?.onScrape((sample) =>
      sampleWatches(
        sample,
        [...this.#watches, ...this.#leaseWatch()].map(({ figures }) => figures),
      ),
    );
  }

  async start(): Promise<void> {
    await Promise.all(this.#watches.map((watch) => watch.start()));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all([...this.#watches.map((watch) => watch.stop()), this.leases.stop(), this.#statuses.stop()]);
    this.#client.close();
  }

  get complete(): boolean {
    // Without the node's labels nobody can say which networks belong here.
    return this.#nodeLabels !== undefined && this.#watches.every(({ listed }) => listed) && this.#store.whole;
  }

  get rejections(): readonly Rejection[] {
    return this.#store.rejections;
  }

  readonly shared = true;

  get nodeLabels(): Readonly<Record<string, string>> {
    return this.#nodeLabels ?? {};
  }

  get nodeAddresses(): readonly string[] {
    return this.#nodeAddresses;
  }

  get nodeIsLeaving(): boolean {
    return this.#nodeIsLeaving;
  }

  /** Of Leases, once somebody follows them. */
  #leaseWatch(): NonNullable<ApiNodeLeases['watch']>[] {
    return this.leases.watch === undefined ? [] : [this.leases.watch];
  }

  async claim({ metadata }: VpnPeer, holder: Holder): Promise<'taken' | 'conflict'> {
    const { name, namespace, uid, resourceVersion } = metadata;
    // Of two nodes at the same version, the API server takes one.
    const object = {
      apiVersion,
      kind: 'VpnPeer',
      metadata: { name, namespace, uid, resourceVersion },
      status: { holder },
    };
    try {
      await this.#client.json({
        method: 'PATCH',
        path: `${objectPath({ kind: 'VpnPeer', namespace, name }) ?? ''}/status`,
        query: { fieldManager: claimFieldManager, force: 'true' },
        body: { type: 'application/apply-patch+yaml', text: JSON.stringify(object) },
        signal: this.#stop.signal,
        timeoutMs: claimMs,
      });
      return 'taken';
    } catch (error) {
      if (error instanceof ApiError && (error.status === 409 || error.status === 404)) return 'conflict';
      throw error;
    }
  }

  async holderNow({ namespace, name }: ObjectRef, timeoutMs: number): Promise<Holder | undefined> {
    const path = objectPath({ kind: 'VpnPeer', name, ...(namespace === undefined ? {} : { namespace }) }) ?? '';
    try {
      return holderIn(await this.#client.json({ path, signal: this.#stop.signal, timeoutMs }));
    } catch (error) {
      if (error instanceof ApiError && error.notFound) return undefined;
      throw error;
    }
  }

  /** Whether the API server answers; the message is that of an ApiUnavailable error. */
  health(): Health {
    const watches = [...this.#watches, ...this.#leaseWatch()].map(({ health }) => health);
    const bad = [...watches, this.#statuses.health].find(({ ok }) => !ok);
    return bad === undefined
      ? { ok: true, message: '' }
      : { ok: false, message: new OvpnError('ApiUnavailable', bad.message).message };
  }

  get<K extends ResourceKind>(kind: K, namespace: string | undefined, name: string): ResourceOf<K> | undefined {
    const found = this.#store.get(kind, namespace, name);
    return found === undefined ? undefined : this.#whole(found);
  }

  *list<K extends ResourceKind>(kind: K): Iterable<ResourceOf<K>> {
    for (const found of this.#store.list(kind)) yield this.#whole(found);
  }

  /** A network with the addresses of its nodes; anything else as it is. */
  #whole<R extends Resource>(resource: R): R {
    if (resource.kind !== 'VpnNetwork') return resource;
    const { name } = resource.metadata;
    const known = this.#networks.get(name);
    if (known?.from === resource) return known.whole as R;
    const whole = withUnderlayAddresses(withAllocatedNodes(resource, this.#allocations.get(name)?.values() ?? []));
    this.#networks.set(name, { from: resource, whole });
    return whole as R;
  }

  /** Keeps allocations by network, for a network to be whole at once with what its nodes hold. */
  #takeAllocation(name: string): void {
    const allocation = this.#store.get('VpnAllocation', undefined, name);
    const network = parseClaimName(name)?.network ?? '';
    const held = this.#allocations.get(network) ?? new Map<string, VpnAllocation>();
    if (allocation === undefined) held.delete(name);
    else held.set(name, allocation);
    if (held.size === 0) this.#allocations.delete(network);
    else this.#allocations.set(network, held);
    this.#networks.delete(network);
  }

  findPod(pod: PodName): Promise<PodFacts> {
    return podFromApi(this.#client, pod);
  }

  publishStatus(resource: Resource, status: unknown): void {
    this.#statuses.publish(resource, status);
  }

  #tellChange(refs: readonly ObjectRef[]): void {
    const told = new Map<string, ObjectRef>();
    for (const ref of refs) {
      const gone = this.#store.get(ref.kind, ref.namespace, ref.name) === undefined;
      if (gone) this.#statuses.forget(ref);
      if (gone && ref.kind === 'VpnNetwork') this.#networks.delete(ref.name);
      // What a node holds is told as a change of the network.
      const name = ref.kind === 'VpnAllocation' ? parseClaimName(ref.name)?.network : undefined;
      const concerned: ObjectRef = name === undefined ? ref : { kind: 'VpnNetwork', name };
      if (ref.kind !== 'VpnAllocation' || this.get('VpnNetwork', undefined, concerned.name) !== undefined) {
        told.set(formatRef(concerned), concerned);
      }
    }
    if (told.size > 0) this.emit('change', [...told.values()]);
  }

  #reader(feed: string, decode: (object: unknown) => Claim): ListWatchReader<Claim> {
    return {
      decode,
      replaced: (claims) => {
        const before = this.#store.claims(feed);
        this.#store.update((update) => update.replace(feed, claims));
        for (const claim of [...before, ...claims]) this.#took(claim);
      },
      put: (claim) => {
        this.#store.update((update) => update.put(feed, claim));
        this.#took(claim);
      },
      deleted: (claim) => {
        this.#store.update((update) => update.drop(feed, claim.id));
        this.#took(claim);
      },
    };
  }

  #took({ outcome }: Claim): void {
    const ref = outcome.ok ? refOf(outcome.resource) : outcome.ref;
    if (ref?.kind === 'VpnAllocation') this.#takeAllocation(ref.name);
  }

  #nodeReader(log: Log): ListWatchReader<NodeFacts> {
    const put = ({ uid, labels, addresses, leaving }: NodeFacts): void => {
      this.#nodeUid = uid;
      const known = [this.#nodeLabels, this.#nodeAddresses, this.#nodeIsLeaving];
      if (isDeepStrictEqual([labels, addresses, leaving], known)) return;
      this.#nodeIsLeaving = leaving;
      this.#nodeLabels = labels;
      this.#nodeAddresses = addresses;
      this.emit('nodeLabels', labels);
    };
    const gone = (): void =>
      log.warn({ event: 'node.missing' }, 'the API server has no Node of the own name; its last labels stay in force');
    return {
      decode: (object) => {
        const { uid, deletionTimestamp } = metaOf(object);
        const cordoned = asRecord(asRecord(object)?.['spec'])?.['unschedulable'] === true;
        const leaving = cordoned || deletionTimestamp !== undefined;
        return { uid, labels: labelsOf(object), addresses: internalAddressesOf(object), leaving };
      },
      replaced: ([facts]) => (facts === undefined ? gone() : put(facts)),
      put,
      deleted: gone,
    };
  }
}

function customClaim(kind: (typeof customKinds)[number], path: string, object: unknown, newer: NewerFields): Claim {
  const { namespace, name } = nameOf(object);
  const ref: ObjectRef = { kind, name, ...(namespace === undefined ? {} : { namespace }) };
  const id = `${path}/${namespace ?? ''}/${name}`;
  const origin =
    namespace === undefined ? `${path}/${name}` : path.replace(/[^/]+$/, `namespaces/${namespace}/$&/${name}`);
  // The server names its objects, so a rejection can always say which one it means.
  const outcome = parse({ apiVersion, kind, ...asRecord(object) }, origin, ref, (field) => newer.tell(kind, field));
  return { id, origin, outcome: outcome.ok ? { ok: true, resource: decidedBy(outcome.resource) } : outcome };
}

/** The resource with what the controller decided for it. */
function decidedBy(resource: Resource): Resource {
  if (resource.kind === 'VpnPeer') return withAllocatedAddresses(resource);
  return resource.kind === 'VpnNetwork' ? withAdmittedNamespaces(resource) : resource;
}

function secretClaim(path: string, object: unknown): Claim {
  const origin = `${path}/${nameOf(object).name}`;
  const presented = presentSecret(object, origin);
  const outcome: Outcome =
    'error' in presented ? { ok: false, errors: [presented.error] } : parse(presented.value, origin, undefined);
  return { id: origin, origin, outcome };
}

function parse(
  value: unknown,
  origin: string,
  ref: ObjectRef | undefined,
  onNewerField: (field: string) => void = () => {},
): Outcome {
  const result = parseResource(value, origin, { onNewerField });
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

/** The claim in a VpnPeer as the API server sends it. */
function holderIn(object: unknown): Holder | undefined {
  const { node, epoch, since, reason } = asRecord(asRecord(asRecord(object)?.['status'])?.['holder']) ?? {};
  if (typeof node !== 'string' || typeof epoch !== 'number' || typeof since !== 'string') return undefined;
  return { node, epoch, since, ...(typeof reason === 'string' ? { reason } : {}) };
}

/** In the order of the Node, which is that of preference. */
function internalAddressesOf(object: unknown): readonly string[] {
  const addresses = asRecord(asRecord(object)?.['status'])?.['addresses'];
  return (Array.isArray(addresses) ? addresses : []).flatMap((entry) => {
    const { type, address } = asRecord(entry) ?? {};
    const parsed = type === 'InternalIP' && typeof address === 'string' ? parseAddress(address) : undefined;
    return parsed?.text ?? [];
  });
}
