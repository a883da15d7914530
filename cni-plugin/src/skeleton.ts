/**
 * The plugin contract without a process around it, as containernetworking/cni's pkg/skel is: parameters and
 * configuration in, one JSON object (or nothing) and an exit code out. Whatever comes in, what goes to
 * stdout is what the specification allows there.
 */
import type { AgentRequest, CallKey } from '@ovpn-operator/operator/attach-protocol';
import { protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { parseAddResult } from './attachment.ts';
import { cniCode, configFailure, CniFailure, toCniFailure, toErrorObject } from './cni-error.ts';
import type { PluginConfig } from './config.ts';
import { decodeConfig, parseCniVersion, parseConfig } from './config.ts';
import type { AttachmentParameters, Env } from './environment.ts';
import { parseAttachmentParameters, parseOperation } from './environment.ts';
import { get } from './json-reader.ts';
import { appendAttachment, formatResult, parsePrevResult, refuseTakenInterface } from './result.ts';
import type { CniVersion, Operation } from './versions.ts';
import { hasOperation, newestVersion, supportedVersions } from './versions.ts';

export interface PluginIo {
  readonly env: Env;
  /** All of stdin; rejects with a CniFailure when it is too long or does not end. */
  readonly stdin: () => Promise<Uint8Array>;
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** Asks the agent at that socket (agent-client.ts). */
  readonly callAgent: (socketPath: string, request: AgentRequest) => Promise<unknown>;
}

/** Runs one call of the plugin; resolves with the exit code and never rejects. */
export async function runPlugin(io: PluginIo): Promise<0 | 1> {
  // The version an error object carries: the configuration's as soon as it is known.
  const call: Call = { io, cniVersion: newestVersion };
  try {
    const output = await dispatch(call);
    if (output !== undefined) {
      io.stdout(`${JSON.stringify(output, undefined, 2)}\n`);
    }
    return 0;
  } catch (error) {
    const failure = toCniFailure(error);
    io.stdout(`${JSON.stringify(toErrorObject(failure, call.cniVersion), undefined, 2)}\n`);
    io.stderr(`ovpn-cni: ${failure.message}\n`);
    return 1;
  }
}

interface Call {
  readonly io: PluginIo;
  cniVersion: CniVersion;
}

async function dispatch(call: Call): Promise<object | undefined> {
  const operation = parseOperation(call.io.env);
  switch (operation) {
    case 'VERSION':
      return versionResult(await call.io.stdin());
    case 'ADD': {
      const parameters = parseAttachmentParameters(call.io.env, operation);
      return await add(call.io, parameters, await readConfig(call, operation));
    }
    case 'DEL': {
      const parameters = parseAttachmentParameters(call.io.env, operation);
      await del(call.io, parameters, await readConfig(call, operation));
      return undefined;
    }
    case 'STATUS':
      await status(call.io, await readConfig(call, operation));
      return undefined;
    case 'CHECK':
      parseAttachmentParameters(call.io.env, operation);
      await readConfig(call, operation);
      return notInThisVersion(operation, 'set "disableCheck": true in the network configuration list');
    case 'GC':
      await readConfig(call, operation);
      return notInThisVersion(
        operation,
        'use cniVersion 1.0.0, or set "disableGC": true in the network configuration list',
      );
  }
}

async function readConfig(call: Call, operation: Operation): Promise<PluginConfig> {
  const config = decodeConfig(await call.io.stdin());
  call.cniVersion = parseCniVersion(config);
  if (!hasOperation(call.cniVersion, operation)) {
    throw configFailure(
      cniCode.incompatibleVersion,
      `version ${call.cniVersion} does not have ${operation}`,
      'cniVersion',
    );
  }
  return parseConfig(config, call.cniVersion);
}

async function add(io: PluginIo, parameters: AttachmentParameters, config: PluginConfig): Promise<object> {
  const { containerId, pod } = parameters;
  const netns = parameters.netns ?? '';
  const ifname = config.interface ?? parameters.ifname;
  const previous = parsePrevResult(config.prevResult);
  refuseTakenInterface(previous, ifname, netns);
  const result = await io.callAgent(config.agentSocket, {
    version: protocolVersion,
    op: 'add',
    ...callKey(parameters, config),
    network: config.network,
    ifname,
    netns,
    ...(pod === undefined ? {} : { pod }),
  });
  const attachment = parseAddResult(result, { containerId, ifname });
  return formatResult(appendAttachment(previous, attachment, netns), config.cniVersion);
}

function callKey({ containerId, ifname }: AttachmentParameters, { name }: PluginConfig): CallKey {
  return { config: name, containerId, cniIfname: ifname };
}

/** No output on success. prevResult is not read: DEL must work when it is missing or damaged. */
async function del(io: PluginIo, parameters: AttachmentParameters, config: PluginConfig): Promise<void> {
  const { netns } = parameters;
  await io.callAgent(config.agentSocket, {
    version: protocolVersion,
    op: 'del',
    ...callKey(parameters, config),
    ...(netns === undefined ? {} : { netns }),
  });
}

/** Ready when the agent says so. Traffic of existing pods needs no agent, so code 51 is never used. */
async function status(io: PluginIo, config: PluginConfig): Promise<void> {
  try {
    await io.callAgent(config.agentSocket, { version: protocolVersion, op: 'status' });
  } catch (error) {
    throw new CniFailure(cniCode.notAvailable, toCniFailure(error).message, { cause: error });
  }
}

/**
 * The operations that a later version of the plugin brings fail rather than succeed without doing anything;
 * the message names the way out that costs least. (disableGC would also stop libcni's own clean-up.)
 */
function notInThisVersion(operation: 'CHECK' | 'GC', remedy: string): never {
  throw new OvpnError(
    'CniEnvironmentInvalid',
    `${operation} is not in this version of ovpn-cni`,
    { field: 'CNI_COMMAND' },
    { remedy },
  );
}

/**
 * Section 5, "VERSION Success": the version of the input comes back. A person who tries the binary gives
 * no input; the newest version stands in then.
 */
function versionResult(stdin: Uint8Array): object {
  const asked = stdin.length === 0 ? undefined : get(decodeConfig(stdin), 'cniVersion');
  if (asked !== undefined && typeof asked !== 'string') {
    throw configFailure(cniCode.decodingFailure, 'must be a string', 'cniVersion');
  }
  const cniVersion = asked !== undefined && /^\d+\.\d+\.\d+$/.test(asked) ? asked : newestVersion;
  return { cniVersion, supportedVersions };
}
