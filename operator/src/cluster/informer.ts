import { asRecord } from './json.ts';
import type { ApiClient } from './api-client.ts';
import type { Random } from './backoff.ts';
import type { Clock } from './clock.ts';
import { ListWatch } from './list-watch.ts';
import type { Health, ListWatchTiming, WatchFigures } from './list-watch.ts';
import type { Log } from '../telemetry/log.ts';

/** What every object of the API server has. */
export interface ServerMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly generation?: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
}

/** An object as it was last seen. */
export interface Tracked<T> {
  /** `namespace/name`, or `name` of a cluster-scoped object. */
  readonly key: string;
  readonly meta: ServerMeta;
  /** What was read from it; undefined when it is there but cannot be used (then leave alone what depends on it). */
  readonly value: T | undefined;
}

/** Told of an object that is new (`before` is undefined), changed, or gone (`now` is undefined). */
export type ChangeHandler<T> = (now: Tracked<T> | undefined, before: Tracked<T> | undefined) => void;

export interface InformerOptions<T> {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly path: string;
  readonly selectors?: { readonly labelSelector?: string; readonly fieldSelector?: string };
  readonly metadataOnly?: boolean;
  readonly timing?: Partial<ListWatchTiming>;
  /** Reads one object; undefined when it cannot be used. Must not throw. */
  readonly read: (object: unknown, meta: ServerMeta) => T | undefined;
}

/** More than are deleted in the time that an answer may take. */
const MAX_GONE = 10_000;

/** Whether one version of an object is later than another: they are numbers that grow (Kubernetes API concepts). */
function isNewer(one: string, other: string): boolean {
  return one.length === other.length ? one > other : one.length > other.length;
}

/** The key of an object: `namespace/name`, or `name` where there is no namespace. */
export function keyOf({ namespace, name }: { readonly namespace?: string | undefined; readonly name: string }): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** The namespace and name of a key. */
export function splitKey(key: string): { namespace?: string; name: string } {
  const slash = key.indexOf('/');
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** Objects at hand: a map by key, indexes by whatever is asked for, and whoever wants to hear of changes. */
export class ObjectCache<T> {
  readonly #read: InformerOptions<T>['read'];
  readonly #objects = new Map<string, Tracked<T>>();
  readonly #handlers: ChangeHandler<T>[] = [];
  /** The uids of the objects that left last. */
  readonly #gone = new Set<string>();

  constructor(read: InformerOptions<T>['read']) {
    this.#read = read;
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): Tracked<T> | undefined {
    return this.#objects.get(key);
  }

  list(): Iterable<Tracked<T>> {
    return this.#objects.values();
  }

  /** Calls with every change from now on. */
  onChange(handler: ChangeHandler<T>): void {
    this.#handlers.push(handler);
  }

  /** Tells all handlers of all objects as if they were new, so handlers must bear hearing of one twice. */
  replay(): void {
    for (const object of [...this.#objects.values()]) this.#tell(object, undefined);
  }

  /** The objects by some of their properties. Make it before the cache fills. */
  index(valuesOf: (object: Tracked<T>) => readonly string[]): Index<T> {
    const index = new Index(valuesOf);
    this.onChange((now, before) => index.change(now, before));
    return index;
  }

  /** Takes the server's answer to a write, so that the next plan knows of it before the watch tells. */
  wrote(object: unknown): void {
    const item = this.decode(object);
    const { uid, resourceVersion } = item.meta;
    // The watch may have been faster, with this version and later ones, or with the end of the object.
    if (uid === '' || this.#gone.has(uid)) return;
    const known = this.#objects.get(item.key)?.meta;
    if (known === undefined || known.uid !== uid || isNewer(resourceVersion, known.resourceVersion)) this.put(item);
  }

  /** Takes an object that was deleted by the own hand. */
  deleted({ key, meta }: Tracked<T>): void {
    if (this.#objects.get(key)?.meta.uid === meta.uid) this.drop(key);
  }

  protected decode(object: unknown): Tracked<T> {
    const meta = metaOf(object);
    return { key: keyOf(meta), meta, value: this.#read(object, meta) };
  }

  protected replace(items: readonly Tracked<T>[]): void {
    const kept = new Set(items.map(({ key }) => key));
    for (const key of [...this.#objects.keys()]) if (!kept.has(key)) this.drop(key);
    for (const item of items) this.put(item);
  }

  protected put(item: Tracked<T>): void {
    const before = this.#objects.get(item.key);
    if (before?.meta.uid === item.meta.uid && before.meta.resourceVersion === item.meta.resourceVersion) return;
    this.#objects.set(item.key, item);
    // One that was deleted and made anew is told as what it is: the one gone, the other new.
    if (before !== undefined && before.meta.uid !== item.meta.uid) {
      this.#tell(undefined, before);
      this.#tell(item, undefined);
    } else this.#tell(item, before);
  }

  protected drop(key: string): void {
    const before = this.#objects.get(key);
    if (before === undefined) return;
    this.#objects.delete(key);
    this.#gone.add(before.meta.uid);
    for (const uid of this.#gone) {
      if (this.#gone.size <= MAX_GONE) break;
      this.#gone.delete(uid);
    }
    this.#tell(undefined, before);
  }

  #tell(now: Tracked<T> | undefined, before: Tracked<T> | undefined): void {
    for (const handler of this.#handlers) handler(now, before);
  }
}

/**
 * A collection of the API server kept at hand by a list and watch. What it holds is the server's past, by as much as
 * the watch lags; a writer that plans from it uses preconditions.
 */
export class Informer<T> extends ObjectCache<T> {
  readonly #watch: ListWatch<Tracked<T>>;

  constructor(options: InformerOptions<T>) {
    super(options.read);
    this.#watch = new ListWatch<Tracked<T>>({
      ...options,
      reader: {
        decode: (object) => this.decode(object),
        replaced: (items) => this.replace(items),
        put: (item) => this.put(item),
        deleted: ({ key }) => this.drop(key),
      },
    });
  }

  /** Resolves when everything was listed once. */
  start(): Promise<void> {
    return this.#watch.start();
  }

  stop(): Promise<void> {
    return this.#watch.stop();
  }

  /** True once a list was complete: what is not here was not there. */
  get synced(): boolean {
    return this.#watch.listed;
  }

  get health(): Health {
    return this.#watch.health;
  }

  get figures(): WatchFigures {
    return this.#watch.figures;
  }
}

/** The objects of a cache by a property. */
export class Index<T> {
  readonly #valuesOf: (object: Tracked<T>) => readonly string[];
  readonly #entries = new Map<string, Map<string, Tracked<T>>>();

  constructor(valuesOf: (object: Tracked<T>) => readonly string[]) {
    this.#valuesOf = valuesOf;
  }

  /** The objects that have this value. */
  get(value: string): readonly Tracked<T>[] {
    return [...(this.#entries.get(value)?.values() ?? [])];
  }

  count(value: string): number {
    return this.#entries.get(value)?.size ?? 0;
  }

  /** All values that some object has. */
  values(): Iterable<string> {
    return this.#entries.keys();
  }

  change(now: Tracked<T> | undefined, before: Tracked<T> | undefined): void {
    for (const value of before === undefined ? [] : this.#valuesOf(before)) {
      const entry = this.#entries.get(value);
      entry?.delete(before?.key ?? '');
      if (entry?.size === 0) this.#entries.delete(value);
    }
    if (now === undefined) return;
    for (const value of this.#valuesOf(now)) {
      let entry = this.#entries.get(value);
      if (entry === undefined) this.#entries.set(value, (entry = new Map<string, Tracked<T>>()));
      entry.set(now.key, now);
    }
  }
}

/** An object's metadata as the API server sends it. What is not of its form is left out. */
export function metaOf(object: unknown): ServerMeta {
  const meta = asRecord(asRecord(object)?.['metadata']) ?? {};
  const text = (field: string): string | undefined => {
    const value = meta[field];
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const optional = {
    namespace: text('namespace'),
    creationTimestamp: text('creationTimestamp'),
    deletionTimestamp: text('deletionTimestamp'),
    generation: typeof meta['generation'] === 'number' ? meta['generation'] : undefined,
  };
  return {
    name: text('name') ?? '',
    uid: text('uid') ?? '',
    resourceVersion: text('resourceVersion') ?? '',
    labels: textsOf(meta['labels']),
    annotations: textsOf(meta['annotations']),
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
  };
}

function textsOf(value: unknown): Record<string, string> {
  const entries = Object.entries(asRecord(value) ?? {});
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}
