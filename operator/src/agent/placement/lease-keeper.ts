import type { Clock } from '../../cluster/clock.ts';
import type { NodeLeases } from '../../cluster/node-leases.ts';
import { describe } from '../../errors.ts';
import type { Log } from '../../telemetry/log.ts';
import type { Meter } from '../../telemetry/metrics.ts';

export interface LeaseKeeperOptions {
  readonly leases: Pick<NodeLeases, 'write'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Pick<Meter, 'increment'>;
  /** For how long others take this node for alive after a renewal. Milliseconds. */
  readonly durationMs: number;
  /** Told of a renewal after a time in which others may have taken this node for lost. */
  readonly regained: () => void;
}

/**
 * Keeps the own node's Lease. It is renewed every third of its time. A renewal that is not answered for a fifth has
 * failed, and another one follows after a twelfth: 1/3 + 2 * (1/5 + 1/12) of the time is less than all of it, so three
 * in a row have to fail before others may take over.
 */
export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  #wanted = false;
  #left = false;
  /** When the last renewal that succeeded was sent, by both clocks in milliseconds. */
  #sent: { readonly monotonic: number; readonly wall: number } | undefined;
  #running: Promise<boolean> | undefined;
  #cancel: (() => void) | undefined;
  #failing = false;

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
  }

  /**
   * Whether no other node can have taken this one for lost, as far as the clocks of this one tell: it counts from when
   * the last renewal was sent, and the others from when they saw it. A machine that was stopped together with its clocks
   * is wrong about it; so whoever acts upon it asks the API server as well.
   */
  get held(): boolean {
    return this.ageMs !== undefined && this.ageMs < this.#options.durationMs;
  }

  /** How old the last renewal is, in milliseconds; undefined when there was none. */
  get ageMs(): number | undefined {
    const { clock } = this.#options;
    if (this.#sent === undefined) return undefined;
    // The monotonic clock of Linux stands while the machine sleeps, the other does not; one that was set forward does
    // no more harm than that the API server is asked once more.
    return Math.max(clock.monotonic() - this.#sent.monotonic, clock.now() - this.#sent.wall);
  }

  get wanted(): boolean {
    return this.#wanted;
  }

  /** Whether this node has anything that others should know it to live for. */
  keep(wanted: boolean): void {
    if (wanted === this.#wanted || this.#left) return;
    this.#wanted = wanted;
    // What is not renewed runs out, and nobody minds.
    if (wanted) void this.renew();
    else this.#cancel?.();
  }

  /** Renews now, or joins the renewal under way. Answers whether it came about; never rejects. */
  renew(): Promise<boolean> {
    if (this.#left) return Promise.resolve(false);
    this.#cancel?.();
    this.#running ??= this.#attempt(this.#options.durationMs).then((done) => {
      this.#running = undefined;
      const { durationMs, clock } = this.#options;
      if (this.#wanted && !this.#left)
        this.#cancel = clock.after(done ? durationMs / 3 : durationMs / 12, () => void this.renew());
      return done;
    });
    return this.#running;
  }

  /**
   * The last word of this process: that the node will be back within a time, with all it has going on in its kernel; or
   * that others may have it at once. Never rejects.
   */
  async leave(how: { readonly backWithinMs: number } | 'release'): Promise<void> {
    this.#left = true;
    this.#cancel?.();
    // The last word has to be the last one at the server, too.
    await this.#running;
    if (this.#sent === undefined && !this.#wanted) return;
    if (how === 'release') await this.#attempt(1_000, true);
    else await this.#attempt(Math.max(how.backWithinMs, this.#options.durationMs));
  }

  async #attempt(durationMs: number, released = false): Promise<boolean> {
    const { leases, clock, log, meter } = this.#options;
    const sent = { monotonic: clock.monotonic(), wall: clock.now() };
    const wasLost = this.#sent !== undefined && !this.held;
    try {
      await leases.write({ durationMs, released }, this.#options.durationMs / 5);
      this.#sent = released ? undefined : sent;
      if (wasLost && !this.#left) this.#options.regained();
      meter.increment('ovpn_node_lease_renewals_total', { result: 'renewed' });
      if (this.#failing) log.info({ event: 'lease.renewed' }, 'the lease of this node is renewed again');
      this.#failing = false;
      return true;
    } catch (error) {
      meter.increment('ovpn_node_lease_renewals_total', { result: 'failed' });
      const fields = { event: 'lease.failed', error: describe(error) };
      if (this.#failing) log.debug(fields, 'the lease of this node is still not renewed');
      else
        log.warn(
          fields,
          'the lease of this node is not renewed; unless that changes, another node takes over the peers that it dials',
        );
      this.#failing = true;
      return false;
    }
  }
}
