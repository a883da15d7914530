import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { parseReply } from '../../cni-plugin/src/agent-client.ts';
import { agentFailure } from '../../cni-plugin/src/cni-error.ts';
import type { AgentRequest } from '../../operator/src/agent/attach-protocol.ts';

/** Asks the agent as the CNI binary does, without its process. Rejects with what the agent answers. */
export async function callAgent(socketPath: string, request: AgentRequest): Promise<unknown> {
  const socket = connect(socketPath);
  socket.write(`${JSON.stringify(request)}\n`);
  const reply = parseReply(await text(socket));
  if (!reply.ok) throw agentFailure(reply.error);
  return reply.result;
}
