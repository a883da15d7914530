import { RoundTrip } from './round-trip.ts';

/**
 * The sending half of OpenVPN's reliability layer for one key: which messages are on their way, and which of them
 * is to be sent (again) now. At most `size` messages are unacknowledged at any time, so a peer that keeps
 * silent costs a fixed amount of memory.
 */

/** A message is repeated at once when so many later ones were acknowledged before it. */
const fastResendAfter = 3;

/** OpenVPN's TLS_RELIABLE_N_SEND_BUFFERS. */
export const sendWindowSize = 6;

const idLimit = 2 ** 32;

interface Slot<Message> {
  readonly id: number;
  readonly message: Message;
  /** When it was sent last; undefined until it is sent. */
  sentAt: number | undefined;
  repeated: boolean;
  /** From its latest sending to the next. */
  pauseMs: number;
  dueAt: number;
  laterAcks: number;
}

export interface Numbered<Message> {
  readonly id: number;
  readonly message: Message;
}

export class SendWindow<Message> {
  /** In the order of their ids. */
  #slots: Slot<Message>[] = [];
  #nextId: number;
  readonly #size: number;
  readonly #roundTrip: RoundTrip;

  /** @param roundTrip what is known of the line; keys of one session share it */
  constructor(firstId: number, size: number = sendWindowSize, roundTrip: RoundTrip = new RoundTrip()) {
    this.#nextId = firstId;
    this.#size = size;
    this.#roundTrip = roundTrip;
  }

  /** How many messages may be sent now. */
  get room(): number {
    // Ids do not wrap: a key is renegotiated long before, and a repeated id would break the peer's ordering.
    return Math.min(this.#size - this.#slots.length, idLimit - this.#nextId);
  }

  get unacknowledged(): number {
    return this.#slots.length;
  }

  /** The id that the next message gets. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Takes a message, due at once; false when the window is full. */
  push(message: Message, now: number): boolean {
    if (this.room <= 0) {
      return false;
    }
    const id = this.#nextId;
    this.#slots.push({ id, message, sentAt: undefined, repeated: false, pauseMs: 0, dueAt: now, laterAcks: 0 });
    this.#nextId += 1;
    return true;
  }

  /** An acknowledgement came; one for a message that is not on its way (repeated or invented) changes nothing. */
  acknowledge(id: number, now: number): void {
    const index = this.#slots.findIndex((slot) => slot.id === id);
    const [slot] = index < 0 ? [] : this.#slots.splice(index, 1);
    if (slot === undefined) {
      return;
    }
    if (slot.sentAt !== undefined && !slot.repeated) {
      this.#roundTrip.measured(now - slot.sentAt);
    }
    for (const earlier of this.#slots.slice(0, index)) {
      earlier.laterAcks += 1;
    }
  }

  /**
   * The peer repeated a message that had come before: perhaps it misses what was sent since. What has been on its way
   * for longer than an answer takes is due now (as in QUIC's handshake: RFC 9002, section 6.2.3).
   */
  hurry(now: number): void {
    const { pauseMs } = this.#roundTrip;
    for (const slot of this.#slots) {
      if (slot.sentAt !== undefined && slot.sentAt + pauseMs <= now) {
        slot.dueAt = Math.min(slot.dueAt, now);
      }
    }
  }

  /** The messages to send now, oldest first; each call counts as having sent them. */
  takeDue(now: number): Numbered<Message>[] {
    const due: Numbered<Message>[] = [];
    for (const slot of this.#slots) {
      const lost = slot.laterAcks >= fastResendAfter;
      if (!lost && slot.dueAt > now) {
        continue;
      }
      if (slot.sentAt === undefined) {
        slot.pauseMs = this.#roundTrip.pauseMs;
      } else {
        slot.repeated = true;
        // Only silence slows the sender down; a gap among acknowledgements shows that the path works.
        slot.pauseMs = lost ? slot.pauseMs : this.#roundTrip.longer(slot.pauseMs);
      }
      slot.sentAt = now;
      slot.dueAt = now + slot.pauseMs;
      slot.laterAcks = 0;
      due.push({ id: slot.id, message: slot.message });
    }
    return due;
  }

  /** When `takeDue` has something next; undefined when nothing is on its way. */
  nextDueAt(): number | undefined {
    let earliest: number | undefined;
    for (const slot of this.#slots) {
      const at = slot.laterAcks >= fastResendAfter ? 0 : slot.dueAt;
      earliest = earliest === undefined ? at : Math.min(earliest, at);
    }
    return earliest;
  }
}
