import type { DataCipher } from '../static-key.ts';
import { hasProtocol, type PeerInfo, protocolBits } from './peer-info.ts';
import { printable } from './protocol-fault.ts';

/** What a peer must bring for its data to go through the kernel, and the words for one that does not. */

export type CipherChoice = { readonly cipher: DataCipher } | { readonly refusal: string };

/** The first of the server's ciphers that the client has, as OpenVPN's server chooses ("--data-ciphers"). */
export function chooseCipher(ofServer: readonly DataCipher[], ofClient: readonly string[]): DataCipher | undefined {
  return ofServer.find((cipher) => ofClient.includes(cipher));
}

/**
 * What makes a client's session impossible, or the cipher for it. The refusal is for the peer's log as well as
 * ours, so it says what to change.
 */
export function negotiate(ofServer: readonly DataCipher[], client: PeerInfo): CipherChoice {
  if (!hasProtocol(client, protocolBits.dataV2)) {
    return { refusal: `this OpenVPN${version(client)} has no data packets with a peer id; use OpenVPN 2.6 or newer` };
  }
  if (!hasProtocol(client, protocolBits.tlsKeyExport)) {
    return { refusal: `this OpenVPN${version(client)} has no TLS key export (tls-ekm); use OpenVPN 2.6 or newer` };
  }
  const cipher = chooseCipher(ofServer, client.ciphers);
  if (cipher === undefined) {
    const offered = client.ciphers.length === 0 ? 'none' : printable(client.ciphers.join(':'));
    return { refusal: `no common data cipher: the server allows ${ofServer.join(':')}, the client ${offered}` };
  }
  return { cipher };
}

function version({ version: claimed }: PeerInfo): string {
  return claimed === undefined ? '' : ` ${printable(claimed, 32)}`;
}

/** The part of a push that follows from what the client announced. */
export interface PushedProtocol {
  readonly protocolFlags: readonly string[];
  readonly keyDerivation: 'tls-ekm' | undefined;
}

/** OpenVPN's "protocol-flags", or the single "key-derivation" for a client that does not know them. */
export function pushedProtocol(client: PeerInfo, dynamicTlsCrypt: boolean): PushedProtocol {
  if (!hasProtocol(client, protocolBits.exitMessage)) {
    return { protocolFlags: [], keyDerivation: 'tls-ekm' };
  }
  const dynamic = dynamicTlsCrypt && hasProtocol(client, protocolBits.dynamicTlsCrypt);
  return {
    protocolFlags: ['cc-exit', 'tls-ekm', ...(dynamic ? ['dyn-tls-crypt'] : [])],
    keyDerivation: undefined,
  };
}
