import { createConnection } from 'node:net';
import type { AgentReply } from '../agent/attach-protocol.ts';
import { maxReportBytes, protocolVersion } from '../agent/attach-protocol.ts';
import { describe, OvpnError } from '../errors.ts';

const timeoutMs = 30_000;

/** Asks the agent for its report. @throws OvpnError AgentUnreachable, AgentProtocol, or what the agent answers */
export async function callReport(socketPath: string): Promise<unknown> {
  const text = await exchange(socketPath, `${JSON.stringify({ version: protocolVersion, op: 'report' })}\n`);
  const reply = parseReply(text);
  if (reply === undefined) {
    throw new OvpnError('AgentProtocol', 'the agent answered something that is not a reply', { object: socketPath });
  }
  if (!reply.ok)
    throw new OvpnError('AgentProtocol', `the agent refused: ${reply.error.message}`, { object: socketPath });
  return reply.result;
}

/** @returns undefined when the text is no reply of an agent */
function parseReply(text: string): AgentReply<unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isReply = typeof value === 'object' && value !== null && 'ok' in value;
    return isReply ? (value as AgentReply<unknown>) : undefined;
  } catch {
    return undefined;
  }
}

async function exchange(socketPath: string, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const socket = createConnection(socketPath);
    const fail = (error: unknown): void => {
      socket.destroy();
      reject(
        new OvpnError(
          'AgentUnreachable',
          `no answer from the agent: ${describe(error)}`,
          { object: socketPath },
          { cause: error },
        ),
      );
    };
    socket.setTimeout(timeoutMs, () => fail(new Error(`nothing within ${timeoutMs} ms`)));
    socket.on('error', fail);
    socket.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length > maxReportBytes) fail(new Error('the answer is too long'));
      chunks.push(chunk);
    });
    socket.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    socket.write(request);
  });
}
