import type { Random } from '../cluster/backoff.ts';
import type { Clock } from '../cluster/clock.ts';
import type { EventRecorder } from '../cluster/event-recorder.ts';
import type { ObjectWriter } from '../cluster/object-writer.ts';
import type { Meter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import type { View } from './caches.ts';

/**
 * How to add a reconciler:
 *
 * 1. Write a class that implements `Reconciler`. Its constructor takes the `ReconcilerContext`, keeps what it needs and
 *    makes its indexes (`caches.peers.index(…)`).
 * 2. In `watch`, say which changes concern which keys:
 *    `caches.peers.onChange((now, before) => enqueue((now ?? before)!.key))`. A key is any text of yours.
 * 3. In `reconcile`, read the present state from the caches, make a plan of it in a pure function of its own, and
 *    carry the plan out with `writer`. Compare with what is there first: a settled key makes no request.
 * 4. List its factory in reconcilers.ts, and its rights in the chart's controller-rbac.yaml.
 *
 * What holds for all of them:
 * - Level-triggered: a key says what to look at, never what happened. On taking the lead every object is told once
 *   more as new, so what happened while nobody led is found then; orphans have to be enqueued by what is left of them.
 * - There may be two controllers for a moment, and a crash after any request. So take names by `create` (which is
 *   atomic), change and delete with `resourceVersion` and `uid` preconditions, and never count on an order of writes
 *   that is not safe to cut anywhere.
 * - Caches lag. Hand the server's answer to a write to `informer.wrote(answer)`, or the next look repeats the write.
 * - An error is thrown, not handled: the key is tried again with back-off. A conflict is no error to tell anybody of.
 * - Status by `writer.applyStatus` with a field manager of your own (`ovpn-controller/<name>`), with all the fields of
 *   that manager in each call. Events by `events.record`, on transitions only.
 * - No key's work may grow with the number of other objects: use indexes.
 */
export interface Reconciler {
  /** Short and unique: for logs, metrics and field managers. */
  readonly name: string;
  /** Subscribes to the changes that concern it. Called once, before the caches fill. */
  watch(enqueue: Enqueue): void;
  /**
   * Brings what belongs to a key to what it should be. Called while this process leads, for one key never twice at a
   * time. Answers after how many milliseconds to look again, if time alone can change anything.
   */
  reconcile(key: string): Promise<number | undefined>;
}

/** Asks for a key to be looked at, at once or after some milliseconds at the latest. */
export type Enqueue = (key: string, afterMs?: number) => void;

/** The requests that reconcilers make. */
export type Writer = Pick<ObjectWriter, 'get' | 'create' | 'replace' | 'apply' | 'applyStatus' | 'delete'>;

/** What every reconciler works with. */
export interface ReconcilerContext {
  readonly caches: View;
  /** Its requests fail once this process no longer leads. */
  readonly writer: Writer;
  readonly events: Pick<EventRecorder, 'record'>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly meter: Meter;
  /** The operator's own namespace. */
  readonly namespace: string;
}

export type ReconcilerFactory = (context: ReconcilerContext) => Reconciler;
