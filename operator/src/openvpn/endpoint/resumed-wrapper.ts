import { parseState, type SessionState } from '../session/session-state.ts';
import { SessionWrapper, type WrapConfig, type WrapperOptions } from '../wrap/session-wrapper.ts';
import { parseWrapperState } from '../wrap/wrapper-state.ts';

/**
 * The wrapping of a session of an earlier program. Its configuration may have changed: packets of dynamic tls-crypt do
 * without it.
 *
 * @throws RangeError when the state is none of a session in this role
 */
export function resumedWrapper(
  config: WrapConfig,
  options: Omit<WrapperOptions, 'state' | 'sentBefore'>,
  session: SessionState,
): SessionWrapper {
  const state = parseWrapperState(parseState(session, options.role).wrapper);
  if (state === undefined) {
    throw new RangeError("is no state of a session's wrapping");
  }
  return new SessionWrapper(config, { ...options, state });
}
