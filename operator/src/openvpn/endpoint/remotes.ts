import { isIPv6 } from 'node:net';
import type { AdvanceTo } from '../negotiate/control-message.ts';
import type { Wait } from './backoff.ts';

/**
 * Which remote a dialer tries next, and when. Remotes are taken in order, and of each all addresses that its name
 * resolves to; that is one round. Within a round nothing waits, after a round without success the back-off does.
 *
 * Nothing here does anything: states in, states out.
 */

/** Where a server listens. */
export interface Remote {
  /** A name, or an address as text. */
  readonly host: string;
  readonly port: number;
  readonly transport: 'udp' | 'tcp';
}

/** "host:port/udp (address)", as people read it in a status. */
export function formatRemote({ host, port, transport }: Remote, address?: string): string {
  const name = `${isIPv6(host) ? `[${host}]` : host}:${port}/${transport}`;
  return address === undefined || address === host ? name : `${name} (${address})`;
}

export function sameRemote(a: Remote, b: Remote): boolean {
  return a.host === b.host && a.port === b.port && a.transport === b.transport;
}

export interface RetryState {
  /** Whose turn it is, as a place in the list of remotes. */
  readonly remote: number;
  /** Its addresses still to be tried, the next one first; undefined when the name has to be resolved first. */
  readonly addresses: readonly string[] | undefined;
  /** The address to begin with if the name still resolves to it. */
  readonly preferred: string | undefined;
  /** The remote at which this round began: back there, the round is through. */
  readonly roundBegan: number;
  /** How many waits have been made since the last success; the next is longer. */
  readonly failures: number;
  /** The address gets another try because a tunnel to it was there, if only for a short time. */
  readonly secondChance: boolean;
}

/** How a try ended. */
export type TryEnd =
  /** It came to no tunnel. */
  | { readonly kind: 'failed' }
  /** The tunnel was there, or the server spoke as if it were: the same server is the first choice. */
  | {
      readonly kind: 'lost';
      /** It lasted long enough to count as a success ({@link successMs}), so the back-off begins anew. */
      readonly success: boolean;
      /** The server has just said that it leaves, so it takes a moment until it is back. */
      readonly leaving?: boolean;
      /** The server sent us on to the next one. */
      readonly nextRemote?: boolean;
    }
  /** For now the server does not want us (AUTH_FAILED,TEMP). */
  | { readonly kind: 'deferred'; readonly seconds: number | undefined; readonly advance: AdvanceTo | undefined }
  /** The server does not want us. */
  | { readonly kind: 'refused' };

/**
 * How long a tunnel has to last to count as a success. One that never carries a packet lives until its keepalive
 * expires, and one that a server grants only to drop it (another client with our certificate pushes us out, and we it)
 * for less; neither may have us come back at once, again and again. Twice the keepalive's time is more than either.
 *
 * @param keepaliveSeconds the time without a packet after which the kernel gives a peer up
 */
export function successMs(keepaliveSeconds = 60): number {
  return 2000 * Math.max(30, keepaliveSeconds);
}

/** @param remote where to begin; the first */
export function beginning(remote = 0, preferred?: string): RetryState {
  return { remote, addresses: undefined, preferred, roundBegan: remote, failures: 0, secondChance: false };
}

/** After the name of the remote has been resolved to these addresses. */
export function resolved(state: RetryState, addresses: readonly string[]): RetryState {
  const { preferred } = state;
  const first = preferred !== undefined && addresses.includes(preferred) ? [preferred] : [];
  return { ...state, addresses: [...new Set([...first, ...addresses])] };
}

/**
 * After a try of the first of `addresses`, or of a name that did not resolve.
 *
 * @param remotes how many there are, at least one
 */
export function afterTry(state: RetryState, remotes: number, end: TryEnd): { state: RetryState; wait: Wait } {
  switch (end.kind) {
    case 'failed':
      return endRound(nextAddress(state, remotes), undefined);
    case 'deferred':
      return afterDeferral(state, remotes, end);
    case 'refused':
      return { state: newRound(nextRemote(state, remotes).state), wait: { kind: 'longest' } };
    case 'lost':
      return afterTunnel(state, remotes, end);
  }
}

function afterDeferral(
  state: RetryState,
  remotes: number,
  { seconds, advance }: Extract<TryEnd, { kind: 'deferred' }>,
): { state: RetryState; wait: Wait } {
  const asked: Wait | undefined = seconds === undefined ? undefined : { kind: 'asked', seconds };
  if (advance === 'no') {
    return asked === undefined ? backOff(state) : { state, wait: asked };
  }
  return endRound(advance === 'remote' ? nextRemote(state, remotes) : nextAddress(state, remotes), asked);
}

function afterTunnel(
  state: RetryState,
  remotes: number,
  { success, leaving = false, nextRemote: sentOn = false }: Extract<TryEnd, { kind: 'lost' }>,
): { state: RetryState; wait: Wait } {
  if (success) {
    const { state: next } = sentOn ? nextRemote(state, remotes) : { state };
    return {
      // The name may mean another server by now.
      state: beginning(next.remote, sentOn ? undefined : state.addresses?.[0]),
      wait: leaving ? { kind: 'backoff', failures: 1 } : { kind: 'none' },
    };
  }
  if (sentOn) {
    return backOff(newRound(nextRemote(state, remotes).state));
  }
  return backOff(
    state.secondChance ? newRound(nextAddress(state, remotes).state) : newRound({ ...state, secondChance: true }),
  );
}

interface Step {
  readonly state: RetryState;
  readonly roundIsThrough: boolean;
}

function nextAddress(state: RetryState, remotes: number): Step {
  const addresses = state.addresses?.slice(1) ?? [];
  return addresses.length === 0
    ? nextRemote(state, remotes)
    : { state: { ...state, addresses, secondChance: false }, roundIsThrough: false };
}

function nextRemote(state: RetryState, remotes: number): Step {
  const remote = (state.remote + 1) % remotes;
  return {
    state: { ...state, remote, addresses: undefined, preferred: undefined, secondChance: false },
    roundIsThrough: remote === state.roundBegan,
  };
}

function newRound(state: RetryState): RetryState {
  return { ...state, roundBegan: state.remote };
}

function backOff(state: RetryState): { state: RetryState; wait: Wait } {
  const failures = state.failures + 1;
  return { state: { ...state, failures }, wait: { kind: 'backoff', failures } };
}

function endRound({ state, roundIsThrough }: Step, asked: Wait | undefined): { state: RetryState; wait: Wait } {
  if (!roundIsThrough) {
    return { state, wait: asked ?? { kind: 'none' } };
  }
  const backedOff = backOff(state);
  return { state: backedOff.state, wait: asked ?? backedOff.wait };
}
