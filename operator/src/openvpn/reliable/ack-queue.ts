/**
 * The acknowledgements that a side owes its peer. They ride on control packets, or go in an ACK_V1 when nothing
 * else is sent. What is left of a packet's room repeats the latest ones, so that one lost packet rarely causes
 * a repetition.
 */

/** OpenVPN's CONTROL_SEND_ACK_MAX: acknowledgements on a packet that also carries a message. */
export const maxRidingAcks = 4;
/** OpenVPN's RELIABLE_ACK_SIZE: acknowledgements in an ACK_V1. */
export const maxAcksAlone = 8;

/** More than a peer can have on its way; an older one is asked for again by its message's repetition. */
const maxOwed = 16;

export class AckQueue {
  #owed: number[] = [];
  /** Latest first. */
  #sent: number[] = [];

  get owed(): number {
    return this.#owed.length;
  }

  add(id: number): void {
    if (this.#owed.includes(id)) {
      return;
    }
    this.#owed.push(id);
    if (this.#owed.length > maxOwed) {
      this.#owed.shift();
    }
  }

  /** Up to `max` acknowledgements for a packet: first those owed, oldest first, then repeated ones. */
  take(max: number): number[] {
    const fresh = this.#owed.splice(0, max);
    const again = this.#sent.filter((id) => !fresh.includes(id)).slice(0, max - fresh.length);
    this.#sent = [...fresh.toReversed(), ...this.#sent.filter((id) => !fresh.includes(id))].slice(0, maxAcksAlone);
    return [...fresh, ...again];
  }
}
