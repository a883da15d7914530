import type { Scheduler } from '../session/scheduler.ts';
import type { SessionState } from '../session/session-state.ts';
import { Cookies } from '../wrap/cookie.ts';
import { ReplyLimit } from '../wrap/reply-limit.ts';
import { StatelessStart } from '../wrap/stateless-start.ts';
import type { Clock } from '../wrap/wrapper.ts';
import { BeginLimit } from './begin-limit.ts';
import { DatagramListener } from './datagram-listener.ts';
import { ReportLimit } from './failure-reports.ts';
import { HalfOpenPlaces } from './half-open.ts';
import type { Path } from './path.ts';
import { ServerCounters, type ServerHost } from './server-host.ts';
import type { ServedClient, ServerOwner, ServerSettings } from './server-settings.ts';
import { StreamConnection, type StreamSender } from './stream-connection.ts';

/** Reports a second of failed handshakes: of clients that are there, and of packets that anybody may have forged. */
const provenReportsPerSecond = 10;
const unprovenReportsPerSecond = 5;
const cookieSecretBytes = 32;

export interface ServerContext {
  readonly scheduler: Scheduler;
  readonly random: (bytes: number) => Buffer;
  readonly clock: Clock;
}

/** A UDP socket's side of a server. */
export interface DatagramEndpoint {
  /** Takes a datagram in, whatever is in it. */
  receive(packet: Buffer, path: Path): void;
  /**
   * Goes on with a client of an earlier program, whose data the kernel still carries: `exportState` gave its state. Our
   * farewells and those of the client are understood again after the next renegotiation.
   *
   * @param path where the client is by now, which the kernel knows
   * @throws RangeError when the state is none of a server's session
   */
  resume(state: SessionState, path: Path): ServedClient;
  /** The socket is of no use any more: its clients end with the cause `transport`. */
  close(): void;
}

/** A TCP connection's side of a server. */
export interface StreamEndpoint {
  /** How many bytes may be read next; no more, so that the kernel can take over at the end of a frame. */
  readonly wanted: number;
  receive(bytes: Buffer): void;
  /** The sender is idle again. */
  drained(): void;
  /** The connection is over, with a reason when it broke. */
  closed(reason?: string): void;
}

/**
 * The server side of OpenVPN's control channel for any number of clients, on any number of UDP sockets and TCP
 * connections. It owns no socket: bytes come in by what `openDatagram` and `openStream` return.
 */
export class OpenvpnServer {
  readonly #host: ServerHost & { settings: ServerSettings; start: StatelessStart };
  readonly #cookies: Cookies;
  readonly #replies: ReplyLimit;
  readonly #reports: { readonly proven: ReportLimit; readonly unproven: ReportLimit };
  readonly #datagrams = new Set<DatagramListener>();
  readonly #streams = new Set<StreamConnection>();

  constructor(settings: ServerSettings, owner: ServerOwner, { scheduler, random, clock }: ServerContext) {
    const now = (): number => scheduler.now();
    this.#cookies = new Cookies(random(cookieSecretBytes), clock);
    this.#replies = new ReplyLimit(now, { most: () => this.#host.settings.limits.repliesPerSecond, periodMs: 1000 });
    this.#reports = {
      proven: new ReportLimit(now, provenReportsPerSecond),
      unproven: new ReportLimit(now, unprovenReportsPerSecond),
    };
    this.#host = {
      settings,
      start: this.#startFor(settings, clock),
      owner,
      scheduler,
      random,
      clock,
      halfOpen: new HalfOpenPlaces({ limits: () => this.#host.settings.limits, now }),
      begins: new BeginLimit({ limits: () => this.#host.settings.limits, now, random }),
      counters: new ServerCounters(),
      clients: new Set(),
      failed: (path, listener, reason, proven, identity) => {
        const words = this.#reports[proven ? 'proven' : 'unproven'].pass(reason);
        if (words !== undefined) {
          owner.failed(path, listener, words, identity);
        }
      },
    };
  }

  /** Handshakes on their way, TCP connections that have sent nothing yet included. */
  get halfOpen(): number {
    return this.#host.halfOpen.size;
  }

  /** Counts since the start. */
  get counters(): Readonly<ServerCounters> {
    return this.#host.counters;
  }

  /** Those that have authenticated and not ended. */
  clients(): Iterable<ServedClient> {
    return this.#host.clients;
  }

  /** For sessions from now on; limits, and certificates for renegotiations, hold for all at once. */
  configure(settings: ServerSettings): void {
    if (settings.wrap !== this.#host.settings.wrap) {
      this.#host.start = this.#startFor(settings, this.#host.clock);
    }
    this.#host.settings = settings;
  }

  /**
   * @param listener its name, for `ServedClient.listener` and for reports
   * @param send what it does not take is lost, and repeated by the session
   */
  openDatagram(listener: string, send: (packet: Buffer, path: Path) => void): DatagramEndpoint {
    const datagrams = new DatagramListener(this.#host, listener, send);
    this.#datagrams.add(datagrams);
    return {
      receive: (packet, path) => datagrams.receive(packet, path),
      resume: (state, path) => datagrams.resume(state, path),
      close: () => {
        this.#datagrams.delete(datagrams);
        datagrams.close({ cause: 'transport', reason: 'its listener was closed' });
      },
    };
  }

  /** A connection that has been accepted. The server closes it when it has no use for it, which may be at once. */
  openStream(listener: string, path: Path, sender: StreamSender): StreamEndpoint {
    const connection = new StreamConnection(this.#host, listener, path, sender, (it) => this.#streams.delete(it));
    if (!connection.over) {
      this.#streams.add(connection);
    }
    return connection;
  }

  /**
   * Goes on with a TCP client of an earlier program; see {@link DatagramEndpoint.resume}. The kernel has its socket.
   *
   * @throws RangeError when the state is none of a server's session
   */
  resumeStream(
    listener: string,
    path: Path,
    sender: StreamSender,
    state: SessionState,
  ): { readonly endpoint: StreamEndpoint; readonly client: ServedClient } {
    const forget = (it: StreamConnection): unknown => this.#streams.delete(it);
    const endpoint = new StreamConnection(this.#host, listener, path, sender, forget, state);
    const { client } = endpoint;
    if (client === undefined) {
      throw new Error('a resumed connection has its client from the start');
    }
    this.#streams.add(endpoint);
    return { endpoint, client };
  }

  /** Ends everything at once and silently: neither clients nor owner hear of it. TCP connections are closed. */
  close(): void {
    this.#datagrams.forEach((listener) => listener.close());
    this.#datagrams.clear();
    [...this.#streams].forEach((connection) => connection.close());
  }

  #startFor({ wrap }: ServerSettings, clock: Clock): StatelessStart {
    return new StatelessStart(wrap, { cookies: this.#cookies, limit: this.#replies, clock });
  }
}
