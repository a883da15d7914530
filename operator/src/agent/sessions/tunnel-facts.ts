import { formatRef, type ObjectRef } from '../../api/types.ts';

/** What status tells about one peer's tunnel. */
export interface TunnelFacts {
  readonly state: TunnelState;
  /** Milliseconds since 1970. */
  readonly since: number;
  /** In words, for the condition. */
  readonly message: string;
  /** Where the peer is, or is being dialled. */
  readonly endpoint: string | undefined;
  readonly addresses: readonly string[];
  readonly cipher: string | undefined;
  readonly tlsVersion: string | undefined;
  /** When keys were last agreed on. Milliseconds since 1970. */
  readonly lastHandshake: number | undefined;
  /** The last thing that went wrong; it stays when the tunnel comes back. */
  readonly lastError: string | undefined;
}

/** A dial-in peer waits for its client; a dial-out peer is connecting whenever it is not connected. */
export type TunnelState = 'WaitingForClient' | 'Connecting' | 'Connected' | 'Disconnected';

export function idleFacts(state: TunnelState, now: number, message: string): TunnelFacts {
  return {
    state,
    since: now,
    message,
    endpoint: undefined,
    addresses: [],
    cipher: undefined,
    tlsVersion: undefined,
    lastHandshake: undefined,
    lastError: undefined,
  };
}

/** What is known of the tunnels of one network's peers; every change is told. */
export class Tunnels {
  readonly #facts = new Map<string, TunnelFacts>();
  /** Thousands of peers begin to wait in one moment, and share what is to be said of that. */
  #idle: TunnelFacts | undefined;
  readonly #clock: () => number;
  readonly #changed: (ref: ObjectRef) => void;

  /** @param clock milliseconds since 1970 */
  constructor(clock: () => number, changed: (ref: ObjectRef) => void) {
    this.#clock = clock;
    this.#changed = changed;
  }

  get(ref: ObjectRef): TunnelFacts | undefined {
    return this.#facts.get(formatRef(ref));
  }

  delete(ref: ObjectRef): void {
    this.#facts.delete(formatRef(ref));
  }

  /** There is no tunnel, and that is no fault. */
  idle(ref: ObjectRef, state: 'WaitingForClient' | 'Connecting', message: string): void {
    const now = this.#clock();
    const last = this.#idle;
    const isLast = last?.state === state && last.message === message && last.since === now;
    this.#idle = isLast ? last : idleFacts(state, now, message);
    this.#set(ref, this.#idle);
  }

  /** A handshake is on its way; a tunnel that stands stays what it is until the new one replaces it. */
  connecting(ref: ObjectRef, endpoint: string): void {
    const present = this.get(ref);
    if (present?.state === 'Connected') return;
    const now = this.#clock();
    this.#set(ref, {
      ...idleFacts(
        'Connecting',
        present?.state === 'Connecting' ? present.since : now,
        `shaking hands with ${endpoint}`,
      ),
      endpoint,
      lastHandshake: present?.lastHandshake,
      lastError: present?.lastError,
    });
  }

  /** @param begun of a tunnel that an earlier process has seen come up */
  connected(
    ref: ObjectRef,
    tunnel: Pick<TunnelFacts, 'endpoint' | 'addresses' | 'cipher' | 'tlsVersion'>,
    begun?: Pick<TunnelFacts, 'since' | 'lastHandshake'>,
  ): void {
    const now = this.#clock();
    this.#set(ref, {
      ...tunnel,
      state: 'Connected',
      since: begun?.since ?? now,
      message: '',
      lastHandshake: begun === undefined ? now : begun.lastHandshake,
      lastError: this.get(ref)?.lastError,
    });
  }

  disconnected(ref: ObjectRef, reason: string): void {
    const present = this.get(ref);
    this.#set(ref, {
      ...idleFacts('Disconnected', this.#clock(), reason),
      lastHandshake: present?.lastHandshake,
      lastError: present?.lastError,
    });
  }

  /** Something went wrong; the tunnel may stand all the same. */
  failed(ref: ObjectRef, reason: string): void {
    this.update(ref, { lastError: reason });
  }

  update(ref: ObjectRef, change: Partial<TunnelFacts>): void {
    const present = this.get(ref);
    if (present !== undefined) this.#set(ref, { ...present, ...change });
  }

  #set(ref: ObjectRef, facts: TunnelFacts): void {
    this.#facts.set(formatRef(ref), facts);
    this.#changed(ref);
  }
}
