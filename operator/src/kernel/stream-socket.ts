import {
  acceptNow,
  close,
  connectNow,
  errnoWords,
  getsockname,
  getsockoptInt,
  IPPROTO_TCP,
  recvNow,
  sendNow,
  setsockoptInt,
  SO_ERROR,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socket,
  SOL_SOCKET,
  SystemError,
  TCP_NODELAY,
} from './libc.ts';
import type { ReadinessPoller } from './poller.ts';
import { familyOf, type Path, type PeerAddress, readSockaddr, sockaddr } from './socket-address.ts';
import { type After, afterTimeout } from './timer.ts';
import { boundAddress, formatEndpoint, type TransportAddress } from './transport-socket.ts';

/** A frame of the driver: a packet of up to 65535 bytes after its length. */
const maxFrame = 2 + 65_535;
/** Reads of one socket, and connections of one listener, before the others have their turn. */
const maxPerTurn = 64;
/** What may wait for a peer that does not read. Far above what a control channel sends without an answer. */
const maxQueuedBytes = 256 * 1024;
/** Wait before offering the driver again a frame that it did not take. */
const retryMs = 5;
/** Wait before accepting again when there are no descriptors or no memory left. */
const exhaustedMs = 100;

// One for all sockets: what is read is copied before anybody else gets to run.
const receiveBuffer = Buffer.allocUnsafe(maxFrame);

export interface StreamEvents {
  /** Some bytes of the stream; after {@link StreamSocket.handedOver} one whole frame. The buffer is the callee's. */
  data(bytes: Buffer): void;
  /** The peer ended the stream (undefined), or it broke (why). Called once, and nothing is called afterwards. */
  closed(reason: string | undefined): void;
  /** What was queued has gone out. */
  drained(): void;
}

/**
 * A connected TCP socket which the `ovpn` driver may take over in the middle of its stream. Hence reads never go
 * past what is wanted: the driver's own parser starts with what userspace has not read yet.
 */
export class StreamSocket {
  /** Owned until {@link close}. */
  readonly fd: number;
  readonly #poller: ReadinessPoller;
  readonly #wanted: () => number;
  readonly #events: StreamEvents;
  readonly #after: After;
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #handedOver = false;
  /** `ended`: nothing goes in or out any more, but the descriptor is ours still. */
  #state: 'open' | 'ended' | 'closed' = 'open';
  #cancelRetry: (() => void) | undefined;
  #cancelPause: (() => void) | undefined;

  /**
   * Starts to watch a connected, non-blocking socket, which it owns from now on.
   *
   * @param wanted how many bytes may be read next, asked before every read; 0 for none at present: what comes next is
   *   the driver's to read
   */
  constructor(
    fd: number,
    poller: ReadinessPoller,
    wanted: () => number,
    events: StreamEvents,
    after: After = afterTimeout,
  ) {
    this.fd = fd;
    this.#poller = poller;
    this.#wanted = wanted;
    this.#events = events;
    this.#after = after;
    this.#watch();
  }

  /**
   * Sends bytes in order, after what is queued; what the kernel does not take yet waits here, so the buffer must
   * not be changed any more. After {@link handedOver} each call sends one whole frame. Errors come by `closed`,
   * later; once the stream has ended nothing is sent.
   */
  send(bytes: Buffer): void {
    if (this.#state !== 'open' || bytes.length === 0) return;
    const sent = this.idle ? this.#write(bytes) : 0;
    if (sent === undefined || sent === bytes.length) return;
    this.#queue.push(bytes.subarray(sent));
    this.#queuedBytes += bytes.length - sent;
    if (this.#queuedBytes > maxQueuedBytes) {
      this.#fail(`the peer does not read: ${this.#queuedBytes} bytes wait for it`);
    } else if (this.#queue.length === 1) this.#flushLater();
  }

  /** Nothing is queued here. */
  get idle(): boolean {
    return this.#queue.length === 0;
  }

  /**
   * To be called when the driver has taken the socket over (PEER_NEW): from then on a read gives one control
   * packet with its length in front, and what does not fit the buffer would be lost.
   *
   * @throws Error when bytes are queued: the driver's data packets would go out in the middle of a frame
   */
  handedOver(): void {
    if (!this.idle) throw new Error(`a socket was handed over with ${this.#queuedBytes} bytes queued`);
    this.#handedOver = true;
    if (this.#cancelPause !== undefined) this.#watch();
  }

  /** Closes the descriptor at once; what is queued is lost, and no event comes any more. */
  close(): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'open') this.#stop();
    this.#state = 'closed';
    close(this.fd);
  }

  #receive(): void {
    for (let i = 0; i < maxPerTurn && this.#state === 'open'; i++) {
      let length: number | undefined;
      const limit = this.#handedOver ? maxFrame : Math.min(maxFrame, this.#wanted());
      if (limit === 0) {
        this.#pause();
        return;
      }
      try {
        length = recvNow(this.fd, receiveBuffer.subarray(0, limit), 0);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        if (error.code !== 'EINTR') this.#end(errnoWords(error.errno));
        return;
      }
      if (length === undefined) return;
      if (length === 0) {
        this.#end(undefined);
        return;
      }
      this.#events.data(Buffer.from(receiveBuffer.subarray(0, length)));
    }
  }

  #watch(): void {
    this.#cancelPause?.();
    this.#cancelPause = undefined;
    this.#poller.add(this.fd, () => this.#receive());
  }

  /** Poll would say all the while that there is something to read. */
  #pause(): void {
    this.#poller.remove(this.fd);
    if (!this.idle) this.#flushLater();
    this.#cancelPause = this.#after(retryMs, () => this.#watch());
  }

  /** How many bytes the kernel took: none when it has no room. Undefined when the stream is broken. */
  #write(bytes: Buffer): number | undefined {
    try {
      return sendNow(this.fd, bytes) ?? 0;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.code === 'EINTR') return 0;
      this.#fail(errnoWords(error.errno));
      return undefined;
    }
  }

  #flushLater(): void {
    const flush = (): void => this.#flush();
    // The driver refuses a frame while one of its own is partly sent, but its poll looks at something else, the
    // memory in use (drivers/net/ovpn/tcp.c, ovpn_tcp_sendmsg and ovpn_tcp_poll): it may say that there is room all
    // the while, and say on a busy connection that there is none when a frame would be taken.
    if (this.#handedOver) this.#cancelRetry = this.#after(retryMs, flush);
    else this.#poller.onceWritable(this.fd, flush);
  }

  #flush(): void {
    this.#cancelRetry = undefined;
    for (;;) {
      const [bytes] = this.#queue;
      if (bytes === undefined) break;
      const sent = this.#write(bytes);
      if (sent === undefined) return;
      if (sent === 0) {
        this.#flushLater();
        return;
      }
      this.#queuedBytes -= sent;
      if (sent < bytes.length) this.#queue[0] = bytes.subarray(sent);
      else this.#queue.shift();
    }
    this.#events.drained();
  }

  /** Ends the stream from within a call of the owner, who is told when that has returned. */
  #fail(reason: string): void {
    this.#stop();
    queueMicrotask(() => {
      if (this.#state === 'ended') this.#events.closed(reason);
    });
  }

  #end(reason: string | undefined): void {
    this.#stop();
    this.#events.closed(reason);
  }

  #stop(): void {
    this.#state = 'ended';
    this.#poller.remove(this.fd);
    this.#cancelRetry?.();
    this.#cancelPause?.();
    this.#queue = [];
    this.#queuedBytes = 0;
  }
}

export interface ListenerOptions {
  /** There are no descriptors or no memory for a connection that waits; accepting goes on when there are. */
  readonly exhausted?: (reason: string) => void;
  readonly after?: After;
}

/** Accepts connections on a listening socket that somebody else owns. */
export class StreamListener {
  readonly #fd: number;
  readonly #poller: ReadinessPoller;
  readonly #onConnection: (fd: number, path: Path) => void;
  readonly #options: ListenerOptions;
  readonly #peer = Buffer.alloc(32);
  #open = true;
  /** Said already, and not accepted any since. */
  #exhausted = false;
  #cancelPause: (() => void) | undefined;

  /**
   * Starts to watch a listening, non-blocking socket.
   *
   * @param onConnection gets the descriptor of each connection, non-blocking, to own it
   */
  constructor(
    fd: number,
    poller: ReadinessPoller,
    onConnection: (fd: number, path: Path) => void,
    options: ListenerOptions = {},
  ) {
    this.#fd = fd;
    this.#poller = poller;
    this.#onConnection = onConnection;
    this.#options = options;
    this.#watch();
  }

  /** Stops accepting; the descriptor stays its owner's. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#cancelPause?.();
    this.#poller.remove(this.#fd);
  }

  #watch(): void {
    this.#cancelPause = undefined;
    this.#poller.add(this.#fd, () => this.#accept());
  }

  #accept(): void {
    for (let i = 0; i < maxPerTurn && this.#open; i++) {
      let fd: number | undefined;
      try {
        fd = acceptNow(this.#fd, this.#peer);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        // Others are errors of the one connection that was accepted (accept(2)): the next may be good.
        if (!outOfResources.has(error.code)) continue;
        this.#pause(errnoWords(error.errno));
        return;
      }
      if (fd === undefined) return;
      this.#exhausted = false;
      this.#deliver(fd, readSockaddr(this.#peer));
    }
  }

  #deliver(fd: number, remote: PeerAddress): void {
    let path: Path;
    try {
      setsockoptInt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      path = { remote, local: boundAddress(fd).address };
    } catch (error) {
      close(fd);
      throw error;
    }
    this.#onConnection(fd, path);
  }

  /** The connection stays in the queue, so poll would go on saying that there is one. */
  #pause(reason: string): void {
    const { after = afterTimeout, exhausted } = this.#options;
    this.#poller.remove(this.#fd);
    this.#cancelPause = after(exhaustedMs, () => this.#watch());
    if (this.#exhausted) return;
    this.#exhausted = true;
    exhausted?.(reason);
  }
}

const outOfResources: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']);

/**
 * Connects a TCP socket in the caller's network namespace. How long that may take is the caller's to decide: the
 * kernel alone tries for about two minutes.
 *
 * @param done called once, later; the descriptor is then the callee's: non-blocking, for a {@link StreamSocket}
 * @returns how to call it off: `done` is not called then, and nothing is left open
 */
export function connectTcp(
  to: PeerAddress,
  poller: ReadinessPoller,
  done: (result: { fd: number; local: TransportAddress } | { error: string }) => void,
): () => void {
  let fd: number | undefined;
  let over = false;
  const cancel = (): void => {
    over = true;
    if (fd === undefined) return;
    poller.remove(fd);
    close(fd);
    fd = undefined;
  };
  const fail = (error: unknown): void => {
    const reason = error instanceof SystemError ? errnoWords(error.errno) : String(error);
    cancel();
    done({ error: `cannot connect to TCP ${formatEndpoint(to)}: ${reason}` });
  };
  const finish = (): void => {
    if (over || fd === undefined) return;
    let local: TransportAddress;
    try {
      const errno = getsockoptInt(fd, SOL_SOCKET, SO_ERROR);
      if (errno !== 0) throw new SystemError('connect', errno);
      setsockoptInt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      local = readSockaddr(getsockname(fd));
    } catch (error) {
      fail(error);
      return;
    }
    over = true;
    const connected = fd;
    fd = undefined;
    done({ fd: connected, local });
  };
  try {
    const address = sockaddr(to);
    fd = socket(familyOf(to.address), SOCK_STREAM | SOCK_NONBLOCK, 0);
    connectNow(fd, address);
    // Also when it is connected already: `done` is never called before we have returned.
    poller.onceWritable(fd, finish);
  } catch (error) {
    queueMicrotask(() => {
      if (!over) fail(error);
    });
  }
  return () => {
    if (!over) cancel();
  };
}
