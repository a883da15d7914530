// First: the library's containers look for it when they load.
import 'reflect-metadata';
import {
  createPrivateKey,
  type KeyObject,
  randomBytes,
  webcrypto,
  X509Certificate as NodeCertificate,
} from 'node:crypto';
import * as x509 from '@peculiar/x509';

/**
 * Certificates of a network's own CA: elliptic curve P-256, signed with ECDSA and SHA-256, as RFC 5280 has them and
 * OpenVPN's `--remote-cert-tls` checks them. The CA of a person may also have another curve, or sign with RSA. Private keys leave here as PKCS#8 in PEM and are kept by the caller alone.
 */

const organisation = 'ovpn-operator';
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
      name: [{ CN: [`${network} CA ${generation}`] }, { O: [organisation] }],
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
      ...(await signer(ca.key)),
      publicKey: keys.publicKey,
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

/** Whether a private key is the one of a certificate. */
export function isPair(cert: string, key: string): boolean {
  try {
    return new NodeCertificate(cert).checkPrivateKey(createPrivateKey(key));
  } catch {
    return false;
  }
}

/** Whether a certificate is a CA that `newCa` made for this network and that has not expired. */
export function isMadeHere(network: string, cert: string, now: number): boolean {
  try {
    const { subject, ca, validToDate } = new NodeCertificate(cert);
    const [name, by] = subject.split('\n');
    const generation = name?.startsWith(`CN=${network} CA `) === true;
    return ca && generation && by === `O=${organisation}` && validToDate.getTime() > now;
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

/** The curves by OpenSSL's names, and by those of WebCrypto. */
const curves: Readonly<Record<string, string>> = { prime256v1: 'P-256', secp384r1: 'P-384', secp521r1: 'P-521' };

/** Why no certificate can be signed with a key, as the end of a sentence; undefined when that can be done. */
export function signingKeyProblem({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): string | undefined {
  if (asymmetricKeyType === 'rsa') {
    return (asymmetricKeyDetails?.modulusLength ?? 0) >= 2048 ? undefined : 'has fewer than 2048 bits';
  }
  if (asymmetricKeyType === 'ec' && (asymmetricKeyDetails?.namedCurve ?? '') in curves) return undefined;
  return 'is neither RSA nor on one of the curves P-256, P-384 and P-521';
}

async function signer(key: string): Promise<{
  readonly signingKey: webcrypto.CryptoKey;
  readonly signingAlgorithm: { readonly name: string; readonly hash: string };
}> {
  // OpenSSL and cert-manager write PKCS#1 and SEC 1, too; WebCrypto reads PKCS#8 only.
  const read = createPrivateKey(key);
  const der = read.export({ type: 'pkcs8', format: 'der' });
  const ec = read.asymmetricKeyType === 'ec';
  const algorithm = ec ? signingAlgorithm : { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
  const namedCurve = curves[read.asymmetricKeyDetails?.namedCurve ?? ''] ?? '';
  const importAs = ec ? { name: 'ECDSA', namedCurve } : algorithm;
  const signingKey = await webcrypto.subtle.importKey('pkcs8', der, importAs, false, ['sign']);
  return { signingKey, signingAlgorithm: algorithm };
}

function pem(cert: x509.X509Certificate): string {
  return `${cert.toString('pem')}\n`;
}
