/**
 * What the socket holder and the agent say to each other: one JSON packet each way over a SOCK_SEQPACKET
 * Unix socket, with a descriptor attached where one is handed over (SCM_RIGHTS, unix(7)).
 */

export const defaultHolderSocket = '/run/ovpn-operator/holder.sock';

/** A name is chosen by the agent, e.g. `corp/udp`; the holder gives it no meaning. */
export type HolderRequest =
  /** Keeps the attached descriptor under a name, replacing what was there. */
  | { readonly op: 'put'; readonly name: string }
  /** Answers with a duplicate of the descriptor. */
  | { readonly op: 'get'; readonly name: string }
  /** Closes the holder's descriptor. */
  | { readonly op: 'drop'; readonly name: string }
  | { readonly op: 'list' };

export type HolderReply =
  { readonly ok: true; readonly names?: readonly string[] } | { readonly ok: false; readonly error: string };

export const maxPacketBytes = 64 * 1024;
/** A node has a few sockets per network; more means that something leaks. */
export const maxHeld = 4096;
const maxNameBytes = 256;

/** Parses a request from outside. @returns undefined when it is not one */
export function parseRequest(packet: Buffer): HolderRequest | undefined {
  const value = parseJson(packet);
  if (typeof value !== 'object' || value === null || !('op' in value)) return undefined;
  if (value.op === 'list') return { op: 'list' };
  if (!('name' in value) || typeof value.name !== 'string') return undefined;
  const { op, name } = value;
  if (name.length === 0 || Buffer.byteLength(name) > maxNameBytes) return undefined;
  return op === 'put' || op === 'get' || op === 'drop' ? { op, name } : undefined;
}

/** Parses a reply of the holder. @returns undefined when it is not one */
export function parseReply(packet: Buffer): HolderReply | undefined {
  const value = parseJson(packet);
  if (typeof value !== 'object' || value === null || !('ok' in value)) return undefined;
  if (value.ok === false) return { ok: false, error: 'error' in value ? String(value.error) : 'no reason given' };
  if (value.ok !== true) return undefined;
  if (!('names' in value)) return { ok: true };
  return Array.isArray(value.names) ? { ok: true, names: value.names.map(String) } : undefined;
}

function parseJson(packet: Buffer): unknown {
  try {
    return JSON.parse(packet.toString('utf8'));
  } catch {
    return undefined;
  }
}
