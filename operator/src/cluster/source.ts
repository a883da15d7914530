import type { EventEmitter } from 'node:events';
import type { Holder, ObjectRef, Resource, ResourceKind, ResourceOf, VpnPeer } from '../api/types.ts';
import type { PodFacts } from '../api/attach-rules.ts';
import type { OvpnError } from '../errors.ts';
import type { NodeLeases } from './node-leases.ts';
import type { PodName } from './pods.ts';

/** Why an object cannot be used as it stands in the source. */
export interface Rejection {
  readonly ref: ObjectRef | undefined;
  /** Where it was read: a file (and document number), or the API server's path. */
  readonly origin: string;
  readonly errors: readonly OvpnError[];
}

export interface SourceEvents {
  /** Objects that were added, changed or removed, coalesced. The reader looks up their present state. */
  change: [refs: readonly ObjectRef[]];
  /** The list of rejections changed. */
  rejections: [rejections: readonly Rejection[]];
  /** The labels or the addresses of the own node changed, or whether it is to go. */
  nodeLabels: [labels: Readonly<Record<string, string>>];
}

/**
 * Where resources come from: a folder of manifests, or the API server. Both hold checked objects only:
 * what does not parse is a rejection, and the last good version of the object stays in force.
 */
export interface ResourceSource extends EventEmitter<SourceEvents> {
  /** Resolves when everything was read once; rejects only on a misconfiguration that no retry mends. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /**
   * True when the objects in hand are all there are: every list was complete, and no object is rejected
   * without a last good version in force. While false, nothing may be removed from the kernel.
   */
  readonly complete: boolean;
  readonly rejections: readonly Rejection[];
  /** Whether other nodes write the same statuses, and a controller sums them up. */
  readonly shared: boolean;
  /** The labels of the node that this process runs on, for node selectors. */
  readonly nodeLabels: Readonly<Record<string, string>>;
  /** The addresses of that node, as Kubernetes knows them (InternalIP); none where nobody says. */
  readonly nodeAddresses: readonly string[];
  /**
   * Says that this node has a peer now; of several nodes that say so, one is first.
   *
   * @returns whether it was taken; `conflict` when the peer has changed since, and the present one should be looked at
   */
  claim(peer: VpnPeer, holder: Holder): Promise<'taken' | 'conflict'>;
  /**
   * Which node has a peer, by the API server's word of this moment; undefined when none has, or the peer is gone.
   *
   * @throws ApiError, or Error when it does not answer within the time (milliseconds)
   */
  holderNow(peer: ObjectRef, timeoutMs: number): Promise<Holder | undefined>;
  /** How nodes say that they live; undefined where there is nobody to say it to: then no peer is placed. */
  readonly leases: NodeLeases | undefined;
  /** Whether the own node is to go, or to take nothing new: its Node is cordoned or being deleted. */
  readonly nodeIsLeaving: boolean;
  get<K extends ResourceKind>(kind: K, namespace: string | undefined, name: string): ResourceOf<K> | undefined;
  list<K extends ResourceKind>(kind: K): Iterable<ResourceOf<K>>;
  /**
   * What a pod says of itself, and its namespace: asked for when it starts.
   *
   * @throws OvpnError PodUnknown, ApiUnavailable
   */
  findPod(pod: PodName): Promise<PodFacts>;
  /** Writes what the status of an object is now. Coalesced; failures are logged and retried by the source. */
  publishStatus(resource: Resource, status: unknown): void;
}
