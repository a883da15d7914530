import { closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import type { Endpoint } from '../kernel/ovpn/codec.ts';
import { formatEndpoint } from '../kernel/transport-socket.ts';
import { writeDurably } from './durable-file.ts';

/** What a peer id was last given to. */
export interface PeerNote {
  /** The endpoint that the kernel was told. */
  readonly endpoint: Endpoint;
  /** The VpnPeer, as text. */
  readonly owner: string;
}

/** A line of the file: what a peer id stands for from here on; without a note, for nothing. */
interface Line {
  readonly network: string;
  readonly peerId: number;
  readonly note?: PeerNote;
}

/** Write the file anew when it has this many lines more than twice its notes. */
const compactionSlack = 1_000;
/** The file is not what we know it to be. */
const unknown = -1;

/**
 * Which VpnPeer each peer id in the kernel stands for, and which endpoint it was last given. The kernel knows
 * neither: it moves endpoints by itself when a remote floats, and an id that goes over to another VpnPeer
 * still has the old one's key. Only with this memory can a restarted agent tell. Losing it is harmless as long
 * as specs stay as they are: what the kernel has is kept then.
 *
 * An append-only file of JSON lines. Appended lines are not forced to disk: they outlive this process, and a
 * crash of the machine takes the kernel's peers, too. A damaged line counts for nothing.
 */
export class PeerMemory {
  readonly #path: string;
  readonly #notes = new Map<string, Line>();
  /** What the file does not say yet. */
  readonly #unsaved = new Map<string, Line>();
  #lines = 0;
  /** How long the file should be. When it is not, something else happened to it and it is written whole. */
  #size = 0;

  constructor(path: string) {
    this.#path = path;
    this.#load();
  }

  get(network: string, peerId: number): PeerNote | undefined {
    return this.#notes.get(`${network}/${peerId}`)?.note;
  }

  set(network: string, peerId: number, note: PeerNote): void {
    const present = this.get(network, peerId);
    if (present?.owner === note.owner && formatEndpoint(present.endpoint) === formatEndpoint(note.endpoint)) return;
    this.#change({ network, peerId, note });
  }

  delete(network: string, peerId: number): void {
    if (this.get(network, peerId) !== undefined) this.#change({ network, peerId });
  }

  /** Writes what changed since the last call. @throws OvpnError StateUnusable when the disk refuses */
  save(): void {
    if (this.#unsaved.size === 0) return;
    try {
      const grown = this.#lines + this.#unsaved.size;
      if (grown > 2 * this.#notes.size + compactionSlack || !this.#append()) this.#rewrite();
    } catch (error) {
      const problem = `cannot write down what peer ids stand for: ${describe(error)}`;
      throw new OvpnError('StateUnusable', problem, { object: this.#path }, { cause: error });
    }
    this.#unsaved.clear();
  }

  #change(line: Line): void {
    this.#take(line);
    this.#unsaved.set(keyOf(line), line);
  }

  #take(line: Line): void {
    if (line.note === undefined) this.#notes.delete(keyOf(line));
    else this.#notes.set(keyOf(line), line);
  }

  #load(): void {
    let bytes: Buffer;
    try {
      bytes = readFileSync(this.#path);
    } catch {
      // Not there yet, or lost: see above.
      return;
    }
    const lines = bytes.toString().split('\n');
    // A crash while appending leaves half a line at the end.
    let damaged = lines.pop() !== '';
    for (const text of lines) {
      const line = parseLine(text);
      if (line === undefined) damaged = true;
      else this.#take(line);
    }
    this.#lines = lines.length;
    this.#size = damaged ? unknown : bytes.length;
  }

  /** @returns whether the file was as it should be, so that it could be done */
  #append(): boolean {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    const fd = openSync(this.#path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
    try {
      // An append that failed, on a disk that is full, may have left half a line.
      if (fstatSync(fd).size !== this.#size) return false;
      const bytes = Buffer.from(textOf(this.#unsaved.values()));
      writeFileSync(fd, bytes);
      this.#size += bytes.length;
      this.#lines += this.#unsaved.size;
      return true;
    } finally {
      closeSync(fd);
    }
  }

  #rewrite(): void {
    const text = textOf(this.#notes.values());
    writeDurably(this.#path, text);
    this.#size = Buffer.byteLength(text);
    this.#lines = this.#notes.size;
  }
}

function keyOf({ network, peerId }: Line): string {
  return `${network}/${peerId}`;
}

function textOf(lines: Iterable<Line>): string {
  return [...lines].map((line) => `${JSON.stringify(line)}\n`).join('');
}

function parseLine(text: string): Line | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || !('network' in value) || !('peerId' in value)) return undefined;
  const { network, peerId } = value;
  if (typeof network !== 'string' || typeof peerId !== 'number') return undefined;
  if (!('note' in value)) return { network, peerId };
  const note = parseNote(value.note);
  return note === undefined ? undefined : { network, peerId, note };
}

function parseNote(value: unknown): PeerNote | undefined {
  if (typeof value !== 'object' || value === null || !('endpoint' in value) || !('owner' in value)) return undefined;
  const { endpoint, owner } = value;
  if (typeof endpoint !== 'object' || endpoint === null || !('address' in endpoint) || !('port' in endpoint)) {
    return undefined;
  }
  const { address, port } = endpoint;
  return typeof address === 'string' && typeof port === 'number' && typeof owner === 'string'
    ? { endpoint: { address, port }, owner }
    : undefined;
}
