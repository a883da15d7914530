import type { ControlPacket } from '../wire/packet.ts';
import { AckQueue, maxAcksAlone, maxRidingAcks } from './ack-queue.ts';
import { type Offered, ReceiveBuffer } from './receive-buffer.ts';
import type { RoundTrip } from './round-trip.ts';
import { SendWindow, sendWindowSize } from './send-window.ts';

/**
 * OpenVPN's reliability layer for one key id: message ids, acknowledgements and repetitions in both directions.
 * Pure: it knows no socket, no clock and no session id, and every new key has its own.
 */

export type MessageOpcode = Exclude<ControlPacket['opcode'], 'ack-v1'>;

/** A message in the order it was sent. */
export interface Message {
  readonly opcode: MessageOpcode;
  readonly payload: Buffer;
}

/** The fields of a control packet that belong to this layer. */
export type ReliablePacket = Pick<ControlPacket, 'opcode' | 'acks' | 'messageId' | 'payload'>;

export interface ReliableOptions {
  /** 1 after a stateless start, in which message 0 of both directions was the reset (default 0). */
  readonly firstMessageId?: 0 | 1;
  /** What is known of the line (default: nothing yet). */
  readonly roundTrip?: RoundTrip;
}

const nothing = Buffer.alloc(0);

export class ReliableKey {
  readonly #send: SendWindow<Message>;
  readonly #receive: ReceiveBuffer<Message>;
  readonly #acks = new AckQueue();

  constructor(options: ReliableOptions = {}) {
    const first = options.firstMessageId ?? 0;
    this.#send = new SendWindow(first, sendWindowSize, options.roundTrip);
    this.#receive = new ReceiveBuffer(first);
  }

  /** How many messages `send` takes now. */
  get room(): number {
    return this.#send.room;
  }

  /** Messages sent and not acknowledged. */
  get unacknowledged(): number {
    return this.#send.unacknowledged;
  }

  /** Messages received that wait for an earlier one, or for `take`. */
  get waiting(): number {
    return this.#receive.waiting;
  }

  /** The id of the next message to be sent. */
  get nextSendId(): number {
    return this.#send.nextId;
  }

  /** Takes a message to send; false when the window is full. */
  send(message: Message, now: number): boolean {
    return this.#send.push(message, now);
  }

  /**
   * Takes in a packet of this key. Its message, if it is new, comes out of `take` in order; undefined for a
   * packet without a message.
   */
  receive(packet: ReliablePacket, now: number): Offered | undefined {
    for (const id of packet.acks) {
      this.#send.acknowledge(id, now);
    }
    if (packet.opcode === 'ack-v1' || packet.messageId === undefined) {
      return undefined;
    }
    const offered = this.#receive.offer(packet.messageId, { opcode: packet.opcode, payload: packet.payload });
    if (offered === 'repeated') {
      this.#send.hurry(now);
    }
    if (offered !== 'outside') {
      this.#acks.add(packet.messageId);
    }
    return offered;
  }

  /** The next received message in order. What is not taken stays in the buffer and, once that is full, slows the peer. */
  take(): Message | undefined {
    return this.#receive.take();
  }

  /** Everything to be sent at this time: messages that are due, and the acknowledgements that found no room on them. */
  flush(now: number): ReliablePacket[] {
    const packets: ReliablePacket[] = this.#send
      .takeDue(now)
      .map(({ id, message }) => ({ ...message, messageId: id, acks: this.#acks.take(maxRidingAcks) }));
    while (this.#acks.owed > 0) {
      packets.push({
        opcode: 'ack-v1',
        messageId: undefined,
        acks: this.#acks.take(maxAcksAlone),
        payload: nothing,
      });
    }
    return packets;
  }

  /** When `flush` has something to send next, if nothing comes before; undefined: never. */
  nextFlushAt(): number | undefined {
    return this.#acks.owed > 0 ? 0 : this.#send.nextDueAt();
  }
}
