import type { Target } from '../target.ts';
import { cniCall, kernelAnswer, manifest, materialEnd } from './documents.ts';
import { dialer, serverDatagrams, serverStreams } from './endpoint.ts';
import { certificate, staticKeyFile, tlsCryptV2KeyFile } from './keys.ts';
import { agentRequest, holderRequest, notifications, wrapperState } from './local.ts';
import { controlMessages, keyMethod, optionWords, peerInfo, push } from './negotiate.ts';
import { clientSession, serverSession } from './session.ts';
import { earlyNegotiation, frames, packet, reliability } from './wire.ts';
import { wrapTargets } from './wrap.ts';

export const targets: readonly Target[] = [
  packet,
  frames,
  earlyNegotiation,
  reliability,
  ...wrapTargets,
  keyMethod,
  peerInfo,
  controlMessages,
  push,
  optionWords,
  staticKeyFile,
  tlsCryptV2KeyFile,
  certificate,
  serverSession,
  clientSession,
  serverDatagrams,
  serverStreams,
  dialer,
  agentRequest,
  holderRequest,
  notifications,
  wrapperState,
  manifest,
  cniCall,
  kernelAnswer,
  materialEnd,
];

/** @throws RangeError */
export function targetNamed(name: string): Target {
  const target = targets.find((one) => one.name === name);
  if (target === undefined) {
    throw new RangeError(`there is no target "${name}"`);
  }
  return target;
}
