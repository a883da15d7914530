import type { X509Certificate } from 'node:crypto';

/** Who the other side is, out of its verified certificate. */
export interface PeerIdentity {
  /** The last CN of the subject, as OpenVPN takes it; '' when there is none. */
  readonly commonName: string;
  /** As OpenVPN writes it: "C=KG, O=Example, CN=name". */
  readonly subject: string;
  readonly subjectAltNames: readonly AltName[];
  /** SHA-256 over the certificate: upper-case hexadecimal bytes with colons, as `openssl x509 -fingerprint` has it. */
  readonly fingerprint: string;
  readonly serialNumber: string;
  /** Milliseconds since 1970. */
  readonly notAfter: number;
  /** OIDs of the extended key usage. */
  readonly extendedKeyUsage: readonly string[];
}

export interface AltName {
  readonly type: 'dns' | 'ip' | 'email' | 'uri' | 'other';
  readonly value: string;
}

export function peerIdentity(certificate: X509Certificate): PeerIdentity {
  const attributes = subjectAttributes(certificate.subject);
  return {
    commonName: attributes.findLast(({ name }) => name === 'CN')?.value ?? '',
    subject: attributes.map(({ name, value }) => `${name}=${value}`).join(', '),
    subjectAltNames: parseAltNames(certificate.subjectAltName),
    fingerprint: certificate.fingerprint256,
    serialNumber: certificate.serialNumber,
    notAfter: certificate.validToDate.getTime(),
    extendedKeyUsage: listed(certificate.keyUsage),
  };
}

/** Node calls the extended key usage keyUsage; against its type it is undefined where there is none. */
function listed(usage: readonly string[] | undefined): readonly string[] {
  return usage ?? [];
}

interface Attribute {
  readonly name: string;
  readonly value: string;
}

/**
 * Node gives the subject one attribute a line, escaped as RFC 2253 has it and with control characters as \XX; so
 * neither a newline nor " + " in a value can look like the next attribute.
 */
function subjectAttributes(subject: string | undefined): Attribute[] {
  return (subject ?? '')
    .split('\n')
    .flatMap((line) => line.split(/(?<!\\) \+ /))
    .filter((line) => line.includes('='))
    .map((line) => {
      const equals = line.indexOf('=');
      return {
        name: line.slice(0, equals),
        value: line.slice(equals + 1).replaceAll(/\\([ ,+"\\<>;#=])/g, '$1'),
      };
    });
}

const altNameTypes: ReadonlyMap<string, AltName['type']> = new Map([
  ['DNS', 'dns'],
  ['IP Address', 'ip'],
  ['email', 'email'],
  ['URI', 'uri'],
]);

/** Reads Node's "DNS:a, IP Address:b, …", where a value with anything special in it is a JSON string. */
export function parseAltNames(text: string | undefined): AltName[] {
  const names: AltName[] = [];
  const pattern = /(?:^|, )([^:,"]+):(?:("(?:[^"\\]|\\.)*")|([^,"]*))(?=, |$)/gy;
  for (let match = pattern.exec(text ?? ''); match !== null; match = pattern.exec(text ?? '')) {
    const [, label = '', quoted, bare = ''] = match;
    names.push({ type: altNameTypes.get(label) ?? 'other', value: quoted === undefined ? bare : unquote(quoted) });
  }
  return names;
}

function unquote(quoted: string): string {
  try {
    return String(JSON.parse(quoted));
  } catch {
    return quoted;
  }
}
