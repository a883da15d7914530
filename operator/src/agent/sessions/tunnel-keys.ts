import { formatRef } from '../../api/types.ts';
import { describe } from '../../errors.ts';
import type { Scheduler } from '../../openvpn/session/scheduler.ts';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import type { Log } from '../../telemetry/log.ts';
import type { KeySlots } from '../key-slots.ts';
import type { LivePeer, LivePeers, SessionKey } from './live-peers.ts';

/**
 * The two key slots of a peer over its renegotiations, make before break: a new key is installed as secondary, where
 * it only receives; when the other end has confirmed that it has it, and time has passed, the slots are swapped; the
 * old key goes when the other end has surely stopped sending with it, or when the next one needs its slot.
 */

/** The other end may need a moment from having a key to receiving with it: no swap before. */
const shortestTransitionMs = 2_000;
/**
 * The same for the first key of a session that takes a peer over from the one before. Its client may have been started
 * again, and have that key only: it gets nothing until then.
 */
const successionMs = 1_000;
/** OpenVPN sends with the old key for up to `--hand-window`, 60 s, after it has the new one (openvpn(8)). */
const longestOldKeyMs = 90_000;

export interface TunnelKeysOptions {
  readonly live: Pick<LivePeers, 'addKey' | 'swapKeys' | 'retireKey'>;
  readonly peer: LivePeer;
  readonly scheduler: Scheduler;
  /** How long both keys are accepted before the swap. Milliseconds. */
  readonly transitionMs: () => number;
  readonly log: Log;
  /** The kernel refused a step: the tunnel cannot go on. */
  readonly refused: (reason: string) => void;
}

export class TunnelKeys {
  readonly #options: TunnelKeysOptions;
  #lastKeyAt: number;
  /** The secondary slot has a key that does not send yet. */
  #pending = false;
  /** The other end has that key, too. */
  #confirmed = false;
  /** Its time has come. */
  #due = false;
  /** This process ends: no transition is longer than it has to be. */
  #hurried = false;
  #cancelSwap: () => void = () => undefined;
  #cancelRetire: () => void = () => undefined;
  /** The key in the primary slot is used up: nothing is sent until there is another. */
  #exhausted = false;

  /** For a peer that has its first key in the primary slot. */
  constructor(options: TunnelKeysOptions) {
    this.#options = options;
    this.#lastKeyAt = options.scheduler.now();
  }

  /**
   * Installs the key of a renegotiation, once.
   *
   * @param skipsKey the other end never got the key before this one
   */
  add(key: SessionKey, { skipsKey = false }: { readonly skipsKey?: boolean } = {}): void {
    const { live, peer, scheduler, transitionMs } = this.#options;
    const sinceLast = scheduler.now() - this.#lastKeyAt;
    // A peer that renegotiates often switches sooner, too: OpenVPN after half its own period.
    const wait = this.#hurried
      ? shortestTransitionMs
      : Math.max(shortestTransitionMs, Math.min(transitionMs(), sinceLast / 2));
    this.#attempt(() => {
      // The other end has its two newest keys only: what it still accepts of ours is the pending one, if it got that.
      if (this.#pending && !skipsKey) this.#swap();
      this.#cancelSwap();
      this.#cancelRetire();
      live.addKey(peer, key);
      this.#lastKeyAt = scheduler.now();
      this.#pending = true;
      this.#confirmed = false;
      this.#due = false;
      // Without a key to send with, there is nothing to lose.
      if (this.#exhausted) this.#swap();
      else this.#swapAfter(wait);
      this.#retireAfter(Math.max(2 * wait, longestOldKeyMs));
    });
  }

  /**
   * Goes on from the slots of a peer that an earlier process made. A key that waited for its time sends at once, as that
   * process died, and nobody knows how long this one is there: the other end may throw the old key away meanwhile.
   *
   * @param session its newest key, which the other end may not have: then it is sent with when there is another one at
   *   the earliest, since nothing is said of it any more that could be acknowledged
   * @param sinceHandshakeMs how long that key has been there, by clocks that may have been set since. Milliseconds
   */
  resume(
    { primary, secondary }: KeySlots,
    { keyId, unconfirmed }: Pick<SessionState, 'keyId' | 'unconfirmed'>,
    sinceHandshakeMs: number,
  ): void {
    this.#exhausted = primary === undefined;
    this.#pending = secondary?.keyId === keyId && primary?.keyId !== keyId;
    this.#confirmed = unconfirmed !== true;
    if (this.#pending && this.#exhausted) this.#attempt(() => this.#swap());
    if (this.#pending)
      this.#swapAfter(Math.max(0, Math.min(shortestTransitionMs, shortestTransitionMs - sinceHandshakeMs)));
    if (secondary !== undefined) this.#retireAfter(Math.max(2 * this.#options.transitionMs(), longestOldKeyMs));
  }

  /**
   * For a peer whose secondary slot has the first key of this session, and whose primary slot one of the session before.
   * The other end may send with that for as long as with the old key of a renegotiation.
   */
  succeed(): void {
    this.#pending = true;
    this.#confirmed = true;
    this.#swapAfter(successionMs);
    this.#retireAfter(longestOldKeyMs);
  }

  /** The other end has the newest key: from its time on, it sends. */
  confirmed(): void {
    this.#confirmed = true;
    if (this.#pending && this.#due) this.#attempt(() => this.#swap());
  }

  /** A renegotiation begins, at which OpenVPN throws away the key before its newest. */
  rekeying(): void {
    if (this.#pending && this.#confirmed) this.#attempt(() => this.#swap());
  }

  /** The kernel has dropped the sending key, whose packet ids are used up: the next one sends at once. */
  exhausted(): void {
    if (this.#pending) this.#attempt(() => this.#swap());
    else this.#exhausted = true;
  }

  /**
   * For the end of this process: a key that waits for its time sends as soon as the other end surely receives with it.
   * Nobody could swap until the next process is there, and the other end may throw the old key away before that.
   */
  hurry(): void {
    this.#hurried = true;
    if (!this.#pending || this.#due) return;
    this.#cancelSwap();
    this.#swapAfter(Math.max(0, this.#lastKeyAt + shortestTransitionMs - this.#options.scheduler.now()));
  }

  /** Whether nothing but time is missing until the newest key sends. */
  get switching(): boolean {
    return this.#pending && this.#confirmed;
  }

  close(): void {
    this.#cancelSwap();
    this.#cancelRetire();
  }

  #swapAfter(ms: number): void {
    this.#cancelSwap = this.#options.scheduler.after(ms, () => {
      this.#due = true;
      if (this.#confirmed) this.#attempt(() => this.#swap());
    });
  }

  #retireAfter(ms: number): void {
    const { live, peer, scheduler } = this.#options;
    this.#cancelRetire = scheduler.after(ms, () =>
      this.#attempt(() => {
        // Not confirmed yet, so the old one is what both ends send with.
        if (this.#pending) this.#retireAfter(longestOldKeyMs);
        else live.retireKey(peer);
      }),
    );
  }

  #swap(): void {
    const { live, peer, log } = this.#options;
    this.#cancelSwap();
    this.#pending = false;
    this.#exhausted = false;
    live.swapKeys(peer);
    log.debug({ event: 'key.switched', peer: formatRef(peer.ref), peerId: peer.id }, 'sending with the new data key');
  }

  #attempt(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.close();
      this.#options.refused(describe(error));
    }
  }
}
