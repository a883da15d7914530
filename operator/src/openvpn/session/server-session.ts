import { dynamicTlsCryptLabel } from '../negotiate/data-keys.ts';
import { type ControlMessage, formatAuthFailed, formatHalt, formatRestart } from '../negotiate/control-message.ts';
import type { KeyMethodMessage } from '../negotiate/key-method.ts';
import { foreignFraming } from '../negotiate/options-string.ts';
import { hasProtocol, newestKeyOf, parsePeerInfo, type PeerInfo, protocolBits } from '../negotiate/peer-info.ts';
import { formatPush, type PushedOptions } from '../negotiate/push.ts';
import { negotiate, pushedProtocol } from '../negotiate/requirements.ts';
import type { MessageOpcode } from '../reliable/reliable-key.ts';
import type { DataCipher } from '../static-key.ts';
import type { ControlPacket } from '../wire/packet.ts';
import { Session, type SessionOptions } from './session.ts';
import type { SessionState } from './session-state.ts';

/**
 * How a server's session comes about. Its first packet is to be handed in by `receivePacket` in either case.
 *
 * - `reset`: that packet is the client's hard reset
 * - `stateless`: the resets are done, and the client has shown that it knows `sessionId`
 */
export type ServerStart =
  | { readonly kind: 'reset' }
  | { readonly kind: 'stateless'; readonly sessionId: Buffer }
  | { readonly kind: 'state'; readonly state: SessionState };

/** What a server's owner decides for a client; the rest of the push follows from the negotiation. */
export type Offer = Omit<PushedOptions, 'cipher' | 'protocolFlags' | 'keyDerivation' | 'peerId'> & {
  readonly peerId: number;
};

/** When a client whose certificate is not valid at this time should try again. */
const refusedBackoffSeconds = 60;

/** A session in which we are the server. */
export class ServerSession extends Session {
  #client: { readonly peerInfo: PeerInfo; readonly cipher: DataCipher } | undefined;
  #reply: readonly string[] = [];
  #pushRequested = false;
  readonly #stateless: boolean;
  #step: 'handshake' | 'asked' | 'accepted' | 'confirmed' = 'handshake';

  constructor(options: SessionOptions, start: ServerStart) {
    super('server', options, startingSessionId(start));
    this.#stateless = start.kind === 'stateless';
    switch (start.kind) {
      case 'reset':
        this.begin(0);
        return;
      case 'stateless':
        this.begin(1).startTls();
        return;
      case 'state':
        this.#step = 'confirmed';
        this.resume(start.state);
        return;
    }
  }

  /** How many messages of the client have come on its present key, each once and in order. */
  get messagesTaken(): number {
    return this.current?.taken ?? 0;
  }

  /** The client's TLS ClientHello has come whole. */
  get helloCame(): boolean {
    return this.current?.answered === true;
  }

  /**
   * Takes the client in. The keys come by `established`; nothing is pushed before `confirm`. False when it is too late.
   *
   * @throws OvpnError InvalidField when the offer holds what cannot be pushed; the session still waits then
   */
  accept(offer: Offer): boolean {
    const exchange = this.current;
    if (this.#step !== 'asked' || this.phase !== 'negotiating' || this.#client === undefined || !exchange?.secured) {
      return false;
    }
    const { peerInfo, cipher } = this.#client;
    const { identity, version, cipher: tlsCipher } = exchange.secured;
    const { protocolFlags, keyDerivation } = pushedProtocol(peerInfo, this.options.dynamicTlsCrypt ?? true);
    const dynamicTlsCrypt = protocolFlags.includes('dyn-tls-crypt');
    const push: PushedOptions = {
      ...offer,
      cipher,
      protocolFlags,
      keyDerivation,
      // A client that does not say IV_MTU does not know the option.
      tunMtu: peerInfo.maxTunMtu === undefined ? undefined : offer.tunMtu,
    };
    this.#reply = formatPush(push);
    this.#step = 'accepted';
    const keys = this.dataKeys(exchange, cipher);
    if (dynamicTlsCrypt) {
      this.options.wrapper.useDynamicKey(exchange.exportKey(dynamicTlsCryptLabel));
    }
    const { peerId } = offer;
    const exitMessage = protocolFlags.includes('cc-exit');
    this.establish({ cipher, peerId, exitMessage, dynamicTlsCrypt, push });
    this.notify({
      type: 'established',
      established: {
        ...{ keyId: 0, keys, cipher, peerId, exitMessage, dynamicTlsCrypt, push, identity, tlsCipher },
        ignoredOptions: [],
        tlsVersion: version,
      },
    });
    return true;
  }

  /** The kernel has the keys: lets the client begin. */
  confirm(): void {
    if (this.#step === 'accepted') {
      this.#step = 'confirmed';
      this.#sendReply();
    }
  }

  /** Refuses the client, with a reason for its log; `temporary` has it come again later. */
  refuse(reason: string, options: { readonly temporary?: boolean; readonly backoffSeconds?: number } = {}): void {
    const understood =
      this.#client !== undefined && hasProtocol(this.#client.peerInfo, protocolBits.authFailedTemporary);
    const temporary = options.temporary === true && understood;
    this.sayFarewell(formatAuthFailed({ ...options, reason, temporary }));
  }

  /** Asks the client to connect again, here or at its next server. */
  restart(reason: string, options: { readonly nextRemote?: boolean } = {}): void {
    this.sayFarewell(formatRestart(reason, options));
  }

  /** Asks the client to end. */
  halt(reason: string): void {
    this.sayFarewell(formatHalt(reason));
  }

  protected override opensSession({ opcode, keyId }: ControlPacket): boolean {
    // After a stateless start the cookie has been checked by whoever made this session: any packet may be its first.
    return keyId === 0 && (this.#stateless || opcode === 'hard-reset-client-v2' || opcode === 'hard-reset-client-v3');
  }

  protected override keyMethodMessage(): KeyMethodMessage {
    return { options: this.options.optionsString, username: '', password: '', peerInfo: '' };
  }

  protected override lacksPresentKey({ peerInfo }: KeyMethodMessage): boolean {
    const newest = newestKeyOf(parsePeerInfo(peerInfo));
    return newest !== undefined && newest !== this.keyId;
  }

  protected override hardReset(opcode: MessageOpcode): void {
    if (opcode === 'hard-reset-client-v2' || opcode === 'hard-reset-client-v3') {
      this.current?.sendPlain('hard-reset-server-v2');
      this.current?.startTls();
    }
  }

  protected override firstExchanged({ options, peerInfo, username }: KeyMethodMessage): void {
    const client = parsePeerInfo(peerInfo);
    const choice = negotiate(this.options.ciphers, client);
    if ('refusal' in choice) {
      this.unwelcome(choice.refusal);
      return;
    }
    this.#client = { peerInfo: client, cipher: choice.cipher };
    this.#pushRequested = hasProtocol(client, protocolBits.requestPush);
    this.#step = 'asked';
    if (this.identity !== undefined) {
      const { identity } = this;
      const { cipher } = choice;
      this.notify({
        type: 'authenticated',
        client: { identity, peerInfo: client, username, cipher, foreignFraming: foreignFraming(options) },
      });
    }
  }

  protected override keyOutlived(reason: string): void {
    this.notify({ type: 'refused', reason, identity: this.identity });
    this.restart(reason);
  }

  /**
   * It should come again if certificates or CRLs may be renewed meanwhile, or clocks set. A foreign or a revoked
   * certificate stays one: its client would call each minute for ever.
   */
  protected override refused(reason: string, { peerInfo }: KeyMethodMessage): void {
    this.notify({ type: 'refused', reason, identity: undefined });
    const understood = hasProtocol(parsePeerInfo(peerInfo), protocolBits.authFailedTemporary);
    const temporary = understood && this.current?.refusedForNow === true;
    this.sayFarewell(
      formatAuthFailed({ reason, temporary, ...(temporary ? { backoffSeconds: refusedBackoffSeconds } : {}) }),
    );
  }

  protected override unwelcome(reason: string): void {
    if (this.identity !== undefined) {
      this.notify({ type: 'refused', reason, identity: this.identity });
    }
    this.refuse(reason);
  }

  protected override message(message: ControlMessage): void {
    switch (message.kind) {
      case 'push-request':
        this.#pushRequested = true;
        this.#sendReply();
        return;
      case 'exit':
        this.notify({ type: 'exit' });
        this.hearFarewell();
        return;
      case 'info':
        this.notify({ type: 'info', text: message.text });
        return;
      default:
        // The rest is for clients.
        return;
    }
  }

  protected override timeoutReason(): string {
    const within = `within ${this.options.handshakeSeconds ?? 60} s`;
    return this.#step === 'asked'
      ? `the client waited for a decision ${within} in vain`
      : `the TLS handshake did not finish ${within}`;
  }

  #sendReply(): void {
    if (this.#step !== 'confirmed' || !this.#pushRequested) {
      return;
    }
    // Once: what was sent arrives, so a further request has crossed with it.
    this.#reply.forEach((part) => this.sendText(part));
    this.#reply = [];
  }
}

function startingSessionId(start: ServerStart): Buffer | undefined {
  switch (start.kind) {
    case 'reset':
      return undefined;
    case 'stateless':
      return start.sessionId;
    case 'state':
      return Buffer.from(start.state.sessionId, 'hex');
  }
}
