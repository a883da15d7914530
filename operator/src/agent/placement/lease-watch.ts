import type { Clock } from '../../cluster/clock.ts';
import type { NodeLease, NodeLeases } from '../../cluster/node-leases.ts';
import type { Liveness } from './plan-placement.ts';

export interface LeaseWatchOptions {
  readonly leases: Pick<NodeLeases, 'follow' | 'read'>;
  readonly clock: Clock;
  /** How long a node without a Lease is waited for: it may be about to make one. Milliseconds. */
  readonly durationMs: number;
  /** Told when a node that is watched is silent, or not any more. */
  readonly changed: (node: string) => void;
}

interface Watched {
  liveness: Liveness;
  /** Of the Lease that was seen last; empty before the first. */
  version: string;
  durationMs: number;
  /** Since when the Lease has not changed while the API server was there to say so. Monotonic milliseconds. */
  quietSince: number;
  /** When it was last known that it had not changed; undefined after the API server did not answer. */
  lookedAt: number | undefined;
  cancel: () => void;
}

/**
 * Whether other nodes live, by their Leases, as client-go judges a leader: by how long a Lease has not changed on the
 * own clock, never by what its clock says. Stricter than there: time counts only while the API server answers. A node
 * that could not renew because nobody could is not lost, and whoever was away itself (or was stopped) knows nothing of
 * the time between. So a silence is looked into, in time to be sure when it has lasted.
 */
export class LeaseWatch {
  readonly #options: LeaseWatchOptions;
  readonly #watched = new Map<string, Watched>();
  /** The Leases of all nodes that were seen. */
  readonly #seen = new Map<string, { readonly lease: NodeLease; readonly at: number }>();
  #closed = false;

  constructor(options: LeaseWatchOptions) {
    this.#options = options;
  }

  /** Judges the node from now on. */
  watch(node: string): void {
    if (this.#watched.has(node) || this.#closed) return;
    const { clock, durationMs, leases } = this.#options;
    const known = this.#seen.get(node);
    const now = clock.monotonic();
    const watched: Watched = {
      liveness: known?.lease.released === true ? 'released' : 'alive',
      version: known?.lease.version ?? '',
      durationMs: known?.lease.durationMs ?? durationMs,
      quietSince: known?.at ?? now,
      // What was not looked at all the time is looked at for a whole time first.
      lookedAt: known === undefined || now > known.at + known.lease.durationMs / 2 ? undefined : known.at,
      cancel: () => undefined,
    };
    this.#watched.set(node, watched);
    leases.follow((lease) => this.#sawAny(lease));
    this.#lookLater(node, watched, watched.quietSince + watched.durationMs / 2 - now);
  }

  unwatch(node: string): void {
    this.#watched.get(node)?.cancel();
    this.#watched.delete(node);
  }

  /** Of a node that is watched. */
  liveness(node: string): Liveness {
    return this.#watched.get(node)?.liveness ?? 'alive';
  }

  /**
   * Looks once more whether a node is silent, unless that was done a moment ago, for what must not be done otherwise.
   * Where that is not known any more, it is judged anew.
   */
  async isStillSilent(node: string): Promise<boolean> {
    const watched = this.#watched.get(node);
    if (watched?.liveness !== 'silent') return false;
    const { version, lookedAt = -Infinity, durationMs } = watched;
    const sentAt = this.#options.clock.monotonic();
    // Of a node that is lost with a thousand peers, one look tells for all.
    if (sentAt - lookedAt < durationMs / 12) return true;
    const lease = await this.#read(node, watched);
    if (this.#watched.get(node) !== watched || watched.version !== version) return false;
    if (lease === 'unknown') {
      watched.liveness = 'alive';
      watched.lookedAt = undefined;
      this.#lookLater(node, watched, watched.durationMs / 6);
      this.#options.changed(node);
      return false;
    }
    if (lease !== undefined && this.#saw(watched, lease)) return false;
    watched.lookedAt = sentAt;
    return true;
  }

  close(): void {
    this.#closed = true;
    for (const node of [...this.#watched.keys()]) this.unwatch(node);
  }

  #sawAny(lease: NodeLease): void {
    if (this.#closed) return;
    const { node } = lease;
    if (this.#seen.get(node)?.lease.version !== lease.version)
      this.#seen.set(node, { lease, at: this.#options.clock.monotonic() });
    const watched = this.#watched.get(node);
    if (watched !== undefined) this.#saw(watched, lease);
  }

  /** Answers whether it is news. */
  #saw(watched: Watched, { node, version, durationMs, released }: NodeLease): boolean {
    if (version === watched.version) return false;
    const now = this.#options.clock.monotonic();
    const before = watched.liveness;
    watched.version = version;
    watched.durationMs = durationMs;
    watched.quietSince = watched.lookedAt = now;
    watched.liveness = released ? 'released' : 'alive';
    // Renewals come every third of the time: after half of it, one is missing.
    this.#lookLater(node, watched, durationMs / 2);
    if (watched.liveness !== before) this.#options.changed(node);
    return true;
  }

  #lookLater(node: string, watched: Watched, afterMs: number): void {
    watched.cancel();
    if (watched.liveness === 'released') return;
    watched.cancel = this.#options.clock.after(Math.max(1, afterMs), () => void this.#look(node, watched));
  }

  async #look(node: string, watched: Watched): Promise<void> {
    const sentAt = this.#options.clock.monotonic();
    const { version } = watched;
    const lease = await this.#read(node, watched);
    // A renewal that came by the watch meanwhile is later than this look.
    if (this.#watched.get(node) !== watched || watched.version !== version) return;
    const { durationMs, lookedAt } = watched;
    if (lease === 'unknown') {
      watched.lookedAt = undefined;
      this.#lookLater(node, watched, durationMs / 6);
      return;
    }
    if (lease !== undefined && this.#saw(watched, lease)) return;
    // Nobody looked for too long, or nobody answered: what was not seen may have been.
    if (lookedAt === undefined || sentAt - lookedAt > (durationMs * 3) / 4) watched.quietSince = sentAt;
    watched.lookedAt = sentAt;
    const leftMs = watched.quietSince + durationMs - sentAt;
    if (leftMs > 0) {
      this.#lookLater(node, watched, Math.min(durationMs / 6, leftMs));
      return;
    }
    watched.liveness = 'silent';
    this.#options.changed(node);
  }

  async #read(node: string, { durationMs }: Watched): Promise<NodeLease | undefined | 'unknown'> {
    try {
      return await this.#options.leases.read(node, durationMs / 3);
    } catch {
      return 'unknown';
    }
  }
}
