/** The CNI_* variables (section 2, "Parameters"), checked once and turned into types. */
import type { PodIdentity } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { byteLength } from './text.ts';
import type { Operation } from './versions.ts';
import { operations } from './versions.ts';

export type Env = Readonly<Record<string, string | undefined>>;

/** What ADD, DEL and CHECK are called with. */
export interface AttachmentParameters {
  readonly containerId: string;
  readonly ifname: string;
  /** Required for ADD and CHECK; DEL works without (section 2, "DEL"). */
  readonly netns?: string;
  readonly pod?: PodIdentity;
}

const maxPathBytes = 4095;
const maxContainerIdBytes = 256;

function refuse(variable: string, problem: string, remedy?: string): never {
  throw new OvpnError('CniEnvironmentInvalid', problem, { field: variable }, remedy === undefined ? {} : { remedy });
}

/** Which operation the runtime asks for. */
export function parseOperation(env: Env): Operation {
  const command = env['CNI_COMMAND'] ?? '';
  if (command === '') {
    return refuse('CNI_COMMAND', 'is missing');
  }
  return (
    operations.find((operation) => operation === command) ??
    refuse('CNI_COMMAND', `must be one of ${operations.join(', ')}, not ${quote(command)}`)
  );
}

/** The parameters of one attachment. */
export function parseAttachmentParameters(env: Env, operation: 'ADD' | 'DEL' | 'CHECK'): AttachmentParameters {
  const missing = ['CNI_CONTAINERID', 'CNI_IFNAME', ...(operation === 'DEL' ? [] : ['CNI_NETNS'])].filter(
    (variable) => (env[variable] ?? '') === '',
  );
  if (missing.length > 0) {
    refuse(missing.join(', '), `missing, and ${operation} needs it`);
  }
  const containerId = env['CNI_CONTAINERID'] ?? '';
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(containerId) || containerId.length > maxContainerIdBytes) {
    refuse(
      'CNI_CONTAINERID',
      `must start with a letter or digit and hold only letters, digits, "_", "." and "-" (at most ${maxContainerIdBytes}), not ${quote(containerId)}`,
    );
  }
  const ifname = env['CNI_IFNAME'] ?? '';
  const ifnameProblem = interfaceNameProblem(ifname);
  if (ifnameProblem !== undefined) {
    refuse('CNI_IFNAME', ifnameProblem);
  }
  const netns = env['CNI_NETNS'] ?? '';
  if (netns !== '' && (!netns.startsWith('/') || byteLength(netns) > maxPathBytes)) {
    refuse('CNI_NETNS', `must be an absolute path, not ${quote(netns)}`);
  }
  const pod = parseArgs(env['CNI_ARGS'] ?? '');
  return {
    containerId,
    ifname,
    ...(netns === '' ? {} : { netns }),
    ...(pod === undefined ? {} : { pod }),
  };
}

/** What is wrong with a network interface's name, by the kernel's rule (dev_valid_name); undefined if nothing. */
export function interfaceNameProblem(name: string): string | undefined {
  if (name === '.' || name === '..') {
    return `must not be ${quote(name)}`;
  }
  const bytes = byteLength(name);
  if (bytes < 1 || bytes > 15) {
    return `must be 1 to 15 bytes long, not ${bytes}`;
  }
  // Control characters the kernel would take; nobody means them, and they break every tool that prints a name.
  // eslint-disable-next-line no-control-regex
  return /[/:\s\u0000-\u001f\u007f]/.test(name)
    ? `must hold no "/", ":", space or control character: ${quote(name)}`
    : undefined;
}

const knownArgs = new Set([
  'IgnoreUnknown',
  'K8S_POD_NAMESPACE',
  'K8S_POD_NAME',
  'K8S_POD_UID',
  'K8S_POD_INFRA_CONTAINER_ID',
]);

/** CNI_ARGS: `K=V;K=V`. Unknown keys are refused unless IgnoreUnknown is set, which Kubernetes runtimes do. */
export function parseArgs(text: string): PodIdentity | undefined {
  const values = new Map<string, string>();
  for (const pair of text.split(';').filter((part) => part !== '')) {
    const equals = pair.indexOf('=');
    if (equals < 1) {
      refuse('CNI_ARGS', `must be KEY=VALUE pairs with ";" between them; ${quote(pair)} is none`);
    }
    values.set(pair.slice(0, equals), pair.slice(equals + 1));
  }
  const ignore = (values.get('IgnoreUnknown') ?? '0').toLowerCase();
  if (!['1', 'true', '0', 'false', ''].includes(ignore)) {
    refuse('CNI_ARGS', `IgnoreUnknown must be 1, true, 0 or false, not ${quote(ignore)}`);
  }
  if (ignore !== '1' && ignore !== 'true') {
    const unknown = [...values.keys()].filter((key) => !knownArgs.has(key));
    if (unknown.length > 0) {
      refuse('CNI_ARGS', `unknown ${unknown.map(quote).join(', ')}`, 'remove it, or add IgnoreUnknown=1');
    }
  }
  return parsePod(values);
}

function parsePod(values: ReadonlyMap<string, string>): PodIdentity | undefined {
  const namespace = values.get('K8S_POD_NAMESPACE') ?? '';
  const name = values.get('K8S_POD_NAME') ?? '';
  const uid = values.get('K8S_POD_UID') ?? '';
  if (namespace === '' && name === '') {
    return undefined;
  }
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) {
    refuse('CNI_ARGS', `K8S_POD_NAMESPACE must be the name of a namespace, not ${quote(namespace)}`);
  }
  if (!isObjectName(name)) {
    refuse('CNI_ARGS', `K8S_POD_NAME must be the name of a pod, not ${quote(name)}`);
  }
  // A static pod's UID is a hash and no UUID.
  if (uid !== '' && !/^[a-zA-Z0-9-]{1,64}$/.test(uid)) {
    refuse('CNI_ARGS', `K8S_POD_UID must be letters, digits and "-" (at most 64), not ${quote(uid)}`);
  }
  return uid === '' ? { namespace, name } : { namespace, name, uid };
}

/** The name of a Kubernetes object: a DNS subdomain (RFC 1123) of at most 253 characters. */
export function isObjectName(name: string): boolean {
  return name.length <= 253 && /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(name) && !/\.[.-]|-\./.test(name);
}

/** A foreign text, bounded, so that a message stays a message. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
