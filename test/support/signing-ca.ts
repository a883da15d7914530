import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A CA below a root, as a person has it who runs a PKI of their own. */
export interface SigningCa {
  readonly certificate: string;
  readonly key: string;
  readonly root: string;
  readonly rootKey: string;
}

const ofAuthority = [
  'basicConstraints=critical,CA:TRUE',
  'keyUsage=critical,keyCertSign,cRLSign',
  'subjectKeyIdentifier=hash',
  'authorityKeyIdentifier=keyid',
];
const p256 = ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out'];

/**
 * Makes one by openssl(1).
 *
 * @param makeKey the words of openssl that make a private key, up to the name of its file
 */
export function makeSigningCa(makeKey: readonly string[] = p256): SigningCa {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-signing-ca-'));
  const openssl = (...words: string[]): void => void execFileSync('openssl', words, { cwd: folder, stdio: 'pipe' });
  const read = (name: string): string => readFileSync(join(folder, name), 'utf8');
  try {
    writeFileSync(join(folder, 'ca.ext'), ofAuthority.map((line) => `${line}\n`).join(''));
    for (const name of ['root', 'signing']) {
      openssl(...makeKey, `${name}.key`);
      openssl('req', '-new', '-key', `${name}.key`, '-subj', `/CN=${name}`, '-out', `${name}.csr`);
    }
    const sign = ['x509', '-req', '-days', '900', '-extfile', 'ca.ext'];
    openssl(...sign, '-in', 'root.csr', '-signkey', 'root.key', '-out', 'root.crt');
    openssl(...sign, '-in', 'signing.csr', '-CA', 'root.crt', '-CAkey', 'root.key', '-out', 'signing.crt');
    return {
      certificate: read('signing.crt'),
      key: read('signing.key'),
      root: read('root.crt'),
      rootKey: read('root.key'),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
