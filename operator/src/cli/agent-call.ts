import { createConnection } from 'node:net';
import type { AgentReply } from '../agent/attach-protocol.ts';
import { maxMessageBytes, protocolVersion } from '../agent/attach-protocol.ts';
import { describe, OvpnError } from '../errors.ts';

const timeoutMs = 30_000;
/** A report of many peers is longer than what the CNI plugin exchanges. */
const maxReportBytes = 256 * maxMessageBytes;

/** Asks the agent for its report. @throws OvpnError AgentUnreachable, AgentProtocol, or what the agent answers */
export async function callReport(socketPath: string): Promise<unknown> {
  const text = await exchange(socketPath, `${JSON.stringify({ version: protocolVersion, op: 'report' })}\n`);
  let reply: AgentReply<unknown>;
  try {
    reply = JSON.parse(text) as AgentReply<unknown>;
  } catch {
    throw new OvpnError('AgentProtocol', 'the agent answered something that is not JSON', { object: socketPath });
  }
  if (!reply.ok)
    throw new OvpnError('AgentProtocol', `the agent refused: ${reply.error.message}`, { object: socketPath });
  return reply.result;
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
