/**
 * How long a peer takes to acknowledge, and so how long to wait before a message is repeated (RFC 6298). OpenVPN waits
 * 2 s whatever the line is like; on a short one that only makes a lost packet dearer.
 */

/** OpenVPN's pause before the first repetition; also what is waited for while nothing has been measured. */
export const longestFirstPauseMs = 2000;
/** Less than this would repeat what a busy peer is about to acknowledge. */
export const shortestFirstPauseMs = 500;

export class RoundTrip {
  #smoothedMs: number | undefined;
  #variationMs = 0;

  /** An acknowledgement came so long after its message, which was sent only once (Karn's rule: RFC 6298, section 3). */
  measured(milliseconds: number): void {
    if (this.#smoothedMs === undefined) {
      this.#smoothedMs = milliseconds;
      this.#variationMs = milliseconds / 2;
      return;
    }
    this.#variationMs += (Math.abs(this.#smoothedMs - milliseconds) - this.#variationMs) / 4;
    this.#smoothedMs += (milliseconds - this.#smoothedMs) / 8;
  }

  /** The pause before a message is repeated for the first time, in milliseconds. */
  get pauseMs(): number {
    if (this.#smoothedMs === undefined) {
      return longestFirstPauseMs;
    }
    const timeout = this.#smoothedMs + 4 * this.#variationMs;
    return Math.min(longestFirstPauseMs, Math.max(shortestFirstPauseMs, timeout));
  }
}
