import { describe, OvpnError } from '../errors.ts';
import { close, recvWithFd, sendWithFd } from '../kernel/libc.ts';
import { connectSeqpacket } from '../kernel/unix-socket.ts';
import { type HolderReply, type HolderRequest, maxPacketBytes, parseReply } from './protocol.ts';

const timeoutMs = 2_000;

/** Where transport sockets are kept while the agent is not there. */
export interface SocketKeeper {
  put(name: string, fd: number): void;
  /** A new descriptor of the kept socket, which the caller closes; undefined when there is none. */
  get(name: string): number | undefined;
  drop(name: string): void;
  list(): readonly string[];
}

/**
 * Talks to the socket holder: a connection per call, synchronous, since each takes microseconds and nothing
 * may be programmed before it is done.
 *
 * @throws OvpnError HolderUnreachable from every method
 */
export class HolderClient implements SocketKeeper {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  put(name: string, fd: number): void {
    this.#demand(this.#call({ op: 'put', name }, fd).reply, `keep ${name}`);
  }

  get(name: string): number | undefined {
    const { reply, passed } = this.#call({ op: 'get', name });
    return reply.ok ? passed : undefined;
  }

  drop(name: string): void {
    this.#demand(this.#call({ op: 'drop', name }).reply, `drop ${name}`);
  }

  list(): readonly string[] {
    const names: string[] = [];
    for (let after: string | undefined; ;) {
      const { reply } = this.#call(after === undefined ? { op: 'list' } : { op: 'list', after });
      this.#demand(reply, 'list');
      const page = reply.ok ? (reply.names ?? []) : [];
      for (const name of page) names.push(name);
      after = page.at(-1);
      if (!reply.ok || reply.more !== true || after === undefined) return names;
    }
  }

  #demand(reply: HolderReply, what: string): void {
    if (!reply.ok)
      throw new OvpnError('HolderUnreachable', `the socket holder refused to ${what}: ${reply.error}`, {
        object: this.#path,
      });
  }

  #call(request: HolderRequest, fd?: number): { reply: HolderReply; passed: number | undefined } {
    let connection: number | undefined;
    try {
      connection = connectSeqpacket(this.#path, timeoutMs);
      sendWithFd(connection, Buffer.from(JSON.stringify(request)), fd);
      const packet = Buffer.alloc(maxPacketBytes);
      const { length, passed } = recvWithFd(connection, packet);
      const reply = parseReply(packet.subarray(0, length));
      if (reply === undefined) throw new Error('the answer is not one of a socket holder');
      return { reply, passed };
    } catch (error) {
      throw new OvpnError(
        'HolderUnreachable',
        `no answer from the socket holder: ${describe(error)}`,
        { object: this.#path },
        { cause: error },
      );
    } finally {
      if (connection !== undefined) close(connection);
    }
  }
}

/** Keeps sockets in this process only: for tests, and where an agent restart may cut tunnels. */
export class OwnSockets implements SocketKeeper {
  put(): void {
    // The caller's own descriptor is all there is.
  }
  get(): undefined {
    return undefined;
  }
  drop(): void {
    // Nothing is kept.
  }
  list(): readonly string[] {
    return [];
  }
}
