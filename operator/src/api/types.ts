import type { Static } from 'typebox';
import type { vpnAllocationSpec, vpnAllocationStatus } from './vpn-allocation.ts';
import type { vpnKeySpec, vpnKeyStatus } from './vpn-key.ts';
import type { vpnNetworkSpec, vpnNetworkStatus } from './vpn-network.ts';
import type { vpnPeerSpec, vpnPeerStatus } from './vpn-peer.ts';

export type { Condition } from './condition.ts';
export { peerKind, type PeerKind } from './peer-kind.ts';

export const group = 'ovpn-operator.io';
export const version = 'v1alpha1';
export const apiVersion = `${group}/${version}`;

/** The kinds that a source of resources holds. */
export type ResourceKind = CustomKind | CoreKind;
/** Kinds of ours. */
export type CustomKind = 'VpnNetwork' | 'VpnPeer' | 'VpnKey' | 'VpnAllocation';
/** Kinds of Kubernetes that ours refer to. */
export type CoreKind = 'Secret' | 'Pod' | 'Namespace' | 'Node';

/** Whether the kind is one of ours. */
export function isCustomKind(kind: ResourceKind): kind is CustomKind {
  return kind !== 'Secret' && kind !== 'Pod' && kind !== 'Namespace' && kind !== 'Node';
}

/** Whether objects of the kind belong to the whole cluster and have no namespace. */
export function isClusterScoped(kind: ResourceKind): boolean {
  return kind === 'VpnNetwork' || kind === 'VpnAllocation' || kind === 'Namespace' || kind === 'Node';
}

/** Which object; `namespace` is absent for cluster-scoped kinds. */
export interface ObjectRef {
  readonly kind: ResourceKind;
  readonly namespace?: string;
  readonly name: string;
}

/** What is read of an object's metadata. */
export interface ObjectMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly generation?: number;
  readonly resourceVersion?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
}

/** Metadata of an object that lives in a namespace. */
export interface NamespacedMeta extends ObjectMeta {
  readonly namespace: string;
}

/** Specs with every default applied and every value normalised, as the parser hands them out. */
export type VpnNetworkSpec = Static<typeof vpnNetworkSpec>;
export type VpnPeerSpec = Static<typeof vpnPeerSpec>;
export type VpnKeySpec = Static<typeof vpnKeySpec>;

export type VpnAllocationSpec = Static<typeof vpnAllocationSpec>;

export type VpnNetworkStatus = Static<typeof vpnNetworkStatus>;
export type VpnPeerStatus = Static<typeof vpnPeerStatus>;
export type VpnKeyStatus = Static<typeof vpnKeyStatus>;

export type NetworkNode = VpnNetworkSpec['nodes'][number];
export type NetworkListener = VpnNetworkSpec['listeners'][number];
export type NetworkNodeStatus = NonNullable<VpnNetworkStatus['nodes']>[number];
export type Holder = NonNullable<VpnPeerStatus['holder']>;
export type StaticKeySpec = NonNullable<VpnKeySpec['static']>;
export type PeerEndpoint = NonNullable<VpnPeerSpec['endpoint']>;
export type ControlChannelSpec = VpnNetworkSpec['controlChannel'];
export type KeyInstallation = NonNullable<VpnKeyStatus['installations']>[number];

/** One isolated VPN. */
export interface VpnNetwork {
  readonly apiVersion: typeof apiVersion;
  readonly kind: 'VpnNetwork';
  readonly metadata: ObjectMeta;
  readonly spec: VpnNetworkSpec;
  readonly status?: VpnNetworkStatus;
}

/** One remote of a VPN. */
export interface VpnPeer {
  readonly apiVersion: typeof apiVersion;
  readonly kind: 'VpnPeer';
  readonly metadata: NamespacedMeta;
  readonly spec: VpnPeerSpec;
  readonly status?: VpnPeerStatus;
}

/** Key material by reference. */
export interface VpnKey {
  readonly apiVersion: typeof apiVersion;
  readonly kind: 'VpnKey';
  readonly metadata: NamespacedMeta;
  readonly spec: VpnKeySpec;
  readonly status?: VpnKeyStatus;
}

/** A claim to one number or one block of a network; its name is what is claimed. */
export interface VpnAllocation {
  readonly apiVersion: typeof apiVersion;
  readonly kind: 'VpnAllocation';
  readonly metadata: ObjectMeta;
  readonly spec: VpnAllocationSpec;
  readonly status?: Static<typeof vpnAllocationStatus>;
}

/** A Secret of the core API with its values decoded. Never log one. */
export interface Secret {
  readonly apiVersion: 'v1';
  readonly kind: 'Secret';
  readonly metadata: NamespacedMeta;
  readonly type: string;
  readonly data: Readonly<Record<string, Uint8Array>>;
}

/** A Pod of the core API, as far as it counts here: who it is, its labels and annotations. */
export interface Pod {
  readonly apiVersion: 'v1';
  readonly kind: 'Pod';
  readonly metadata: NamespacedMeta;
}

/** A Namespace of the core API, as far as it counts here: its labels. */
export interface Namespace {
  readonly apiVersion: 'v1';
  readonly kind: 'Namespace';
  readonly metadata: ObjectMeta;
}

export type Resource = VpnNetwork | VpnPeer | VpnKey | VpnAllocation | Secret | Pod | Namespace;
export type ResourceOf<K extends ResourceKind> = Extract<Resource, { readonly kind: K }>;

/** References that were asked for, and their texts: many maps go by them, and hold one instance instead of a copy each. */
const refs = new WeakMap<ObjectMeta, ObjectRef>();
const texts = new WeakMap<ObjectRef, string>();

/** The reference that points at an object: the same one each time. */
export function refOf(resource: Resource): ObjectRef {
  const { metadata, kind } = resource;
  const known = refs.get(metadata);
  // Its kind stands beside the metadata.
  if (known?.kind === kind) return known;
  const { name, namespace } = metadata;
  const ref = { kind, ...(namespace === undefined ? {} : { namespace }), name };
  refs.set(metadata, ref);
  texts.set(ref, textOf(ref));
  return ref;
}

/** Has a new version of an object go by the reference of the one before, which equals its own. */
export function keepRef({ metadata }: Resource, ref: ObjectRef): void {
  refs.set(metadata, ref);
}

/** `VpnPeer team-a/office`: how an object is named in every message. */
export function formatRef(ref: ObjectRef): string {
  return texts.get(ref) ?? textOf(ref);
}

function textOf({ kind, namespace, name }: ObjectRef): string {
  return `${kind} ${namespace === undefined ? '' : `${namespace}/`}${name}`;
}
