/** One request to the node agent over its Unix socket, by attach-protocol.ts. Every wait has a bound. */
import type { AgentFailure, AgentReply, AgentRequest } from '@ovpn-operator/operator/attach-protocol';
import { maxMessageBytes } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { agentFailure } from './cni-error.ts';
import { codeOf, type Host, phaseOf } from './host.ts';
import { Reader } from './json-reader.ts';

/** A runtime retries, so a missing agent is told at once. */
const connectMs = 1_000;

/** How long each request may take from the connection on. An ADD may wait for kernel and allocation. */
const replyMs = { add: 30_000, del: 10_000, check: 10_000, gc: 30_000, status: 5_000, report: 5_000 } as const;

/** Sends the request and gives the agent's result. @throws OvpnError AgentUnreachable, AgentProtocol; CniFailure */
export function callAgent(host: Host, socketPath: string, request: AgentRequest): unknown {
  const reply = parseReply(exchange(host, socketPath, request));
  if (!reply.ok) {
    throw agentFailure(reply.error);
  }
  return reply.result;
}

function exchange(host: Host, socketPath: string, request: AgentRequest): string {
  const bound = replyMs[request.op];
  try {
    return host.exchange(socketPath, `${JSON.stringify(request)}\n`, connectMs, bound, maxMessageBytes);
  } catch (error) {
    const code = codeOf(error);
    const where = { object: socketPath };
    if (code === 'EMSGSIZE') {
      throw new OvpnError('AgentProtocol', `the reply is longer than ${maxMessageBytes} bytes`, where, {
        cause: error,
      });
    }
    if (code === 'EILSEQ') throw new OvpnError('AgentProtocol', 'the reply is not UTF-8', where, { cause: error });
    throw new OvpnError('AgentUnreachable', unreachable(code, phaseOf(error), bound), where, { cause: error });
  }
}

function unreachable(code: string, phase: string | undefined, bound: number): string {
  if (phase === 'connect') {
    return code === 'ETIMEDOUT'
      ? `no connection to the agent within ${connectMs} ms`
      : `no connection to the agent: ${code}`;
  }
  if (code === 'ETIMEDOUT') return `the agent did not answer within ${bound} ms`;
  if (code === 'EOF') {
    return `the agent closed the connection ${phase === 'answer' ? 'within its answer' : 'without an answer'}`;
  }
  return `the connection to the agent broke: ${code}`;
}

function refuse(field: string, problem: string): never {
  throw new OvpnError('AgentProtocol', problem, { object: 'reply of the agent', ...(field === '' ? {} : { field }) });
}

/** The reply, with every field checked; throws OvpnError AgentProtocol on anything else. */
export function parseReply(text: string): AgentReply<unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
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
