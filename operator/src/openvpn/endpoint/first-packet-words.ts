import { classify } from '../wire/opcode.ts';
import type { SessionDrop } from '../session/session.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import type { DropReason } from '../wrap/stateless-start.ts';

const wrapNames: Readonly<Record<Exclude<WrapConfig['kind'], 'none'>, string>> = {
  'tls-auth': 'tls-auth',
  'tls-crypt': 'tls-crypt',
  'tls-crypt-v2-server': 'tls-crypt-v2',
  'tls-crypt-v2-client': 'tls-crypt-v2',
};

/**
 * Why a client's first packet led to nothing, for whoever runs it; undefined when nothing in it is to be mended, or when
 * it is no first packet.
 */
export function firstPacketWords(
  wrap: WrapConfig['kind'],
  reason: DropReason | SessionDrop,
  packet: Buffer,
): string | undefined {
  const first = classify(packet[0]);
  const opcode = first.kind === 'control' ? first.opcode : undefined;
  if (opcode !== 'hard-reset-client-v2' && opcode !== 'hard-reset-client-v3') {
    return undefined;
  }
  switch (reason) {
    case 'limit':
    case 'cookie':
    case 'other-session':
    case 'replayed':
      return undefined;
    case 'no-early-negotiation':
      return 'the client is older than OpenVPN 2.6, which this server needs for tls-crypt-v2 on UDP';
    case 'client-key':
      return opcode === 'hard-reset-client-v3'
        ? "the client's tls-crypt-v2 key was not issued under this server's key, or is not accepted any more"
        : otherWrapping(wrap);
    case 'unauthenticated':
    case 'truncated':
    case 'malformed':
    case 'too-long':
    case 'opcode':
    case 'unexpected':
      return otherWrapping(wrap);
  }
}

function otherWrapping(wrap: WrapConfig['kind']): string {
  return wrap === 'none'
    ? "the client's first packet is wrapped or damaged: this server uses neither tls-auth nor tls-crypt"
    : `the client's first packet does not authenticate: it needs ${wrapNames[wrap]} with the key of this server`;
}
