import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import tls from 'node:tls';
import type { ControlChannelSpec, ObjectRef, Secret } from '../../api/types.ts';
import { formatRef } from '../../api/types.ts';
import { describe, OvpnError, type Where } from '../../errors.ts';
import { parseStaticKey } from '../../openvpn/static-key.ts';
import type { TlsCredentials, TlsVersion } from '../../openvpn/tls/tls-endpoint.ts';
import { parseClientKey, parseServerKey } from '../../openvpn/wrap/key-file.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';

/** Secrets read into what the control channel takes: checked here, so that a handshake meets no surprise. */

/** A Secret, or what was looked for in vain. */
export interface FoundSecret {
  readonly ref: ObjectRef;
  readonly secret: Secret | undefined;
  /** What to do when it is not there; by default to create it. */
  readonly remedy?: string;
}

/** One entry of a Secret, and who refers to it. */
export interface SecretEntry {
  readonly found: FoundSecret;
  readonly key: string;
  readonly user: Where;
}

/**
 * Certificate, private key and CA out of a Secret as cert-manager writes them, with an optional `ca.crl`.
 *
 * @param user the object and field that refer to the Secret
 * @param crlEntry where the CRL is, when it is not in `ca.crl`
 * @param entries where certificate and key are
 * @throws OvpnError SecretMissing, CertificateInvalid; never with a word of the private key
 */
export function tlsCredentials(
  found: FoundSecret,
  user: Where,
  minVersion: TlsVersion,
  crlEntry?: SecretEntry,
  entries = { cert: 'tls.crt', key: 'tls.key' },
): TlsCredentials {
  const cert = textOf(found, entries.cert, user);
  const key = textOf(found, entries.key, user);
  const ca = textOf(found, 'ca.crt', user);
  const crl =
    crlEntry !== undefined
      ? textOf(crlEntry.found, crlEntry.key, crlEntry.user)
      : found.secret?.data['ca.crl'] === undefined
        ? undefined
        : textOf(found, 'ca.crl', user);
  const object = formatRef(found.ref);
  const at = (field: string): Where => ({ object, field: `data[${field}]` });
  const certificate = readPart(() => new X509Certificate(cert), 'is not a certificate in PEM', at(entries.cert));
  const privateKey = readPart(
    () => createPrivateKey(key),
    'is not a private key in PEM without a passphrase',
    at(entries.key),
  );
  readPart(() => new X509Certificate(ca), 'is not a certificate in PEM', at('ca.crt'));
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new OvpnError('CertificateInvalid', `is not the key of the certificate in ${entries.cert}`, at(entries.key));
  }
  const credentials = { ca, cert, key, crl, minVersion };
  // What OpenSSL itself has against it: a broken chain behind the certificate, a CRL that is none.
  readPart(
    () => tls.createSecureContext({ ca, cert, key, ...(crl === undefined ? {} : { crl }) }),
    'cannot be used together for TLS',
    { object },
  );
  return credentials;
}

/** When the certificate in there expires. Milliseconds since 1970. */
export function notAfterOf({ cert }: TlsCredentials): number {
  return new X509Certificate(cert).validToDate.getTime();
}

/** Says that a certificate of ours has expired; undefined when it has not. */
export function expiryProblem(notAfter: number, now: number, where: Where): OvpnError | undefined {
  if (now < notAfter) return undefined;
  const when = new Date(notAfter).toISOString().replace(/\.\d+Z$/, 'Z');
  const problem = `our certificate expired at ${when}, and the other side will not take it`;
  return new OvpnError('CertificateInvalid', problem, where, { remedy: 'renew the certificate in the Secret' });
}

/** `spec.controlChannel` with its wrapping settled. */
export type ResolvedChannel = ControlChannelSpec & { readonly wrap: NonNullable<ControlChannelSpec['wrap']> };

/**
 * How the control channel is wrapped.
 *
 * @param user the object that has the field `spec.controlChannel`
 * @throws OvpnError SecretMissing, KeyMaterialInvalid
 */
export function wrapConfig(
  spec: ResolvedChannel,
  role: 'server' | 'client',
  found: FoundSecret | undefined,
  user: string,
): WrapConfig {
  if (spec.wrap === 'None') return { kind: 'none' };
  const field = 'spec.controlChannel.secretRef';
  if (spec.secretRef === undefined || found === undefined) {
    throw new OvpnError('SecretMissing', `${spec.wrap} needs a key`, { object: user, field });
  }
  const text = textOf(found, spec.secretRef.key, { object: user, field });
  const where: Where = { object: formatRef(found.ref), field: `data[${spec.secretRef.key}]` };
  switch (spec.wrap) {
    case 'TLSAuth':
      return {
        kind: 'tls-auth',
        key: parseStaticKey(text, where),
        digest: spec.digest ?? 'SHA1',
        direction: spec.keyDirection === undefined ? 'bidirectional' : spec.keyDirection === 'Normal' ? 0 : 1,
      };
    case 'TLSCrypt':
      return { kind: 'tls-crypt', key: parseStaticKey(text, where) };
    case 'TLSCryptV2':
      return role === 'server'
        ? { kind: 'tls-crypt-v2-server', serverKey: parseServerKey(text, where) }
        : { kind: 'tls-crypt-v2-client', ...parseClientKey(text, where) };
  }
}

/** A digest over everything in a value, to see whether it changed without keeping what is secret in it. */
export function revisionOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64');
}

function textOf({ ref, secret, remedy }: FoundSecret, key: string, user: Where): string {
  const options = remedy === undefined ? {} : { remedy };
  if (secret === undefined) {
    throw new OvpnError('SecretMissing', `there is no Secret ${ref.namespace ?? ''}/${ref.name}`, user, options);
  }
  const data = secret.data[key];
  if (data === undefined) {
    const missing = `Secret ${ref.namespace ?? ''}/${ref.name} has no key ${JSON.stringify(key)}`;
    throw new OvpnError('SecretMissing', missing, user, options);
  }
  return Buffer.from(data).toString('latin1');
}

function readPart<T>(read: () => T, problem: string, where: Where): T {
  try {
    return read();
  } catch (error) {
    // OpenSSL's words name no content.
    throw new OvpnError('CertificateInvalid', `${problem}: ${describe(error)}`, where, { cause: error });
  }
}
