// First: the library's containers look for it when they load.
import 'reflect-metadata';
import { randomBytes, webcrypto, X509Certificate as NodeCertificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';

/**
 * Certificates of a network's own CA: elliptic curve P-256, signed with ECDSA and SHA-256, as RFC 5280 has them and
 * OpenVPN's `--remote-cert-tls` checks them. Private keys leave here as PKCS#8 in PEM and are kept by the caller alone.
 */

const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const signingAlgorithm = { name: 'ECDSA', hash: 'SHA-256' } as const;

/** Clocks of clients may be behind ours by so much. */
const backdateMs = 3_600_000;

/** A certificate with its private key, in PEM. The key is secret. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

/** What is read of a certificate of ours. Times in milliseconds since 1970. */
export interface CertificateFacts {
  /** SHA-256, upper-case hexadecimal without colons, as identities have it (api/certificate-names.ts). */
  readonly fingerprint: string;
  readonly serialNumber: string;
  readonly commonName: string;
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface CertificateRequest {
  readonly commonName: string;
  readonly usage: 'serverAuth' | 'clientAuth';
  readonly now: number;
  /** For how long it is to be valid; never longer than its CA. Milliseconds. */
  readonly lifetimeMs: number;
}

/** A new self-signed CA. `generation` keeps the names of successive CAs of a network apart. */
export async function newCa(network: string, generation: number, now: number, lifetimeMs: number): Promise<KeyPair> {
  const keys = await newKeys();
  const cert = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(),
      name: [{ CN: [`${network} CA ${generation}`] }, { O: ['ovpn-operator'] }],
      notBefore: new Date(now - backdateMs),
      notAfter: new Date(now + lifetimeMs),
      signingAlgorithm,
      keys,
      extensions: [
        // No CA below it.
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return { cert: pem(cert), key: await privateKeyPem(keys.privateKey) };
}

/** A certificate and a fresh key for it, signed by a CA. */
export async function issue(ca: KeyPair, request: CertificateRequest): Promise<KeyPair> {
  const { commonName, usage, now, lifetimeMs } = request;
  const issuer = new x509.X509Certificate(ca.cert);
  const keys = await newKeys();
  const cert = await x509.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      subject: [{ CN: [commonName] }],
      issuer: issuer.subjectName,
      notBefore: new Date(now - backdateMs),
      notAfter: new Date(Math.min(now + lifetimeMs, issuer.notAfter.getTime())),
      signingAlgorithm,
      publicKey: keys.publicKey,
      signingKey: await importPrivateKey(ca.key),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[usage]], false),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
        await x509.AuthorityKeyIdentifierExtension.create(issuer, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return { cert: pem(cert), key: await privateKeyPem(keys.privateKey) };
}

/** What a certificate says; undefined when the text is none. */
export function factsOf(cert: string): CertificateFacts | undefined {
  try {
    const { fingerprint256, serialNumber: serial, subject, validFromDate, validToDate } = new NodeCertificate(cert);
    return {
      fingerprint: fingerprint256.replaceAll(':', ''),
      serialNumber: serial,
      commonName: /^CN=(.*)$/m.exec(subject)?.[1] ?? '',
      notBefore: validFromDate.getTime(),
      notAfter: validToDate.getTime(),
    };
  } catch {
    return undefined;
  }
}

/** Whether a certificate was signed by one of the CAs. */
export function isSignedBy(cert: string, cas: readonly { readonly cert: string }[]): boolean {
  try {
    const certificate = new NodeCertificate(cert);
    return cas.some((ca) => certificate.checkIssued(new NodeCertificate(ca.cert)));
  } catch {
    return false;
  }
}

/** A serial number of 127 random bits: positive, and more than the 64 bits that CAs are asked for. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  // The top bit would make it negative, and a zero byte ahead would be no minimal encoding (X.690, 8.3.2).
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
}

async function privateKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

async function importPrivateKey(key: string): Promise<webcrypto.CryptoKey> {
  const [der] = x509.PemConverter.decode(key);
  if (der === undefined) throw new TypeError('the key of the CA is not a private key in PEM');
  return webcrypto.subtle.importKey('pkcs8', der, keyAlgorithm, false, ['sign']);
}

function pem(cert: x509.X509Certificate): string {
  return `${cert.toString('pem')}\n`;
}
