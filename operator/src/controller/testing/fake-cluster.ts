import { randomUUID } from 'node:crypto';
import { parseResource } from '../../api/parse.ts';
import type { ResourceKind, ResourceOf } from '../../api/types.ts';
import { ApiError } from '../../cluster/api-client.ts';
import { ObjectCache } from '../../cluster/informer.ts';
import { asRecord } from '../../cluster/json.ts';
import type { Labelled, View } from '../caches.ts';
import type { Writer } from '../reconciler.ts';

type Fields = Record<string, unknown>;

/** The operator's own namespace in these tests. */
export const ownNamespace = 'ovpn-system';

interface Stored {
  readonly path: string;
  readonly object: Fields;
}

/** What happened to an object, for watchers. */
export interface Change {
  readonly path: string;
  readonly object: Fields;
  readonly gone: boolean;
}

/**
 * The API server as a table of objects, in memory: resource versions, uids, generations, preconditions, and status as a
 * subresource. Server-side apply is cut down to what one manager per top-level field of a status needs. For models;
 * what is tested here is tested on the real server, too.
 */
export class FakeCluster {
  readonly #objects = new Map<string, Fields>();
  readonly #watchers: ((change: Change) => void)[] = [];
  #version = 100;
  writes = 0;

  onChange(watcher: (change: Change) => void): void {
    this.#watchers.push(watcher);
  }

  get(path: string): Fields | undefined {
    return this.#objects.get(path);
  }

  list(prefix: string): Stored[] {
    return [...this.#objects].filter(([path]) => path.startsWith(prefix)).map(([path, object]) => ({ path, object }));
  }

  create(collection: string, object: Fields): Fields {
    const metadata = asRecord(object['metadata']) ?? {};
    const path = `${collection}/${String(metadata['name'])}`;
    if (this.#objects.has(path)) throw new ApiError(409, 'AlreadyExists', path);
    const stored = {
      ...object,
      metadata: { ...metadata, uid: randomUUID(), generation: 1, creationTimestamp: '2026-01-01T00:00:00Z' },
    };
    return this.#put(path, stored);
  }

  /** Puts a whole object in the place of the version that its metadata names. */
  replace(path: string, object: Fields): Fields {
    const said = asRecord(object['metadata']) ?? {};
    const { metadata } = this.#find(path, { resourceVersion: said['resourceVersion'] });
    return this.#put(path, { ...object, metadata: { ...metadata, ...said } });
  }

  /** Changes the spec as a person would. */
  edit(path: string, spec: Fields): void {
    const { before, metadata } = this.#find(path, {});
    const generation = Number(metadata['generation']) + 1;
    this.#put(path, { ...before, spec, metadata: { ...metadata, generation } });
  }

  /** Applies to the status of an object. Conditions are merged by type; other fields become what is said. */
  applyStatus(path: string, object: Fields): Fields {
    const { before, metadata } = this.#find(path, asRecord(object['metadata']) ?? {});
    const old = asRecord(before['status']) ?? {};
    const said = asRecord(object['status']) ?? {};
    const conditions = new Map<unknown, unknown>();
    for (const list of [old['conditions'], said['conditions']]) {
      for (const entry of Array.isArray(list) ? (list as unknown[]) : [])
        conditions.set(asRecord(entry)?.['type'], entry);
    }
    // The one manager of these tests owns all of it: what it leaves out goes.
    const status = { ...said, ...(conditions.size === 0 ? {} : { conditions: [...conditions.values()] }) };
    if (JSON.stringify(status) === JSON.stringify(old)) return before;
    return this.#put(path, { ...before, metadata, status });
  }

  delete(path: string, preconditions: Fields = {}): void {
    const { before } = this.#find(path, preconditions);
    this.#objects.delete(path);
    this.#version += 1;
    for (const watcher of this.#watchers) watcher({ path, object: before, gone: true });
  }

  #find(path: string, wanted: Fields): { before: Fields; metadata: Fields } {
    const before = this.#objects.get(path);
    if (before === undefined) throw new ApiError(404, 'NotFound', path);
    const metadata = asRecord(before['metadata']) ?? {};
    for (const field of ['uid', 'resourceVersion']) {
      if (wanted[field] !== undefined && wanted[field] !== metadata[field]) throw new ApiError(409, 'Conflict', path);
    }
    return { before, metadata };
  }

  #put(path: string, object: Fields): Fields {
    this.#version += 1;
    const metadata = { ...asRecord(object['metadata']), resourceVersion: String(this.#version) };
    const stored = { ...object, metadata };
    this.#objects.set(path, stored);
    for (const watcher of this.#watchers) watcher({ path, object: stored, gone: false });
    return stored;
  }
}

/** A cache that a test fills by hand. */
export class HandCache<T> extends ObjectCache<T> {
  see(object: unknown): void {
    this.put(this.decode(object));
  }

  lose(object: unknown): void {
    this.drop(this.decode(object).key);
  }
}

/** Empty caches, and what takes changes into the right one of them. */
export function handView(): { view: View; take: (change: Change) => void } {
  const read =
    <K extends ResourceKind>(kind: K) =>
    (object: unknown): ResourceOf<K> | undefined => {
      const result = parseResource(object, 'test');
      return result.ok && result.resource.kind === kind ? (result.resource as ResourceOf<K>) : undefined;
    };
  const labels = (_object: unknown, { labels: found }: Labelled): Labelled => ({ labels: found });
  const view = {
    networks: new HandCache(read('VpnNetwork')),
    peers: new HandCache(read('VpnPeer')),
    keys: new HandCache(read('VpnKey')),
    allocations: new HandCache(read('VpnAllocation')),
    secrets: new HandCache(read('Secret')),
    caSecrets: new HandCache(read('Secret')),
    nodes: new HandCache(labels),
    namespaces: new HandCache(labels),
  };
  const take = ({ path, object, gone }: Change): void => {
    const [, namespace = ''] = /\/namespaces\/([^/]+)\/secrets\//.exec(path) ?? [];
    if (namespace !== '' && !namespace.startsWith(ownNamespace)) return; // Secrets of users are not watched.
    const plural = namespace.endsWith('-ca') ? 'caSecrets' : (path.split('/').at(-2) ?? '');
    const cache = Object.entries(view).find(([name]) => plural.endsWith(name))?.[1];
    if (cache === undefined) throw new Error(`no cache for ${path}`);
    if (gone) cache.lose(object);
    else cache.see(object);
  };
  return { view, take };
}

/** The writer of one controller: `admit` decides when, and whether, each request is carried out and answered. */
export function fakeWriter(cluster: FakeCluster, admit: <R>(request: () => R) => Promise<R>): Writer {
  const write =
    <A extends unknown[], R>(request: (...args: A) => R) =>
    (...args: A): Promise<R> =>
      admit(() => {
        cluster.writes += 1;
        return request(...args);
      });
  return {
    get: (path) => admit(() => cluster.get(path)),
    create: write((collection: string, object: object) => cluster.create(collection, object as Fields)),
    applyStatus: write((path: string, object: object) => cluster.applyStatus(path, object as Fields)),
    delete: write((path: string, preconditions: object) => {
      try {
        cluster.delete(path, preconditions as Fields);
      } catch (error) {
        if (!(error instanceof ApiError && error.notFound)) throw error;
      }
    }),
    apply: () => Promise.reject(new Error('not in this model')),
    replace: write((path: string, object: object) => cluster.replace(path, object as Fields)),
  };
}
