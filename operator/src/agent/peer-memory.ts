import { readFileSync } from 'node:fs';
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

/**
 * Which VpnPeer each peer id in the kernel stands for, and which endpoint it was last given. The kernel knows
 * neither: it moves endpoints by itself when a remote floats, and an id that goes over to another VpnPeer
 * still has the old one's key. Only with this memory can a restarted agent tell. Losing it is harmless as long
 * as specs stay as they are: what the kernel has is kept then.
 */
export class PeerMemory {
  readonly #path: string;
  readonly #notes = new Map<string, PeerNote>();
  #dirty = false;

  constructor(path: string) {
    this.#path = path;
    try {
      const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
      if (typeof parsed !== 'object' || parsed === null) return;
      for (const [key, value] of Object.entries(parsed as Record<string, unknown>)) {
        const note = parseNote(value);
        if (note !== undefined) this.#notes.set(key, note);
      }
    } catch {
      // Not there yet, or damaged: see above.
    }
  }

  get(network: string, peerId: number): PeerNote | undefined {
    return this.#notes.get(`${network}/${peerId}`);
  }

  set(network: string, peerId: number, note: PeerNote): void {
    const present = this.get(network, peerId);
    if (present?.owner === note.owner && formatEndpoint(present.endpoint) === formatEndpoint(note.endpoint)) return;
    this.#notes.set(`${network}/${peerId}`, note);
    this.#dirty = true;
  }

  delete(network: string, peerId: number): void {
    if (this.#notes.delete(`${network}/${peerId}`)) this.#dirty = true;
  }

  /** Writes what changed since the last call. @throws OvpnError StateUnusable when the disk refuses */
  save(): void {
    if (!this.#dirty) return;
    try {
      writeDurably(this.#path, JSON.stringify(Object.fromEntries(this.#notes)));
    } catch (error) {
      const problem = `cannot write down what peer ids stand for: ${describe(error)}`;
      throw new OvpnError('StateUnusable', problem, { object: this.#path }, { cause: error });
    }
    this.#dirty = false;
  }
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
