import { isIP } from 'node:net';
import { describe } from '../../errors.ts';
import type { Established } from '../session/session-event.ts';
import { parseState, type SessionState } from '../session/session-state.ts';
import type { DataKeys } from '../static-key.ts';
import { waitMs } from './backoff.ts';
import {
  type ClientWrap,
  type Connection,
  type ConnectionEvents,
  type Connector,
  type DialedTunnel,
  DialerTry,
  type Ending,
  type Environment,
  type TrySettings,
} from './dialer-try.ts';
import {
  afterTry,
  beginning,
  formatRemote,
  type Remote,
  resolved,
  type RetryState,
  sameRemote,
  type TryEnd,
} from './remotes.ts';

export type {
  ClientWrap,
  Connection,
  ConnectionEvents,
  Connector,
  DialedTunnel,
  Environment,
  TrySettings,
} from './dialer-try.ts';
export type { Remote } from './remotes.ts';

export interface DialerSettings extends TrySettings {
  /** In the order to try them; at least one. */
  readonly remotes: readonly Remote[];
}

/**
 * What a dialer tells. The words are for people: they name the remote, what went wrong, and what to look at. Every
 * method may call back into the dialer.
 */
export interface DialerOwner {
  /**
   * Whether the next try may begin; asked before each one. Undefined stands for yes, at once. After no (false), it is
   * asked again a second later.
   */
  mayDial?(): Promise<boolean> | undefined;
  connecting(remote: Remote, address: string): void;
  /**
   * The server has pushed its options and the data keys are there. In this order the owner
   *
   * 1. makes the device fit `established.push`,
   * 2. calls `tunnel.handOver`, and in that very callback gives the socket (`tunnel.connection.fd`) to the kernel as a
   *    new peer; true from the callback says that it has. On TCP, whoever reads the socket learns it in the same
   *    callback too, because from then on a read is one control packet,
   * 3. installs `established.keys`, once,
   * 4. if any of this fails, calls `lostInKernel` with the reason, and the dialer begins anew with fresh keys.
   *
   * It need not happen within this call: until the callback, nothing of what follows on a TCP stream is read, however
   * long it takes. That the socket is read no further holds only if what `wanted` says is asked before each read.
   */
  established(tunnel: DialedTunnel, established: Established): void;
  /** A renegotiation begins: a key that is confirmed has to send from now on. */
  rekeying(tunnel: DialedTunnel): void;
  /** A further key: make it the secondary. Do not send with it before it is confirmed. */
  rekeyed(tunnel: DialedTunnel, keyId: number, keys: DataKeys): void;
  /** The server has that key, too. */
  keyConfirmed(tunnel: DialedTunnel, keyId: number): void;
  /** The tunnel goes on with its present key. */
  rekeyFailed(tunnel: DialedTunnel, keyId: number, reason: string): void;
  /**
   * A try failed, or the tunnel ended; its connection is closed. The owner removes the peer if the kernel has not. The
   * dialer tries again by itself.
   */
  lost(reason: string, retryInMs: number, how: TryEnd['kind']): void;
}

/** After how long an owner that said no is asked again. */
const askAgainMs = 1_000;

/**
 * Keeps a tunnel to one of some remotes: connects, and connects again whenever the tunnel is lost. There is one try at
 * a time and one tunnel at most.
 */
export class Dialer {
  #settings: DialerSettings;
  readonly #owner: DialerOwner;
  readonly #connector: Connector;
  readonly #environment: Environment;
  #phase: 'new' | 'running' | 'stopping' | 'closed' = 'new';
  #retry: RetryState = beginning();
  #try: DialerTry | undefined;
  /** Calls off whatever comes next: a wait, or a name that is being resolved. */
  #cancelNext: () => void = () => undefined;
  /** The present try is of settings that are no longer: after it, all begins anew. */
  #outdated = false;
  #stopped: PromiseWithResolvers<undefined> | undefined;

  constructor(settings: DialerSettings, owner: DialerOwner, connector: Connector, environment: Environment) {
    this.#settings = checked(settings);
    this.#owner = owner;
    this.#connector = connector;
    this.#environment = environment;
  }

  /** Begins to connect. Does nothing the second time, or after a stop. */
  start(): void {
    if (this.#phase === 'new') {
      this.#phase = 'running';
      this.#next();
    }
  }

  /**
   * Begins with the tunnel of an earlier program, whose data the kernel still carries, instead of `start`. Farewells
   * are understood again after the next renegotiation.
   *
   * @param at what the tunnel led to
   * @param connect makes the connection that the kernel has, for these events
   * @returns undefined when the settings have no such remote any more, or not its cipher: then nothing has happened
   * @throws RangeError when the state is none of a client's session; nothing has happened then either
   */
  resume(
    at: { readonly remote: Remote; readonly address: string },
    state: SessionState,
    connect: (events: ConnectionEvents) => Connection,
  ): DialedTunnel | undefined {
    const place = this.#settings.remotes.findIndex((remote) => sameRemote(remote, at.remote));
    const { cipher } = parseState(state, 'client').negotiated;
    if (this.#phase !== 'new' || place < 0 || !this.#settings.ciphers.includes(cipher)) {
      return undefined;
    }
    const resumed = this.#newTry(at);
    resumed.resume(state, connect);
    this.#phase = 'running';
    this.#retry = { ...this.#retry, remote: place, addresses: [at.address], roundBegan: place };
    this.#try = resumed;
    return resumed;
  }

  /**
   * Takes over other settings. A tunnel stays as long as its remote is still in the list and what was negotiated is
   * still allowed; other credentials or wrapping keys need a new connection, which is made at once: OpenVPN's server
   * refuses a renegotiation with another certificate (2.6.14 and 2.7.8: AUTH_FAILED). While there is no tunnel, any
   * change that may matter has the dialer begin anew, without a wait. What else changes counts from the next connection
   * on.
   */
  configure(settings: DialerSettings): void {
    const before = this.#settings;
    this.#settings = checked(settings);
    if (this.#phase !== 'running') {
      return;
    }
    const current = this.#try;
    if (current === undefined || current.phase === 'connecting' || current.phase === 'negotiating') {
      if (changesNegotiation(before, settings)) {
        current?.close();
        this.#beginAnew();
      }
      return;
    }
    if (current.phase !== 'established') {
      this.#outdated ||= changesNegotiation(before, settings);
      return;
    }
    const place = settings.remotes.findIndex((remote) => sameRemote(remote, current.remote));
    const cipher = current.exportState()?.negotiated.cipher;
    if (
      place < 0 ||
      (cipher !== undefined && !settings.ciphers.includes(cipher)) ||
      settings.maxTunMtu !== before.maxTunMtu ||
      settings.tls !== before.tls ||
      !sameWrap(settings.wrap, before.wrap)
    ) {
      this.#outdated = true;
      current.leave('connecting again, because the settings have changed');
      return;
    }
    this.#retry = { ...this.#retry, remote: place, roundBegan: place };
  }

  /**
   * The kernel has lost the peer (its keepalive expired, or the transport failed), or could not take it: closes the
   * session and connects again, first to the same server. Without an established tunnel nothing happens, as the news is
   * late then.
   */
  lostInKernel(reason: string): void {
    this.#try?.lose(reason);
  }

  /**
   * Ends for good: says EXIT if the server understands it, and is done when the server has heard it, after 5 s at the
   * latest. The owner hears nothing any more; the kernel's peer is its own to remove, before or after.
   */
  async stop(): Promise<void> {
    if (this.#phase === 'new' || this.#phase === 'running') {
      this.#phase = 'stopping';
      this.#cancelNext();
      this.#stopped = Promise.withResolvers<undefined>();
      if (this.#try?.phase === 'established') {
        this.#try.leave('stopped');
      } else if (this.#try?.phase !== 'ending') {
        this.close();
      }
    }
    await this.#stopped?.promise;
  }

  /** Ends for good, at once and silently. */
  close(): void {
    this.#phase = 'closed';
    this.#cancelNext();
    this.#try?.close();
    this.#try = undefined;
    this.#stopped?.resolve(undefined);
  }

  #beginAnew(): void {
    this.#retry = beginning();
    this.#try = undefined;
    this.#cancelNext();
    this.#next();
  }

  #next(): void {
    this.#outdated = false;
    const asked = this.#owner.mayDial?.();
    if (asked === undefined) {
      this.#begin();
      return;
    }
    let wanted = true;
    this.#cancelNext = () => (wanted = false);
    void asked.then((may) => {
      if (!wanted) return;
      if (may) this.#begin();
      else this.#cancelNext = this.#environment.scheduler.after(askAgainMs, () => this.#next());
    });
  }

  #begin(): void {
    const remote = this.#settings.remotes[this.#retry.remote] ?? this.#settings.remotes[0];
    if (remote === undefined) {
      return;
    }
    const address = this.#retry.addresses?.[0];
    if (address !== undefined) {
      this.#dial(remote, address);
    } else if (isIP(remote.host) !== 0) {
      this.#resolvedTo(remote, [remote.host]);
    } else {
      this.#resolve(remote);
    }
  }

  #resolve(remote: Remote): void {
    const { connectSeconds = 10 } = this.#settings;
    let wanted = true;
    const settle = (then: () => void): void => {
      if (wanted) {
        this.#cancelNext();
        then();
      }
    };
    const fail = (why: string): void =>
      this.#ended({
        reason: `${formatRemote(remote)}: the name ${remote.host} ${why}; check its spelling and the DNS of this node`,
        end: { kind: 'failed' },
      });
    const cancelTimeout = this.#environment.scheduler.after(connectSeconds * 1000, () =>
      settle(() => fail(`was not resolved within ${connectSeconds} s`)),
    );
    this.#cancelNext = () => {
      wanted = false;
      cancelTimeout();
    };
    const resolving = (async () => this.#connector.resolve(remote.host))();
    void resolving.then(
      (addresses) =>
        settle(() => (addresses.length === 0 ? fail('has no address') : this.#resolvedTo(remote, addresses))),
      (error: unknown) => settle(() => fail(`does not resolve: ${describe(error)}`)),
    );
  }

  #resolvedTo(remote: Remote, addresses: readonly string[]): void {
    this.#retry = resolved(this.#retry, addresses);
    this.#dial(remote, this.#retry.addresses?.[0] ?? '');
  }

  #dial(remote: Remote, address: string): void {
    const next = this.#newTry({ remote, address });
    this.#try = next;
    this.#owner.connecting(remote, address);
    // The owner may have closed or reconfigured us.
    if (this.#try === next) {
      next.open(this.#connector);
    }
  }

  #newTry(target: { readonly remote: Remote; readonly address: string }): DialerTry {
    return new DialerTry(target, this.#settings, this.#environment, {
      established: (tunnel, established) => this.#owner.established(tunnel, established),
      rekeyed: (tunnel, keyId, keys) => this.#owner.rekeyed(tunnel, keyId, keys),
      rekeying: (tunnel) => this.#owner.rekeying(tunnel),
      keyConfirmed: (tunnel, keyId) => this.#owner.keyConfirmed(tunnel, keyId),
      rekeyFailed: (tunnel, keyId, reason) => this.#owner.rekeyFailed(tunnel, keyId, reason),
      ended: (ending) => this.#ended(ending),
    });
  }

  #ended({ reason, end }: Ending): void {
    this.#try = undefined;
    if (this.#phase !== 'running') {
      this.close();
      return;
    }
    const after = afterTry(this.#retry, this.#settings.remotes.length, end);
    const milliseconds = this.#outdated ? 0 : waitMs(after.wait, this.#environment.random(2).readUInt16BE() / 0xffff);
    this.#retry = this.#outdated ? beginning() : after.state;
    this.#cancelNext = this.#environment.scheduler.after(milliseconds, () => this.#next());
    this.#owner.lost(reason, milliseconds, end.kind);
  }
}

/** @throws RangeError without a remote */
function checked(settings: DialerSettings): DialerSettings {
  if (settings.remotes.length === 0) {
    throw new RangeError('a dialer needs at least one remote');
  }
  return settings;
}

/** Whether a connection made now could come out otherwise. */
function changesNegotiation(before: DialerSettings, after: DialerSettings): boolean {
  return (
    before.tls !== after.tls ||
    before.maxTunMtu !== after.maxTunMtu ||
    !sameList(before.remotes, after.remotes, sameRemote) ||
    !sameList(before.ciphers, after.ciphers, (a, b) => a === b) ||
    !sameWrap(before.wrap, after.wrap)
  );
}

function sameWrap(a: ClientWrap, b: ClientWrap): boolean {
  if (a === b) {
    return true;
  }
  const sameKey = a.kind !== 'none' && b.kind !== 'none' && Buffer.compare(a.key, b.key) === 0;
  switch (a.kind) {
    case 'none':
      return b.kind === 'none';
    case 'tls-auth':
      return sameKey && b.kind === a.kind && b.digest === a.digest && b.direction === a.direction;
    case 'tls-crypt':
      return sameKey && b.kind === a.kind;
    case 'tls-crypt-v2-client':
      return sameKey && b.kind === a.kind && b.wrapped.equals(a.wrapped);
  }
}

function sameList<T>(a: readonly T[], b: readonly T[], same: (a: T, b: T) => boolean): boolean {
  return a.length === b.length && a.every((item, i) => same(item, b[i] as T));
}
