import type { DataCipher, DataKeys } from '../static-key.ts';
import type { Offer } from '../session/server-session.ts';
import type { AuthenticatedClient, Established } from '../session/session-event.ts';
import type { SessionState } from '../session/session-state.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';
import type { TlsFactory } from '../tls/tls-endpoint.ts';
import type { Rate } from '../token-buckets.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import type { Path, PeerAddress } from './path.ts';

/** What a server and its owner know of each other. */

export interface ServerSettings {
  readonly wrap: WrapConfig;
  readonly tls: TlsFactory;
  /** The ciphers allowed; the order decides. */
  readonly ciphers: readonly DataCipher[];
  /** Default 60 s. */
  readonly handshakeSeconds?: number | undefined;
  /** Default 3600 s; 0 leaves renegotiating to the clients and to `rekey`. */
  readonly renegotiateSeconds?: number | undefined;
  readonly tunMtu: number;
  readonly limits: ServerLimits;
}

export interface ServerLimits {
  /** Handshakes on their way, in all; a TCP connection counts from its first moment. */
  readonly halfOpen: number;
  /** The same from one IPv4 address or one IPv6 /56. */
  readonly halfOpenPerSource: number;
  /** Answers to first packets on UDP, whose sources may be forged. */
  readonly repliesPerSecond: number;
  /** Handshakes that may begin, in all (default `beginsInAll`). */
  readonly begins?: Rate | undefined;
  /** The same from one source (default `beginsPerSource`). */
  readonly beginsPerSource?: Rate | undefined;
}

export interface ServerOwner {
  /** Answer by the client's `accept` or `refuse`, now or soon: the time of the handshake runs on. */
  authenticated(client: ServedClient, who: AuthenticatedClient): void;
  /** Call the client's `confirm` once the kernel has the keys. */
  established(client: ServedClient, established: Established): void;
  /** A renegotiation begins: a key that is confirmed has to send from now on. */
  rekeying(client: ServedClient): void;
  /**
   * A further key: make it the secondary. Do not send with it before it is confirmed.
   *
   * @param skipsKey the client never got the key before this one: do not send with that
   */
  rekeyed(client: ServedClient, keyId: number, keys: DataKeys, skipsKey: boolean): void;
  /** The client has that key, too. */
  keyConfirmed(client: ServedClient, keyId: number): void;
  /** The client goes on with its present key. */
  rekeyFailed(client: ServedClient, keyId: number, reason: string): void;
  /**
   * Packets with the session id of a client come from elsewhere than where it is: if the kernel knows that it moved,
   * say so by its `moved`. Drivers before Linux 7.1 do not tell by themselves. Anybody may have forged such packets;
   * at most once a second for a client.
   */
  displaced(client: ServedClient): void;
  /** Once for every client that `authenticated` told of, unless the owner closed it. */
  ended(client: ServedClient, end: ClientEnd): void;
  /**
   * A handshake came to nothing, or its client was refused before `authenticated`. Not every one of a flood is told;
   * the reason then says how many were left out.
   */
  failed(path: Path, listener: string, reason: string, identity: PeerIdentity | undefined): void;
  /**
   * Why a verified certificate, of renegotiations too, is not welcome (any more); undefined when it is.
   *
   * @param client whose it is; not told of by `authenticated` yet when it is its first
   */
  recheck(identity: PeerIdentity, client: ServedClient): string | undefined;
}

/**
 * - `exit`: the client said that it leaves
 * - `failed`: its first handshake came to nothing after all, or its TLS session broke
 * - `closed`: our own farewell is done (`refuse`, `restart`, `halt`)
 * - `replaced-path`: another session of the same address and port has authenticated: the client began anew
 * - `transport`: its TCP connection or its listener was closed
 */
export interface ClientEnd {
  readonly cause: 'exit' | 'failed' | 'closed' | 'replaced-path' | 'transport';
  readonly reason: string;
}

/** An authenticated client, as its owner sees it. */
export interface ServedClient {
  readonly listener: string;
  readonly transport: 'udp' | 'tcp';
  readonly path: Path;
  /** Of the latest certificate. */
  readonly identity: PeerIdentity;
  /** Of the newest key. */
  readonly keyId: number;
  /**
   * Takes the client in; `established` follows. False when it is too late.
   *
   * @throws OvpnError InvalidField when the offer holds what cannot be pushed; the client still waits then
   */
  accept(offer: Offer): boolean;
  /** Refuses the client, with a reason for its log; `temporary` has it come again later. */
  refuse(reason: string, options?: { readonly temporary?: boolean; readonly backoffSeconds?: number }): void;
  /** The kernel has the keys: lets the client begin. */
  confirm(): void;
  /** Starts a renegotiation; false when it is not the time. */
  rekey(): boolean;
  /** Begins and answers no renegotiation any more; one that is on its way goes on. */
  pause(): void;
  /** Whether one is on its way. */
  readonly renegotiating: boolean;
  /** Asks the client to connect again, here or at its next server. */
  restart(reason: string, options?: { readonly nextRemote?: boolean }): void;
  /** Asks the client to end. */
  halt(reason: string): void;
  /** At once and silently: neither the client nor `ended` hears of it. */
  close(): void;
  /** The kernel saw data of the client from this address. */
  moved(remote: PeerAddress): void;
  /**
   * TCP: calls `take` when nothing of a next frame has been read and nothing waits to be sent, so that the kernel may
   * take the socket over in that very call. It returns whether that was done. UDP: calls it at once.
   */
  handOver(take: () => boolean): void;
  /** What a restarted program needs to go on with the session, once it is established. Secret: it holds keys. */
  exportState(): SessionState | undefined;
}
