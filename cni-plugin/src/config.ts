/** The network configuration from stdin (section 1 and "Deriving request configuration" of section 3). */
import { isUtf8 } from 'node:buffer';
import { defaultAgentSocket } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { cniCode, configFailure } from './cni-error.ts';
import { interfaceNameProblem, isObjectName, quote } from './environment.ts';
import type { JsonObject } from './json-reader.ts';
import { Reader, get, isObject, typeName } from './json-reader.ts';
import type { CniVersion } from './versions.ts';
import { isKnownVersion, knownVersions } from './versions.ts';

export interface PluginConfig {
  readonly cniVersion: CniVersion;
  /** Name of the CNI network configuration. */
  readonly name: string;
  /** Name of the VpnNetwork. */
  readonly network: string;
  /**
   * Interface to create instead of CNI_IFNAME. In a chain every plugin gets the same CNI_IFNAME, the one
   * the first plugin makes, so a chained ovpn-cni needs a name of its own.
   */
  readonly interface?: string;
  readonly agentSocket: string;
  /** As it came; only ADD reads it (result.ts). */
  readonly prevResult?: unknown;
}

/** sockaddr_un has room for 108 bytes, the last of them NUL. */
const maxSocketPathBytes = 107;

function refuse(field: string, problem: string): never {
  throw new OvpnError('CniConfigInvalid', problem, { field });
}

/** Bytes to a JSON object, or code 6. */
export function decodeConfig(bytes: Uint8Array): JsonObject {
  if (!isUtf8(bytes)) {
    throw configFailure(cniCode.decodingFailure, 'the network configuration on stdin is not UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    // V8's message quotes the input, and the input may hold what belongs to other plugins.
    const what = bytes.length === 0 ? 'is empty' : 'is not JSON';
    throw configFailure(cniCode.decodingFailure, `the network configuration on stdin ${what}`);
  }
  if (!isObject(value)) {
    throw configFailure(
      cniCode.decodingFailure,
      `the network configuration on stdin must be an object, not ${typeName(value)}`,
    );
  }
  return value;
}

/**
 * The version of the configuration, before anything else of it is read: another version may mean another
 * format. No version means 0.1.0, as in containernetworking/cni.
 */
export function parseCniVersion(config: JsonObject): CniVersion {
  const version = new Reader(config, '', refuse).optionalString('cniVersion') ?? '0.1.0';
  if (!isKnownVersion(version)) {
    throw configFailure(
      cniCode.incompatibleVersion,
      `version ${quote(version)} is not one of ${knownVersions.join(', ')}`,
      'cniVersion',
    );
  }
  return version;
}

/** The whole configuration. Unknown keys are other people's (section 1, "Other keys") and ignored. */
export function parseConfig(config: JsonObject, cniVersion: CniVersion): PluginConfig {
  const reader = new Reader(config, '', refuse);
  const name = reader.string('name');
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name)) {
    reader.refuse(
      'name',
      `must start with a letter or digit and hold only letters, digits, "_", "." and "-", not ${quote(name)}`,
    );
  }
  reader.string('type');
  reader.optionalObject('runtimeConfig');
  refuseWhatIsNotHonoured(config, reader);

  const network = reader.string('network');
  if (!isObjectName(network)) {
    reader.refuse(
      'network',
      `must be the name of a VpnNetwork (lower-case letters, digits, "-" and "."), not ${quote(network)}`,
    );
  }
  const interfaceName = reader.optionalString('interface');
  const interfaceProblem = interfaceName === undefined ? undefined : interfaceNameProblem(interfaceName);
  if (interfaceProblem !== undefined) {
    reader.refuse('interface', interfaceProblem);
  }
  const agentSocket = reader.optionalString('agentSocket') ?? defaultAgentSocket;
  if (
    !agentSocket.startsWith('/') ||
    agentSocket.includes('\0') ||
    Buffer.byteLength(agentSocket) > maxSocketPathBytes
  ) {
    reader.refuse(
      'agentSocket',
      `must be an absolute path of at most ${maxSocketPathBytes} bytes, not ${quote(agentSocket)}`,
    );
  }
  const prevResult = get(config, 'prevResult');
  return {
    cniVersion,
    name,
    network,
    agentSocket,
    ...(interfaceName === undefined ? {} : { interface: interfaceName }),
    ...(prevResult === undefined ? {} : { prevResult }),
  };
}

/**
 * Keys with a meaning for every plugin that this one cannot give them: addresses, masquerading and DNS
 * come from the VpnNetwork. Ignoring them would be a surprise, so they are code 2, with key and value as
 * the specification asks. Empty ones pass: Go programs write `"ipam": {}` for nothing.
 */
function refuseWhatIsNotHonoured(config: JsonObject, reader: Reader): void {
  const masquerade = reader.optionalBoolean('ipMasq') === true;
  reader.optionalObject('ipam');
  reader.optionalObject('dns');
  const isSet = (key: string): boolean =>
    Object.values((get(config, key) ?? {}) as JsonObject).some((value) => !isEmpty(value));
  for (const key of ['ipam', 'dns', ...(masquerade ? ['ipMasq'] : [])]) {
    if (key === 'ipMasq' || isSet(key)) {
      const value = quote(JSON.stringify(shallow(config[key])));
      throw configFailure(
        cniCode.unsupportedField,
        `unsupported field with value ${value}; the VpnNetwork says this`,
        key,
      );
    }
  }
}

function isEmpty(value: unknown): boolean {
  return value === null || value === '' || (Array.isArray(value) && value.length === 0);
}

/** For a message: nested values are left out, since JSON.stringify gives up on very deep ones. */
function shallow(value: unknown): unknown {
  return isObject(value)
    ? Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, typeof inner === 'object' ? '…' : inner]))
    : value;
}
