/** Strict reading of one request of the CNI binary: whatever the bytes, a request or OvpnError AgentProtocol. */
import { isUtf8 } from 'node:buffer';
import { isIP } from 'node:net';
import { OvpnError } from '../errors.ts';
import type {
  AddRequest,
  AgentRequest,
  CallKey,
  CheckRequest,
  DelRequest,
  ExpectedInterface,
  GcRequest,
  PodIdentity,
  RuntimeAttachment,
} from './attach-protocol.ts';
import { maxMessageBytes, protocolVersion } from './attach-protocol.ts';

/** Longest text a field may hold: CNI_NETNS is a path, and everything else is shorter. */
const maxFieldBytes = 4095;

type Fields = Readonly<Record<string, unknown>>;

function refuse(field: string, problem: string): never {
  throw new OvpnError('AgentProtocol', problem, { object: 'request', ...(field === '' ? {} : { field }) });
}

/** The request in one line (without its newline). Unknown fields are ignored: a newer plugin may send more. */
export function parseAgentRequest(line: Uint8Array): AgentRequest {
  if (line.length > maxMessageBytes) {
    refuse('', `is longer than ${maxMessageBytes} bytes`);
  }
  if (!isUtf8(line)) {
    refuse('', 'is not UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(line).toString('utf8'));
  } catch {
    refuse('', 'is not JSON');
  }
  const fields = asObject(value, '');
  const version = own(fields, 'version');
  if (version !== protocolVersion) {
    refuse('version', `must be ${protocolVersion}, as this agent speaks it`);
  }
  const op = own(fields, 'op');
  switch (op) {
    case 'add':
      return addRequest(fields);
    case 'del':
      return delRequest(fields);
    case 'check':
      return checkRequest(fields);
    case 'gc':
      return gcRequest(fields);
    case 'status':
      return { version: protocolVersion, op, ...optional(fields, 'network', networkName) };
    case 'report':
      return { version: protocolVersion, op };
    default:
      return refuse('op', 'must be add, del, check, gc, status or report');
  }
}

function addRequest(fields: Fields): AddRequest {
  const request: AddRequest = {
    version: protocolVersion,
    op: 'add',
    ...callKey(fields),
    ...optional(fields, 'network', networkName),
    ifname: interfaceName(fields, 'ifname'),
    netns: absolutePath(fields, 'netns'),
    ...optional(fields, 'pod', podIdentity),
    ...optional(fields, 'ips', (at, name) => texts(at, name).map((text) => addressText(text, name))),
    ...optional(fields, 'mac', macAddress),
    ...optional(fields, 'delegated', (at, name) => texts(at, name).map((text) => addressText(text, name))),
  };
  for (const name of ['ips', 'mac', 'delegated'] as const) {
    if (request[name] !== undefined && request.network === undefined) refuse(name, 'needs a network');
  }
  if (request.ips !== undefined && request.delegated !== undefined) refuse('ips', 'must not be there beside delegated');
  return request;
}

function delRequest(fields: Fields): DelRequest {
  return { version: protocolVersion, op: 'del', ...callKey(fields), ...optional(fields, 'netns', absolutePath) };
}

function checkRequest(fields: Fields): CheckRequest {
  return {
    version: protocolVersion,
    op: 'check',
    ...callKey(fields),
    ...optional(fields, 'network', networkName),
    ifname: interfaceName(fields, 'ifname'),
    netns: absolutePath(fields, 'netns'),
    expected: objects(fields, 'expected').map(expectedInterface),
  };
}

function gcRequest(fields: Fields): GcRequest {
  return {
    version: protocolVersion,
    op: 'gc',
    config: configName(fields),
    ...optional(fields, 'network', networkName),
    valid: objects(fields, 'valid').map(runtimeAttachment),
  };
}

function expectedInterface(fields: Fields): ExpectedInterface {
  return {
    ifname: interfaceName(fields, 'ifname'),
    ...optional(fields, 'mac', macAddress),
    ...optional(fields, 'mtu', unsigned),
    addresses: texts(fields, 'addresses').map((text) => addressText(text, 'addresses')),
  };
}

function asObject(value: unknown, field: string): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Fields)
    : refuse(field, 'must be an object');
}

/** Own, because `constructor` and `__proto__` are ordinary keys in JSON. */
function own(fields: Fields, name: string): unknown {
  return Object.hasOwn(fields, name) ? fields[name] : undefined;
}

/** The field as an object to spread: nothing when it is absent. */
function optional<K extends string, T>(
  fields: Fields,
  name: K,
  read: (fields: Fields, name: K) => T,
): { readonly [P in K]?: T } {
  return own(fields, name) === undefined ? {} : ({ [name]: read(fields, name) } as { readonly [P in K]?: T });
}

function array(fields: Fields, name: string): readonly unknown[] {
  const value = own(fields, name);
  return Array.isArray(value) ? value : refuse(name, 'must be a list');
}

function objects(fields: Fields, name: string): Fields[] {
  return array(fields, name).map((value) => asObject(value, name));
}

function texts(fields: Fields, name: string): string[] {
  return array(fields, name).map((value) => checkedText(value, name));
}

function text(fields: Fields, name: string, maxBytes = maxFieldBytes): string {
  return checkedText(own(fields, name), name, maxBytes);
}

function checkedText(value: unknown, name: string, maxBytes = maxFieldBytes): string {
  if (typeof value !== 'string' || value === '') {
    return refuse(name, 'must be a text that is not empty');
  }
  if (Buffer.byteLength(value) > maxBytes) {
    return refuse(name, `must be at most ${maxBytes} bytes long`);
  }
  // A NUL ends a path or name early in the kernel: what was checked would not be what is used.
  return value.includes('\0') ? refuse(name, 'must hold no NUL') : value;
}

function unsigned(fields: Fields, name: string): number {
  const value = own(fields, name);
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
    ? value
    : refuse(name, 'must be a whole number that is not negative');
}

function absolutePath(fields: Fields, name: string): string {
  const value = text(fields, name);
  return value.startsWith('/') ? value : refuse(name, 'must be an absolute path');
}

function networkName(fields: Fields, name: string): string {
  return text(fields, name, 253);
}

function configName(fields: Fields): string {
  return text(fields, 'config', 1024);
}

/** An IP address, with or without a prefix length, as it came. */
function addressText(value: string, name: string): string {
  const match = /^([^/%]+)(?:\/(0|[1-9]\d{0,2}))?$/.exec(value);
  const family = isIP(match?.[1] ?? '');
  return family !== 0 && Number(match?.[2] ?? 0) <= (family === 4 ? 32 : 128)
    ? value
    : refuse(name, 'must be IP addresses, with or without a prefix length');
}

function macAddress(fields: Fields, name: string): string {
  const value = text(fields, name, 17).toLowerCase();
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(value) ? value : refuse(name, 'must be a MAC address');
}

function interfaceName(fields: Fields, name: string): string {
  const value = text(fields, name, 15);
  // eslint-disable-next-line no-control-regex
  return value === '.' || value === '..' || /[/:\s\u0000-\u001f\u007f]/.test(value)
    ? refuse(name, 'must be the name of a network interface')
    : value;
}

/** The agent uses both parts in names of files and links, so both are checked here again. */
function runtimeAttachment(fields: Fields): RuntimeAttachment {
  const containerId = text(fields, 'containerId', 256);
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(containerId)) {
    refuse('containerId', 'must start with a letter or digit and hold only letters, digits, "_", "." and "-"');
  }
  return { containerId, cniIfname: interfaceName(fields, 'cniIfname') };
}

function callKey(fields: Fields): CallKey {
  return { config: configName(fields), ...runtimeAttachment(fields) };
}

function podIdentity(fields: Fields, name: string): PodIdentity {
  const pod = asObject(own(fields, name), name);
  return { namespace: text(pod, 'namespace', 63), name: text(pod, 'name', 253), ...optional(pod, 'uid', uid) };
}

function uid(fields: Fields, name: string): string {
  return text(fields, name, 64);
}
