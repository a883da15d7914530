import type { Condition } from './condition.ts';

/** The types of conditions that this version sets. */
export const conditionTypes = {
  /** The object is in force as specified. */
  Ready: 'Ready',
  /** The object is valid by itself and among the others. */
  Accepted: 'Accepted',
  /** The kernel holds what the object asks for. */
  Programmed: 'Programmed',
  /** The objects that it refers to exist and can be used. */
  ResolvedRefs: 'ResolvedRefs',
  /** The VPN addresses that it needs are its own. */
  Allocated: 'Allocated',
  /** Another object asks for the same and is refused. */
  Contested: 'Contested',
  /** The tunnel to the remote is up. */
  Connected: 'Connected',
  /** Of a peer that several nodes could dial: one of them has it. */
  Placed: 'Placed',
  /** A certificate or a CRL that it depends on expires soon, or has expired. */
  Expiring: 'Expiring',
  /** cert-manager has issued the certificate that the network asks it for. */
  CertificateReady: 'CertificateReady',
  /** The CA by which the network issues certificates can be used. */
  PkiReady: 'PkiReady',
  /** Peers reach of the cluster what spec.clusterAccess says, on all nodes. */
  ClusterAccessReady: 'ClusterAccessReady',
} as const;
export type ConditionType = keyof typeof conditionTypes;

/** The reasons of conditions. They are part of the API: never change one's meaning. */
export const conditionReasons = {
  Ready: 'Ready',
  Accepted: 'Accepted',
  Programmed: 'Programmed',
  ResolvedRefs: 'ResolvedRefs',
  Allocated: 'Allocated',
  PoolFull: 'PoolFull',
  Pending: 'Pending',
  Invalid: 'Invalid',
  Conflict: 'Conflict',
  NotAllowed: 'NotAllowed',
  NetworkNotFound: 'NetworkNotFound',
  KeyNotFound: 'KeyNotFound',
  SecretNotFound: 'SecretNotFound',
  KeyInvalid: 'KeyInvalid',
  KeySpent: 'KeySpent',
  Suspended: 'Suspended',
  PeerLost: 'PeerLost',
  KernelRefused: 'KernelRefused',
  NodesNotReady: 'NodesNotReady',
  NoNodes: 'NoNodes',
  Connecting: 'Connecting',
  Connected: 'Connected',
  WaitingForClient: 'WaitingForClient',
  Disconnected: 'Disconnected',
  Revoked: 'Revoked',
  Valid: 'Valid',
  ExpiresSoon: 'ExpiresSoon',
  Expired: 'Expired',
  CertManagerNotFound: 'CertManagerNotFound',
  ClusterAccessReady: 'ClusterAccessReady',
  ForwardingDisabled: 'ForwardingDisabled',
  Placed: 'Placed',
  NodeLost: 'NodeLost',
  NodeReleased: 'NodeReleased',
  Elsewhere: 'Elsewhere',
} as const;
export type ConditionReason = keyof typeof conditionReasons;

/** Where the time comes from: `Date.now` outside tests. */
export type Clock = () => number;

/** What is to be said; the rest of the condition follows from what was said before. */
export interface ConditionUpdate {
  readonly type: ConditionType;
  readonly status: Condition['status'];
  readonly reason: ConditionReason;
  readonly message: string;
}

/** The most that the API server takes as a message. */
const maxMessage = 32768;

/**
 * The conditions with one of them set. lastTransitionTime moves only when the status does, and a list in
 * which nothing changes is handed back as it is, so that a settled object is not written again.
 */
export function setCondition(
  conditions: readonly Condition[],
  update: ConditionUpdate,
  observedGeneration: number | undefined,
  clock: Clock,
): readonly Condition[] {
  const old = conditions.find(({ type }) => type === update.type);
  const message = update.message.length > maxMessage ? `${update.message.slice(0, maxMessage - 1)}…` : update.message;
  const next: Condition = {
    type: update.type,
    status: update.status,
    ...(observedGeneration === undefined ? {} : { observedGeneration }),
    lastTransitionTime: old?.status === update.status ? old.lastTransitionTime : timestampOf(clock()),
    reason: update.reason,
    message,
  };
  if (old === undefined) return [...conditions, next].sort((one, other) => (one.type < other.type ? -1 : 1));
  const same =
    old.status === next.status &&
    old.reason === next.reason &&
    old.message === next.message &&
    old.observedGeneration === next.observedGeneration;
  return same ? conditions : conditions.map((condition) => (condition === old ? next : condition));
}

/** The condition of a type. */
export function findCondition(
  conditions: readonly Condition[] | undefined,
  type: ConditionType,
): Condition | undefined {
  return conditions?.find((condition) => condition.type === type);
}

/** Whether the condition of a type is there and holds. */
export function isTrue(conditions: readonly Condition[] | undefined, type: ConditionType): boolean {
  return findCondition(conditions, type)?.status === 'True';
}

/** The last second that was asked for, and its text: what happens to thousands of peers at once has one text. */
let second = Number.NaN;
let secondText = '';

/** A time as Kubernetes writes it: whole seconds in UTC. */
export function timestampOf(milliseconds: number): string {
  const asked = Math.floor(milliseconds / 1000);
  if (asked === second) return secondText;
  const text = new Date(milliseconds).toISOString().replace(/\.\d+Z$/, 'Z');
  [second, secondText] = [asked, text];
  return text;
}
