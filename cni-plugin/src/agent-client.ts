/** One request to the node agent over its Unix socket, by attach-protocol.ts. Every wait has a bound. */
import { createConnection } from 'node:net';
import { isUtf8 } from 'node:buffer';
import type { AgentFailure, AgentReply, AgentRequest } from '@ovpn-operator/operator/attach-protocol';
import { maxMessageBytes } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { agentFailure } from './cni-error.ts';
import { Reader } from './json-reader.ts';

export interface AgentBounds {
  readonly connectMs: number;
  /** From the connection on until the whole reply is there. */
  readonly replyMs: number;
}

/** A runtime retries, so a missing agent is told at once; an ADD may wait for kernel and allocation. */
export const defaultBounds: AgentBounds = { connectMs: 1_000, replyMs: 30_000 };

/** Sends the request; resolves with the agent's result, rejects with OvpnError or CniFailure. */
export async function callAgent(
  socketPath: string,
  request: AgentRequest,
  bounds: AgentBounds = defaultBounds,
): Promise<unknown> {
  const reply = parseReply(await exchange(socketPath, `${JSON.stringify(request)}\n`, bounds));
  if (!reply.ok) {
    throw agentFailure(reply.error);
  }
  return reply.result;
}

/** Sends one line and resolves with the line that comes back, without its newline. */
function exchange(socketPath: string, line: string, bounds: AgentBounds): Promise<Uint8Array> {
  const where = { object: socketPath };
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    let connected = false;
    const socket = createConnection({ path: socketPath });

    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      socket.destroy();
      settle();
    };
    const fail = (name: 'AgentUnreachable' | 'AgentProtocol', problem: string, cause?: unknown): void =>
      finish(() => reject(new OvpnError(name, problem, where, { cause })));

    let timer = setTimeout(
      () => fail('AgentUnreachable', `no connection to the agent within ${bounds.connectMs} ms`),
      bounds.connectMs,
    );
    socket.on('connect', () => {
      connected = true;
      clearTimeout(timer);
      timer = setTimeout(
        () => fail('AgentUnreachable', `the agent did not answer within ${bounds.replyMs} ms`),
        bounds.replyMs,
      );
      socket.write(line);
    });
    socket.on('data', (chunk: Buffer) => {
      const newline = chunk.indexOf(0x0a);
      const part = newline === -1 ? chunk : chunk.subarray(0, newline);
      size += part.length;
      if (size > maxMessageBytes) {
        fail('AgentProtocol', `the reply is longer than ${maxMessageBytes} bytes`);
        return;
      }
      chunks.push(part);
      if (newline !== -1) {
        finish(() => resolve(Buffer.concat(chunks)));
      }
    });
    socket.on('end', () =>
      fail(
        'AgentUnreachable',
        `the agent closed the connection ${size === 0 ? 'without an answer' : 'within its answer'}`,
      ),
    );
    socket.on('error', (error: NodeJS.ErrnoException) =>
      fail(
        'AgentUnreachable',
        `${connected ? 'the connection to the agent broke' : 'no connection to the agent'}: ${error.code ?? 'unknown error'}`,
        error,
      ),
    );
  });
}

function refuse(field: string, problem: string): never {
  throw new OvpnError('AgentProtocol', problem, { object: 'reply of the agent', ...(field === '' ? {} : { field }) });
}

/** The reply, with every field checked; throws OvpnError AgentProtocol on anything else. */
export function parseReply(bytes: Uint8Array): AgentReply<unknown> {
  if (!isUtf8(bytes)) {
    return refuse('', 'is not UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return refuse('', 'is not JSON');
  }
  const reader = new Reader(value, '', refuse);
  const ok = reader.optionalBoolean('ok');
  if (ok === undefined) {
    return reader.refuse('ok', 'is missing');
  }
  return ok ? { ok, result: reader.value('result') } : { ok, error: parseFailure(reader) };
}

function parseFailure(reply: Reader): AgentFailure {
  const error = reply.optionalObject('error') ?? reply.refuse('error', 'is missing');
  const code = error.string('code');
  if (!/^OVPN[1-9]\d{2}$/.test(code)) {
    error.refuse('code', 'must be of the form OVPN123');
  }
  return {
    name: error.string('name').slice(0, 100),
    code,
    message: error.string('message').slice(0, 8_192),
    retry: error.optionalBoolean('retry') ?? error.refuse('retry', 'is missing'),
  };
}
