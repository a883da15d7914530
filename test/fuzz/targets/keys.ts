import { X509Certificate } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { deriveDataKeys, formatStaticKey, parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { whyNotWanted } from '../../../operator/src/openvpn/tls/peer-checks.ts';
import { peerIdentity } from '../../../operator/src/openvpn/tls/peer-identity.ts';
import { testPki } from '../../../operator/src/openvpn/tls/pki.fixture.ts';
import {
  formatClientKey,
  formatServerKey,
  parseClientKey,
  parseServerKey,
} from '../../../operator/src/openvpn/wrap/key-file.ts';
import {
  clientKeyFile,
  clientKeyWithMetadataFile,
  serverKeyFile,
  tlsAuthKeyFile,
} from '../../../operator/src/openvpn/wrap/recorded.fixture.ts';
import { errors, parsed, require, type Target } from '../target.ts';

const { OvpnError } = errors;

/** As large as files come that a Secret holds; a Secret holds up to 1 MiB. */
const maxBytes = 512 * 1024;

export const staticKeyFile: Target = {
  name: 'static-key-file',
  input: 'the file of a static key (tls-auth, tls-crypt, --secret)',
  maxBytes,
  words: ['-----BEGIN OpenVPN Static key V1-----', '-----END OpenVPN Static key V1-----', '\n', '00', '#'],
  run: (input) => {
    const key = parsed(() => parseStaticKey(input.toString('utf8'), {}), OvpnError);
    if (key === undefined) {
      return;
    }
    require(key.length === 256, `a static key of ${key.length} bytes`);
    require(isDeepStrictEqual(
      parseStaticKey(formatStaticKey(key), {}),
      key,
    ), 'a key reads differently after formatting');
    const options = { cipher: 'AES-256-GCM', direction: 'Normal', derivation: 'None', generation: 1 } as const;
    parsed(() => deriveDataKeys(key, options), OvpnError);
  },
  seeds: () => ({
    openvpn: Buffer.from(tlsAuthKeyFile),
    'openings-without-end': Buffer.from('-----BEGIN OpenVPN Static key V1-----'.repeat(2000)),
  }),
};

const pemWords = ['server', 'client'].flatMap((side) => [
  `-----BEGIN OpenVPN tls-crypt-v2 ${side} key-----`,
  `-----END OpenVPN tls-crypt-v2 ${side} key-----`,
]);

export const tlsCryptV2KeyFile: Target = {
  name: 'tls-crypt-v2-file',
  input: "the file of a tls-crypt-v2 server's or client's key",
  maxBytes,
  words: [...pemWords, '\n', '=', '==', 'AAAA'],
  run: (input) => {
    const text = input.toString('utf8');
    const server = parsed(() => parseServerKey(text, {}), OvpnError);
    if (server !== undefined) {
      require(parseServerKey(formatServerKey(server), {}).equals(server), 'a server key reads differently');
    }
    const client = parsed(() => parseClientKey(text, {}), OvpnError);
    if (client !== undefined) {
      require(client.key.length === 256 && client.wrapped.length <= 1024, 'a client key of a wrong length');
      require(isDeepStrictEqual(parseClientKey(formatClientKey(client), {}), client), 'a client key reads differently');
    }
  },
  seeds: () => ({
    server: Buffer.from(serverKeyFile),
    client: Buffer.from(clientKeyFile),
    'client-with-metadata': Buffer.from(clientKeyWithMetadataFile),
  }),
};

export const certificate: Target = {
  name: 'certificate',
  input: "a peer's certificate in DER, as if it were verified",
  maxBytes: 20_000,
  words: [
    '\x55\x04\x03\x0c\x05',
    '\x13\x20',
    '\x1e\x08\0a\0=',
    ' + CN=',
    '", DNS:b',
    '\n',
    '\\',
    '\0',
    '\x82\x03a,b',
    '\x17\x0d',
  ],
  run: (input) => {
    let read: X509Certificate;
    try {
      read = new X509Certificate(input);
    } catch {
      return;
    }
    const identity = peerIdentity(read);
    if (Number.isNaN(identity.notAfter)) {
      // OpenSSL verifies no certificate without dates.
      return;
    }
    // What begins a line or a name of its own in a log would be forged.
    require(!/[\r\n]/.test(identity.subject + identity.commonName), 'a name of several lines');
    for (const type of ['name', 'subject'] as const) {
      const reason = whyNotWanted(identity, { name: { type, value: 'another' } });
      require((reason ?? '').length < 1000, 'a reason is as long as the peer likes');
    }
    // It is kept in a file, and has to be the same when it is read again.
    require(isDeepStrictEqual(
      JSON.parse(JSON.stringify(identity)),
      identity,
    ), 'an identity does not survive a restart');
  },
  seeds: () => {
    const pki = testPki();
    const der = (pem: string): Buffer => Buffer.from(new X509Certificate(pem).raw);
    try {
      const altNames =
        'DNS:a.example,DNS:*.b.example,IP:192.0.2.1,IP:2001:db8::1,email:a@b.example,URI:https://a.example/';
      const issue = (name: string, subject: string): Buffer =>
        der(pki.issue(name, { usage: 'clientAuth', subject, altNames }).cert);
      return {
        ca: der(pki.ca),
        names: issue('names', '/C=KG/O=Example, Inc./CN=first/CN=last'),
        long: issue('long', `${`/O=${'o'.repeat(60)}`.repeat(40)}/CN=long`),
        odd: issue('odd', '/O=a \\+ CN=b/CN=\u00e4 = "x" <y>'),
      };
    } finally {
      pki.remove();
    }
  },
};
