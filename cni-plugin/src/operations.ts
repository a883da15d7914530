/**
 * What each operation of section 2 does: asks the agent, and the IPAM plugin where there is one. Each gives what
 * goes to stdout, and throws what went wrong.
 */
import type { CallKey, StatusResult } from '@ovpn-operator/operator/attach-protocol';
import { protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { callAgent } from './agent-client.ts';
import { parseAddResult } from './attachment.ts';
import { CniFailure, cniCode, toCniFailure } from './cni-error.ts';
import type { PluginConfig } from './config.ts';
import { leaveDetach } from './detach.ts';
import type { AttachmentParameters } from './environment.ts';
import type { Host } from './host.ts';
import { IpamPlugin } from './ipam.ts';
import { get, isObject, present, Reader } from './json-reader.ts';
import { appendAttachment, formatResult, interfacesIn, parsePrevResult, refuseTakenInterface } from './result.ts';
import { memberText } from './text.ts';

/** One call of the plugin, read. */
export interface Call {
  readonly host: Host;
  /** The configuration as it came. */
  readonly text: string;
  readonly config: PluginConfig;
}

/** The prefix of the interfaces that the agent has chosen, unless the configuration says another. */
const chosenPrefix = 'vpn';

/** Attaches the sandbox to the network, or to those of the pod, and gives the result. */
export function add(call: Call, parameters: AttachmentParameters): string {
  const { host, config } = call;
  const { network, ips, mac } = config;
  const { containerId, pod, netns = '' } = parameters;
  const ifname = interfaceOf(config, parameters);
  const previous = parsePrevResult(config.prevResult);
  if (network !== undefined) refuseTakenInterface(previous, ifname, netns);
  const ipam = ipamOf(call);
  const delegated = ipam?.add();
  try {
    const reply = callAgent(host, config.agentSocket, {
      version: protocolVersion,
      op: 'add',
      ...callKey(parameters, config),
      ifname,
      netns,
      ...present({ network, pod, ips, mac, delegated }),
    });
    const attachments = parseAddResult(reply, { containerId, ifname, isPrefix: network === undefined });
    if (attachments.length === 0 && isInVersionOf(config)) {
      return memberText(call.text, 'prevResult') ?? '';
    }
    const result = attachments.reduce(appendAttachment, previous);
    return JSON.stringify(formatResult(result, config.cniVersion), undefined, 2);
  } catch (error) {
    if (ipam !== undefined) release(host, ipam);
    throw error;
  }
}

/** The addresses of an ADD that failed. The runtime calls DEL, too; what cannot be released now, is then. */
function release(host: Host, ipam: IpamPlugin): void {
  try {
    ipam.run('DEL');
  } catch (error) {
    host.write(2, `ovpn-cni: addresses of a failed ADD are not released: ${toCniFailure(error).message}\n`);
  }
}

/**
 * Takes away what the call's ADD made. prevResult is not read: DEL must work when it is missing or damaged. An agent
 * that is away is no failure: the work is left to it.
 */
export function del(call: Call, parameters: AttachmentParameters): void {
  const { host, config } = call;
  const ipam = ipamOf(call);
  const request = {
    version: protocolVersion,
    op: 'del',
    ...callKey(parameters, config),
    ...present({ netns: parameters.netns }),
  } as const;
  try {
    callAgent(host, config.agentSocket, request);
  } catch (error) {
    if (!(error instanceof OvpnError && error.name === 'AgentUnreachable')) throw error;
    leaveDetach(host, config.agentSocket, request);
  }
  // Last: the interface is gone, or as good as gone, before another pod can get its addresses.
  ipam?.run('DEL');
}

/** Whether all stands as ADD left it. */
export function check(call: Call, parameters: AttachmentParameters): void {
  const { host, config } = call;
  const { netns = '' } = parameters;
  if (config.prevResult === undefined) {
    throw new OvpnError('CniConfigInvalid', 'is missing, and CHECK needs it', { field: 'prevResult' });
  }
  const expected = interfacesIn(parsePrevResult(config.prevResult), netns);
  ipamOf(call)?.run('CHECK');
  callAgent(host, config.agentSocket, {
    version: protocolVersion,
    op: 'check',
    ...callKey(parameters, config),
    ifname: interfaceOf(config, parameters),
    netns,
    expected,
    ...present({ network: config.network }),
  });
}

/** Takes away what the runtime does not list. */
export function gc(call: Call): void {
  const { host, config } = call;
  callAgent(host, config.agentSocket, {
    version: protocolVersion,
    op: 'gc',
    config: config.name,
    valid: config.valid ?? [],
    ...present({ network: config.network }),
  });
  ipamOf(call)?.run('GC');
}

/** Succeeds when an ADD would. */
export function status(call: Call): void {
  const { host, config } = call;
  try {
    const request = { version: protocolVersion, op: 'status', ...present({ network: config.network }) } as const;
    const result = parseStatus(callAgent(host, config.agentSocket, request));
    if (result.state !== 'ready') {
      const code = result.state === 'limited' ? cniCode.limitedConnectivity : cniCode.notAvailable;
      throw new CniFailure(code, result.reason);
    }
    ipamOf(call)?.run('STATUS');
  } catch (error) {
    const failure = toCniFailure(error);
    const isStatus = failure.cniCode === cniCode.notAvailable || failure.cniCode === cniCode.limitedConnectivity;
    throw isStatus ? failure : new CniFailure(cniCode.notAvailable, failure.message, { cause: error });
  }
}

function parseStatus(result: unknown): StatusResult {
  const refuse = (field: string, problem: string): never => {
    throw new OvpnError('AgentProtocol', problem, { object: 'reply of the agent', field });
  };
  const reader = new Reader(result, 'result', refuse);
  const state = reader.string('state');
  switch (state) {
    case 'ready':
      return { state };
    case 'unavailable':
    case 'limited':
      return { state, reason: reader.string('reason') };
    default:
      return reader.refuse('state', 'must be ready, unavailable or limited');
  }
}

function callKey({ containerId, ifname }: AttachmentParameters, { name }: PluginConfig): CallKey {
  return { config: name, containerId, cniIfname: ifname };
}

/** The interface to make, or what the names of the chosen ones begin with. */
function interfaceOf(config: PluginConfig, parameters: AttachmentParameters): string {
  return config.interface ?? (config.network === undefined ? chosenPrefix : parameters.ifname);
}

function ipamOf({ host, text, config }: Call): IpamPlugin | undefined {
  return config.ipam === undefined ? undefined : new IpamPlugin(host, config.ipam, text);
}

/** Whether prevResult has the version that the result must have, so that it can be the result as it is. */
function isInVersionOf({ prevResult, cniVersion }: PluginConfig): boolean {
  return isObject(prevResult) && get(prevResult, 'cniVersion') === cniVersion;
}
