import { dynamicTlsCryptLabel } from '../negotiate/data-keys.ts';
import { type ControlMessage, exitMessage, pushRequest } from '../negotiate/control-message.ts';
import type { KeyMethodMessage } from '../negotiate/key-method.ts';
import { formatPeerInfo, newestKeyInfo } from '../negotiate/peer-info.ts';
import { pushedSession, PushReader, type ReceivedPush } from '../negotiate/push.ts';
import { ProtocolFault } from '../negotiate/protocol-fault.ts';
import type { MessageOpcode } from '../reliable/reliable-key.ts';
import { type ControlPacket, PacketError } from '../wire/packet.ts';
import { parseEarlyNegotiation } from '../wrap/early-negotiation.ts';
import { Session, type SessionOptions } from './session.ts';
import type { SessionState } from './session-state.ts';

export interface ClientOptions extends SessionOptions {
  /** IV_VER; servers show it. */
  readonly version: string;
  /** IV_MTU: the server may push a tun-mtu up to this. */
  readonly maxTunMtu: number;
  /** UV_* lines and the like. */
  readonly peerInfo?: Readonly<Record<string, string>>;
  readonly username?: string;
  readonly password?: string;
  /** The wrapping is tls-crypt-v2: the first packet carries our key. */
  readonly tlsCryptV2?: boolean;
}

/** OpenVPN's PUSH_REQUEST_INTERVAL. */
const pushRequestMs = 5000;
/** The most time that AUTH_PENDING can ask for. */
const maxPendingSeconds = 600;

/** A session in which we are the client. */
export class ClientSession extends Session {
  readonly #client: ClientOptions;
  readonly #push = new PushReader();
  #exchanged = false;
  #cancelRequest: () => void = () => undefined;

  constructor(options: ClientOptions, state?: SessionState) {
    super('client', options, state === undefined ? undefined : Buffer.from(state.sessionId, 'hex'));
    this.#client = options;
    if (state !== undefined) {
      this.resume(state);
    }
  }

  /** Sends the first packet. Not for a session made from a state. */
  start(): void {
    const exchange = this.begin(0);
    exchange.sendPlain(this.#client.tlsCryptV2 === true ? 'hard-reset-client-v3' : 'hard-reset-client-v2');
  }

  /** Leaves, with a word for the server when it understands one. */
  exit(): void {
    if (this.negotiated?.exitMessage === true) {
      this.sayFarewell(exitMessage);
    } else {
      this.notify({ type: 'closed' });
      this.close();
    }
  }

  override close(): void {
    this.#cancelRequest();
    super.close();
  }

  protected override opensSession({ opcode, keyId, peerSessionId, acks }: ControlPacket): boolean {
    return opcode === 'hard-reset-server-v2' && keyId === 0 && peerSessionId !== undefined && acks.includes(0);
  }

  protected override keyMethodMessage(first: boolean): KeyMethodMessage {
    const { optionsString, version, ciphers, maxTunMtu, dynamicTlsCrypt = true } = this.#client;
    const peerInfo = { ...this.#client.peerInfo, ...(first ? {} : newestKeyInfo(this.keyId)) };
    const { authToken, authTokenUser } = this.negotiated?.push ?? {};
    return {
      options: optionsString,
      // A pushed token takes the password's place from then on (openvpn(8), "--auth-gen-token").
      username: authTokenUser ?? this.#client.username ?? '',
      password: authToken ?? this.#client.password ?? '',
      peerInfo: formatPeerInfo({ version, ciphers, dynamicTlsCrypt, maxTunMtu, extra: peerInfo }),
    };
  }

  protected override lacksPresentKey(): boolean {
    // A server has each key before its client.
    return false;
  }

  protected override hardReset(opcode: MessageOpcode, payload: Buffer): void {
    if (opcode !== 'hard-reset-server-v2') {
      return;
    }
    try {
      if (parseEarlyNegotiation(payload).resendClientKey) {
        // The first message after the reset carries the key again. TLS follows in the next.
        this.current?.sendPlain('control-wkc-v1');
      }
    } catch (error) {
      if (!(error instanceof PacketError)) {
        throw error;
      }
      this.fail(`the server's first packet ${error.message}`);
      return;
    }
    this.current?.startTls();
  }

  protected override firstExchanged(): void {
    this.#exchanged = true;
    this.#requestPush();
  }

  protected override refused(reason: string): void {
    this.fail(reason);
  }

  protected override keyOutlived(reason: string): void {
    this.fail(reason);
  }

  protected override message(message: ControlMessage): void {
    switch (message.kind) {
      case 'push-reply': {
        const push = this.phase === 'negotiating' ? this.#push.add(message.options) : undefined;
        if (push !== undefined) {
          this.#pushed(push);
        }
        return;
      }
      case 'auth-failed':
        this.notify({ type: 'auth-failed', failure: message.failure });
        this.#cancelRequest();
        this.hearFarewell();
        return;
      case 'restart':
        this.notify({ type: 'restart', reason: message.reason, nextRemote: message.nextRemote });
        this.#cancelRequest();
        this.hearFarewell();
        return;
      case 'halt':
        this.notify({ type: 'halt', reason: message.reason });
        this.#cancelRequest();
        this.hearFarewell();
        return;
      case 'exit':
        this.notify({ type: 'exit' });
        this.#cancelRequest();
        this.hearFarewell();
        return;
      case 'auth-pending':
        if (this.phase === 'negotiating') {
          this.extendDeadline(Math.min(message.timeoutSeconds ?? 60, maxPendingSeconds) * 1000);
        }
        this.notify({ type: 'info', text: 'the server has not decided about us yet' });
        return;
      case 'info':
        this.notify({ type: 'info', text: message.text });
        return;
      case 'push-request':
        return;
      case 'other':
        this.notify({ type: 'info', text: `passed over a message: ${message.name}` });
        return;
    }
  }

  protected override timeoutReason(): string {
    const within = `within ${this.options.handshakeSeconds ?? 60} s`;
    if (this.peerSessionId === undefined) {
      return `no answer from the server ${within}: check its address and port, and that both have the same key for tls-auth or tls-crypt`;
    }
    return this.#exchanged ? `the server pushed no options ${within}` : `the TLS handshake did not finish ${within}`;
  }

  #requestPush(): void {
    if (this.phase !== 'negotiating') {
      return;
    }
    this.sendText(pushRequest);
    this.#cancelRequest = this.options.scheduler.after(pushRequestMs, () => this.#requestPush());
  }

  /** @throws ProtocolFault, which fails the session with its words */
  #pushed({ options: push, ignored }: ReceivedPush): void {
    const exchange = this.current;
    if (exchange?.secured === undefined) {
      return;
    }
    const { cipher, peerId, exitMessage, dynamicTlsCrypt } = pushedSession(push, this.options.ciphers);
    if (dynamicTlsCrypt && this.options.dynamicTlsCrypt === false) {
      throw new ProtocolFault('pushed dyn-tls-crypt, which was not offered');
    }
    this.#cancelRequest();
    const keys = this.dataKeys(exchange, cipher);
    if (dynamicTlsCrypt) {
      this.options.wrapper.useDynamicKey(exchange.exportKey(dynamicTlsCryptLabel));
    }
    this.establish({ cipher, peerId, exitMessage, dynamicTlsCrypt, push });
    this.notify({
      type: 'established',
      established: {
        ...{ keyId: 0, keys, cipher, peerId, exitMessage, dynamicTlsCrypt, push },
        ignoredOptions: ignored,
        identity: exchange.secured.identity,
        tlsVersion: exchange.secured.version,
        tlsCipher: exchange.secured.cipher,
      },
    });
  }
}
