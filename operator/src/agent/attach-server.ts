/**
 * The agent's end of the socket the CNI binary talks to (attach-protocol.ts): one request and one reply per
 * connection. Reaching the socket is the permission, so only root can; nothing that arrives on it can take
 * the agent down or make it hold more than a bounded amount.
 */
import { chmod, lstat, mkdir, mkdtemp, rename, rmdir, stat, unlink } from 'node:fs/promises';
import type { Server, Socket } from 'node:net';
import { createConnection, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import type { ErrorName } from '../errors.ts';
import { OvpnError, describe } from '../errors.ts';
import type { AgentFailure, AgentReply, AgentRequest } from './attach-protocol.ts';
import { maxMessageBytes, maxReportBytes } from './attach-protocol.ts';
import { parseAgentRequest } from './attach-request.ts';

export interface AttachLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface AttachServerOptions {
  readonly socketPath: string;
  /**
   * Does what the request asks; the result must be a JSON value. Requests of one attachment can arrive side
   * by side: keeping them in order is the handler's concern (keyed-mutex.ts).
   */
  readonly handle: (request: AgentRequest) => Promise<unknown>;
  readonly log: AttachLog;
  /** Connections at a time; one more is closed at once, and the runtime tries again. */
  readonly maxConnections?: number;
  /** A caller must have sent its request, and later taken its reply, within this time. */
  readonly idleMs?: number;
}

export interface AttachServer {
  readonly socketPath: string;
  /** Takes no more connections, waits for the running requests up to `graceMs`, removes the socket if it is still ours. */
  close(graceMs?: number): Promise<void>;
}

/** What can go better later without a change by a person: the CNI binary answers "try again later". */
const retryable: ReadonlySet<ErrorName> = new Set<ErrorName>([
  'ApiUnavailable',
  'KernelRefused',
  'AgentUnreachable',
  'HolderUnreachable',
  'NetworkNotReady',
  'PodUnknown',
]);

/** Starts to listen; rejects with OvpnError StateUnusable when another agent has the socket or the folder is unsafe. */
export async function createAttachServer(options: AttachServerOptions): Promise<AttachServer> {
  const { socketPath, log, maxConnections = 128, idleMs = 5_000 } = options;
  const connections = new Set<Socket>();

  // Half-open, so that a caller may end its side after the request and still get the reply.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    connections.add(socket);
    socket.on('close', () => connections.delete(socket));
    serve(socket, options.handle, log, idleMs).catch((error: unknown) => {
      log.error({ error: describe(error) }, 'serving a connection of the CNI plugin failed');
      socket.destroy();
    });
  });
  server.maxConnections = maxConnections;
  server.on('drop', () => log.warn({ maxConnections }, 'too many connections of the CNI plugin; one was closed'));
  server.on('error', (error) => log.error({ error: describe(error) }, 'the CNI socket reports an error'));

  const inode = await listenAt(server, socketPath);
  log.info({ socketPath }, 'serving the CNI plugin');
  return {
    socketPath,
    close: async (graceMs = 5_000) => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await removeIfOurs(socketPath, inode);
      const grace = setTimeout(() => connections.forEach((socket) => socket.destroy()), graceMs);
      // A caller that has not yet sent a request has nothing to wait for.
      connections.forEach((socket) => socket.emit(closing));
      await closed;
      clearTimeout(grace);
    },
  };
}

/** Own event on a connection: the server is closing. */
const closing = Symbol('closing');

/** One connection: request, handler, reply. */
async function serve(
  socket: Socket,
  handle: AttachServerOptions['handle'],
  log: AttachLog,
  idleMs: number,
): Promise<void> {
  // Without a listener an error (a caller that went away) would be the process's.
  socket.on('error', (error) => log.warn({ error: describe(error) }, 'a connection of the CNI plugin broke'));
  let reply: AgentReply<unknown>;
  let request: AgentRequest | undefined;
  const started = performance.now();
  try {
    const line = await readLine(socket, idleMs);
    if (line === undefined) {
      socket.destroy();
      return;
    }
    request = parseAgentRequest(line);
    reply = { ok: true, result: (await handle(request)) ?? null };
  } catch (error) {
    reply = { ok: false, error: toFailure(error, log) };
  }
  const fields = { ...request, ms: Math.round(performance.now() - started) };
  if (reply.ok) {
    log.info(fields, 'a request of the CNI plugin is done');
  } else {
    log.warn({ ...fields, error: reply.error }, 'a request of the CNI plugin failed');
  }
  if (socket.destroyed || socket.closed) {
    log.warn(fields, 'the CNI plugin did not wait for the answer; its runtime will call again');
    return;
  }
  const text = encode(reply, request?.op === 'report' ? maxReportBytes : maxMessageBytes, log);
  const timer = setTimeout(() => socket.destroy(), idleMs);
  socket.on('close', () => clearTimeout(timer));
  socket.resume();
  // Both sides are done with the reply; a caller that keeps its own side open is cut off.
  socket.end(text, () => socket.destroySoon());
}

/** The reply as a line; a result that JSON cannot hold, or that is too long, becomes a failure. */
function encode(reply: AgentReply<unknown>, maxBytes: number, log: AttachLog): string {
  try {
    const text = `${JSON.stringify(reply)}\n`;
    if (Buffer.byteLength(text) <= maxBytes) {
      return text;
    }
    log.error({ bytes: text.length }, 'the answer to the CNI plugin is too long');
  } catch (error) {
    log.error({ error: describe(error) }, 'the answer to the CNI plugin is not a JSON value');
  }
  return `${JSON.stringify({ ok: false, error: internalFailure() } satisfies AgentReply<never>)}\n`;
}

/**
 * The first line, without its newline; undefined when the caller went away before it sent one. Rejects with
 * AgentProtocol when the line is too long, does not come in time, or something follows it.
 */
function readLine(socket: Socket, idleMs: number): Promise<Uint8Array | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  return new Promise((resolve, reject) => {
    let isSettled = false;
    const settle = (act: () => void): void => {
      isSettled = true;
      clearTimeout(timer);
      socket.off('data', onData).off('end', onEnd).off('close', onEnd).off(closing, onClosing).pause();
      act();
    };
    const refuse = (problem: string): void =>
      settle(() => reject(new OvpnError('AgentProtocol', problem, { object: 'request' })));
    const onData = (chunk: Buffer): void => {
      const newline = chunk.indexOf(0x0a);
      chunks.push(newline === -1 ? chunk : chunk.subarray(0, newline));
      size += chunk.length;
      if (size > maxMessageBytes) {
        refuse(`is longer than ${maxMessageBytes} bytes`);
      } else if (newline !== -1 && newline !== chunk.length - 1) {
        refuse('has something after its line');
      } else if (newline !== -1) {
        settle(() => resolve(Buffer.concat(chunks)));
      }
    };
    // A liveness probe (below) connects and leaves; that is no error.
    const onEnd = (): void => (size === 0 ? settle(() => resolve(undefined)) : refuse('ends before its newline'));
    const onClosing = (): void => settle(() => resolve(undefined));
    const late = (): void => refuse(`did not come within ${idleMs} ms`);
    // Not at once: when it was this process that was busy, the request lies in the socket and is read before this runs.
    const timer = setTimeout(() => void setImmediate(() => isSettled || late()), idleMs);
    socket.on('data', onData).on('end', onEnd).on('close', onEnd).on(closing, onClosing);
  });
}

function toFailure(error: unknown, log: AttachLog): AgentFailure {
  if (error instanceof OvpnError) {
    return { name: error.name, code: error.code, message: error.message, retry: retryable.has(error.name) };
  }
  // The text of an unexpected error stays in the agent's log: it may hold what is not the caller's.
  log.error(
    { error: describe(error), stack: error instanceof Error ? error.stack : undefined },
    'a defect while serving the CNI plugin',
  );
  return internalFailure();
}

function internalFailure(): AgentFailure {
  const error = new OvpnError('AgentInternal', 'the agent failed in a way it does not know');
  return { name: error.name, code: error.code, message: error.message, retry: true };
}

/**
 * Binds under a private name and moves the socket into place once it has its mode: there is no moment when
 * others could connect, and none when callers find no socket although an agent runs. Resolves with the
 * socket's identity.
 */
async function listenAt(server: Server, socketPath: string): Promise<Identity> {
  const folder = dirname(socketPath);
  await prepareFolder(folder);
  // In the folder, and not beside it: that may be another file system, or one that cannot be written to.
  const private_ = await mkdtemp(`${folder}/.socket-`);
  const bound = join(private_, 's');
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(bound, () => {
        server.off('error', reject);
        resolve();
      });
    });
    await chmod(bound, 0o600);
    await refuseLiveSocket(socketPath);
    // Two agents that start within the same instant could both find the socket dead; the later one has it then.
    await rename(bound, socketPath);
    return await identify(socketPath);
  } catch (error) {
    server.close();
    throw error instanceof OvpnError
      ? error
      : new OvpnError(
          'StateUnusable',
          `the socket cannot be made: ${describe(error)}`,
          { object: socketPath },
          { cause: error },
        );
  } finally {
    await unlink(bound).catch(() => undefined);
    await rmdir(private_).catch(() => undefined);
  }
}

async function prepareFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const { mode, uid } = await stat(folder);
    const ownUid = process.getuid?.() ?? 0;
    if ((uid !== 0 && uid !== ownUid) || (mode & 0o022) !== 0) {
      throw new OvpnError(
        'StateUnusable',
        'others can write here and could put their own socket in place of the agent',
        { object: folder },
        { remedy: `chown root ${folder} && chmod 0700 ${folder}` },
      );
    }
  } catch (error) {
    throw error instanceof OvpnError
      ? error
      : new OvpnError(
          'StateUnusable',
          `the folder of the socket cannot be used: ${describe(error)}`,
          { object: folder },
          { cause: error },
        );
  }
}

/** A socket file may be left by an agent that is gone (nobody accepts), or belong to one that runs. */
async function refuseLiveSocket(socketPath: string): Promise<void> {
  const found = await lstat(socketPath).catch(() => undefined);
  if (found === undefined) {
    return;
  }
  if (!found.isSocket()) {
    throw new OvpnError(
      'StateUnusable',
      'there is something that is not a socket at the place of the CNI socket',
      { object: socketPath },
      { remedy: 'move it away' },
    );
  }
  if (await answers(socketPath)) {
    throw new OvpnError(
      'StateUnusable',
      'another agent serves this socket',
      { object: socketPath },
      { remedy: 'stop the other agent, or give this one another socket' },
    );
  }
}

/** Whether somebody accepts connections there. A full queue (EAGAIN) is somebody, too. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection({ path: socketPath });
    const finish = (live: boolean): void => {
      probe.destroy();
      resolve(live);
    };
    probe.on('connect', () => finish(true));
    probe.on('error', (error: NodeJS.ErrnoException) =>
      finish(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
}

async function identify(path: string): Promise<Identity> {
  const { dev, ino } = await lstat(path, { bigint: true });
  return { dev, ino };
}

/** A newer agent may have put its socket there since. */
async function removeIfOurs(socketPath: string, ours: Identity): Promise<void> {
  try {
    const now = await identify(socketPath);
    if (now.dev === ours.dev && now.ino === ours.ino) {
      await unlink(socketPath);
    }
  } catch {
    // Gone already: nothing to remove.
  }
}
