/** The network configuration from stdin (section 1 and "Deriving request configuration" of section 3). */
import { isIP } from 'node:net';
import type { RuntimeAttachment } from '@ovpn-operator/operator/attach-protocol';
import { defaultAgentSocket } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { cniCode, configFailure } from './cni-error.ts';
import { interfaceNameProblem, isObjectName, quote } from './environment.ts';
import type { JsonObject } from './json-reader.ts';
import { Reader, get, isObject, present, typeName } from './json-reader.ts';
import { isMac, isPrefix } from './prefix.ts';
import { byteLength } from './text.ts';
import type { CniVersion, Operation } from './versions.ts';
import { isSupportedVersion, supportedVersions } from './versions.ts';

export interface PluginConfig {
  readonly cniVersion: CniVersion;
  /** Name of the CNI network configuration. */
  readonly name: string;
  /** Name of the VpnNetwork. Absent: the agent chooses by the pod. */
  readonly network?: string;
  /**
   * Interface to create instead of CNI_IFNAME. In a chain every plugin gets the same CNI_IFNAME, the one
   * the first plugin makes, so a chained ovpn-cni needs a name of its own.
   */
  readonly interface?: string;
  readonly agentSocket: string;
  /** Static addresses and MAC, by the conventions of CONVENTIONS.md: `runtimeConfig` before `args.cni`. */
  readonly ips?: readonly string[];
  readonly mac?: string;
  /** The IPAM plugin that addresses come from instead of the agent. */
  readonly ipam?: string;
  /** `cni.dev/valid-attachments`; only with GC. */
  readonly valid?: readonly RuntimeAttachment[];
  /** As it came; only ADD reads it (result.ts). */
  readonly prevResult?: unknown;
}

/** sockaddr_un has room for 108 bytes, the last of them NUL. */
const maxSocketPathBytes = 107;

function refuse(field: string, problem: string): never {
  throw new OvpnError('CniConfigInvalid', problem, { field });
}

/** A text to a JSON object, or code 6. */
export function decodeConfig(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The engine's message may quote the input, and the input may hold what belongs to other plugins.
    const what = text.length === 0 ? 'is empty' : 'is not JSON';
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
  if (!isSupportedVersion(version)) {
    throw configFailure(
      cniCode.incompatibleVersion,
      `version ${quote(version)} is not one of ${supportedVersions.join(', ')}`,
      'cniVersion',
    );
  }
  return version;
}

/** The whole configuration. Unknown keys are other people's (section 1, "Other keys") and ignored. */
export function parseConfig(config: JsonObject, cniVersion: CniVersion, operation: Operation): PluginConfig {
  const reader = new Reader(config, '', refuse);
  const name = reader.string('name');
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name)) {
    reader.refuse(
      'name',
      `must start with a letter or digit and hold only letters, digits, "_", "." and "-", not ${quote(name)}`,
    );
  }
  reader.string('type');
  refuseWhatIsNotHonoured(config, reader);
  const network = parseNetwork(reader);
  const ipam = parseIpam(reader);
  const { ips, mac } = parseStatic(reader);
  const needsNetwork = ipam !== undefined ? 'ipam' : ips !== undefined ? 'ips' : mac !== undefined ? 'mac' : undefined;
  if (network === undefined && needsNetwork !== undefined) {
    reader.refuse('network', `is missing: with ${needsNetwork} the configuration must say of which VpnNetwork`);
  }
  const interfaceName = reader.optionalString('interface');
  const interfaceProblem = interfaceName === undefined ? undefined : interfaceNameProblem(interfaceName);
  if (interfaceProblem !== undefined) {
    reader.refuse('interface', interfaceProblem);
  }
  const agentSocket = reader.optionalString('agentSocket') ?? defaultAgentSocket;
  if (!agentSocket.startsWith('/') || agentSocket.includes('\0') || byteLength(agentSocket) > maxSocketPathBytes) {
    reader.refuse(
      'agentSocket',
      `must be an absolute path of at most ${maxSocketPathBytes} bytes, not ${quote(agentSocket)}`,
    );
  }
  const prevResult = get(config, 'prevResult');
  return {
    cniVersion,
    name,
    agentSocket,
    ...present({ network, ipam, mac }),
    // An IPAM plugin reads them from the same configuration.
    ...(ips === undefined || ipam !== undefined ? {} : { ips }),
    ...(operation === 'GC' ? { valid: parseValid(reader) } : {}),
    ...(interfaceName === undefined ? {} : { interface: interfaceName }),
    ...(prevResult === undefined ? {} : { prevResult }),
  };
}

function parseNetwork(reader: Reader): string | undefined {
  const network = reader.optionalString('network');
  if (network !== undefined && !isObjectName(network)) {
    reader.refuse(
      'network',
      `must be the name of a VpnNetwork (lower-case letters, digits, "-" and "."), not ${quote(network)}`,
    );
  }
  return network;
}

/** `ipam` is the network's own unless it names another plugin. Empty ones pass: Go programs write `{}` for nothing. */
function parseIpam(reader: Reader): string | undefined {
  const ipam = reader.optionalObject('ipam');
  const type = ipam?.optionalString('type') ?? '';
  if (ipam === undefined || type === 'ovpn-cni') return undefined;
  if (type === '') {
    return ipam.isEmpty ? undefined : ipam.refuse('type', 'is missing: leave out ipam for addresses of the VpnNetwork');
  }
  // It becomes the name of a file in CNI_PATH.
  return /^[a-zA-Z0-9][a-zA-Z0-9._-]*$/.test(type)
    ? type
    : ipam.refuse('type', `must be the name of a plugin, not ${quote(type)}`);
}

/** At most one address of each family; the agent says whether the network has them. */
function parseStatic(reader: Reader): { readonly ips?: readonly string[]; readonly mac?: string } {
  const capabilities = reader.optionalObject('runtimeConfig');
  const args = reader.optionalObject('args')?.optionalObject('cni');
  const sources = [capabilities, args].filter((source) => source !== undefined);
  const ips = sources.map((source) => parseIps(source)).find((list) => list.length > 0);
  const mac = sources.map((source) => parseMac(source)).find((text) => text !== undefined);
  return present({ ips, mac });
}

function parseIps(source: Reader): readonly string[] {
  const ips = source.strings('ips');
  const families = ips.map((text, index) => {
    const family = isIP(text.replace(/\/.*/, ''));
    return family !== 0 && (isPrefix(text) || !text.includes('/'))
      ? family
      : source.refuse(`ips[${index}]`, `must be an IP address, with or without a prefix length, not ${quote(text)}`);
  });
  return new Set(families).size === families.length
    ? ips
    : source.refuse('ips', 'must hold at most one IPv4 and one IPv6 address');
}

function parseMac(source: Reader): string | undefined {
  const mac = source.optionalString('mac') ?? '';
  if (mac === '') return undefined;
  return isMac(mac) ? mac : source.refuse('mac', `must be a MAC address, not ${quote(mac)}`);
}

/** Section 2, "GC". A list that is missing is no empty one: that would take everything away. */
function parseValid(reader: Reader): readonly RuntimeAttachment[] {
  const key = 'cni.dev/valid-attachments';
  if (reader.value(key) === undefined) reader.refuse(key, 'is missing, and GC needs it');
  return reader.objects(key).map((entry) => ({
    containerId: entry.string('containerID'),
    cniIfname: entry.string('ifname'),
  }));
}

/**
 * Keys with a meaning for every plugin that this one cannot give them: masquerading and DNS come from the
 * VpnNetwork. Ignoring them would be a surprise, so they are code 2, with key and value as the specification
 * asks. Empty ones pass, as above.
 */
function refuseWhatIsNotHonoured(config: JsonObject, reader: Reader): void {
  const masquerade = reader.optionalBoolean('ipMasq') === true;
  const dns = reader.optionalObject('dns');
  for (const key of [...(dns?.isEmpty === false ? ['dns'] : []), ...(masquerade ? ['ipMasq'] : [])]) {
    const value = quote(JSON.stringify(shallow(config[key])));
    throw configFailure(
      cniCode.unsupportedField,
      `unsupported field with value ${value}; the VpnNetwork says this`,
      key,
    );
  }
}

/** For a message: nested values are left out, since JSON.stringify gives up on very deep ones. */
function shallow(value: unknown): unknown {
  return isObject(value)
    ? Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, typeof inner === 'object' ? '…' : inner]))
    : value;
}
