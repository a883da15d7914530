import { encodeMessage, MessageFramer } from '../negotiate/control-message.ts';
import {
  decodeKeyMethod,
  encodeKeyMethod,
  type KeyMethodMessage,
  keyMaterialBytes,
  type Role,
} from '../negotiate/key-method.ts';
import { ProtocolFault } from '../negotiate/protocol-fault.ts';
import { type MessageOpcode, ReliableKey, type ReliablePacket } from '../reliable/reliable-key.ts';
import type { RoundTrip } from '../reliable/round-trip.ts';
import type { Secured, TlsEndpoint, TlsFactory } from '../tls/tls-endpoint.ts';

/**
 * One key id of a session: its messages in order, the TLS session in them, and in that the key method 2 exchange and
 * then text messages. It knows neither session ids nor wrapping.
 */

export interface KeyExchangeOptions {
  readonly role: Role;
  readonly keyId: number;
  readonly firstMessageId: 0 | 1;
  readonly tls: TlsFactory;
  /** Our side of key method 2. */
  readonly message: KeyMethodMessage;
  readonly random: (bytes: number) => Buffer;
  readonly now: () => number;
  /** What the session knows of the line. */
  readonly roundTrip: RoundTrip;
  /** The most payload of a CONTROL_V1; asked once there is some, when the wrapping is known. */
  readonly maxPayload: () => number;
}

export interface KeyExchangeEvents {
  /** There is something to `flush`. */
  output(): void;
  /** The peer's reset came, with its payload. */
  reset(opcode: MessageOpcode, payload: Buffer): void;
  /** Both key method messages are there: keys can be exported, if the peer is `secured`. */
  exchanged(peer: KeyMethodMessage): void;
  text(message: string): void;
  /** It is over; comes at most once. */
  failed(reason: string): void;
}

export class KeyExchange {
  readonly keyId: number;
  readonly #options: KeyExchangeOptions;
  readonly #events: KeyExchangeEvents;
  readonly #reliable: ReliableKey;
  readonly #framer = new MessageFramer();
  #tls: TlsEndpoint | undefined;
  #secured: Secured | undefined;
  #refusal: { readonly reason: string; readonly temporary: boolean } | undefined;
  #peer: KeyMethodMessage | undefined;
  #unread = Buffer.alloc(0);
  #full = false;
  #taken = 0;
  #answered = false;
  #over = false;

  constructor(options: KeyExchangeOptions, events: KeyExchangeEvents) {
    this.keyId = options.keyId;
    this.#options = options;
    this.#events = events;
    this.#reliable = new ReliableKey({ firstMessageId: options.firstMessageId, roundTrip: options.roundTrip });
  }

  /** The verified peer, after the TLS handshake. */
  get secured(): Secured | undefined {
    return this.#secured;
  }

  /** Why the peer is not to be let in, when its certificate says so. */
  get refused(): string | undefined {
    return this.#refusal?.reason;
  }

  /** Time alone may mend what `refused` tells. */
  get refusedForNow(): boolean {
    return this.#refusal?.temporary === true;
  }

  get exchanged(): boolean {
    return this.#peer !== undefined;
  }

  /** How many messages of the peer have come, each once and in order: repetitions and acknowledgements do not count. */
  get taken(): number {
    return this.#taken;
  }

  /** Our side of TLS has spoken; at a server that is when the ClientHello has come whole. */
  get answered(): boolean {
    return this.#answered;
  }

  /** All that was to be said has been said and acknowledged. */
  get settled(): boolean {
    return this.#reliable.unacknowledged === 0 && this.#tls?.idle !== false;
  }

  /** Sends a message that is not TLS; they come first in a key, so there is room. */
  sendPlain(opcode: MessageOpcode): void {
    this.#reliable.send({ opcode, payload: Buffer.alloc(0) }, this.#options.now());
    this.#events.output();
  }

  /** Begins TLS; the client's side speaks first. */
  startTls(): void {
    this.#tls ??= this.#options.tls.open({
      secured: (secured) => {
        this.#secured = secured;
        if (this.#options.role === 'client') {
          this.#sendKeyMethod();
        }
      },
      refused: (reason, temporary) => {
        this.#refusal = { reason, temporary };
      },
      data: (plaintext) => this.#read(plaintext),
      failed: (reason) => this.#fail(reason),
      output: () => {
        this.#answered = true;
        this.#events.output();
      },
      hungry: () => {
        this.#full = false;
        this.#drain();
        this.#events.output();
      },
    });
  }

  receive(packet: ReliablePacket): void {
    this.#reliable.receive(packet, this.#options.now());
    this.#drain();
    this.#events.output();
  }

  /** Sends a text message; only after the exchange. */
  sendText(text: string): void {
    this.#tls?.write(encodeMessage(text));
  }

  exportKey(label: string): Buffer {
    if (this.#tls === undefined) {
      throw new Error('keys can be exported only after the handshake');
    }
    return this.#tls.exportKey(label);
  }

  /** Everything to be sent now. */
  flush(): ReliablePacket[] {
    const now = this.#options.now();
    while (this.#reliable.room > 0 && this.#tls?.hasOutput === true) {
      const payload = this.#tls.take(this.#options.maxPayload());
      if (payload === undefined) {
        break;
      }
      this.#reliable.send({ opcode: 'control-v1', payload }, now);
    }
    return this.#reliable.flush(now);
  }

  nextFlushAt(): number | undefined {
    return this.#reliable.nextFlushAt();
  }

  destroy(): void {
    this.#over = true;
    this.#tls?.destroy();
  }

  #drain(): void {
    while (!this.#full && !this.#over) {
      const message = this.#reliable.take();
      if (message === undefined) {
        return;
      }
      this.#taken += 1;
      if (message.opcode === 'control-v1' || message.opcode === 'control-wkc-v1') {
        this.#full = this.#tls?.deliver(message.payload) === false;
      } else {
        this.#events.reset(message.opcode, message.payload);
      }
    }
  }

  #sendKeyMethod(): void {
    const { role, message, random } = this.#options;
    this.#tls?.write(encodeKeyMethod(role, message, random(keyMaterialBytes(role))));
  }

  #read(plaintext: Buffer): void {
    try {
      const text = this.#peer === undefined ? this.#readKeyMethod(plaintext) : plaintext;
      for (const message of this.#framer.push(text)) {
        if (this.#over) {
          return;
        }
        this.#events.text(message);
      }
    } catch (error) {
      if (!(error instanceof ProtocolFault)) {
        throw error;
      }
      this.#fail(`the peer ${error.message}`);
    }
  }

  /** Returns what follows the key method message. */
  #readKeyMethod(plaintext: Buffer): Buffer {
    const { role } = this.#options;
    this.#unread = Buffer.concat([this.#unread, plaintext]);
    const decoded = decodeKeyMethod(role === 'client' ? 'server' : 'client', this.#unread);
    if (decoded === undefined) {
      return Buffer.alloc(0);
    }
    const rest = this.#unread.subarray(decoded.length);
    this.#unread = Buffer.alloc(0);
    this.#peer = decoded.message;
    if (role === 'server') {
      this.#sendKeyMethod();
    }
    this.#events.exchanged(decoded.message);
    return rest;
  }

  #fail(reason: string): void {
    if (!this.#over) {
      this.#over = true;
      this.#events.failed(reason);
    }
  }
}
