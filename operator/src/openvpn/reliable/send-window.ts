/**
 * The sending half of OpenVPN's reliability layer for one key: which messages are on their way, and which of them
 * is to be sent (again) now. At most `size` messages are unacknowledged at any time, so a peer that keeps
 * silent costs a fixed amount of memory.
 */

export interface SendTiming {
  /** Pause before the first repetition; every later one waits twice as long as the one before. */
  readonly resendMs: number;
  /** The pause stops growing at this many times `resendMs`. */
  readonly maxBackoff: number;
  /** A message is repeated at once when this many later ones were acknowledged before it. */
  readonly fastResendAfter: number;
}

/** What OpenVPN does: 2 s, doubled up to 64-fold, and at once after three later acknowledgements. */
export const defaultTiming: SendTiming = { resendMs: 2000, maxBackoff: 64, fastResendAfter: 3 };

/** OpenVPN's TLS_RELIABLE_N_SEND_BUFFERS. */
export const sendWindowSize = 6;

const idLimit = 2 ** 32;

interface Slot<Message> {
  readonly id: number;
  readonly message: Message;
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
  readonly #timing: SendTiming;

  constructor(firstId: number, size: number = sendWindowSize, timing: SendTiming = defaultTiming) {
    this.#nextId = firstId;
    this.#size = size;
    this.#timing = timing;
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
    this.#slots.push({ id: this.#nextId, message, pauseMs: this.#timing.resendMs, dueAt: now, laterAcks: 0 });
    this.#nextId += 1;
    return true;
  }

  /** An acknowledgement came; one for a message that is not on its way (repeated or invented) changes nothing. */
  acknowledge(id: number): void {
    const index = this.#slots.findIndex((slot) => slot.id === id);
    if (index < 0) {
      return;
    }
    this.#slots.splice(index, 1);
    for (const slot of this.#slots.slice(0, index)) {
      slot.laterAcks += 1;
    }
  }

  /** The messages to send now, oldest first; each call counts as having sent them. */
  takeDue(now: number): Numbered<Message>[] {
    const due: Numbered<Message>[] = [];
    for (const slot of this.#slots) {
      const lost = slot.laterAcks >= this.#timing.fastResendAfter;
      if (!lost && slot.dueAt > now) {
        continue;
      }
      slot.dueAt = now + slot.pauseMs;
      slot.laterAcks = 0;
      if (!lost) {
        // Only silence slows the sender down; a gap among acknowledgements shows that the path works.
        slot.pauseMs = Math.min(slot.pauseMs * 2, this.#timing.resendMs * this.#timing.maxBackoff);
      }
      due.push({ id: slot.id, message: slot.message });
    }
    return due;
  }

  /** When `takeDue` has something next; undefined when nothing is on its way. */
  nextDueAt(): number | undefined {
    let earliest: number | undefined;
    for (const slot of this.#slots) {
      const at = slot.laterAcks >= this.#timing.fastResendAfter ? 0 : slot.dueAt;
      earliest = earliest === undefined ? at : Math.min(earliest, at);
    }
    return earliest;
  }
}
