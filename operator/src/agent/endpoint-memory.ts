import { readFileSync } from 'node:fs';
import { describe, OvpnError } from '../errors.ts';
import type { Endpoint } from '../kernel/ovpn/codec.ts';
import { formatEndpoint } from '../kernel/transport-socket.ts';
import { writeDurably } from './durable-file.ts';

/**
 * Which endpoint each peer was last given. The kernel moves endpoints by itself when a remote floats; only
 * with this memory can a restarted agent tell that from a spec that was changed while it was away. Losing it
 * is harmless: the kernel's endpoint is kept then until the spec changes.
 */
export class EndpointMemory {
  readonly #path: string;
  readonly #endpoints = new Map<string, Endpoint>();
  #dirty = false;

  constructor(path: string) {
    this.#path = path;
    try {
      const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
      if (typeof parsed !== 'object' || parsed === null) return;
      for (const [key, value] of Object.entries(parsed as Record<string, unknown>)) {
        const endpoint = parseEndpoint(value);
        if (endpoint !== undefined) this.#endpoints.set(key, endpoint);
      }
    } catch {
      // Not there yet, or damaged: see above.
    }
  }

  get(network: string, peerId: number): Endpoint | undefined {
    return this.#endpoints.get(`${network}/${peerId}`);
  }

  set(network: string, peerId: number, endpoint: Endpoint): void {
    const present = this.get(network, peerId);
    if (present !== undefined && formatEndpoint(present) === formatEndpoint(endpoint)) return;
    this.#endpoints.set(`${network}/${peerId}`, endpoint);
    this.#dirty = true;
  }

  delete(network: string, peerId: number): void {
    if (this.#endpoints.delete(`${network}/${peerId}`)) this.#dirty = true;
  }

  /** Writes what changed since the last call. @throws OvpnError StateUnusable when the disk refuses */
  save(): void {
    if (!this.#dirty) return;
    try {
      writeDurably(this.#path, JSON.stringify(Object.fromEntries(this.#endpoints)));
    } catch (error) {
      const problem = `cannot write down the endpoints of peers: ${describe(error)}`;
      throw new OvpnError('StateUnusable', problem, { object: this.#path }, { cause: error });
    }
    this.#dirty = false;
  }
}

function parseEndpoint(value: unknown): Endpoint | undefined {
  if (typeof value !== 'object' || value === null || !('address' in value) || !('port' in value)) return undefined;
  const { address, port } = value;
  return typeof address === 'string' && typeof port === 'number' ? { address, port } : undefined;
}
