import { isDeepStrictEqual } from 'node:util';
import { deriveDataKeys, formatStaticKey, parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
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
