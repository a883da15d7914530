/** Strict reading of one request of the CNI binary: whatever the bytes, a request or OvpnError AgentProtocol. */
import { isUtf8 } from 'node:buffer';
import { OvpnError } from '../errors.ts';
import type { AgentRequest, AttachmentKey, PodIdentity } from './attach-protocol.ts';
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
    case 'add': {
      const pod = optionalPod(own(fields, 'pod'));
      return {
        version: protocolVersion,
        op,
        network: text(fields, 'network', 253),
        ...key(fields),
        netns: absolutePath(fields, 'netns'),
        ...(pod === undefined ? {} : { pod }),
      };
    }
    case 'del':
      return {
        version: protocolVersion,
        op,
        network: text(fields, 'network', 253),
        ...key(fields),
        ...(own(fields, 'netns') === undefined ? {} : { netns: absolutePath(fields, 'netns') }),
      };
    case 'status':
    case 'report':
      return { version: protocolVersion, op };
    default:
      return refuse('op', 'must be add, del, status or report');
  }
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

function text(fields: Fields, name: string, maxBytes = maxFieldBytes): string {
  const value = own(fields, name);
  if (typeof value !== 'string' || value === '') {
    return refuse(name, 'must be a text that is not empty');
  }
  if (Buffer.byteLength(value) > maxBytes) {
    return refuse(name, `must be at most ${maxBytes} bytes long`);
  }
  // A NUL ends a path or name early in the kernel: what was checked would not be what is used.
  return value.includes('\0') ? refuse(name, 'must hold no NUL') : value;
}

function absolutePath(fields: Fields, name: string): string {
  const value = text(fields, name);
  return value.startsWith('/') ? value : refuse(name, 'must be an absolute path');
}

/** The agent uses both parts in names of files and links, so both are checked here again. */
function key(fields: Fields): AttachmentKey {
  const containerId = text(fields, 'containerId', 256);
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(containerId)) {
    refuse('containerId', 'must start with a letter or digit and hold only letters, digits, "_", "." and "-"');
  }
  const ifname = text(fields, 'ifname', 15);
  // eslint-disable-next-line no-control-regex
  if (ifname === '.' || ifname === '..' || /[/:\s\u0000-\u001f\u007f]/.test(ifname)) {
    refuse('ifname', 'must be the name of a network interface');
  }
  return { containerId, ifname };
}

function optionalPod(value: unknown): PodIdentity | undefined {
  if (value === undefined) {
    return undefined;
  }
  const fields = asObject(value, 'pod');
  const pod = { namespace: text(fields, 'namespace', 63), name: text(fields, 'name', 253) };
  return own(fields, 'uid') === undefined ? pod : { ...pod, uid: text(fields, 'uid', 64) };
}
