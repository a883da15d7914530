import { constants } from 'node:os';
import {
  AF_NETLINK,
  bind,
  close,
  recvNow,
  send,
  setsockoptBuffer,
  setsockoptInt,
  SOCK_RAW,
  socket,
  MSG_TRUNC,
  SystemError,
} from '../libc.ts';
import { inNamespace } from '../netns.ts';
import { DumpInterrupted, NetlinkError, parseErrno, parseOutcome } from './error.ts';
import {
  MalformedMessage,
  type Message,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_NOOP,
  parseMessages,
  RequestWriter,
} from './message.ts';

export const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;

/** Protocols (include/uapi/linux/netlink.h). */
export const NETLINK_ROUTE = 0;
export const NETLINK_GENERIC = 16;

/**
 * Send at most this much at once. The kernel copies a send into one buffer charged to SO_SNDBUF, and an
 * error reply per request must fit into SO_RCVBUF: both are set well above what this needs.
 */
const batchBytes = 64 * 1024;
const socketBufferBytes = 4 * 1024 * 1024;
/** A dump arrives in pieces of up to 32 KiB (net/netlink/af_netlink.c, netlink_dump); single replies are smaller. */
const receiveBytes = 128 * 1024;
const dumpAttempts = 8;
const { ENOENT } = constants.errno;

/** One request: writes its family header and attributes. The message header is the socket's business. */
export interface Request {
  readonly type: number;
  /** NLM_F_CREATE, NLM_F_EXCL, … ; REQUEST, ACK and DUMP are added where they belong. */
  readonly flags?: number;
  /** For error messages: what was attempted, on what. Built only when an error is thrown. */
  readonly describe: () => string;
  readonly write: (writer: RequestWriter) => void;
}

/** The kernel's answer to one request of a batch. */
export type Outcome =
  { readonly ok: true; readonly replies: readonly Message[] } | { readonly ok: false; readonly error: NetlinkError };

/** Changes are answered by an acknowledgement alone: one value for all of them. */
const accepted: Outcome = { ok: true, replies: [] };

/** What is done with the kernel's answers, by the index of the request. */
interface Answers {
  readonly reply: (index: number, message: Message) => void;
  readonly refused: (index: number, message: Message) => void;
}

/** A message that lives on after the next receive. */
const copyOf = (message: Message): Message => ({ ...message, payload: Buffer.from(message.payload) });

/** How many requests of each sort were sent: shows that a settled node writes nothing. */
export interface RequestCounters {
  reads: number;
  writes: number;
  /** Requests that the kernel refused, by errno name. */
  readonly refused: Map<string, number>;
}

/** Counters for one socket, or for several that are counted together. */
export function requestCounters(): RequestCounters {
  return { reads: 0, writes: 0, refused: new Map() };
}

/**
 * A request/reply netlink socket with extended acknowledgements and strict checking.
 *
 * Calls are synchronous: the kernel handles a request inside send(2) and its replies are queued when that
 * returns (net/netlink/af_netlink.c, netlink_unicast_kernel), so there is nothing to wait for. Notifications
 * need a socket of their own (notifications.ts): one in between would break a dump.
 */
export class NetlinkSocket {
  readonly counters: RequestCounters;
  readonly #receive = Buffer.alloc(receiveBytes);
  readonly #sender = Buffer.alloc(12);
  readonly #writer = new RequestWriter(batchBytes + 4096);
  #fd: number;
  #sequence = 0;

  private constructor(fd: number, counters: RequestCounters) {
    this.#fd = fd;
    this.counters = counters;
  }

  /**
   * Opens a socket; with `namespace` (a path) in that network namespace, where it stays.
   *
   * @param counters where its requests are counted
   * @throws SystemError when the namespace or the protocol is not there
   */
  static open(protocol: number, namespace?: string, counters = requestCounters()): NetlinkSocket {
    const make = (): number => socket(AF_NETLINK, SOCK_RAW, protocol);
    const fd = namespace === undefined ? make() : inNamespace(namespace, make);
    try {
      configureNetlinkSocket(fd, socketBufferBytes);
    } catch (error) {
      close(fd);
      throw error;
    }
    return new NetlinkSocket(fd, counters);
  }

  close(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
  }

  /** Sends one request that changes something. @throws NetlinkError when the kernel refuses it */
  request(request: Request): void {
    const [outcome] = this.batch([request]);
    if (outcome?.ok === false) throw outcome.error;
  }

  /** Sends one request that reads something and returns its reply. @throws NetlinkError */
  get(request: Request): Message {
    this.counters.reads++;
    let reply: Message | undefined;
    this.#exchange([request], 0, {
      reply: (_index, message) => (reply = copyOf(message)),
      refused: (_index, message) => {
        throw this.#refusal(request, message);
      },
    });
    if (reply === undefined) throw new MalformedMessage(`${request.describe()}: the kernel sent no reply`);
    return reply;
  }

  /**
   * Like {@link get} for many requests, with few system calls.
   *
   * @param parse turns a reply into a value; its payload is valid only during the call
   * @returns a value per request, in the same order; undefined for what is not there (ENOENT)
   * @throws NetlinkError for any other refusal
   */
  getAll<T>(requests: readonly Request[], parse: (message: Message) => T): (T | undefined)[] {
    this.counters.reads += requests.length;
    const values = new Array<T | undefined>(requests.length).fill(undefined);
    const answered = new Uint8Array(requests.length);
    for (let start = 0; start < requests.length;) {
      start += this.#exchange(requests, start, {
        reply: (index, message) => {
          values[index] = parse(message);
          answered[index] = 1;
        },
        refused: (index, message) => {
          if (message.payload.readInt32LE(0) !== -ENOENT) throw this.#refusal(requests[index], message);
          answered[index] = 1;
        },
      });
    }
    const silent = answered.indexOf(0);
    if (silent !== -1) throw new MalformedMessage(`${requests[silent]?.describe() ?? ''}: the kernel sent no reply`);
    return values;
  }

  /**
   * Sends many changing requests with few system calls, in order. A refused one does not stop the rest
   * (that is the kernel's rule for several messages in one send).
   *
   * @returns an outcome per request, in the same order
   */
  batch(requests: readonly Request[]): Outcome[] {
    this.counters.writes += requests.length;
    const outcomes = new Array<Outcome>(requests.length).fill(accepted);
    for (let start = 0; start < requests.length;) {
      start += this.#exchange(requests, start, {
        reply: (index, message) => {
          outcomes[index] = { ok: true, replies: [copyOf(message)] };
        },
        refused: (index, message) => {
          outcomes[index] = { ok: false, error: this.#refusal(requests[index], message) };
        },
      });
    }
    return outcomes;
  }

  /**
   * Sends requests that the kernel takes all or none of, as nfnetlink does between the edges of a batch. The last one
   * is acknowledged only when all are in force (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).
   *
   * @throws NetlinkError the first refusal: nothing was changed then
   */
  transact(requests: readonly Request[]): void {
    this.counters.writes += requests.length;
    const refused: NetlinkError[] = [];
    try {
      const answers: Answers = {
        reply: () => undefined,
        refused: (index, message) => refused.push(this.#refusal(requests[index], message)),
      };
      this.#exchange(requests, 0, answers, Number.POSITIVE_INFINITY);
    } catch (error) {
      // Without a refusal the missing acknowledgement is what went wrong.
      if (refused.length === 0) throw error;
    }
    const [first] = refused;
    if (first !== undefined) throw first;
  }

  /**
   * Sends requests from `start` until the batch is full, and hands on what the kernel says to each.
   *
   * Only the last request asks for an acknowledgement. The kernel works through a send in order and before
   * send(2) returns, refuses aloud whether asked or not (net/netlink/af_netlink.c, netlink_rcv_skb), and an
   * answer that finds no room makes the next receive fail with ENOBUFS: so the last acknowledgement says
   * that every request before it was accepted unless its refusal came.
   *
   * @param limit no request is begun behind so many bytes
   * @returns how many requests were sent
   */
  #exchange(requests: readonly Request[], start: number, answers: Answers, limit = batchBytes): number {
    const writer = this.#writer;
    const firstSequence = this.#nextSequence();
    let count = 0;
    try {
      let request = requests[start];
      while (request !== undefined && writer.length < limit) {
        writer.begin(request.type, request.flags ?? 0);
        writer.sequence(firstSequence + count);
        request.write(writer);
        writer.end();
        count++;
        request = requests[start + count];
      }
      if (count === 0) return 0;
      writer.acknowledge();
      this.#sequence = firstSequence + count - 1;
      send(this.#fd, writer.view(), 0);
    } finally {
      writer.reset();
    }
    try {
      this.#collect(start, firstSequence, count, answers);
    } catch (error) {
      this.#discardQueue();
      throw error;
    }
    return count;
  }

  #collect(start: number, firstSequence: number, count: number, answers: Answers): void {
    for (;;) {
      const messages = this.#receiveNow();
      if (messages === undefined) throw new MalformedMessage('the kernel did not acknowledge a batch of requests');
      for (const message of messages) {
        const index = message.sequence - firstSequence;
        // Left over from an exchange that was cut short by an exception.
        if (index < 0 || index >= count) continue;
        if (message.type !== NLMSG_ERROR) {
          if (message.type !== NLMSG_NOOP) answers.reply(start + index, message);
          continue;
        }
        // The acknowledgement of the last request is an "error" 0.
        if (parseErrno(message) !== 0) answers.refused(start + index, message);
        if (index === count - 1) return;
      }
    }
  }

  /**
   * Dumps a table. A dump that the kernel marks as interrupted (the table changed meanwhile) is read again.
   *
   * @param parse turns a message into a value; its payload is valid only during the call
   * @throws NetlinkError also for an error that arrives as NLMSG_DONE, as the ovpn family sends it
   * @throws DumpInterrupted when the table does not hold still for several tries
   */
  dump<T>(request: Request, parse: (message: Message) => T | undefined): T[] {
    this.counters.reads++;
    for (let attempt = 0; attempt < dumpAttempts; attempt++) {
      const result = this.#dumpOnce(request, parse);
      if (result !== undefined) return result;
    }
    throw new DumpInterrupted(`${request.describe()}: the table changed during ${dumpAttempts} dumps in a row`);
  }

  #dumpOnce<T>(request: Request, parse: (message: Message) => T | undefined): T[] | undefined {
    const writer = this.#writer;
    const sequence = (this.#sequence = this.#nextSequence());
    try {
      writer.begin(request.type, (request.flags ?? 0) | NLM_F_DUMP);
      writer.sequence(sequence);
      request.write(writer);
      writer.end();
      send(this.#fd, writer.view(), 0);
    } finally {
      writer.reset();
    }
    try {
      return this.#readDump(request, sequence, parse);
    } catch (error) {
      // The kernel runs one dump per socket and refuses the next with EBUSY while one is half read.
      this.#discardQueue();
      throw error;
    }
  }

  #discardQueue(): void {
    try {
      while (recvNow(this.#fd, this.#receive, MSG_TRUNC) !== undefined);
    } catch (error) {
      // The error that brought us here is the one to tell.
      if (!(error instanceof SystemError)) throw error;
    }
  }

  #readDump<T>(request: Request, sequence: number, parse: (message: Message) => T | undefined): T[] | undefined {
    const values: T[] = [];
    let interrupted = false;
    for (;;) {
      const messages = this.#receiveNow();
      if (messages === undefined) throw new MalformedMessage(`${request.describe()}: the dump ended without DONE`);
      for (const message of messages) {
        if (message.sequence !== sequence) continue;
        if ((message.flags & NLM_F_DUMP_INTR) !== 0) interrupted = true;
        if (message.type === NLMSG_DONE || message.type === NLMSG_ERROR) {
          const { errno, ack } = parseOutcome(message);
          if (errno !== 0) throw this.#counted(new NetlinkError(request.describe(), errno, ack));
          return interrupted ? undefined : values;
        }
        if (message.type === NLMSG_NOOP) continue;
        const value = parse(message);
        if (value !== undefined) values.push(value);
      }
    }
  }

  #refusal(request: Request | undefined, message: Message): NetlinkError {
    const { errno, ack } = parseOutcome(message);
    return this.#counted(new NetlinkError(request?.describe() ?? '', errno, ack));
  }

  #counted(error: NetlinkError): NetlinkError {
    const { refused } = this.counters;
    refused.set(error.code, (refused.get(error.code) ?? 0) + 1);
    return error;
  }

  #nextSequence(): number {
    // Far from wrapping in practice; starting over keeps the arithmetic of batches simple.
    return this.#sequence >= 0x7fff0000 ? 1 : this.#sequence + 1;
  }

  #receiveNow(): Message[] | undefined {
    const length = recvNow(this.#fd, this.#receive, MSG_TRUNC, this.#sender);
    if (length === undefined) return undefined;
    // Only the kernel (port 0) answers; any process may send to our port.
    if (this.#sender.readUInt32LE(4) !== 0) return [];
    if (length > this.#receive.length) throw new MalformedMessage(`netlink reply of ${length} bytes was cut off`);
    return parseMessages(this.#receive.subarray(0, length));
  }
}

/** Turns on what makes netlink's answers trustworthy, and binds the socket to a port of the kernel's choice. */
export function configureNetlinkSocket(fd: number, bufferBytes: number): void {
  setsockoptInt(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
  setsockoptInt(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
  setsockoptInt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
  setsockoptBuffer(fd, 'receive', bufferBytes);
  setsockoptBuffer(fd, 'send', bufferBytes);
  bind(fd, netlinkAddress());
}

/** struct sockaddr_nl {family, pad, port 0 = kernel chooses, groups 0}. */
function netlinkAddress(): Buffer {
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  return address;
}
