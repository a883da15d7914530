import { printable } from '../negotiate/protocol-fault.ts';
import { type PeerIdentity } from './peer-identity.ts';

/**
 * What a side demands of the other's certificate beyond a valid chain. A client needs one of these: every
 * certificate of the CA, another client's too, would else do for a server (openvpn(8), "--remote-cert-tls",
 * "--verify-x509-name", "--peer-fingerprint").
 */
export interface PeerChecks {
  readonly name?: { readonly type: 'name' | 'name-prefix' | 'subject'; readonly value: string } | undefined;
  /** The extended key usage that the certificate has to list. */
  readonly remoteCertTls?: 'server' | 'client' | undefined;
  /** SHA-256, hexadecimal with or without colons; one of them has to match. */
  readonly fingerprints?: readonly string[] | undefined;
}

const extendedKeyUsage = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' } as const;

/** Why the peer is not the one wanted, in words; undefined when it is. */
export function whyNotWanted(identity: PeerIdentity, checks: PeerChecks): string | undefined {
  const { name, remoteCertTls, fingerprints } = checks;
  if (remoteCertTls !== undefined && !identity.extendedKeyUsage.includes(extendedKeyUsage[remoteCertTls])) {
    return `its certificate is not for a ${remoteCertTls}: the extended key usage does not say so`;
  }
  if (name !== undefined && !nameMatches(identity, name.type, name.value)) {
    const [shown, what] = name.type === 'subject' ? [identity.subject, 'subject'] : [identity.commonName, 'name'];
    return `its certificate has the ${what} "${printable(shown)}", not "${name.value}"${name.type === 'name-prefix' ? '…' : ''}`;
  }
  const wanted = fingerprints?.map(bareHex);
  if (wanted?.includes(bareHex(identity.fingerprint)) === false) {
    return `its certificate has the fingerprint ${identity.fingerprint}, which is not an allowed one`;
  }
  return undefined;
}

function nameMatches({ commonName, subject }: PeerIdentity, type: 'name' | 'name-prefix' | 'subject', value: string) {
  switch (type) {
    case 'name':
      return commonName === value;
    case 'name-prefix':
      // An empty prefix would let everyone in; it is a mistake, not a wish.
      return value !== '' && commonName.startsWith(value);
    case 'subject':
      return subject === value;
  }
}

function bareHex(fingerprint: string): string {
  return fingerprint.replaceAll(/[^0-9a-fA-F]/g, '').toLowerCase();
}
