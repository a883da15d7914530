import Type from 'typebox';
import { conditionsSchema, observedGeneration, timestamp } from './condition.ts';
import { closed, exactlyOneOf, integer, label, mapOf, objectName, oneOf, secretKey, withRules } from './schema-kit.ts';

/** Generations are counted in 32 bits, which no rotation will use up. */
const maxGeneration = 2147483647;

const staticKey = withRules(
  closed(
    {
      secretRef: closed(
        {
          name: objectName('The name of the Secret.'),
          key: secretKey('The key inside the Secret.', 'static.key'),
        },
        { description: 'The Secret in the same namespace that holds the output of `openvpn --genkey secret FILE`.' },
      ),
      cipher: oneOf(['AES-128-GCM', 'AES-192-GCM', 'AES-256-GCM', 'CHACHA20-POLY1305'], {
        description: 'The cipher of the data channel; the same on both ends.',
        default: 'AES-256-GCM',
      }),
      direction: oneOf(['Normal', 'Inverse'], {
        description: 'Which half of the key sends. The two ends take opposite ones.',
      }),
      generation: Type.Integer({
        description:
          'Counts the data keys made from the Secret. Raise it by one on both ends to rotate; a generation is never used twice.',
        minimum: 1,
        maximum: maxGeneration,
        default: 1,
      }),
      derivation: oneOf(['HKDF-SHA256', 'None'], {
        description:
          'HKDF-SHA256 makes a fresh data key of every generation from the same Secret. None uses the raw bytes, ' +
          'for peers that derive nothing; then every generation needs new bytes in the Secret.',
        default: 'HKDF-SHA256',
      }),
    },
    { description: 'A key that both ends hold, for peers without a control channel.' },
  ),
  [
    {
      cel: 'self.generation >= oldSelf.generation',
      message: 'generation must not decrease, because keys of earlier generations are spent; raise it instead',
      transition: true,
      offenders: (self, old) => (self.generation >= old.generation ? [] : ['.generation']),
    },
    {
      cel: 'self.generation > oldSelf.generation || (self.secretRef == oldSelf.secretRef && self.cipher == oldSelf.cipher && self.direction == oldSelf.direction && self.derivation == oldSelf.derivation)',
      message: 'generation must be raised when secretRef, cipher, direction or derivation changes',
      transition: true,
      offenders: (self, old) =>
        self.generation > old.generation ||
        (self.secretRef.name === old.secretRef.name &&
          self.secretRef.key === old.secretRef.key &&
          self.cipher === old.cipher &&
          self.direction === old.direction &&
          self.derivation === old.derivation)
          ? []
          : ['.generation'],
    },
  ],
);

const tlsKey = closed(
  {
    secretRef: closed(
      { name: objectName('The name of the Secret.') },
      { description: 'The Secret in the same namespace that holds tls.crt, tls.key and ca.crt, all in PEM.' },
    ),
  },
  { description: 'A certificate with its private key and the CA of the remote, for peers that are dialled.' },
);

const issuedKey = withRules(
  closed(
    {
      networkRef: closed(
        { name: label('The name of the VpnNetwork.') },
        { description: 'The VpnNetwork whose CA signs; it needs spec.pki.builtIn. Immutable.' },
      ),
      secretName: Type.Optional(
        objectName(
          "The Secret that is made for the client, in the same namespace; without it the VpnKey's name. It holds tls.crt, tls.key, ca.crt, the key for tls-crypt-v2 and the profile client.ovpn.",
        ),
      ),
      certificateDays: Type.Optional(
        integer(
          "Days for which a certificate is valid: at most, and without it, the network's pki.builtIn.certificateDays.",
          1,
          3650,
        ),
      ),
      revoked: Type.Boolean({
        description: 'Refuse all certificates of this key, and end the session that stands with one.',
        default: false,
      }),
    },
    {
      description:
        'A certificate that the network issues to a client that dials in. It is renewed before it expires; deleting the VpnKey revokes it.',
    },
  ),
  [
    {
      cel: 'self.networkRef == oldSelf.networkRef',
      message: 'networkRef is immutable; create another VpnKey for the other network',
      transition: true,
      offenders: (self, old) => (self.networkRef.name === old.networkRef.name ? [] : ['.networkRef.name']),
    },
  ],
);

/** The spec of a VpnKey: a union of sorts of keys. */
export const vpnKeySpec = withRules(
  closed(
    { static: Type.Optional(staticKey), tls: Type.Optional(tlsKey), issued: Type.Optional(issuedKey) },
    {
      description: 'The key material, by reference: exactly one of the fields, which cannot be changed for the other.',
    },
  ),
  [
    exactlyOneOf('static', 'tls', 'issued'),
    {
      // By way of the other sort, a generation could go back.
      cel: 'has(self.static) == has(oldSelf.static) && has(self.issued) == has(oldSelf.issued)',
      message: 'must keep its sort: static, tls or issued; create another VpnKey for the other sort',
      transition: true,
      offenders: (self, old) => {
        const sorts = ['static', 'tls', 'issued'] as const;
        return sorts.some((sort) => (self[sort] === undefined) !== (old[sort] === undefined))
          ? sorts.filter((sort) => self[sort] !== undefined).map((sort) => `.${sort}`)
          : [];
      },
    },
  ],
);

const installation = Type.Object(
  {
    node: Type.String({ description: 'The name of the Node.', maxLength: 253 }),
    generation: Type.Integer({
      description: 'The highest generation installed there.',
      minimum: 0,
      maximum: maxGeneration,
    }),
    since: timestamp('When it was installed.'),
    spent: Type.Boolean({ description: 'Whether that generation may not be installed again.' }),
  },
  { description: 'What one node installed of this key.' },
);

const issuedCertificate = Type.Object(
  {
    fingerprint: Type.String({ description: 'Its SHA-256 fingerprint, in hexadecimal.', maxLength: 95 }),
    serialNumber: Type.String({ description: 'Its serial number, in hexadecimal.', maxLength: 64 }),
    notAfter: timestamp('When it expires.'),
  },
  { description: 'A certificate that was issued.' },
);

/** The status of a VpnKey. */
export const vpnKeyStatus = Type.Object(
  {
    observedGeneration: observedGeneration(),
    conditions: conditionsSchema(),
    fingerprint: Type.Optional(
      Type.String({
        description: 'A digest by which the two ends can compare the key; it reveals nothing of it.',
        maxLength: 128,
      }),
    ),
    generation: Type.Optional(
      Type.Integer({ description: 'The generation in use.', minimum: 0, maximum: maxGeneration }),
    ),
    certificates: Type.Optional(
      mapOf(issuedCertificate, 'fingerprint', {
        description: 'The certificates that were issued and have not expired; the newest is in the Secret.',
        maxItems: 8,
      }),
    ),
    secretName: Type.Optional(Type.String({ description: 'The Secret that was made for the client.', maxLength: 253 })),
    installations: Type.Optional(
      mapOf(installation, 'node', { description: 'What each node installed of this key.', maxItems: 5000 }),
    ),
  },
  { description: 'The key as it is.' },
);
