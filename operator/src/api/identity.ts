import Type from 'typebox';
import { closed } from './schema-kit.ts';

const commonName = () =>
  Type.Optional(Type.String({ description: 'The common name (CN) in its subject.', minLength: 1, maxLength: 64 }));

const fingerprint = () =>
  Type.Optional(
    Type.String({
      description: 'The SHA-256 fingerprint of the certificate: 64 hexadecimal digits, with or without colons.',
      minLength: 64,
      maxLength: 95,
    }),
  );

const subjectAltName = () =>
  Type.Optional(
    Type.String({
      description: 'One of its subject alternative names: "DNS:NAME", "IP:ADDRESS", "email:ADDRESS" or "URI:URI".',
      minLength: 4,
      maxLength: 512,
    }),
  );

/** The identity of a client that dials in. */
export const clientIdentity = closed(
  { commonName: commonName(), subjectAltName: subjectAltName(), fingerprint: fingerprint() },
  { description: 'The certificate of a client that dials in: exactly one of the fields.' },
);

/** The identity of a server that is dialled. */
export const serverIdentity = closed(
  { commonName: commonName(), fingerprint: fingerprint() },
  { description: 'Which certificate the remote must show beyond one for servers: exactly one of the fields.' },
);
