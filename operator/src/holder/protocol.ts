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
  /** Answers with names in the order of their UTF-16 code units, those after `after`, as many as one packet takes. */
  | { readonly op: 'list'; readonly after?: string };

export type HolderReply =
  | {
      readonly ok: true;
      readonly names?: readonly string[];
      /** There are further names. A holder that does not know `after` never says so: it holds no more than one packet lists. */
      readonly more?: true;
    }
  | { readonly ok: false; readonly error: string };

export const maxPacketBytes = 64 * 1024;
/** A node has a few sockets per network and one for each TCP connection; more means that something leaks. */
export const maxHeld = 65_536;
const maxNameBytes = 256;

/** Parses a request from outside. @returns undefined when it is not one */
export function parseRequest(packet: Buffer): HolderRequest | undefined {
  const value = parseJson(packet);
  if (typeof value !== 'object' || value === null || !('op' in value)) return undefined;
  if (value.op === 'list') {
    return 'after' in value && typeof value.after === 'string' ? { op: 'list', after: value.after } : { op: 'list' };
  }
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
  if (!Array.isArray(value.names)) return undefined;
  const names = value.names.map(String);
  return 'more' in value && value.more === true ? { ok: true, names, more: true } : { ok: true, names };
}

/** The answer to `list`: as many of the names, which are in order, as one packet takes. */
export function listReply(names: readonly string[]): HolderReply {
  let room = maxPacketBytes - Buffer.byteLength(JSON.stringify({ ok: true, names: [], more: true }));
  const fitting = names.findIndex((name) => (room -= Buffer.byteLength(JSON.stringify(name)) + 1) < 0);
  return fitting < 0 ? { ok: true, names } : { ok: true, names: names.slice(0, fitting), more: true };
}

function parseJson(packet: Buffer): unknown {
  try {
    return JSON.parse(packet.toString('utf8'));
  } catch {
    return undefined;
  }
}
