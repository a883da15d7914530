import { classify } from '../wire/opcode.ts';
import { PacketError, type ControlPacket, type PacketErrorReason } from '../wire/packet.ts';
import type { Cookies, Source } from './cookie.ts';
import { resendClientKeyPayload } from './early-negotiation.ts';
import type { ReplyLimit } from './reply-limit.ts';
import { SessionWrapper, type WrapConfig } from './session-wrapper.ts';
import type { Clock } from './wrapper.ts';

/**
 * The start of sessions at a UDP server: three packets that keep no state here. The client's hard reset is answered
 * with a cookie for session id, and only a third packet that echoes it makes a session, with a source address that is
 * no forgery (OpenVPN 2.6 and newer; OpenVPN RFC draft, "three-way handshake").
 */

/**
 * Why a packet from an unknown source led to nothing, beside what makes it a bad packet:
 *
 * - `no-early-negotiation`: a tls-crypt-v2 client older than OpenVPN 2.6, which needs a server that keeps state
 * - `limit`: too many first packets at this time
 * - `cookie`: echoes no session id of ours that is still good for its source
 * - `unexpected`: authentic, but not what begins a session: what a session that has ended left behind, mostly
 */
export type DropReason = PacketErrorReason | 'no-early-negotiation' | 'limit' | 'cookie' | 'unexpected';

export type FirstContact =
  | { readonly kind: 'reply'; readonly bytes: Buffer }
  | {
      readonly kind: 'session';
      /** Ours: the cookie. */
      readonly sessionId: Buffer;
      /**
       * The third packet, to be handed to the new session as its first. Both sides' message 0, the hard resets, are
       * done: the session's next message id is 1 in either direction.
       */
      readonly packet: ControlPacket;
      readonly wrapper: SessionWrapper;
    }
  | { readonly kind: 'drop'; readonly reason: DropReason };

/** Message ids and acknowledgements that a third packet may have: those of the two hard resets, and the first after. */
const maxThirdMessageId = 1;
const empty = Buffer.alloc(0);

export class StatelessStart {
  readonly #config: WrapConfig;
  readonly #cookies: Cookies;
  readonly #limit: ReplyLimit;
  readonly #clock: Clock;

  constructor(config: WrapConfig, { cookies, limit, clock }: { cookies: Cookies; limit: ReplyLimit; clock: Clock }) {
    this.#config = config;
    this.#cookies = cookies;
    this.#limit = limit;
    this.#clock = nonDecreasing(clock);
  }

  /**
   * What to do with a packet from a source that no session is known for; those of a session go to it, its client's
   * repeated first packet included, as an answer from here would begin a later count of replay ids. No bytes make it
   * throw; an error is a fault of this program.
   */
  receive(bytes: Buffer, source: Source): FirstContact {
    try {
      const first = classify(bytes[0]);
      if (first.kind !== 'control') {
        return drop('opcode');
      }
      const isReset = first.opcode === 'hard-reset-client-v2' || first.opcode === 'hard-reset-client-v3';
      return isReset ? this.#first(bytes, source) : this.#third(bytes, source);
    } catch (error) {
      if (error instanceof PacketError) {
        return drop(error.reason);
      }
      throw error;
    }
  }

  /**
   * A session was begun by this id of ours, which `receive` gave: the answer before went to nobody who had not asked.
   * Not to be called for a client that was turned away, who may come again by the same packet.
   */
  begun(sessionId: Buffer): void {
    if (this.#cookies.redeem(sessionId)) {
      this.#limit.giveBack();
    }
  }

  #first(bytes: Buffer, source: Source): FirstContact {
    // Before any cryptography: this is where a flood of first packets ends.
    if (!this.#limit.check()) {
      return drop('limit');
    }
    const wrapper = this.#wrapper(0);
    const { opcode, keyId, sessionId, acks, messageId } = wrapper.unwrap(bytes);
    const withClientKey = this.#config.kind === 'tls-crypt-v2-server';
    if (keyId !== 0 || acks.length > 0 || messageId !== 0 || withClientKey !== (opcode === 'hard-reset-client-v3')) {
      return drop('unexpected');
    }
    if (withClientKey && !wrapper.earlyNegotiation) {
      return drop('no-early-negotiation');
    }
    this.#limit.take();
    const reply = wrapper.wrap({
      opcode: 'hard-reset-server-v2',
      keyId: 0,
      sessionId: this.#cookies.issue(source, sessionId),
      acks: [0],
      peerSessionId: sessionId,
      messageId: 0,
      payload: withClientKey ? resendClientKeyPayload : empty,
    });
    return { kind: 'reply', bytes: reply };
  }

  #third(bytes: Buffer, source: Source): FirstContact {
    const wrapper = this.#wrapper(1);
    const packet = wrapper.unwrap(bytes);
    const { opcode, keyId, sessionId, acks, peerSessionId, messageId } = packet;
    const mayBegin = opcode === 'ack-v1' || opcode === 'control-v1' || opcode === 'control-wkc-v1';
    if (
      !mayBegin ||
      keyId !== 0 ||
      peerSessionId === undefined ||
      acks.some((ack) => ack > maxThirdMessageId) ||
      (messageId ?? 0) > maxThirdMessageId
    ) {
      return drop('unexpected');
    }
    if (!this.#cookies.verify(source, sessionId, peerSessionId)) {
      return drop('cookie');
    }
    return { kind: 'session', sessionId: peerSessionId, packet, wrapper };
  }

  #wrapper(sentBefore: number): SessionWrapper {
    return new SessionWrapper(this.#config, { role: 'server', transport: 'udp', clock: this.#clock, sentBefore });
  }
}

function drop(reason: DropReason): FirstContact {
  return { kind: 'drop', reason };
}

/** A session must not count in an earlier second than the stateless answer before it did. */
function nonDecreasing(clock: Clock): Clock {
  let latest = -Infinity;
  return () => (latest = Math.max(latest, clock()));
}
