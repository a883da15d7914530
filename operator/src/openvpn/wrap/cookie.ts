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

export class Cookies {
  readonly #key: KeyObject;
  readonly #clock: Clock;

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
