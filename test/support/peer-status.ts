import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VpnPeerStatus } from '../../operator/src/api/types.ts';
import type { AgentProcess } from './hosts.ts';
import { eventually, patienceMs } from './run.ts';

/** The status of a VpnPeer in namespace `default`, as the agent publishes it. */
export function peerStatus(agent: AgentProcess, name: string): VpnPeerStatus | undefined {
  try {
    const text = readFileSync(join(agent.state, 'status', `VpnPeer.default.${name}.json`), 'utf8');
    return (JSON.parse(text) as { readonly status: VpnPeerStatus }).status;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The condition Connected in short: `True/Connected`, `False/WaitingForClient`. */
export function connection(status: VpnPeerStatus | undefined): string {
  const found = status?.conditions?.find(({ type }) => type === 'Connected');
  return found === undefined ? 'none' : `${found.status}/${found.reason}`;
}

/** Waits until the status is as wanted; a failure shows it, and what the agent said. */
export async function untilStatus(
  agent: AgentProcess,
  name: string,
  what: string,
  holds: (status: VpnPeerStatus) => boolean,
  timeoutMs = patienceMs,
): Promise<VpnPeerStatus> {
  const look = (): VpnPeerStatus | undefined => {
    const status = peerStatus(agent, name);
    return status !== undefined && holds(status) ? status : undefined;
  };
  return eventually(`VpnPeer ${name}: ${what}`, look, { timeoutMs, stepMs: 50 }).catch((error: unknown) => {
    const status = JSON.stringify(peerStatus(agent, name), undefined, 1);
    throw new Error(`${String(error)}\nits status: ${status}\n${agentTail(agent)}`, { cause: error });
  });
}

/** Waits until the peer's tunnel stands by its status. */
export async function untilConnected(agent: AgentProcess, name: string, timeoutMs?: number): Promise<VpnPeerStatus> {
  return untilStatus(agent, name, 'Connected', (status) => connection(status) === 'True/Connected', timeoutMs);
}

/** The end of what the agent said, for messages of failures. */
export const agentTail = (agent: AgentProcess): string => agent.log.split('\n').slice(-40).join('\n');
