import {
  assertSendable,
  formatBody,
  formatHeader,
  PacketError,
  parseBody,
  parseHeader,
  type ControlOpcode,
  type ControlPacket,
} from '../wire/packet.ts';
import { splitWrappedKey, unwrapClientKey, type ClientKeyMetadata } from './client-key.ts';
import type { Envelope } from './envelope.ts';
import { staticKeyBytes } from './key-half.ts';
import { noEnvelope } from './none.ts';
import {
  earlyNegotiationStart,
  ReplaySender,
  ReplayWindow,
  showsEarlyNegotiation,
  type ReplayId,
  type ReplayState,
  type Transport,
} from './replay.ts';
import { tlsAuthEnvelope, type KeyDirection, type TlsAuthDigest } from './tls-auth.ts';
import { tlsCryptEnvelope, type TlsRole } from './tls-crypt.ts';
import type { WrapperState } from './wrapper-state.ts';
import type { Clock, Wrapper } from './wrapper.ts';

export type { WrapperState } from './wrapper-state.ts';

/**
 * How an end of a tunnel is configured to wrap its control channel, with the keys for it. Do not change the bytes of
 * one in use: make another.
 */
export type WrapConfig =
  | { readonly kind: 'none' }
  | {
      readonly kind: 'tls-auth';
      /** 256 bytes, from {@link parseStaticKey} */
      readonly key: Uint8Array;
      readonly digest: TlsAuthDigest;
      readonly direction: KeyDirection;
    }
  | { readonly kind: 'tls-crypt'; readonly key: Uint8Array }
  | {
      readonly kind: 'tls-crypt-v2-server';
      /** 128 bytes, from `parseServerKey` */
      readonly serverKey: Uint8Array;
      /** Refuses a client by what its key's issuer wrote into it, for instance by age. */
      readonly acceptMetadata?: (metadata: ClientKeyMetadata | undefined) => boolean;
    }
  | { readonly kind: 'tls-crypt-v2-client'; readonly key: Uint8Array; readonly wrapped: Buffer };

export interface WrapperOptions {
  /** Of TLS; decides which half of a tls-crypt key is whose. */
  readonly role: TlsRole;
  readonly transport: Transport;
  readonly clock: Clock;
  /** Replay numbers that were sent for this session before it was one: 1 after a stateless answer. */
  readonly sentBefore?: number;
  readonly state?: WrapperState | undefined;
}

/** Replay counters of one key; dynamic tls-crypt has its own beside the static key's. */
interface Lane {
  readonly envelope: Envelope;
  readonly sender: ReplaySender;
  readonly window: ReplayWindow;
}

/** The wrapping of one session, of whatever kind. */
export class SessionWrapper implements Wrapper {
  readonly #config: WrapConfig;
  readonly #options: WrapperOptions;
  readonly #sender: ReplaySender;
  readonly #window: ReplayWindow;
  /** Missing at a tls-crypt-v2 server until the client has sent its key. */
  #envelope: Envelope | undefined;
  #clientKey: Buffer | undefined;
  /** The last wrapped key that turned out good, so that a retransmission of it costs no decryption. */
  #knownWrapped: Buffer | undefined;
  #metadata: ClientKeyMetadata | undefined;
  #dynamic: { readonly key: Buffer; readonly lane: Lane } | undefined;
  #earlyNegotiation = false;

  constructor(config: WrapConfig, options: WrapperOptions) {
    const { clock, transport, state, sentBefore } = options;
    this.#config = config;
    this.#options = options;
    const after =
      state !== undefined ? 0 : (sentBefore ?? (config.kind === 'tls-crypt-v2-client' ? earlyNegotiationStart : 0));
    this.#sender = new ReplaySender(clock, { after, lastTime: state?.replay.sent ?? 0 });
    this.#window = new ReplayWindow(transport, state?.replay);
    this.#clientKey = state?.clientKey === undefined ? undefined : Buffer.from(state.clientKey, 'base64');
    this.#envelope = staticEnvelope(config, options.role, this.#clientKey);
    if (state?.dynamic !== undefined) {
      this.#dynamic = this.#dynamicLane(Buffer.from(state.dynamic.key, 'base64'), state.dynamic.replay);
    }
  }

  get transport(): Transport {
    return this.#options.transport;
  }

  /** What the issuer of the client's tls-crypt-v2 key wrote into it, once the client has sent it. */
  get clientKeyMetadata(): ClientKeyMetadata | undefined {
    return this.#metadata;
  }

  /** A tls-crypt-v2 client showed that it will send its key again if told to. */
  get earlyNegotiation(): boolean {
    return this.#earlyNegotiation;
  }

  get state(): WrapperState {
    return {
      replay: replayState(this.#sender, this.#window),
      ...(this.#clientKey !== undefined && { clientKey: this.#clientKey.toString('base64') }),
      ...(this.#dynamic !== undefined && {
        dynamic: {
          key: this.#dynamic.key.toString('base64'),
          replay: replayState(this.#dynamic.lane.sender, this.#dynamic.lane.window),
        },
      }),
    };
  }

  /**
   * From now on wraps every packet with a key id above 0 by tls-crypt under a key of this session's own
   * (protocol-flag "dyn-tls-crypt").
   *
   * @param exported 256 bytes of TLS keying material from the handshake on key id 0, label
   *   "EXPORTER-OpenVPN-dynamic-tls-crypt"
   */
  useDynamicKey(exported: Uint8Array): void {
    if (exported.length !== staticKeyBytes) {
      throw new RangeError(`dynamic tls-crypt takes ${staticKeyBytes} bytes, not ${exported.length}`);
    }
    const key = Buffer.from(exported);
    const base = this.#staticKey();
    for (let i = 0; base !== undefined && i < staticKeyBytes; i++) {
      key.writeUInt8(key.readUInt8(i) ^ (base[i] ?? 0), i);
    }
    this.#dynamic = this.#dynamicLane(key, undefined);
  }

  overhead(opcode: ControlOpcode, keyId: number): number {
    const wrapped = this.#config.kind === 'tls-crypt-v2-client' && carriesClientKey(opcode) ? this.#config.wrapped : [];
    return this.#laneOf(keyId).envelope.overhead + wrapped.length;
  }

  wrap(packet: ControlPacket): Buffer {
    assertSendable(packet);
    if (carriesClientKey(packet.opcode) && this.#config.kind !== 'tls-crypt-v2-client') {
      throw new RangeError(`${packet.opcode} is for clients with a tls-crypt-v2 key`);
    }
    const { envelope, sender } = this.#laneOf(packet.keyId);
    const sealed = envelope.seal(formatHeader(packet), sender.next(), formatBody(packet));
    return carriesClientKey(packet.opcode) && this.#config.kind === 'tls-crypt-v2-client'
      ? Buffer.concat([sealed, this.#config.wrapped])
      : sealed;
  }

  unwrap(bytes: Buffer): ControlPacket {
    const header = parseHeader(bytes);
    if (carriesClientKey(header.opcode)) {
      return this.#unwrapWithClientKey(bytes);
    }
    const dynamic = header.keyId > 0 ? this.#dynamic?.lane : undefined;
    const envelope = dynamic?.envelope ?? this.#envelope;
    if (envelope === undefined) {
      throw new PacketError('client-key', 'comes before the client key that it is wrapped with');
    }
    const { id, body } = envelope.open(bytes);
    this.#judge(id, dynamic?.window ?? this.#window);
    return parseBody(header, body);
  }

  /** A packet with the client's key at its end, to a server. Nothing is taken over before all of it is authentic. */
  #unwrapWithClientKey(bytes: Buffer): ControlPacket {
    if (this.#config.kind !== 'tls-crypt-v2-server') {
      throw new PacketError('opcode', 'carries a client key, which this end has no use for');
    }
    const { packet, wrapped } = splitWrappedKey(bytes);
    const header = parseHeader(packet);
    if (header.keyId > 0) {
      throw new PacketError('malformed', 'carries a client key after the first handshake');
    }
    let envelope = this.#envelope;
    let unwrapped;
    if (envelope === undefined || this.#knownWrapped?.equals(wrapped) !== true) {
      unwrapped = unwrapClientKey(this.#config.serverKey, wrapped);
      if (this.#clientKey !== undefined && !this.#clientKey.equals(unwrapped.key)) {
        throw new PacketError('client-key', "carries another client's key than this session's");
      }
      if (this.#config.acceptMetadata?.(unwrapped.metadata) === false) {
        throw new PacketError('client-key', 'carries a client key that is not accepted any more');
      }
      envelope = tlsCryptEnvelope(unwrapped.key, this.#options.role);
    }
    const { id, body } = envelope.open(packet);
    this.#judge(id, this.#window);
    if (unwrapped !== undefined) {
      this.#envelope = envelope;
      this.#clientKey = unwrapped.key;
      this.#metadata = unwrapped.metadata;
      this.#knownWrapped = Buffer.from(wrapped);
    }
    this.#earlyNegotiation ||= id !== undefined && showsEarlyNegotiation(id);
    return parseBody(header, body);
  }

  #judge(id: ReplayId | undefined, window: ReplayWindow): void {
    if (id !== undefined) {
      window.accept(id);
    }
  }

  #laneOf(keyId: number): Lane {
    if (keyId > 0 && this.#dynamic !== undefined) {
      return this.#dynamic.lane;
    }
    if (this.#envelope === undefined) {
      throw new RangeError('nothing can be sent before the client has sent its tls-crypt-v2 key');
    }
    return { envelope: this.#envelope, sender: this.#sender, window: this.#window };
  }

  #dynamicLane(key: Buffer, state: ReplayState | undefined): { readonly key: Buffer; readonly lane: Lane } {
    const { clock, role, transport } = this.#options;
    const lane = {
      envelope: tlsCryptEnvelope(key, role),
      sender: new ReplaySender(clock, { lastTime: state?.sent ?? 0 }),
      window: new ReplayWindow(transport, state),
    };
    return { key, lane };
  }

  /** What dynamic tls-crypt mixes the exported bytes with; without any wrapping they are used as they are. */
  #staticKey(): Uint8Array | undefined {
    switch (this.#config.kind) {
      case 'none':
        return undefined;
      case 'tls-auth':
      case 'tls-crypt':
      case 'tls-crypt-v2-client':
        return this.#config.key;
      case 'tls-crypt-v2-server':
        if (this.#clientKey === undefined) {
          throw new RangeError('there is no client key yet');
        }
        return this.#clientKey;
    }
  }
}

/** These two have the wrapped client key appended, outside of what is authenticated with it. */
export function carriesClientKey(opcode: ControlOpcode): boolean {
  return opcode === 'hard-reset-client-v3' || opcode === 'control-wkc-v1';
}

/**
 * Envelopes keep nothing of a session, so all sessions of one configuration share theirs. Making them anew would
 * be work for every packet of a flood, and memory for every quiet session.
 */
const shared: Readonly<Record<TlsRole, WeakMap<WrapConfig, Envelope>>> = {
  client: new WeakMap(),
  server: new WeakMap(),
};

function staticEnvelope(config: WrapConfig, role: TlsRole, clientKey: Buffer | undefined): Envelope | undefined {
  if (config.kind === 'tls-crypt-v2-server') {
    return clientKey === undefined ? undefined : tlsCryptEnvelope(clientKey, role);
  }
  const envelope = shared[role].get(config) ?? newEnvelope(config, role);
  shared[role].set(config, envelope);
  return envelope;
}

function newEnvelope(config: Exclude<WrapConfig, { kind: 'tls-crypt-v2-server' }>, role: TlsRole): Envelope {
  switch (config.kind) {
    case 'none':
      return noEnvelope;
    case 'tls-auth':
      return tlsAuthEnvelope(config.key, config.digest, config.direction);
    case 'tls-crypt':
    case 'tls-crypt-v2-client':
      return tlsCryptEnvelope(config.key, role);
  }
}

function replayState(sender: ReplaySender, window: ReplayWindow): ReplayState {
  return { sent: sender.time, ...window.state };
}
