/**
 * How long a message waits for its acknowledgement before it is sent again: by the round-trip times of the session
 * (RFC 6298), and never longer than OpenVPN waits. One for a session, as all of its keys take the same path.
 */

/** The pauses of a kind of transport. Milliseconds. */
export interface ResendTiming {
  /** Until a round trip has been measured, and at most. */
  readonly firstMs: number;
  /** At least; `firstMs` for a transport whose round trips say nothing. */
  readonly leastMs: number;
  /** Every pause is twice the one before, up to this. */
  readonly mostMs: number;
}

/**
 * Datagrams get lost. The first pause is OpenVPN's, 2 s. The least leaves a peer that serves all of its clients on one
 * thread some time to answer. Doubling ends early, because a handshake has 60 s, and OpenVPN's pauses of 2, 4, 8, 16 and
 * 32 s are five tries: on a line that loses a fifth, 1 % of the renegotiations did not get through in time. Six
 * packets in 4 s burden no line; WireGuard repeats a handshake every 5 s.
 */
export const datagramResends: ResendTiming = { firstMs: 2_000, leastMs: 500, mostMs: 4_000 };

/** A stream loses nothing and repeats by itself: OpenVPN's own pauses, which do no harm. */
export const streamResends: ResendTiming = { firstMs: 2_000, leastMs: 2_000, mostMs: 128_000 };

/** The gains of RFC 6298, section 2.3. */
const [alpha, beta, deviations] = [1 / 8, 1 / 4, 4];

export class RoundTrip {
  readonly #timing: ResendTiming;
  #smoothedMs: number | undefined;
  #variationMs = 0;
  /** RFC 6298's RTO. */
  #pauseMs: number;

  constructor(timing: ResendTiming = datagramResends) {
    this.#timing = timing;
    this.#pauseMs = timing.firstMs;
  }

  /** The pause before the first repetition of a message that is sent now. */
  get pauseMs(): number {
    return this.#pauseMs;
  }

  /** The pause after one of this length has passed in vain. */
  longer(passedMs: number): number {
    const { firstMs, mostMs } = this.#timing;
    const doubled = Math.min(2 * passedMs, mostMs);
    // What is sent next has to wait longer, too, until a round trip shows how long they are now: a timeout that is
    // shorter than each round trip would repeat every message, and none that is repeated can be measured.
    this.#pauseMs = Math.min(Math.max(this.#pauseMs, doubled), firstMs);
    return doubled;
  }

  /**
   * A message was acknowledged this long after it was sent. Only of messages that were sent once: of others nobody
   * knows which sending is meant (RFC 6298, section 3).
   */
  measured(milliseconds: number): void {
    if (this.#smoothedMs === undefined) {
      this.#smoothedMs = milliseconds;
      this.#variationMs = milliseconds / 2;
    } else {
      this.#variationMs += beta * (Math.abs(this.#smoothedMs - milliseconds) - this.#variationMs);
      this.#smoothedMs += alpha * (milliseconds - this.#smoothedMs);
    }
    const { firstMs, leastMs } = this.#timing;
    const timeout = this.#smoothedMs + deviations * this.#variationMs;
    this.#pauseMs = Math.min(Math.max(timeout, leastMs), firstMs);
  }
}
