import { isIPv6 } from 'node:net';
import { describe } from '../../errors.ts';
import type { AuthFailure } from '../negotiate/control-message.ts';
import { formatOptionsString } from '../negotiate/options-string.ts';
import { type ClientOptions, ClientSession } from '../session/client-session.ts';
import type { Scheduler } from '../session/scheduler.ts';
import type { Established, SessionEvent } from '../session/session-event.ts';
import { parseState, type SessionState } from '../session/session-state.ts';
import type { SessionDrop } from '../session/session.ts';
import type { DataCipher, DataKeys } from '../static-key.ts';
import type { TlsFactory } from '../tls/tls-endpoint.ts';
import { frame, FrameReader } from '../wire/frame.ts';
import { PacketError } from '../wire/packet.ts';
import { SessionWrapper, type WrapConfig } from '../wrap/session-wrapper.ts';
import type { Clock } from '../wrap/wrapper.ts';
import type { Path } from './path.ts';
import { resumedWrapper } from './resumed-wrapper.ts';
import { formatRemote, type Remote, successMs, type TryEnd } from './remotes.ts';

/** An open way to a server. On TCP the bytes are a stream: whoever sends has framed them. */
export interface Connection {
  readonly path: Path;
  /** For the kernel to take over; the connection stays its owner. */
  readonly fd: number;
  send(bytes: Buffer): void;
  /** Nothing waits to be sent. */
  readonly idle: boolean;
  close(): void;
}

export interface ConnectionEvents {
  /** UDP: a datagram. TCP: the next bytes of the stream, at most as many as were `wanted`. */
  packet(bytes: Buffer): void;
  /**
   * The other side closed, or an error: nothing comes any more. The connection still has to be closed. On UDP only for
   * errors that stay: what ICMP says may be forged, and a server that restarts is back soon.
   */
  closed(reason?: string): void;
  /** The connection has become idle. */
  drained(): void;
  /**
   * TCP, before the kernel has taken over: how many bytes may be read now. 0 while the tunnel is established and waits
   * for the kernel: what comes next is data and not ours to read.
   */
  wanted(): number;
}

/** Makes connections and resolves names. */
export interface Connector {
  /** Rejects with words for a person, such as "cannot connect: connection refused". What comes after the dialer has lost interest is closed by the dialer. */
  connect(
    remote: { readonly address: string; readonly port: number; readonly transport: 'udp' | 'tcp' },
    events: ConnectionEvents,
  ): Promise<Connection>;
  /** All addresses of a name, in the order to try them. */
  resolve(host: string): Promise<readonly string[]>;
}

/** How we wrap the control channel as a client. */
export type ClientWrap = Exclude<WrapConfig, { readonly kind: 'tls-crypt-v2-server' }>;

export interface TrySettings {
  readonly tls: TlsFactory;
  readonly wrap: ClientWrap;
  readonly ciphers: readonly DataCipher[];
  /** IV_VER, by which servers show us. */
  readonly version: string;
  /** IV_MTU: the most that the server may push as tun-mtu. */
  readonly maxTunMtu: number;
  /** More lines of peer-info, made anew for each try. */
  readonly peerInfo?: (() => Readonly<Record<string, string>>) | undefined;
  /** What our options string says; a difference makes the server log a warning. */
  readonly tunMtu: number;
  /** `--reneg-sec` (default 3600 s); 0 leaves it to the server. */
  readonly renegotiateSeconds?: number | undefined;
  /** From the first packet to the push (default 60 s). */
  readonly handshakeSeconds?: number | undefined;
  /** For resolving the name, and for a TCP connection to open (default 10 s each). */
  readonly connectSeconds?: number | undefined;
  /** For the server's first packet (default 20 s: ours has gone out four times by then). */
  readonly answerSeconds?: number | undefined;
}

export interface Environment {
  readonly scheduler: Scheduler;
  readonly random: (bytes: number) => Buffer;
  readonly clock: Clock;
}

/** A tunnel to a server, as long as it lasts. After that its methods do nothing. */
export interface DialedTunnel {
  readonly remote: Remote;
  readonly transport: 'udp' | 'tcp';
  readonly connection: Connection;
  /**
   * Has the kernel take over the socket: calls back when it may, at once or later, and never once the tunnel is lost.
   * On UDP that is at once. On TCP it is when no part of a next packet has been read and nothing waits to be sent, and
   * from the established tunnel to this nothing is read past the end of a packet.
   *
   * @param take returns whether the kernel has the socket now; after false, ask again
   */
  handOver(take: () => boolean): void;
  /** Starts a renegotiation; false when one is on its way. */
  rekey(): boolean;
  /** Begins and answers no renegotiation any more; one that is on its way goes on. */
  pause(): void;
  /** Whether one is on its way. */
  readonly renegotiating: boolean;
  /** Leaves with a word to the server. The dialer then connects anew. */
  exit(): void;
  /** For a restarted program to go on with; secret. Undefined when the tunnel is lost. */
  exportState(): SessionState | undefined;
}

/** How a try ended: in words, and for the plan. */
export interface Ending {
  readonly reason: string;
  readonly end: TryEnd;
}

export interface TryEvents {
  established(tunnel: DialedTunnel, established: Established): void;
  rekeyed(tunnel: DialedTunnel, keyId: number, keys: DataKeys): void;
  rekeying(tunnel: DialedTunnel): void;
  keyConfirmed(tunnel: DialedTunnel, keyId: number): void;
  rekeyFailed(tunnel: DialedTunnel, keyId: number, reason: string): void;
  /** Comes once, when all is closed, and not after `close`. */
  ended(ending: Ending): void;
}

/** After the server's last word: enough for our acknowledgement to go out. */
const lastAckMs = 200;
/** Data packets may come before the kernel takes over, and are not ours to refuse. */
const maxFrameBytes = 0xffff;
/** Of a frame with its length. The kernel gives one at a time, whole. */
const framedBytes = 2 + maxFrameBytes;

const seeLog = "the server's log says why";

type Phase = 'connecting' | 'negotiating' | 'established' | 'ending' | 'over';

/** One try to get a tunnel from one address, and the tunnel that comes of it. */
export class DialerTry implements DialedTunnel {
  readonly remote: Remote;
  readonly address: string;
  readonly #settings: TrySettings;
  readonly #environment: Environment;
  readonly #events: TryEvents;
  readonly #frames = new FrameReader(maxFrameBytes);
  #phase: Phase = 'connecting';
  #connection: Connection | undefined;
  #session: ClientSession | undefined;
  #closedEarly: { readonly reason: string | undefined } | undefined;
  /** From when on its end is that of a success. */
  #successAt = Infinity;
  #take: (() => boolean) | undefined;
  #handedOver = false;
  #dropped: SessionDrop | undefined;
  #ending: Ending | undefined;
  #cancelTimer: () => void = () => undefined;

  constructor(
    target: { readonly remote: Remote; readonly address: string },
    settings: TrySettings,
    environment: Environment,
    events: TryEvents,
  ) {
    this.remote = target.remote;
    this.address = target.address;
    this.#settings = settings;
    this.#environment = environment;
    this.#events = events;
  }

  get transport(): 'udp' | 'tcp' {
    return this.remote.transport;
  }

  get connection(): Connection {
    if (this.#connection === undefined) {
      throw new Error('there is no connection before the tunnel is established');
    }
    return this.#connection;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** Begins. Nothing is told from inside of this call. */
  open(connector: Pick<Connector, 'connect'>): void {
    const { connectSeconds = 10 } = this.#settings;
    const { port, transport } = this.remote;
    this.#after(connectSeconds * 1000, () =>
      this.#fail(`no connection within ${connectSeconds} s: check the address and the port, and the firewalls between`),
    );
    const connecting = (async () =>
      connector.connect({ address: this.address, port, transport }, this.#connectionEvents()))();
    void connecting.then(
      (connection) => this.#connected(connection),
      (error: unknown) => {
        if (this.#phase === 'connecting') {
          this.#fail(`${describe(error)}; check the address and the port, and that the server runs`);
        }
      },
    );
  }

  /**
   * Goes on with the tunnel of an earlier program, instead of `open`.
   *
   * @param connect makes the connection that the kernel has, for these events
   * @throws RangeError when the state is none of a client's session
   */
  resume(state: SessionState, connect: (events: ConnectionEvents) => Connection): void {
    parseState(state, 'client');
    this.#handedOver = true;
    this.#successAt = this.#environment.scheduler.now();
    const connection = connect(this.#connectionEvents());
    try {
      this.#session = this.#newSession(connection, state);
    } catch (error) {
      connection.close();
      throw error;
    }
    this.#connection = connection;
    this.#phase = 'established';
  }

  handOver(take: () => boolean): void {
    if (this.#phase === 'established' && !this.#handedOver) {
      this.#take = take;
      this.#tryHandOver();
    }
  }

  rekey(): boolean {
    return this.#phase === 'established' && this.#session?.rekey() === true;
  }

  pause(): void {
    this.#session?.pause();
  }

  get renegotiating(): boolean {
    return this.#session?.renegotiating === true;
  }

  exit(): void {
    this.leave('left on request');
  }

  exportState(): SessionState | undefined {
    return this.#phase === 'established' ? this.#session?.exportState() : undefined;
  }

  /** Says EXIT, waits some seconds at most until the server has heard it, and ends. */
  leave(reason: string): void {
    if (this.#phase !== 'established') {
      return;
    }
    this.#expectEnd({ reason: this.#at(reason), end: this.#lost() });
    this.#session?.exit();
  }

  /** The tunnel is lost in another way than the session can see. */
  lose(reason: string): void {
    if (this.#phase === 'established') {
      this.#end({ reason: this.#at(reason), end: this.#lost() });
    }
  }

  /** Ends at once, without a word and without an event. */
  close(): void {
    if (this.#phase === 'over') {
      return;
    }
    this.#phase = 'over';
    this.#take = undefined;
    this.#cancelTimer();
    this.#session?.close();
    this.#connection?.close();
  }

  #connectionEvents(): ConnectionEvents {
    return {
      packet: (bytes) => this.#receive(bytes),
      closed: (reason) => this.#connectionClosed(reason),
      drained: () => this.#tryHandOver(),
      wanted: () => this.#wanted(),
    };
  }

  #connected(connection: Connection): void {
    if (this.#phase !== 'connecting') {
      connection.close();
      return;
    }
    this.#connection = connection;
    this.#phase = 'negotiating';
    if (this.#closedEarly !== undefined) {
      this.#connectionClosed(this.#closedEarly.reason);
      return;
    }
    const { answerSeconds = 20 } = this.#settings;
    this.#after(answerSeconds * 1000, () => this.#fail(this.#noAnswer(answerSeconds)));
    this.#session = this.#newSession(connection);
    this.#session.start();
  }

  #newSession(connection: Connection, state?: SessionState): ClientSession {
    const { tls, wrap, ciphers, version, maxTunMtu, tunMtu, handshakeSeconds, renegotiateSeconds, peerInfo } =
      this.#settings;
    const { scheduler, random, clock } = this.#environment;
    const { transport } = this.remote;
    const wrapping = { role: 'client', transport, clock } as const;
    const options: ClientOptions = {
      ...{ tls, scheduler, random, ciphers, version, maxTunMtu },
      ...(peerInfo !== undefined && { peerInfo: peerInfo() }),
      ...(handshakeSeconds !== undefined && { handshakeSeconds }),
      ...(renegotiateSeconds !== undefined && { renegotiateSeconds }),
      wrapper: state === undefined ? new SessionWrapper(wrap, wrapping) : resumedWrapper(wrap, wrapping, state),
      tlsCryptV2: wrap.kind === 'tls-crypt-v2-client',
      optionsString: formatOptionsString({ role: 'client', transport, family: isIPv6(this.address) ? 6 : 4, tunMtu }),
      send: (packet) => connection.send(transport === 'tcp' ? frame(packet) : packet),
      notify: (event) => this.#heard(event),
    };
    return new ClientSession(options, state);
  }

  #receive(bytes: Buffer): void {
    if (this.transport === 'udp') {
      this.#receivePacket(bytes);
      return;
    }
    for (let rest = bytes; rest.length > 0 && this.#phase !== 'over';) {
      let taken;
      try {
        taken = this.#frames.take(rest);
      } catch (error) {
        if (!(error instanceof PacketError)) {
          throw error;
        }
        this.#fail(`what the server sent ${error.message}: check that this is the TCP port of an OpenVPN server`);
        return;
      }
      rest = rest.subarray(taken.consumed);
      if (taken.packet !== undefined) {
        this.#receivePacket(taken.packet);
      }
    }
    this.#tryHandOver();
  }

  #receivePacket(packet: Buffer): void {
    const drop = this.#session?.receive(packet);
    if (this.#phase !== 'negotiating' || this.#session === undefined) {
      return;
    }
    if (drop === undefined) {
      // The session has its own deadline for the rest.
      this.#cancelTimer();
    } else {
      this.#dropped = drop;
    }
  }

  #wanted(): number {
    if (this.#handedOver) {
      return framedBytes;
    }
    return this.#phase === 'established' && this.#frames.atBoundary ? 0 : this.#frames.wanted;
  }

  #tryHandOver(): void {
    const take = this.#take;
    const ready = this.transport === 'udp' || (this.#frames.atBoundary && this.#connection?.idle === true);
    if (take !== undefined && ready && this.#phase === 'established') {
      this.#take = undefined;
      this.#handedOver = take();
    }
  }

  #connectionClosed(reason: string | undefined): void {
    const words = reason === undefined ? '' : `: ${reason}`;
    switch (this.#phase) {
      case 'connecting':
        // The connection comes, closed, by the promise.
        this.#closedEarly = { reason };
        return;
      case 'negotiating':
        this.#fail(
          `the connection was closed before there was a tunnel${words}; ${seeLog} (often another key for tls-auth or tls-crypt, or a certificate that it does not accept)`,
        );
        return;
      case 'established':
        this.#end({ reason: this.#at(`the connection was closed${words}`), end: this.#lost() });
        return;
      case 'ending':
        this.#endAsExpected();
        return;
      case 'over':
        return;
    }
  }

  #heard(event: SessionEvent): void {
    switch (event.type) {
      case 'established':
        this.#phase = 'established';
        this.#successAt = this.#environment.scheduler.now() + successMs(event.established.push.pingRestartSeconds);
        this.#events.established(this, event.established);
        return;
      case 'rekeyed':
        this.#events.rekeyed(this, event.keyId, event.keys);
        return;
      case 'rekeying':
        this.#events.rekeying(this);
        return;
      case 'key-confirmed':
        this.#events.keyConfirmed(this, event.keyId);
        return;
      case 'rekey-failed':
        this.#events.rekeyFailed(this, event.keyId, event.reason);
        return;
      case 'auth-failed':
        this.#sentAway(refusal(event.failure), this.#refused(event.failure));
        return;
      case 'restart':
        this.#sentAway(`the server asked us to connect again${because(event.reason)}`, {
          ...this.#lost(),
          nextRemote: event.nextRemote,
        });
        return;
      case 'halt':
        this.#sentAway(
          `the server told us to stay away (HALT)${because(event.reason)}; ask whoever runs it whether we may come back`,
          { kind: 'refused' },
        );
        return;
      case 'exit':
        this.#sentAway('the server has left', { ...this.#lost(), leaving: true });
        return;
      case 'failed':
        this.#end({
          reason: this.#at(`${event.reason}${advice(event.reason)}`),
          end: this.#phase === 'established' ? this.#lost() : { kind: 'failed' },
        });
        return;
      case 'closed':
        this.#endAsExpected();
        return;
      case 'authenticated':
      case 'refused':
      case 'info':
        return;
    }
  }

  #refused(failure: AuthFailure): TryEnd {
    if (failure.temporary) {
      return { kind: 'deferred', seconds: failure.backoffSeconds, advance: failure.advance };
    }
    // What has ended is a token of the server's; a new session does not bring it along.
    return failure.session ? this.#lost() : { kind: 'refused' };
  }

  #lost(): Extract<TryEnd, { kind: 'lost' }> {
    return { kind: 'lost', success: this.#environment.scheduler.now() >= this.#successAt };
  }

  #noAnswer(seconds: number): string {
    const came = this.#dropped === undefined ? '' : ` (packets came that do not fit: ${this.#dropped})`;
    return `no answer within ${seconds} s${came}: check the address and the port, and that both sides have the same key for tls-auth or tls-crypt`;
  }

  #sentAway(reason: string, end: TryEnd): void {
    this.#expectEnd({ reason: this.#at(reason), end });
    this.#after(lastAckMs, () => this.#endAsExpected());
  }

  /** From here on it is only a matter of the last packets. */
  #expectEnd(ending: Ending): void {
    if (this.#phase === 'negotiating' || this.#phase === 'established') {
      this.#phase = 'ending';
      this.#take = undefined;
      this.#ending = ending;
    }
  }

  #endAsExpected(): void {
    if (this.#ending !== undefined) {
      this.#end(this.#ending);
    }
  }

  #fail(reason: string): void {
    this.#end({ reason: this.#at(reason), end: { kind: 'failed' } });
  }

  #end(ending: Ending): void {
    if (this.#phase !== 'over') {
      this.close();
      this.#events.ended(ending);
    }
  }

  #at(words: string): string {
    return `${formatRemote(this.remote, this.address)}: ${words}`;
  }

  #after(milliseconds: number, task: () => void): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#environment.scheduler.after(milliseconds, task);
  }
}

function refusal({ reason, temporary, session }: AuthFailure): string {
  if (temporary) {
    return `the server does not take us in for now${because(reason)}`;
  }
  return session
    ? `the server ended the login${because(reason)}`
    : `the server refused us (AUTH_FAILED)${because(reason)}; check our certificate; ${seeLog}`;
}

/** What to do about a session that failed, where its own words do not say it. */
function advice(reason: string): string {
  if (reason.startsWith("the peer's certificate") || reason.startsWith('the peer was refused')) {
    return '; compare the CA, and what is demanded of the server, with the certificate of the server';
  }
  if (reason.startsWith('the TLS handshake')) {
    return `; ${seeLog} (often it does not accept our certificate)`;
  }
  return reason.startsWith('TLS failed') || reason.startsWith('the server pushed no options') ? `; ${seeLog}` : '';
}

function because(reason: string): string {
  return reason === '' ? '' : `: ${reason}`;
}
