/**
 * The receiving half of OpenVPN's reliability layer for one key: messages come in any order and any number of times,
 * and leave once each and in order. At most `size` of them are kept.
 */

/** OpenVPN's TLS_RELIABLE_N_REC_BUFFERS: twice the peer's send window. */
export const receiveBufferSize = 12;

/**
 * - `kept`: new; acknowledge it
 * - `repeated`: had before; acknowledge it again, because the acknowledgement may have been lost
 * - `outside`: further ahead than the buffer reaches; not acknowledged, so that it comes again
 */
export type Offered = 'kept' | 'repeated' | 'outside';

export class ReceiveBuffer<Message> {
  readonly #waiting = new Map<number, Message>();
  #nextId: number;
  readonly #size: number;

  constructor(firstId: number, size: number = receiveBufferSize) {
    this.#nextId = firstId;
    this.#size = size;
  }

  /** How many messages are kept. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** The id of the message that is delivered next. */
  get nextId(): number {
    return this.#nextId;
  }

  offer(id: number, message: Message): Offered {
    if (id < this.#nextId || this.#waiting.has(id)) {
      return 'repeated';
    }
    if (id >= this.#nextId + this.#size) {
      return 'outside';
    }
    this.#waiting.set(id, message);
    return 'kept';
  }

  /** The next message in order, or undefined when it is not there yet. */
  take(): Message | undefined {
    const message = this.#waiting.get(this.#nextId);
    if (message !== undefined) {
      this.#waiting.delete(this.#nextId);
      this.#nextId += 1;
    }
    return message;
  }
}
