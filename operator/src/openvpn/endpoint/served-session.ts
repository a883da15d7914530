import { formatOptionsString } from '../negotiate/options-string.ts';
import { type Offer, ServerSession, type ServerStart } from '../session/server-session.ts';
import type { SessionDrop } from '../session/session.ts';
import type { SessionEvent } from '../session/session-event.ts';
import type { SessionState } from '../session/session-state.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';
import type { ControlPacket } from '../wire/packet.ts';
import type { SessionWrapper } from '../wrap/session-wrapper.ts';
import type { Place } from './half-open.ts';
import type { Path, PeerAddress } from './path.ts';
import type { ServerHost } from './server-host.ts';
import type { ClientEnd, ServedClient } from './server-settings.ts';

/** How a session's packets travel. */
export interface Link {
  readonly listener: string;
  readonly transport: 'udp' | 'tcp';
  readonly path: Path;
  send(packet: Buffer): void;
  /** The client has authenticated: what else there was on this path is not any more. */
  claim(): void;
  moved(remote: PeerAddress): void;
  handOver(take: () => boolean): void;
  /** The session is over: forgets it. */
  over(): void;
}

/**
 * How long a client's ClientHello may take to come whole, which is the last that costs a client nothing. OpenVPN
 * repeats its packets after 2, 6 and 14 s, so each may be lost three times.
 */
export const helloSeconds = 15;

/** One client's session at a server, from its first packet on; its owner learns of it when it has authenticated. */
export class ServedSession implements ServedClient {
  readonly #host: ServerHost;
  readonly #link: Link;
  readonly #session: ServerSession;
  /** None for a session that an earlier program began. */
  readonly #place: Place | undefined;
  #taken = 0;
  #cancelHelloDeadline: () => void = () => undefined;
  #identity: PeerIdentity | undefined;
  #told = false;
  #reported = false;
  #ended = false;
  #over = false;
  #farewell = 'it was sent away';

  /** @throws RangeError when it is to start from a state that is none */
  constructor(host: ServerHost, link: Link, start: ServerStart, wrapper: SessionWrapper, place?: Place) {
    this.#host = host;
    this.#link = link;
    this.#place = place;
    const { ciphers, handshakeSeconds, renegotiateSeconds, tunMtu } = host.settings;
    const family = link.path.remote.address.includes(':') ? 6 : 4;
    this.#session = new ServerSession(
      {
        // Renegotiations, too, take the certificates of their day.
        tls: { open: (events) => host.settings.tls.open(events) },
        wrapper,
        scheduler: host.scheduler,
        random: host.random,
        send: (packet) => link.send(packet),
        notify: (event) => this.#heard(event),
        ciphers,
        optionsString: formatOptionsString({ role: 'server', transport: link.transport, family, tunMtu }),
        ...(handshakeSeconds !== undefined && { handshakeSeconds }),
        ...(renegotiateSeconds !== undefined && { renegotiateSeconds }),
        recheck: (identity) => host.owner.recheck(identity, this),
      },
      start,
    );
    if (start.kind === 'state') {
      host.counters.resumed += 1;
      this.#told = true;
      host.clients.add(this);
    } else {
      host.counters.begun += 1;
      this.#awaitHello(handshakeSeconds ?? 60);
    }
  }

  get listener(): string {
    return this.#link.listener;
  }

  get transport(): 'udp' | 'tcp' {
    return this.#link.transport;
  }

  get path(): Path {
    return this.#link.path;
  }

  get identity(): PeerIdentity {
    const identity = this.#session.identity ?? this.#identity;
    if (identity === undefined) {
      throw new Error('a session has an identity once it has authenticated');
    }
    return identity;
  }

  get keyId(): number {
    return this.#session.keyId;
  }

  /** The owner has been told of it. */
  get authenticated(): boolean {
    return this.#told;
  }

  /** Takes a packet in; why it was passed over, if it was. */
  receive(bytes: Buffer): SessionDrop | undefined {
    return this.#received(this.#session.receive(bytes));
  }

  /** The same for the packet that ended a stateless start. */
  receivePacket(packet: ControlPacket): SessionDrop | undefined {
    return this.#received(this.#session.receivePacket(packet));
  }

  accept(offer: Offer): boolean {
    return this.#session.accept(offer);
  }

  refuse(reason: string, options?: { readonly temporary?: boolean; readonly backoffSeconds?: number }): void {
    this.#farewell = reason;
    this.#session.refuse(reason, options);
  }

  confirm(): void {
    this.#session.confirm();
  }

  rekey(): boolean {
    return this.#session.rekey();
  }

  pause(): void {
    this.#session.pause();
  }

  get renegotiating(): boolean {
    return this.#session.renegotiating;
  }

  restart(reason: string, options?: { readonly nextRemote?: boolean }): void {
    this.#farewell = reason;
    this.#session.restart(reason, options);
  }

  halt(reason: string): void {
    this.#farewell = reason;
    this.#session.halt(reason);
  }

  close(): void {
    this.#ended = true;
    this.#host.clients.delete(this);
    this.#finish();
  }

  moved(remote: PeerAddress): void {
    this.#link.moved(remote);
  }

  handOver(take: () => boolean): void {
    if (!this.#over) {
      this.#link.handOver(take);
    }
  }

  exportState(): SessionState | undefined {
    return this.#session.exportState();
  }

  /** Ends it without a word to the client; the owner hears of it as of an end or as of a failed handshake. */
  abandon(end: ClientEnd): void {
    if (!this.#told && !this.#reported && !this.#over) {
      this.#report(end.reason, undefined);
    }
    this.#end(end);
    this.#finish();
  }

  #received(drop: SessionDrop | undefined): SessionDrop | undefined {
    if (drop === undefined) {
      const { messagesTaken } = this.#session;
      if (this.#place !== undefined && messagesTaken !== this.#taken) {
        this.#taken = messagesTaken;
        this.#host.halfOpen.progressed(this.#place);
      }
    } else {
      this.#host.counters.drop(drop);
    }
    return drop;
  }

  #awaitHello(handshakeSeconds: number): void {
    if (handshakeSeconds <= helloSeconds) {
      return;
    }
    this.#cancelHelloDeadline = this.#host.scheduler.after(helloSeconds * 1000, () => {
      if (!this.#session.helloCame) {
        const reason = `the client's TLS ClientHello did not come whole within ${helloSeconds} s`;
        this.abandon({ cause: 'failed', reason });
      }
    });
  }

  #heard(event: SessionEvent): void {
    const { owner, counters } = this.#host;
    switch (event.type) {
      case 'authenticated':
        counters.authenticated += 1;
        this.#cancelHelloDeadline();
        this.#identity = event.client.identity;
        this.#told = true;
        this.#link.claim();
        this.#host.clients.add(this);
        owner.authenticated(this, event.client);
        return;
      case 'refused':
        if (this.#told) {
          this.#end({ cause: 'failed', reason: event.reason });
        } else {
          this.#report(event.reason, event.identity);
        }
        return;
      case 'established':
        counters.established += 1;
        this.#releasePlace();
        owner.established(this, event.established);
        return;
      case 'rekeyed':
        owner.rekeyed(this, event.keyId, event.keys, event.skipsKey);
        return;
      case 'rekeying':
        owner.rekeying(this);
        return;
      case 'key-confirmed':
        owner.keyConfirmed(this, event.keyId);
        return;
      case 'rekey-failed':
        owner.rekeyFailed(this, event.keyId, event.reason);
        return;
      case 'exit':
        // Its session stays for some seconds, to acknowledge what the client repeats.
        this.#end({ cause: 'exit', reason: 'the client left' });
        return;
      case 'failed':
        this.abandon({ cause: 'failed', reason: event.reason });
        return;
      case 'closed':
        this.abandon({ cause: 'closed', reason: this.#farewell });
        return;
      case 'info':
      case 'auth-failed':
      case 'restart':
      case 'halt':
        // A client's remarks; and what only servers say.
        return;
    }
  }

  /** A handshake that came to nothing. */
  #report(reason: string, identity: PeerIdentity | undefined): void {
    this.#reported = true;
    this.#host.counters.failed += 1;
    this.#host.failed(this.path, this.listener, reason, true, identity);
  }

  #end(end: ClientEnd): void {
    if (!this.#told || this.#ended) {
      return;
    }
    this.#ended = true;
    this.#host.clients.delete(this);
    this.#host.owner.ended(this, end);
  }

  #finish(): void {
    if (this.#over) {
      return;
    }
    this.#over = true;
    this.#cancelHelloDeadline();
    this.#session.close();
    this.#releasePlace();
    this.#link.over();
  }

  #releasePlace(): void {
    if (this.#place !== undefined) {
      this.#host.halfOpen.release(this.#place);
    }
  }
}
