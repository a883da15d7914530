import type { ObjectRef } from '../../api/types.ts';
import type { Log } from '../../telemetry/log.ts';
import type { Path } from '../../openvpn/endpoint/path.ts';
import type { Remote } from '../../openvpn/endpoint/remotes.ts';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';
import type { KeySlots } from '../key-slots.ts';
import type { Shelf } from '../sockets.ts';
import { revisionOf } from './materials.ts';
import { SessionStore } from './session-store.ts';

/** What a restarted agent needs to go on with a session whose peer the kernel still has. Secret: it holds keys. */
export interface SessionRecord {
  readonly version: 1;
  /** The VpnPeer. */
  readonly peer: ObjectRef;
  /** The peer in the kernel. */
  readonly ifindex: number;
  readonly id: number;
  readonly transport: 'udp' | 'tcp';
  /** When the session began: the kernel knows where a peer over UDP is by now. */
  readonly path: Path;
  /** The name of the socket in the holder, unless it is a listener's. */
  readonly socket?: string | undefined;
  readonly tlsVersion: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  readonly lastHandshake: number;
  /** Revisions of the wrapping, and of certificates and what was demanded of them. */
  readonly wrap: string;
  readonly credentials: string;
  readonly session: SessionState;
  /** Of a client: the listener it came in by. */
  readonly listener?: string | undefined;
  /** Of a remote that was dialled. */
  readonly remote?: Remote | undefined;
}

/** The name of the file with the states, and beginnings of the names of sockets. */
const fileName = 'sessions';

/**
 * The sessions of one network as they outlive this process: their states, and the sockets that are theirs alone. Both
 * are in the holder before the kernel is told, and are dropped there when the kernel's peer is gone.
 */
export class SessionMemory {
  readonly #shelf: Shelf;
  readonly #log: Log;
  readonly #store: SessionStore;
  /** Left by an earlier process, and neither taken up nor given up yet. */
  readonly #waiting = new Map<string, SessionRecord>();
  /** Sockets in use. */
  readonly #sockets = new Set<string>();
  #opened = false;
  /** The holder may have sockets that nobody will ask for. */
  #leftovers = true;

  constructor(shelf: Shelf, log: Log) {
    this.#shelf = shelf;
    this.#log = log;
    this.#store = new SessionStore({
      take: () => shelf.take(fileName),
      keep: (fd) => shelf.keep(fileName, fd) === undefined,
    });
  }

  /** Reads what an earlier process left. Does nothing the second time. @throws OvpnError HolderUnreachable */
  open(): void {
    if (this.#opened) return;
    this.#store.open();
    this.#opened = true;
    this.#leftovers = true;
    for (const [key, value] of [...this.#store.values]) {
      const record = parseRecord(value);
      if (record === undefined) this.#store.delete(key);
      else this.#waiting.set(key, record);
    }
  }

  /** What an earlier process left, by key. */
  get waiting(): ReadonlyMap<string, SessionRecord> {
    return this.#waiting;
  }

  /** Keeps the present state of a session. */
  save(key: string, record: SessionRecord): void {
    this.#waiting.delete(key);
    this.#store.set(key, record);
  }

  /** There is no such session any more. */
  forget(key: string, socket: string | undefined): void {
    this.#waiting.delete(key);
    this.#store.delete(key);
    if (socket !== undefined) this.dropSocket(socket);
  }

  /** Has the holder keep a socket, before the kernel makes a peer on it. The caller stays its owner. */
  keepSocket(name: string, fd: number): void {
    this.#sockets.add(name);
    const problem = this.#shelf.keep(name, fd);
    if (problem === undefined) return;
    this.#log.warn(
      { event: 'session.not-held', socket: name, error: problem.message },
      'a restart of this agent would cut this connection',
    );
  }

  /** A descriptor of a socket that an earlier process left, for the caller to close. @throws OvpnError HolderUnreachable */
  takeSocket(name: string): number | undefined {
    const fd = this.#shelf.take(name);
    if (fd !== undefined) this.#sockets.add(name);
    return fd;
  }

  /** To be called before the descriptor is closed. */
  dropSocket(name: string): void {
    this.#sockets.delete(name);
    if (this.#shelf.drop(name) !== undefined) this.#leftovers = true;
  }

  /** Drops sockets in the holder that belong to no session. */
  dropLeftovers(): void {
    if (!this.#leftovers) return;
    const wanted = new Set([fileName, ...this.#sockets]);
    for (const { socket } of this.#waiting.values()) if (socket !== undefined) wanted.add(socket);
    this.#leftovers = this.#shelf.dropOthers(wanted) !== undefined;
  }

  /** Closes what is open in this process; everything stays with the holder. */
  close(): void {
    this.#store.close();
    this.#waiting.clear();
    this.#sockets.clear();
    this.#opened = false;
  }
}

/** Whether a session can go on under the present wrapping: with dynamic tls-crypt, under any. */
export function wrapFits(record: SessionRecord, wrap: WrapConfig): boolean {
  return record.session.wrapper.dynamic !== undefined || record.wrap === wrapRevision(wrap);
}

/** Says which wrapping it is; a tls-crypt-v2 server's sessions have their clients' keys, and do without its own. */
export function wrapRevision(wrap: WrapConfig): string {
  let revision = revisions.get(wrap);
  if (revision === undefined) {
    revision = wrap.kind === 'tls-crypt-v2-server' ? wrap.kind : revisionOf(wrap);
    revisions.set(wrap, revision);
  }
  return revision;
}

/** Asked for with every session that is saved. The bytes of a wrapping in use do not change (WrapConfig). */
const revisions = new WeakMap<WrapConfig, string>();

/**
 * The state with the newest key that the kernel has: a kill may come after a key was installed and before that was
 * written down. It never comes the other way round, since keys are installed first. The state was written down when
 * the renegotiation began, with the id after that of its key; earlier versions wrote it only when the key was there.
 */
export function withKernelKeys(session: SessionState, { primary, secondary }: KeySlots): SessionState {
  const { keyId, nextKeyId: next } = session;
  const newest = [next === 1 ? maxKeyId : next - 1, next].find(
    (id) => id !== keyId && (primary?.keyId === id || secondary?.keyId === id),
  );
  if (newest === undefined) return session;
  return { ...session, keyId: newest, nextKeyId: newest === maxKeyId ? 1 : newest + 1, unconfirmed: true };
}

const maxKeyId = 7;

/** A record of this version, or undefined; the state inside is looked at by whoever resumes it. */
function parseRecord(value: unknown): SessionRecord | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const record = value as Partial<Record<keyof SessionRecord, unknown>>;
  const isObject = (field: unknown): boolean => typeof field === 'object' && field !== null;
  const sound =
    record.version === 1 &&
    isObject(record.peer) &&
    isObject(record.path) &&
    isObject(record.session) &&
    isObject((record.session as Partial<SessionState>).identity) &&
    isObject((record.session as Partial<SessionState>).wrapper) &&
    isObject((record.session as Partial<SessionState>).negotiated) &&
    Number.isInteger(record.ifindex) &&
    Number.isInteger(record.id) &&
    (record.transport === 'udp' || record.transport === 'tcp');
  return sound ? (value as SessionRecord) : undefined;
}
