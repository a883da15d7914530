import { isDeepStrictEqual } from 'node:util';
import { formatRef, keepRef, refOf } from '../api/types.ts';
import type { ObjectRef, Resource, ResourceKind, ResourceOf, VpnNetwork } from '../api/types.ts';
import { isMesh } from '../api/vpn-network.ts';
import { OvpnError } from '../errors.ts';
import type { Rejection } from './source.ts';

/** What became of one object of a source: checked and usable, or not and why. */
export type Outcome =
  | { readonly ok: true; readonly resource: Resource }
  | { readonly ok: false; readonly ref?: ObjectRef | undefined; readonly errors: readonly OvpnError[] };

/** One place of a source that defines an object. */
export interface Claim {
  /** Unique in the store. When several claims define one object, the first in the order of ids counts. */
  readonly id: string;
  /** The place, for people. */
  readonly origin: string;
  readonly outcome: Outcome;
}

/** Changes to the claims of a store; they take effect together when the update ends. */
export interface StoreUpdate {
  put(feed: string, claim: Claim): void;
  drop(feed: string, id: string): void;
  /** Makes these the only claims of a feed. */
  replace(feed: string, claims: readonly Claim[]): void;
}

export interface StoreOptions {
  readonly onChange: (refs: readonly ObjectRef[]) => void;
  readonly onRejections: (rejections: readonly Rejection[]) => void;
  /** Calls later, so that changes in a burst are told once. Default: setImmediate. */
  readonly defer?: (call: () => void) => void;
  /** Whether an object may change in this way; the API server has checked that already, a folder has not. */
  readonly checkTransition?: (before: Resource, after: Resource) => readonly OvpnError[];
  /** Completes an accepted object from the version before it (folder mode counts the generation here). */
  readonly stamp?: (before: Resource | undefined, after: Resource) => Resource;
}

interface Slot {
  readonly ref: ObjectRef;
  /** In the order of their ids. Nearly always one. */
  claims: readonly Claim[];
  /** The last good version: what is in force. */
  good: Resource | undefined;
  /** What is wrong with claims of this object, by id. */
  rejections: readonly Rejection[];
}

/**
 * The last good version of every object, and what was rejected.
 *
 * Objects are defined by claims: a document of a file, an object of the API server. The object in force is
 * made from the first claim; if that claim is in error, the version before stays; if no claim is left, the
 * object leaves. Claims come in feeds (a file, a list), so that a feed can be replaced as a whole. Changes
 * are told only where content changed: a new list of the same objects is no change.
 */
export class ObjectStore {
  readonly #options: StoreOptions;
  readonly #slots = new Map<string, Slot>();
  readonly #good = new Map<ResourceKind, Map<string, Resource>>();
  /** Claims whose object is not known: a document that cannot be read. */
  readonly #nameless = new Map<string, Claim>();
  /** The ids of each feed, with the key of the object that each defines. */
  readonly #feeds = new Map<string, Map<string, string | undefined>>();
  #changed = new Map<string, ObjectRef>();
  #rejectionsStale = false;
  #rejections: readonly Rejection[] = [];
  #toldRejections = this.#rejections;
  #flushing = false;

  constructor(options: StoreOptions) {
    this.#options = options;
  }

  get<K extends ResourceKind>(kind: K, namespace: string | undefined, name: string): ResourceOf<K> | undefined {
    const key = formatRef({ kind, name, ...(namespace === undefined ? {} : { namespace }) });
    return this.#good.get(kind)?.get(key) as ResourceOf<K> | undefined;
  }

  list<K extends ResourceKind>(kind: K): Iterable<ResourceOf<K>> {
    return (this.#good.get(kind)?.values() ?? []) as Iterable<ResourceOf<K>>;
  }

  /** In the order of where they were read. The same array until something changes. */
  get rejections(): readonly Rejection[] {
    if (this.#rejectionsStale) {
      this.#rejectionsStale = false;
      const fresh = this.#collectRejections();
      if (!isDeepStrictEqual(fresh.map(rejectionText), this.#rejections.map(rejectionText))) this.#rejections = fresh;
    }
    return this.#rejections;
  }

  /** True when nothing is missing for being in error: every rejected object has a last good version in force. */
  get whole(): boolean {
    return this.rejections.every(({ ref }) => ref !== undefined && this.#slots.get(formatRef(ref))?.good !== undefined);
  }

  /** The claims of a feed, in no particular order. */
  claims(feed: string): readonly Claim[] {
    const found: Claim[] = [];
    for (const [id, key] of this.#feeds.get(feed) ?? []) {
      const claim =
        key === undefined ? this.#nameless.get(id) : this.#slots.get(key)?.claims.find((one) => one.id === id);
      if (claim !== undefined) found.push(claim);
    }
    return found;
  }

  /** Changes claims. An object that moves from one feed to another in one update does not leave in between. */
  update(change: (update: StoreUpdate) => void): void {
    const touched = new Set<string>();
    const drop = (feed: string, id: string): void => {
      const ids = this.#feeds.get(feed);
      if (ids?.has(id) !== true) return;
      const key = ids.get(id);
      ids.delete(id);
      if (ids.size === 0) this.#feeds.delete(feed);
      if (key === undefined) {
        this.#nameless.delete(id);
        this.#rejectionsStale = true;
      } else {
        const slot = this.#slots.get(key);
        if (slot !== undefined) slot.claims = slot.claims.filter((claim) => claim.id !== id);
        touched.add(key);
      }
    };
    const put = (feed: string, claim: Claim): void => {
      drop(feed, claim.id);
      const ref = claim.outcome.ok ? refOf(claim.outcome.resource) : claim.outcome.ref;
      const key = ref === undefined ? undefined : formatRef(ref);
      const ids = this.#feeds.get(feed) ?? new Map<string, string | undefined>();
      this.#feeds.set(feed, ids.set(claim.id, key));
      if (ref === undefined || key === undefined) {
        this.#nameless.set(claim.id, claim);
        this.#rejectionsStale = true;
        return;
      }
      const slot = this.#slots.get(key) ?? { ref, claims: [], good: undefined, rejections: none };
      this.#slots.set(key, slot);
      if (claim.outcome.ok) keepRef(claim.outcome.resource, slot.ref);
      slot.claims = slot.claims.length === 0 ? [claim] : [...slot.claims, claim].sort((a, b) => (a.id < b.id ? -1 : 1));
      touched.add(key);
    };
    change({
      put,
      drop,
      replace: (feed, claims) => {
        const kept = new Set(claims.map(({ id }) => id));
        for (const id of [...(this.#feeds.get(feed)?.keys() ?? [])]) if (!kept.has(id)) drop(feed, id);
        for (const claim of claims) put(feed, claim);
      },
    });
    for (const key of touched) this.#resolve(key);
    this.#scheduleFlush();
  }

  /** Decides which version of one object is in force now. */
  #resolve(key: string): void {
    const slot = this.#slots.get(key);
    if (slot === undefined) return;
    const before = slot.good;
    const [first, ...others] = slot.claims;
    const rejections: Rejection[] = [];
    if (first === undefined) {
      slot.good = undefined;
      this.#slots.delete(key);
    } else {
      const errors = this.#accept(slot, first);
      if (errors.length > 0) rejections.push({ ref: slot.ref, origin: first.origin, errors });
      for (const other of others) {
        rejections.push({ ref: slot.ref, origin: other.origin, errors: duplicateErrors(slot.ref, first, other) });
      }
    }
    if (rejections.length > 0 || slot.rejections.length > 0) this.#rejectionsStale = true;
    slot.rejections = rejections.length === 0 ? none : rejections;
    this.#keepGood(key, slot);
    if (!sameContent(before, slot.good)) this.#changed.set(key, slot.ref);
  }

  /** Puts an object in force, or says why not and leaves the one before. */
  #accept(slot: Slot, claim: Claim): readonly OvpnError[] {
    const { outcome } = claim;
    if (!outcome.ok) return outcome.errors;
    const { checkTransition, stamp } = this.#options;
    const errors = slot.good === undefined ? [] : (checkTransition?.(slot.good, outcome.resource) ?? []);
    if (errors.length > 0) return errors;
    slot.good = stamp?.(slot.good, outcome.resource) ?? outcome.resource;
    keepRef(slot.good, slot.ref);
    // Not two objects that differ in what the stamp says.
    const stamped: Claim = { ...claim, outcome: { ok: true, resource: slot.good } };
    if (slot.good !== outcome.resource) slot.claims = slot.claims.map((one) => (one === claim ? stamped : one));
    return none;
  }

  #keepGood(key: string, { ref, good }: Slot): void {
    const ofKind = this.#good.get(ref.kind) ?? new Map<string, Resource>();
    if (good === undefined) ofKind.delete(key);
    else ofKind.set(key, good);
    this.#good.set(ref.kind, ofKind);
  }

  #collectRejections(): readonly Rejection[] {
    const found: Rejection[] = [];
    for (const slot of this.#slots.values()) found.push(...slot.rejections);
    for (const { origin, outcome } of this.#nameless.values()) {
      if (!outcome.ok) found.push({ ref: undefined, origin, errors: outcome.errors });
    }
    return found.sort((a, b) => (a.origin < b.origin ? -1 : a.origin > b.origin ? 1 : 0));
  }

  #scheduleFlush(): void {
    if (this.#flushing || (this.#changed.size === 0 && !this.#rejectionsStale)) return;
    this.#flushing = true;
    (this.#options.defer ?? setImmediate)(() => {
      this.#flushing = false;
      const changed = [...this.#changed.values()];
      this.#changed = new Map();
      if (changed.length > 0) this.#options.onChange(changed);
      const { rejections } = this;
      if (rejections === this.#toldRejections) return;
      this.#toldRejections = rejections;
      this.#options.onRejections(rejections);
    });
  }
}

/** Thousands of slots have no rejections. */
const none: readonly never[] = [];

/** Equal but for what agents say in the status, and the version numbers of the server: nothing to act upon. */
function sameContent(a: Resource | undefined, b: Resource | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && isDeepStrictEqual(content(a), content(b)));
}

function content(resource: Resource): unknown {
  return { ...resource, status: decided(resource), metadata: { ...resource.metadata, resourceVersion: undefined } };
}

/** What is decided in a status, for agents to go by. */
function decided(resource: Resource): unknown {
  if (resource.kind === 'VpnPeer') return [resource.status?.allocation, resource.status?.holder];
  if (resource.kind === 'VpnNetwork' && isMesh(resource.spec)) return underlayOf(resource);
  if (resource.kind === 'VpnKey') return resource.status?.certificates;
  return resource.kind === 'VpnAllocation' ? resource.status : undefined;
}

/** Where the nodes of a mesh are, in the order of their names. */
function underlayOf({ status }: VpnNetwork): unknown {
  const said = (status?.nodes ?? []).map(({ name, underlayAddresses = [] }) => [name, ...underlayAddresses]);
  return said.sort(([one = ''], [other = '']) => (one < other ? -1 : 1));
}

function duplicateErrors(ref: ObjectRef, first: Claim, other: Claim): readonly OvpnError[] {
  // Two of one file were told apart by the parser already.
  if (!other.outcome.ok && other.outcome.errors.some(({ name }) => name === 'DuplicateObject')) {
    return other.outcome.errors;
  }
  const problem = `${other.origin} defines it again; the one of ${first.origin} counts`;
  const duplicate = new OvpnError('DuplicateObject', problem, { object: formatRef(ref) });
  return other.outcome.ok ? [duplicate] : [duplicate, ...other.outcome.errors];
}

function rejectionText({ ref, origin, errors }: Rejection): string {
  return JSON.stringify([ref, origin, ...errors.map(({ message }) => message)]);
}
