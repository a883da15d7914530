import { createHmac, createSecretKey, timingSafeEqual, type KeyObject } from 'node:crypto';
import { sessionIdBytes } from '../wire/packet.ts';
import type { Clock } from './wrapper.ts';

/**
 * Session ids that a server can recompute instead of remembering: a keyed hash of who asked and when. A client that
 * echoes one has shown that it receives packets at its address.
 */

/** Where a packet came from. */
export interface Source {
  readonly address: string;
  readonly port: number;
}

/** Half of OpenVPN's default `--hand-window` of 60 s. */
const slotMs = 30_000;
/** A cookie is good in the slot it was made in and in the two after it: for 60 to 90 s. */
const slotsBefore = 2;
/** How many cookies are remembered as redeemed in one slot: more than a server begins sessions in that time. */
const maxRedeemed = 16_384;

export class Cookies {
  readonly #key: KeyObject;
  readonly #clock: Clock;
  /** By slot of redeeming, for as long as one of them may be good. */
  readonly #redeemed = new Map<number, Set<string>>();

  /** @param secret at least 16 random bytes, best new ones for each start of this program */
  constructor(secret: Uint8Array, clock: Clock) {
    if (secret.length < 16) {
      throw new RangeError('the secret of cookies is too short');
    }
    this.#key = createSecretKey(secret);
    this.#clock = clock;
  }

  /** The session id to answer a client's first packet with. */
  issue(source: Source, clientSessionId: Buffer): Buffer {
    return this.#cookie(this.#slot(), source, clientSessionId);
  }

  verify(source: Source, clientSessionId: Buffer, echoed: Buffer): boolean {
    if (echoed.length !== sessionIdBytes) {
      return false;
    }
    const slot = this.#slot();
    for (let age = 0; age <= slotsBefore; age++) {
      // How long this takes tells the age of a good cookie, which its sender knows.
      if (timingSafeEqual(this.#cookie(slot - age, source, clientSessionId), echoed)) {
        return true;
      }
    }
    return false;
  }

  /** True at the first call with this cookie, which has to be a good one; false, too, when too many are redeemed. */
  redeem(cookie: Buffer): boolean {
    const slot = this.#slot();
    for (const old of this.#redeemed.keys()) {
      // Later ones, too: of a clock that was set back.
      if (old < slot - slotsBefore || old > slot) {
        this.#redeemed.delete(old);
      }
    }
    const now = this.#redeemed.get(slot) ?? new Set();
    this.#redeemed.set(slot, now);
    const name = cookie.toString('latin1');
    if (now.size >= maxRedeemed || [...this.#redeemed.values()].some((names) => names.has(name))) {
      return false;
    }
    now.add(name);
    return true;
  }

  #slot(): number {
    return Math.floor(this.#clock() / slotMs);
  }

  #cookie(slot: number, { address, port }: Source, clientSessionId: Buffer): Buffer {
    // No two inputs give the same text: only the address is of free length, and it has no blank.
    const cookie = createHmac('SHA256', this.#key)
      .update(`ovpn-operator cookie ${slot} ${port} ${address} ${clientSessionId.toString('hex')}`)
      .digest()
      .subarray(0, sessionIdBytes);
    // An all-zero session id means "none" in OpenVPN.
    return cookie.every((byte) => byte === 0) ? Buffer.alloc(sessionIdBytes, 1) : Buffer.from(cookie);
  }
}
