import { createHash } from 'node:crypto';
import type { Secret, VpnKey, VpnNetwork, VpnPeer } from '../../api/types.ts';
import { keyOf, splitKey, type Index, type Tracked } from '../../cluster/informer.ts';
import { materialLabel, sourceAnnotation } from '../../cluster/material-secret.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { admits, onAdmissionChange } from '../admission.ts';
import { liveSecret } from '../live-secret.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import { type Need, needsOfKey, needsOfNetwork, needsOfPeer } from './needs.ts';

const fieldManager = 'ovpn-controller/material';
/** How often a Secret of another namespace is read again. */
const refreshMs = 60_000;
/** The longest name that an object may have. */
const maxName = 253;

/**
 * Copies the key material that agents need into the operator's namespace, so that they read Secrets nowhere else: of
 * each Secret just the entries that an object in force refers to, under a label and with an annotation that says where
 * it is from (cluster/material-secret.ts). What nobody needs any more is deleted.
 *
 * Of the Secrets of users the controller reads single ones by name: it has `get` on Secrets, and neither `list` nor
 * `watch`, which would show it all Secrets of the cluster. So a change of one that stands in another namespace is seen
 * with the next reading, within about a minute, and at once when the object that names it changes.
 *
 * Keys are those of the sources: `namespace/name`.
 */
export class MaterialCopies implements Reconciler {
  readonly name = 'material';
  readonly #context: ReconcilerContext;
  readonly #keysBySecret: Index<VpnKey>;
  readonly #peersByKey: Index<VpnPeer>;
  readonly #peersBySecret: Index<VpnPeer>;
  readonly #peersByNetwork: Index<VpnPeer>;
  readonly #networksBySecret: Index<VpnNetwork>;

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { keys, peers, networks } = context.caches;
    this.#keysBySecret = keys.index(({ value }) => (value === undefined ? [] : needsOfKey(value).map(keyOf)));
    this.#peersByKey = peers.index(({ value }) => keysOfPeer(value));
    this.#peersBySecret = peers.index(({ value }) => (value === undefined ? [] : needsOfPeer(value).map(keyOf)));
    this.#peersByNetwork = peers.index(({ value }) => (value === undefined ? [] : [value.spec.networkRef.name]));
    this.#networksBySecret = networks.index(({ value }) => this.#needsOfNetwork(value).map(keyOf));
  }

  watch(enqueue: Enqueue): void {
    const { keys, peers, networks, secrets } = this.#context.caches;
    const all = (needs: readonly Need[]): void => needs.map(keyOf).forEach((key) => enqueue(key));
    keys.onChange((now, before) => {
      if (isStatusOnly(now, before)) return;
      for (const key of [now?.value, before?.value]) if (key !== undefined) all(needsOfKey(key));
    });
    peers.onChange((now, before) => {
      if (isStatusOnly(now, before)) return;
      for (const peer of [now?.value, before?.value]) all(this.#sourcesOfPeer(peer));
    });
    networks.onChange((now, before) => {
      if (isStatusOnly(now, before)) return;
      for (const network of [now?.value, before?.value]) all(this.#needsOfNetwork(network));
      for (const { value } of this.#peersByNetwork.get(now?.key ?? before?.key ?? '')) all(this.#sourcesOfPeer(value));
    });
    onAdmissionChange(this.#context.caches, (network, namespace) => {
      for (const { value } of this.#peersByNetwork.get(network)) {
        if (value?.metadata.namespace === namespace) all(this.#sourcesOfPeer(value));
      }
    });
    secrets.onChange((now, before) => {
      for (const secret of [now, before]) if (secret !== undefined) enqueue(sourceOf(secret) ?? secret.key);
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const { namespace: own, caches, random } = this.#context;
    const { namespace = '', name } = splitKey(key);
    const copyKey = keyOf({ namespace: own, name: copyName(namespace, name) });
    const copy = caches.secrets.get(copyKey);
    const entries = this.#entriesOf(key);
    if (entries.size === 0) {
      await this.#remove(copy);
      return undefined;
    }
    const source = namespace === own ? caches.secrets.get(key)?.value : await this.#read(namespace, name);
    // One that says of itself what it is (the network's own CA and keys) needs no copy.
    const isMaterial = source?.metadata.annotations[sourceAnnotation] === key && labelled(source);
    if (source === undefined || isMaterial) await this.#remove(copy);
    else await this.#write(key, copy, pick(source, entries));
    return namespace === own ? undefined : refreshMs * (0.75 + random() / 2);
  }

  #needsOfNetwork(network: VpnNetwork | undefined): Need[] {
    return network === undefined ? [] : needsOfNetwork(network, this.#context.namespace);
  }

  /** The Secrets that a peer needs by itself and by its key. */
  #sourcesOfPeer(peer: VpnPeer | undefined): Need[] {
    if (peer === undefined) return [];
    const keys = keysOfPeer(peer).flatMap((key) => this.#context.caches.keys.get(key)?.value ?? []);
    return [...needsOfPeer(peer), ...keys.flatMap(needsOfKey)];
  }

  /** The entries of a Secret that somebody needs who may. */
  #entriesOf(source: string): ReadonlySet<string> {
    const isOf = (need: Need): boolean => keyOf(need) === source;
    const needs = [
      ...this.#networksBySecret.get(source).flatMap(({ value }) => this.#needsOfNetwork(value)),
      ...this.#keysBySecret.get(source).flatMap(({ key, value }) => {
        const used = this.#peersByKey.get(key).some(({ value: peer }) => this.#isAdmitted(peer));
        return value === undefined || !used ? [] : needsOfKey(value);
      }),
      ...this.#peersBySecret.get(source).flatMap(({ value }) => {
        return value === undefined || !this.#isAdmitted(value) ? [] : needsOfPeer(value);
      }),
    ];
    return new Set(needs.filter(isOf).flatMap((need) => need.entries));
  }

  /** Whether the peer's network takes peers of its namespace: nobody else's Secrets are touched. */
  #isAdmitted(peer: VpnPeer | undefined): boolean {
    if (peer === undefined) return false;
    const network = this.#context.caches.networks.get(peer.spec.networkRef.name)?.value;
    return network !== undefined && admits(this.#context.caches, network, peer.metadata.namespace);
  }

  async #read(namespace: string, name: string): Promise<Secret | undefined> {
    const found = await this.#context.writer.get(apiPath('Secret', { namespace, name }));
    if (found === undefined) return undefined;
    return liveSecret(found, `Secret ${namespace}/${name}`);
  }

  async #write(
    source: string,
    copy: Tracked<Secret> | undefined,
    data: Readonly<Record<string, Uint8Array>>,
  ): Promise<void> {
    const { writer, caches, log, namespace: own } = this.#context;
    const { namespace = '', name: sourceName } = splitKey(source);
    const name = copyName(namespace, sourceName);
    if (copy !== undefined && sourceOf(copy) !== source) {
      throw new Error(`Secret ${copy.key} is in the way of the copy of ${source}: it is no copy; rename or delete it`);
    }
    if (copy?.value !== undefined && labelled(copy.value) && sameData(copy.value.data, data)) return;
    const object = {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: {
        namespace: own,
        name,
        labels: { [materialLabel]: 'true', 'app.kubernetes.io/managed-by': 'ovpn-operator' },
        annotations: { [sourceAnnotation]: source },
      },
      type: 'Opaque',
      data: Object.fromEntries(
        Object.entries(data).map(([entry, bytes]) => [entry, Buffer.from(bytes).toString('base64')]),
      ),
    };
    caches.secrets.wrote(await writer.apply(apiPath('Secret', { namespace: own, name }), object, fieldManager));
    log.info({ event: 'material.copied', source, entries: Object.keys(data) }, 'key material is there for the agents');
  }

  /** Deletes a copy. Anything else of that name is left alone. */
  async #remove(copy: Tracked<Secret> | undefined): Promise<void> {
    if (copy === undefined || sourceOf(copy) === undefined) return;
    const { writer, caches, log } = this.#context;
    const { namespace = '', name } = splitKey(copy.key);
    await writer.delete(apiPath('Secret', { namespace, name }), { uid: copy.meta.uid });
    caches.secrets.deleted(copy);
    log.info({ event: 'material.removed', source: sourceOf(copy) }, 'key material that nobody needs is gone');
  }
}

/** The name of a Secret's copy. Namespaces have no dots, so no two sources share one. */
export function copyName(namespace: string, name: string): string {
  const plain = `copy.${namespace}.${name}`;
  if (plain.length <= maxName) return plain;
  const hash = createHash('sha256').update(plain).digest('hex').slice(0, 16);
  return `${plain.slice(0, maxName - hash.length - 1).replace(/[^a-z0-9]+$/, '')}-${hash}`;
}

/** What a Secret is a copy of; undefined when it is no copy of ours. */
function sourceOf({ key, meta }: Tracked<Secret>): string | undefined {
  const source = meta.annotations[sourceAnnotation];
  if (source === undefined || meta.labels[materialLabel] !== 'true') return undefined;
  const { namespace = '', name } = splitKey(source);
  return splitKey(key).name === copyName(namespace, name) ? source : undefined;
}

function labelled({ metadata }: Secret): boolean {
  return metadata.labels[materialLabel] === 'true';
}

function keysOfPeer(peer: VpnPeer | undefined): string[] {
  const name = peer?.spec.keyRef?.name;
  return peer === undefined || name === undefined ? [] : [keyOf({ namespace: peer.metadata.namespace, name })];
}

function isStatusOnly(now: Tracked<unknown> | undefined, before: Tracked<unknown> | undefined): boolean {
  return now !== undefined && before !== undefined && now.meta.generation === before.meta.generation;
}

function pick(source: Secret, entries: ReadonlySet<string>): Record<string, Uint8Array> {
  return Object.fromEntries(Object.entries(source.data).filter(([entry]) => entries.has(entry)));
}

function sameData(one: Readonly<Record<string, Uint8Array>>, other: Readonly<Record<string, Uint8Array>>): boolean {
  const entries = Object.entries(one);
  return (
    entries.length === Object.keys(other).length &&
    entries.every(([entry, bytes]) => other[entry] !== undefined && Buffer.compare(bytes, other[entry]) === 0)
  );
}
