import { type ControlMessage, parseControlMessage } from '../negotiate/control-message.ts';
import { dataKeysLabel, tlsDataKeys } from '../negotiate/data-keys.ts';
import type { KeyMethodMessage, Role } from '../negotiate/key-method.ts';
import { maxRidingAcks } from '../reliable/ack-queue.ts';
import type { MessageOpcode } from '../reliable/reliable-key.ts';
import { datagramResends, RoundTrip, streamResends } from '../reliable/round-trip.ts';
import type { DataCipher, DataKeys } from '../static-key.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';
import type { TlsFactory } from '../tls/tls-endpoint.ts';
import {
  bodyBytes,
  clearHeaderBytes,
  type ControlPacket,
  PacketError,
  type PacketErrorReason,
  parseHeader,
} from '../wire/packet.ts';
import type { SessionWrapper } from '../wrap/session-wrapper.ts';
import { KeyExchange } from './key-exchange.ts';
import type { Scheduler } from './scheduler.ts';
import type { SessionEvent } from './session-event.ts';
import { parseState, type SessionState } from './session-state.ts';

/**
 * One peer's control session: key ids, renegotiation, packets in and out, farewells. What differs between the roles,
 * the start and the push, is in ServerSession and ClientSession.
 *
 * A session owns no socket. Packets come in by `receive` and go out by `send`; everything else is told by
 * `notify`, never from inside the owner's own call of the constructor.
 */

export interface SessionOptions {
  readonly tls: TlsFactory;
  readonly wrapper: SessionWrapper;
  readonly scheduler: Scheduler;
  readonly random: (bytes: number) => Buffer;
  /** A packet for the peer, wrapped. */
  readonly send: (packet: Buffer) => void;
  readonly notify: (event: SessionEvent) => void;
  /** The ciphers allowed; at a server the order decides. */
  readonly ciphers: readonly DataCipher[];
  /** Our options string of key method 2. */
  readonly optionsString: string;
  /** Whether packets of later keys may be wrapped by dynamic tls-crypt (default true). */
  readonly dynamicTlsCrypt?: boolean;
  /** `--hand-window` (default 60 s). */
  readonly handshakeSeconds?: number;
  /** `--reneg-sec`; 0 leaves renegotiating to the peer and to `rekey` (default 3600 s). */
  readonly renegotiateSeconds?: number;
  /** Looks at every verified certificate, of renegotiations too: why it is not welcome (any more), if so. */
  readonly recheck?: (identity: PeerIdentity) => string | undefined;
}

/** Why a packet was passed over. */
export type SessionDrop = PacketErrorReason | 'other-session' | 'unexpected';

/** OpenVPN's packets on the control channel are at most this long without `--max-packet-size`. */
const maxPacketBytes = 1250;
const maxPayloadBytes = 1150;
/** How long a farewell, or the acknowledgement of one, is repeated. OpenVPN's server waits as long after EXIT. */
const farewellMs = 5000;
const maxKeyId = 7;
/**
 * How many renegotiations a peer may begin at once, and how long until it may begin one more. Each costs us a handshake
 * of TLS, for which no other limit holds once a peer is in. One that comes too soon is passed over, and the peer repeats
 * its packet: so it is late by some seconds and not lost.
 */
const renegotiationBurst = 16;
const renegotiationPauseMs = 2000;
/** For how long a key is used at least after it should have been renewed: lines may be down for a while. */
const leastGraceSeconds = 600;

type Phase = 'negotiating' | 'established' | 'leaving' | 'over';

export abstract class Session {
  readonly role: Role;
  protected readonly options: SessionOptions;
  /** Set when the peer's first packet has come, or was known from the start. */
  protected peerSessionId: Buffer | undefined;
  /** Set from `established` on; the cipher does not change any more. */
  protected negotiated: SessionState['negotiated'] | undefined;
  readonly #sessionId: Buffer;
  readonly #roundTrip: RoundTrip;
  #identity: PeerIdentity | undefined;
  #phase: Phase = 'negotiating';
  /** The present key's exchange; none after a restart of this program until the next renegotiation. */
  #current: KeyExchange | undefined;
  #currentKeyId = 0;
  #keySince = 0;
  /** The owner has the present key, and does not know yet whether the peer has it. */
  #unconfirmed = false;
  #pending: KeyExchange | undefined;
  /** The key before, for what the peer still repeats. */
  #retired: KeyExchange | undefined;
  #nextKeyId = 1;
  /** When the peer may begin as many renegotiations as ever again. */
  #renegotiationsSpentUntil = 0;
  #paused = false;
  #flushSoon = false;
  #saidLastWord = false;
  #cancelResend: () => void = () => undefined;
  #cancelDeadline: () => void = () => undefined;
  #cancelRetiring: () => void = () => undefined;
  #cancelRekey: () => void = () => undefined;

  protected constructor(role: Role, options: SessionOptions, sessionId?: Buffer) {
    this.role = role;
    this.options = options;
    this.#sessionId = sessionId ?? freshSessionId(options.random);
    this.#roundTrip = new RoundTrip(options.wrapper.transport === 'udp' ? datagramResends : streamResends);
  }

  get sessionId(): Buffer {
    return this.#sessionId;
  }

  /** Of the latest certificate that was verified. */
  get identity(): PeerIdentity | undefined {
    return this.#identity;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** The key id that data is protected with; a peer's newest. */
  get keyId(): number {
    return this.#currentKeyId;
  }

  /**
   * Takes a packet in. Returns why it was passed over; undefined when it was authentic and this session's, so that its
   * source address is where the peer now is.
   */
  receive(bytes: Buffer): SessionDrop | undefined {
    if (this.#phase === 'over') {
      return 'unexpected';
    }
    try {
      // Without wrapping this is all that tells a stranger's packet from the peer's, and with it, it saves the work.
      const { sessionId } = parseHeader(bytes);
      if (this.peerSessionId?.equals(sessionId) === false) {
        return 'other-session';
      }
      return this.receivePacket(this.options.wrapper.unwrap(bytes));
    } catch (error) {
      if (error instanceof PacketError) {
        return error.reason;
      }
      throw error;
    }
  }

  /** `receive` for a packet that is unwrapped already, such as the one that began the session. */
  receivePacket(packet: ControlPacket): SessionDrop | undefined {
    if (this.#phase === 'over') {
      return 'unexpected';
    }
    if (packet.peerSessionId?.equals(this.#sessionId) === false) {
      return 'other-session';
    }
    if (this.peerSessionId === undefined) {
      if (!this.opensSession(packet)) {
        return 'unexpected';
      }
      this.peerSessionId = packet.sessionId;
    } else if (!this.peerSessionId.equals(packet.sessionId)) {
      return 'other-session';
    }
    const isReset = packet.opcode.includes('reset');
    if (isReset && packet.messageId !== 0) {
      return 'unexpected';
    }
    const exchange = this.#exchangeOf(packet.keyId) ?? this.#answerSoftReset(packet);
    if (exchange === undefined || (isReset && (packet.opcode === 'soft-reset-v1') !== packet.keyId > 0)) {
      return 'unexpected';
    }
    exchange.receive(packet);
    this.#confirmKey();
    return undefined;
  }

  /**
   * Starts a renegotiation; its end is told by `rekeyed` or `rekey-failed`. False when it is not the time:
   * the session is not established, a renegotiation is on its way, or none is wanted any more.
   */
  rekey(): boolean {
    if (this.#phase !== 'established' || this.#pending !== undefined || this.#paused) {
      return false;
    }
    this.#openPending(this.#nextKeyId);
    return true;
  }

  /**
   * Begins no renegotiation any more, and passes over the peer's: it repeats its packet, and the next program can answer
   * that. One that is on its way goes on, since nobody else could finish it.
   */
  pause(): void {
    this.#paused = true;
  }

  /** Whether a renegotiation is on its way: until the peer has all that it needs of us. */
  get renegotiating(): boolean {
    return this.#phase === 'established' && (this.#pending !== undefined || this.#unconfirmed);
  }

  /** Ends the session without a word and without an event. */
  close(): void {
    if (this.#phase === 'over') {
      return;
    }
    this.#phase = 'over';
    [this.#cancelResend, this.#cancelDeadline, this.#cancelRetiring, this.#cancelRekey].forEach((cancel) => cancel());
    [this.#current, this.#pending, this.#retired].forEach((exchange) => exchange?.destroy());
  }

  /** What a restarted program needs to go on with this session, once it is established. Secret: it holds keys. */
  exportState(): SessionState | undefined {
    if (
      this.#phase !== 'established' ||
      this.negotiated === undefined ||
      this.identity === undefined ||
      this.peerSessionId === undefined
    ) {
      return undefined;
    }
    return {
      version: 1,
      role: this.role,
      sessionId: this.#sessionId.toString('hex'),
      peerSessionId: this.peerSessionId.toString('hex'),
      keyId: this.#currentKeyId,
      nextKeyId: this.#nextKeyId,
      ...(this.#unconfirmed && { unconfirmed: true }),
      identity: this.identity,
      negotiated: this.negotiated,
      wrapper: this.options.wrapper.state,
    };
  }

  /**
   * Takes over a state: the session is established, its data keys go on in the kernel, and messages can be exchanged
   * again after the next renegotiation, which `rekey` may start.
   */
  protected resume(state: SessionState): void {
    const { peerSessionId, keyId, nextKeyId, unconfirmed, identity, negotiated } = parseState(state, this.role);
    this.peerSessionId = Buffer.from(peerSessionId, 'hex');
    this.#currentKeyId = keyId;
    this.#nextKeyId = nextKeyId;
    this.#unconfirmed = unconfirmed === true;
    this.#identity = identity;
    this.negotiated = negotiated;
    this.#keySince = this.options.scheduler.now();
    this.#phase = 'established';
    this.#scheduleRekey();
  }

  /** Opens key 0. */
  protected begin(firstMessageId: 0 | 1): KeyExchange {
    const exchange = this.#open(0, firstMessageId);
    this.#current = exchange;
    this.#startDeadline(() => this.fail(this.timeoutReason()));
    return exchange;
  }

  /** Whether a packet may be the peer's first, by which its session id becomes known. */
  protected abstract opensSession(packet: ControlPacket): boolean;
  /** Our side of key method 2. */
  protected abstract keyMethodMessage(first: boolean): KeyMethodMessage;
  /** The peer's reset on key 0. */
  protected abstract hardReset(opcode: MessageOpcode, payload: Buffer): void;
  /** The first exchange is complete and the peer's certificate welcome. */
  protected abstract firstExchanged(peer: KeyMethodMessage): void;
  protected abstract message(message: ControlMessage): void;
  /** The peer does not renew its key: neither its certificate nor our wish to see it again binds it any more. */
  protected abstract keyOutlived(reason: string): void;
  /** The certificate of the peer is not valid, or not any more. */
  protected abstract refused(reason: string, peer: KeyMethodMessage): void;
  /** What was waited for in vain during the first handshake. */
  protected abstract timeoutReason(): string;

  /** Whether the peer says, in a renegotiation, that it does not have the newest key of ours. */
  protected abstract lacksPresentKey(peer: KeyMethodMessage): boolean;

  protected get current(): KeyExchange | undefined {
    return this.#current;
  }

  protected notify(event: SessionEvent): void {
    if (this.#phase !== 'over') {
      this.options.notify(event);
    }
  }

  protected dataKeys(exchange: KeyExchange, cipher: DataCipher): DataKeys {
    return tlsDataKeys(exchange.exportKey(dataKeysLabel), this.role, cipher);
  }

  protected establish(negotiated: SessionState['negotiated']): void {
    this.negotiated = negotiated;
    this.#keySince = this.options.scheduler.now();
    this.#phase = 'established';
    this.#cancelDeadline();
    this.#scheduleRekey();
  }

  /** False when no TLS session is there to carry it. */
  protected sendText(text: string): boolean {
    if (this.#current?.exchanged !== true) {
      return false;
    }
    this.#current.sendText(text);
    this.#wantFlush();
    return true;
  }

  /** Says a last word, and closes when the peer has acknowledged it or some seconds have passed. */
  protected sayFarewell(lastWord: string): void {
    if (this.#phase === 'over' || this.#phase === 'leaving') {
      return;
    }
    this.#saidLastWord = this.sendText(lastWord);
    this.#leave(this.#saidLastWord ? farewellMs : 0);
  }

  /** After the peer's last word: stays to acknowledge it and its repetitions. */
  protected hearFarewell(): void {
    if (this.#phase !== 'over' && this.#phase !== 'leaving') {
      this.#leave(farewellMs);
    }
  }

  #leave(milliseconds: number): void {
    this.#phase = 'leaving';
    this.#cancelRekey();
    this.#dropPending();
    this.#startDeadline(() => this.#closed(), milliseconds);
  }

  /** Gives the first handshake more time. */
  protected extendDeadline(milliseconds: number): void {
    this.#startDeadline(() => this.fail(this.timeoutReason()), milliseconds);
  }

  protected fail(reason: string): void {
    if (this.#phase === 'over') {
      return;
    }
    // Once more, for the alert that tells the peer.
    this.#flush();
    this.notify({ type: 'failed', reason });
    this.close();
  }

  #closed(): void {
    this.notify({ type: 'closed' });
    this.close();
  }

  #exchangeOf(keyId: number): KeyExchange | undefined {
    return [this.#current, this.#pending, this.#retired].find((exchange) => exchange?.keyId === keyId);
  }

  #answerSoftReset({ opcode, keyId }: ControlPacket): KeyExchange | undefined {
    const isNew = keyId > 0 && keyId !== this.#currentKeyId && keyId !== this.#retired?.keyId;
    const mayBegin = this.#phase === 'established' && this.#pending === undefined && !this.#paused;
    if (opcode !== 'soft-reset-v1' || !isNew || !mayBegin) {
      return undefined;
    }
    const now = this.options.scheduler.now();
    const spentUntil = Math.max(this.#renegotiationsSpentUntil, now);
    if (spentUntil - now > (renegotiationBurst - 1) * renegotiationPauseMs) {
      return undefined;
    }
    this.#renegotiationsSpentUntil = spentUntil + renegotiationPauseMs;
    return this.#openPending(keyId);
  }

  #openPending(keyId: number): KeyExchange {
    const exchange = this.#open(keyId, 0);
    this.#pending = exchange;
    this.#nextKeyId = keyId === maxKeyId ? 1 : keyId + 1;
    this.#cancelRekey();
    this.#startDeadline(() => this.#rekeyFailed(`was not finished within ${this.#handshakeMs / 1000} s`));
    exchange.sendPlain('soft-reset-v1');
    this.notify({ type: 'rekeying' });
    return exchange;
  }

  #open(keyId: number, firstMessageId: 0 | 1): KeyExchange {
    const { tls, random, scheduler, wrapper } = this.options;
    const bare = maxPacketBytes - clearHeaderBytes - bodyBytes(maxRidingAcks, true);
    const exchange: KeyExchange = new KeyExchange(
      {
        role: this.role,
        keyId,
        firstMessageId,
        tls,
        random,
        message: this.keyMethodMessage(keyId === 0),
        now: () => scheduler.now(),
        roundTrip: this.#roundTrip,
        maxPayload: () => Math.min(maxPayloadBytes, bare - wrapper.overhead('control-v1', keyId)),
      },
      {
        output: () => this.#wantFlush(),
        reset: (opcode, payload) => {
          if (keyId === 0) {
            this.hardReset(opcode, payload);
          } else {
            // A server that takes part in the next renegotiation has finished the one before. A client of ours may have
            // given that up; it says so (`lacksPresentKey`).
            if (this.role === 'client' && exchange === this.#pending) {
              this.#confirmed();
            }
            exchange.startTls();
          }
        },
        exchanged: (peer) => this.#exchanged(exchange, peer),
        text: (text) => {
          if (this.#phase !== 'over' && this.#phase !== 'leaving') {
            this.message(parseControlMessage(text));
          }
        },
        failed: (reason) => {
          if (exchange === this.#pending) {
            this.#rekeyFailed(reason);
          } else if (exchange === this.#current && this.#phase !== 'leaving') {
            this.fail(reason);
          }
        },
      },
    );
    return exchange;
  }

  #exchanged(exchange: KeyExchange, peer: KeyMethodMessage): void {
    if (this.#phase === 'over' || this.#phase === 'leaving') {
      return;
    }
    const identity = exchange.secured?.identity;
    if (identity === undefined) {
      const reason = exchange.refused ?? 'the peer showed no certificate';
      if (exchange === this.#pending) {
        this.#listenTo(exchange);
      }
      this.refused(reason, peer);
      return;
    }
    const unwelcome = this.options.recheck?.(identity);
    if (exchange !== this.#pending) {
      this.#identity = identity;
      if (unwelcome !== undefined) {
        this.unwelcome(unwelcome);
        return;
      }
      this.firstExchanged(peer);
      return;
    }
    // OpenVPN, too, holds a session to the name that it began with.
    const renamed = identity.commonName !== this.identity?.commonName;
    const reason = unwelcome ?? (renamed ? 'the peer came with the certificate of another name' : undefined);
    if (reason !== undefined) {
      this.#listenTo(exchange);
      this.unwelcome(reason);
      return;
    }
    this.#rekeyed(exchange, identity, this.lacksPresentKey(peer));
  }

  /** Of a peer that may not stay: a renegotiation has shown it, and its key is the one that the peer listens on. */
  #listenTo(exchange: KeyExchange): void {
    this.#cancelRetiring();
    this.#retired?.destroy();
    this.#retired = this.#current;
    this.#current = exchange;
    this.#pending = undefined;
  }

  /** The certificate is valid, and yet not welcome. */
  protected unwelcome(reason: string): void {
    this.fail(reason);
  }

  #rekeyed(exchange: KeyExchange, identity: PeerIdentity, skipsKey: boolean): void {
    if (this.negotiated === undefined) {
      return;
    }
    const keys = this.dataKeys(exchange, this.negotiated.cipher);
    this.#cancelDeadline();
    this.#cancelRetiring();
    this.#retired?.destroy();
    this.#retired = this.#current;
    this.#current = exchange;
    this.#currentKeyId = exchange.keyId;
    this.#pending = undefined;
    this.#identity = identity;
    this.#keySince = this.options.scheduler.now();
    this.#unconfirmed = true;
    this.#cancelRetiring = this.options.scheduler.after(this.#handshakeMs, () => {
      this.#retired?.destroy();
      this.#retired = undefined;
    });
    this.#scheduleRekey();
    this.notify({ type: 'rekeyed', keyId: exchange.keyId, keys, skipsKey });
  }

  #confirmKey(): void {
    if (this.#current?.settled === true) {
      this.#confirmed();
    }
  }

  #confirmed(): void {
    if (this.#unconfirmed && this.#phase === 'established') {
      this.#unconfirmed = false;
      this.notify({ type: 'key-confirmed', keyId: this.#currentKeyId });
    }
  }

  #rekeyFailed(reason: string): void {
    const keyId = this.#pending?.keyId;
    if (keyId === undefined) {
      return;
    }
    this.#flush();
    this.#cancelDeadline();
    this.#dropPending();
    const { scheduler, renegotiateSeconds = 3600 } = this.options;
    const longest = (renegotiateSeconds + Math.max(renegotiateSeconds, leastGraceSeconds)) * 1000;
    if (renegotiateSeconds > 0 && scheduler.now() - this.#keySince > longest) {
      this.keyOutlived(`its key could not be renewed in time; the last renegotiation: ${reason}`);
      return;
    }
    this.#scheduleRekey(this.#handshakeMs / 1000);
    this.notify({ type: 'rekey-failed', keyId, reason: `renegotiation: ${reason}` });
  }

  #dropPending(): void {
    this.#pending?.destroy();
    this.#pending = undefined;
  }

  get #handshakeMs(): number {
    return (this.options.handshakeSeconds ?? 60) * 1000;
  }

  #startDeadline(task: () => void, milliseconds = this.#handshakeMs): void {
    this.#cancelDeadline();
    this.#cancelDeadline = this.options.scheduler.after(milliseconds, task);
  }

  #scheduleRekey(atMostSeconds = Infinity): void {
    this.#cancelRekey();
    const seconds = Math.min(this.options.renegotiateSeconds ?? 3600, atMostSeconds);
    if (seconds === 0) {
      return;
    }
    // A server comes up to a tenth earlier, so that its clients do not all renegotiate at once.
    const early = this.role === 'server' ? this.options.random(2).readUInt16BE() / 0x10000 / 10 : 0;
    this.#cancelRekey = this.options.scheduler.after(seconds * 1000 * (1 - early), () => void this.rekey());
  }

  #wantFlush(): void {
    if (this.#flushSoon || this.#phase === 'over') {
      return;
    }
    this.#flushSoon = true;
    // Later, so that acknowledgements ride on what TLS is about to answer; and once more later, as Node lets TLS write
    // its next record only a turn after the one before, and both go into one packet.
    this.options.scheduler.soon(() =>
      this.options.scheduler.soon(() => {
        this.#flushSoon = false;
        this.#flush();
      }),
    );
  }

  #flush(): void {
    if (this.#phase === 'over') {
      return;
    }
    for (const exchange of [this.#retired, this.#current, this.#pending]) {
      for (const packet of exchange?.flush() ?? []) {
        this.#send(exchange?.keyId ?? 0, packet);
      }
    }
    if (this.#phase === 'leaving' && this.#isAnswered()) {
      this.#closed();
      return;
    }
    this.#scheduleResend();
  }

  #send(keyId: number, packet: Pick<ControlPacket, 'opcode' | 'acks' | 'messageId' | 'payload'>): void {
    // An acknowledgement names whose message it is for.
    const peerSessionId = packet.acks.length > 0 ? this.peerSessionId : undefined;
    this.options.send(this.options.wrapper.wrap({ ...packet, keyId, sessionId: this.#sessionId, peerSessionId }));
  }

  /** Our own last word is acknowledged; after the peer's, we stay to acknowledge its repetitions. */
  #isAnswered(): boolean {
    return this.#saidLastWord && this.#current?.settled === true;
  }

  #scheduleResend(): void {
    this.#cancelResend();
    const times = [this.#retired, this.#current, this.#pending]
      .map((exchange) => exchange?.nextFlushAt())
      .filter((time) => time !== undefined);
    if (times.length > 0) {
      const wait = Math.max(0, Math.min(...times) - this.options.scheduler.now());
      this.#cancelResend = this.options.scheduler.after(wait, () => this.#flush());
    }
  }
}

function freshSessionId(random: (bytes: number) => Buffer): Buffer {
  const id = random(8);
  // All zero would mean "none".
  return id.every((byte) => byte === 0) ? freshSessionId(random) : id;
}
