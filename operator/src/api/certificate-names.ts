import { lowerCase } from './host-name.ts';
import { parseAddress } from './ip.ts';

/**
 * The names that certificates go by, in the one form in which equal names are equal, so that the identity of a
 * VpnPeer and a certificate can be looked up in each other.
 */

/** What is read of a verified certificate. */
export interface CertificateNames {
  /** The common name of the subject; '' when there is none. */
  readonly commonName: string;
  readonly subjectAltNames: readonly { readonly type: string; readonly value: string }[];
  /** SHA-256, hexadecimal with or without colons. */
  readonly fingerprint: string;
}

/** What a VpnPeer says of its certificate: one of these. */
export interface IdentityFields {
  readonly commonName?: string;
  readonly subjectAltName?: string;
  readonly fingerprint?: string;
}

export const fingerprintPattern = '^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$';
/** Without control characters, and without a space at either end. */
export const commonNamePattern = '^[^\\x00-\\x20\\x7f]([^\\x00-\\x1f\\x7f]*[^\\x00-\\x20\\x7f])?$';
export const altNamePattern =
  '^(DNS:[-*._a-zA-Z0-9]+|IP:[0-9a-fA-F:.]+|email:[!-?A-~]+@[-._a-zA-Z0-9]+|URI:[a-zA-Z][-+.a-zA-Z0-9]*:[!-~]+)$';

const altName = new RegExp(altNamePattern);

/** Whether the text is an alternative name such as `DNS:a.example`. */
export function isAltName(text: string): boolean {
  return altName.test(text) && (!text.startsWith('IP:') || parseAddress(text.slice(3)) !== undefined);
}

/** A fingerprint without colons, in upper case. */
export function normaliseFingerprint(text: string): string {
  return text.replaceAll(':', '').toUpperCase();
}

/**
 * An alternative name in normal form: DNS names, and the domains of e-mail addresses, do not differ by case (RFC 5280,
 * sections 7.2 and 7.5); addresses are canonical; URIs are compared as they are written.
 */
export function normaliseAltName(text: string): string {
  const colon = text.indexOf(':');
  const [type, value] = [text.slice(0, colon), text.slice(colon + 1)];
  if (type === 'DNS') return `DNS:${lowerCase(value)}`;
  if (type === 'IP') return `IP:${parseAddress(value)?.text ?? value}`;
  if (type !== 'email') return text;
  const at = value.lastIndexOf('@');
  return `email:${value.slice(0, at)}${lowerCase(value.slice(at))}`;
}

/** The field and value of an identity that is in normal form. */
export function identityField(
  identity: IdentityFields,
): { readonly field: keyof IdentityFields; readonly value: string } | undefined {
  for (const field of ['fingerprint', 'subjectAltName', 'commonName'] as const) {
    const value = identity[field];
    if (value !== undefined) return { field, value };
  }
  return undefined;
}

/** The key under which an identity is looked up; undefined for an empty one. */
export function identityKey(identity: IdentityFields): string | undefined {
  const known = identityKeys.get(identity);
  if (known !== undefined) return known;
  const found = identityField(identity);
  if (found === undefined) return undefined;
  const key = `${found.field} ${found.value}`;
  identityKeys.set(identity, key);
  return key;
}

/** Several maps go by the key of one identity: one text for all of them. */
const identityKeys = new WeakMap<IdentityFields, string>();

const altNameTypes: ReadonlyMap<string, string> = new Map([
  ['dns', 'DNS'],
  ['ip', 'IP'],
  ['email', 'email'],
  ['uri', 'URI'],
]);

/** The keys of all identities that a certificate meets, the most exact first: fingerprint, alternative names, name. */
export function certificateKeys({ commonName, subjectAltNames, fingerprint }: CertificateNames): string[] {
  const identities: IdentityFields[] = [{ fingerprint: normaliseFingerprint(fingerprint) }];
  for (const { type, value } of subjectAltNames) {
    const prefix = altNameTypes.get(type);
    if (prefix !== undefined) identities.push({ subjectAltName: normaliseAltName(`${prefix}:${value}`) });
  }
  if (commonName !== '') identities.push({ commonName });
  return identities.flatMap((identity) => identityKey(identity) ?? []);
}
