import type { AuthFailure } from '../negotiate/control-message.ts';
import type { PeerInfo } from '../negotiate/peer-info.ts';
import type { PushedOptions } from '../negotiate/push.ts';
import type { DataCipher, DataKeys } from '../static-key.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';

/** What a session tells its owner. */
export type SessionEvent =
  /** Server: the client is who its certificate says and can be served. Answer by `accept` or `refuse`. */
  | { readonly type: 'authenticated'; readonly client: AuthenticatedClient }
  /** Server: the client cannot be served (any more), and is told why; who it is, if its certificate is valid. `closed` follows. */
  | { readonly type: 'refused'; readonly reason: string; readonly identity: PeerIdentity | undefined }
  /** The data keys are there. A server's owner calls `confirm` once the kernel has them. */
  | { readonly type: 'established'; readonly established: Established }
  /**
   * A renegotiation begins, by whichever side. At this moment OpenVPN throws away the key before its newest
   * (key_state_soft_reset): one that is installed and confirmed has to send from now on.
   */
  | { readonly type: 'rekeying' }
  /** A further key: make it the secondary. The peer may not have it yet. */
  | {
      readonly type: 'rekeyed';
      readonly keyId: number;
      readonly keys: DataKeys;
      /** Server: the client says that it never got the key before this one, and so cannot read what is sent with it. */
      readonly skipsKey: boolean;
    }
  /** The peer has that key, too, as it has acknowledged all that was said for it, or goes on to the next: it may be sent with. */
  | { readonly type: 'key-confirmed'; readonly keyId: number }
  /** The session goes on with its present key. */
  | { readonly type: 'rekey-failed'; readonly keyId: number; readonly reason: string }
  /** Client: the server refused us. */
  | { readonly type: 'auth-failed'; readonly failure: AuthFailure }
  /** Client: the server wants us to connect again. */
  | { readonly type: 'restart'; readonly reason: string; readonly nextRemote: boolean }
  /** Client: the server wants us to stay away. */
  | { readonly type: 'halt'; readonly reason: string }
  /** The peer has left. */
  | { readonly type: 'exit' }
  | { readonly type: 'info'; readonly text: string }
  /** It did not come to a session, or it broke. Nothing follows. */
  | { readonly type: 'failed'; readonly reason: string }
  /** The end after a farewell of either side. Nothing follows. */
  | { readonly type: 'closed' };

export interface AuthenticatedClient {
  readonly identity: PeerIdentity;
  readonly peerInfo: PeerInfo;
  /** '' when it sent none. Nothing here has checked it. */
  readonly username: string;
  readonly cipher: DataCipher;
  /** Options in its own configuration by which no data may pass. */
  readonly foreignFraming: readonly string[];
}

export interface Established {
  readonly keyId: number;
  readonly keys: DataKeys;
  readonly cipher: DataCipher;
  readonly peerId: number;
  /** The EXIT message may be used. */
  readonly exitMessage: boolean;
  readonly dynamicTlsCrypt: boolean;
  /** At the server what was pushed, at the client what was received. */
  readonly push: PushedOptions;
  /** Client: pushed options that are passed over. */
  readonly ignoredOptions: readonly string[];
  readonly identity: PeerIdentity;
  readonly tlsVersion: string;
  readonly tlsCipher: string;
}
