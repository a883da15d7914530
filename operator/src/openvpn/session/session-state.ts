import type { Role } from '../negotiate/key-method.ts';
import type { PushedOptions } from '../negotiate/push.ts';
import type { DataCipher } from '../static-key.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';
import type { WrapperState } from '../wrap/session-wrapper.ts';

/**
 * An established session as it outlives its program, as plain JSON. There are no data keys in it, those are the
 * kernel's alone; but the wrapping's keys are, so it is as secret as a private key.
 */
export interface SessionState {
  readonly version: 1;
  readonly role: Role;
  readonly sessionId: string;
  readonly peerSessionId: string;
  readonly keyId: number;
  readonly nextKeyId: number;
  /** The peer may not have the newest key: no `key-confirmed` has come for it. */
  readonly unconfirmed?: boolean;
  readonly identity: PeerIdentity;
  readonly negotiated: {
    readonly cipher: DataCipher;
    readonly peerId: number;
    readonly exitMessage: boolean;
    readonly dynamicTlsCrypt: boolean;
    readonly push: PushedOptions;
  };
  readonly wrapper: WrapperState;
}

/**
 * Checks what a state from a file must have for a session to be built on it.
 *
 * @throws RangeError
 */
export function parseState(state: SessionState, role: Role): SessionState {
  const { version, sessionId, peerSessionId, keyId, nextKeyId } = state;
  const ids = [sessionId, peerSessionId].every((id) => /^[0-9a-f]{16}$/.test(id) && !/^0*$/.test(id));
  const keyIds = [keyId, nextKeyId].every((id) => Number.isInteger(id) && id >= 0 && id <= 7) && nextKeyId > 0;
  if ((version as number) !== 1 || state.role !== role || !ids || !keyIds) {
    throw new RangeError(`is no state of a ${role}'s session`);
  }
  return state;
}
