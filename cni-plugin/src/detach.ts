/** DEL while the agent is away: the work is left to it, as a file beside its socket (attach-protocol.ts). */
import { type DelRequest, detachFolder } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { codeOf, type Host } from './host.ts';
import { digest } from './text.ts';

/** Writes the request where the agent finds it when it starts. @throws OvpnError AgentUnreachable if that fails, too */
export function leaveDetach(host: Host, agentSocket: string, request: DelRequest): void {
  const folder = `${agentSocket.slice(0, agentSocket.lastIndexOf('/'))}/${detachFolder}`;
  try {
    host.writeFile(folder, fileName(request), `${JSON.stringify(request)}\n`);
  } catch (error) {
    const problem = `the agent does not answer, and the DEL cannot be left for it: ${codeOf(error)}`;
    throw new OvpnError('AgentUnreachable', problem, { object: folder }, { cause: error });
  }
}

/** One file for each call of a runtime however often it comes; at most 255 bytes, and a person sees whose it is. */
function fileName({ containerId, cniIfname, config }: DelRequest): string {
  const whole = `${containerId}/${cniIfname}/${config}`;
  return `${containerId.slice(0, 80)}-${cniIfname}-${config.slice(0, 80)}-${digest(whole)}.json`;
}
