import Type from 'typebox';
import { altNamePattern, commonNamePattern, fingerprintPattern, isAltName } from './certificate-names.ts';
import { closed, exactlyOneOf, objectName, textKey, withRules, type TextForm } from './schema-kit.ts';

const commonName = () =>
  Type.Optional(
    Type.String({
      description: 'The common name (CN) in its subject.',
      minLength: 1,
      maxLength: 64,
      pattern: commonNamePattern,
    }),
  );

const fingerprint = () =>
  Type.Optional(
    Type.String({
      description: 'Its SHA-256 fingerprint: 64 hexadecimal digits, with or without colons.',
      maxLength: 95,
      pattern: fingerprintPattern,
      [textKey]: 'fingerprint' satisfies TextForm,
    }),
  );

const subjectAltName = () =>
  Type.Optional(
    withRules(
      Type.String({
        description: 'One of its subject alternative names: "DNS:NAME", "IP:ADDRESS", "email:ADDRESS" or "URI:URI".',
        maxLength: 512,
        [textKey]: 'altName' satisfies TextForm,
      }),
      [
        {
          cel: `self.matches('${altNamePattern}') && (!self.startsWith('IP:') || isIP(self.substring(3)))`,
          message: 'must be "DNS:" with a name, "IP:" with an address, "email:" with an address, or "URI:" with a URI',
          offenders: (self) => (isAltName(self) ? [] : ['']),
        },
      ],
    ),
  );

/** The identity of a client that dials in. */
export const clientIdentity = withRules(
  closed(
    {
      commonName: commonName(),
      subjectAltName: subjectAltName(),
      fingerprint: fingerprint(),
      key: Type.Optional(
        objectName(
          'A VpnKey `issued` in the same namespace: the client that holds its certificate. The only way in a network with pki.builtIn.',
        ),
      ),
    },
    { description: 'The certificate of a client that dials in: exactly one of the fields.' },
  ),
  [exactlyOneOf('commonName', 'subjectAltName', 'fingerprint', 'key')],
);

/** The identity of a server that is dialled. */
export const serverIdentity = withRules(
  closed(
    { commonName: commonName(), fingerprint: fingerprint() },
    {
      description:
        'Which certificate the remote must show: exactly one of the fields. One for servers (extended key usage) it must be in any case.',
    },
  ),
  [exactlyOneOf('commonName', 'fingerprint')],
);
