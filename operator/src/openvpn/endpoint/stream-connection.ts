import type { SessionState } from '../session/session-state.ts';
import { frame, FrameReader } from '../wire/frame.ts';
import { PacketError } from '../wire/packet.ts';
import { SessionWrapper } from '../wrap/session-wrapper.ts';
import { firstPacketWords } from './first-packet-words.ts';
import type { Place } from './half-open.ts';
import type { Path } from './path.ts';
import { resumedWrapper } from './resumed-wrapper.ts';
import { helloSeconds, type Link, ServedSession } from './served-session.ts';
import { evictedWords, type ServerHost, turnedAway } from './server-host.ts';
import type { ServedClient } from './server-settings.ts';

/** How a connection's bytes go out. */
export interface StreamSender {
  /** In order; queues what does not go at once. After a hand-over each call is one frame. */
  send(bytes: Buffer): void;
  close(): void;
  /** Nothing is queued. */
  readonly idle: boolean;
}

/** The longest frame with its length, which the kernel gives in one read. */
const maxFrameBytes = 2 + 0xffff;
/** How long what is queued may take to go out once the session is over. */
const lingerMs = 5000;

/**
 * One client on one TCP connection. A connection proves its address by itself, so there is no stateless start: the
 * client's first packet makes the session, and a connection without one ends as soon as a session without a ClientHello.
 */
export class StreamConnection {
  readonly #host: ServerHost;
  readonly #listener: string;
  readonly #path: Path;
  readonly #sender: StreamSender;
  readonly #forget: (connection: StreamConnection) => void;
  readonly #reader = new FrameReader();
  #place: Place | undefined;
  #session: ServedSession | undefined;
  #take: (() => boolean) | undefined;
  #handedOver = false;
  #over = false;
  #closed = false;
  /** Of the first packet, then of the last bytes. */
  #cancelTimer: () => void = () => undefined;

  /**
   * @param forget called once the connection is over
   * @param state of a session of an earlier program; the kernel has the socket then
   * @throws RangeError when the state is none of a server's session
   */
  constructor(
    host: ServerHost,
    listener: string,
    path: Path,
    sender: StreamSender,
    forget: (it: StreamConnection) => void,
    state?: SessionState,
  ) {
    this.#host = host;
    this.#listener = listener;
    this.#path = path;
    this.#sender = sender;
    this.#forget = forget;
    if (state !== undefined) {
      this.#handedOver = true;
      this.#session = this.#resumed(state);
      return;
    }
    const place = host.halfOpen.take(path.remote.address, () => {
      host.counters.evicted += 1;
      this.#failed(evictedWords);
    });
    if (typeof place === 'string') {
      turnedAway(host, path, listener, place);
      this.#finish();
      return;
    }
    this.#place = place;
    const seconds = Math.min(host.settings.handshakeSeconds ?? 60, helloSeconds);
    this.#cancelTimer = host.scheduler.after(seconds * 1000, () => {
      // Port scans and load balancers' checks do so all day: counted, and told to nobody.
      host.counters.silentConnections += 1;
      this.#finish();
    });
  }

  /** The client, once its first packet has come. */
  get client(): ServedClient | undefined {
    return this.#session;
  }

  /** It is of no further use; last bytes may still go out. */
  get over(): boolean {
    return this.#over;
  }

  /** How many bytes may be read next: up to the end of a frame, so that the kernel can go on after it. */
  get wanted(): number {
    return this.#handedOver ? maxFrameBytes : this.#reader.wanted;
  }

  /** Takes bytes in, cut in whatever way. The buffer may be used again afterwards. */
  receive(bytes: Buffer): void {
    let rest = bytes;
    while (rest.length > 0 && !this.#over) {
      try {
        const { consumed, packet } = this.#reader.take(rest);
        rest = rest.subarray(consumed);
        if (packet !== undefined) {
          this.#receivePacket(packet);
        }
      } catch (error) {
        if (!(error instanceof PacketError)) {
          throw error;
        }
        this.#host.counters.drop(error.reason);
        this.#failed('the client sent what is no OpenVPN over TCP');
      }
    }
    this.#tryHandOver();
  }

  /** The sender's queue is empty. */
  drained(): void {
    if (this.#over) {
      this.#closeSender();
    } else {
      this.#tryHandOver();
    }
  }

  /** The client closed the connection, or it broke. */
  closed(reason?: string): void {
    if (this.#over) {
      this.#closeSender();
      return;
    }
    if (this.#session === undefined) {
      this.#host.counters.silentConnections += 1;
      this.#finish();
      return;
    }
    this.#session.abandon({ cause: 'transport', reason: reason ?? 'the client closed the connection' });
  }

  /** Closes the connection, silently. */
  close(): void {
    this.#session?.close();
    this.#finish();
    this.#closeSender();
  }

  #receivePacket(packet: Buffer): void {
    if (this.#session !== undefined) {
      this.#session.receive(packet);
      return;
    }
    const { begins, settings, clock } = this.#host;
    if (this.#place === undefined) {
      return;
    }
    this.#cancelTimer();
    const refusal = begins.refusal(this.#path.remote.address);
    if (refusal !== undefined) {
      turnedAway(this.#host, this.#path, this.#listener, refusal);
      this.#finish();
      return;
    }
    begins.count(this.#path.remote.address);
    const wrapper = new SessionWrapper(settings.wrap, { role: 'server', transport: 'tcp', clock });
    const session = new ServedSession(this.#host, this.#link(), { kind: 'reset' }, wrapper, this.#place);
    this.#session = session;
    const drop = session.receive(packet);
    if (drop !== undefined) {
      // On TCP nothing strays in, so this is no client of ours and will not become one.
      this.#failed(firstPacketWords(settings.wrap.kind, drop, packet) ?? 'the first packet begins no session');
    }
  }

  #resumed(state: SessionState): ServedSession {
    const { settings, clock } = this.#host;
    const wrapper = resumedWrapper(settings.wrap, { role: 'server', transport: 'tcp', clock }, state);
    return new ServedSession(this.#host, this.#link(), { kind: 'state', state }, wrapper);
  }

  #link(): Link {
    return {
      listener: this.#listener,
      transport: 'tcp',
      path: this.#path,
      send: (packet) => {
        if (!this.#over) {
          this.#sender.send(frame(packet));
        }
      },
      claim: () => undefined,
      moved: () => undefined,
      handOver: (take) => {
        this.#take = take;
        this.#tryHandOver();
      },
      over: () => this.#finish(),
    };
  }

  #tryHandOver(): void {
    if (this.#take === undefined || this.#over || !this.#reader.atBoundary || !this.#sender.idle) {
      return;
    }
    const take = this.#take;
    this.#take = undefined;
    this.#handedOver = take();
  }

  /** What came is of no use: ends the connection. */
  #failed(reason: string): void {
    if (this.#session === undefined) {
      this.#host.failed(this.#path, this.#listener, reason, true);
    } else {
      this.#session.abandon({ cause: 'transport', reason });
    }
    this.#finish();
  }

  #finish(): void {
    if (this.#over) {
      return;
    }
    this.#over = true;
    this.#take = undefined;
    this.#cancelTimer();
    if (this.#place !== undefined) {
      this.#host.halfOpen.release(this.#place);
    }
    if (this.#sender.idle) {
      this.#closeSender();
    } else {
      // For the last word, such as the alert that tells why.
      this.#cancelTimer = this.#host.scheduler.after(lingerMs, () => this.#closeSender());
    }
  }

  #closeSender(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#cancelTimer();
    this.#sender.close();
    this.#forget(this);
  }
}
