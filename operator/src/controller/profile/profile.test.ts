import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { OvpnError } from '../../errors.ts';
import { splitWords } from '../../openvpn/negotiate/option-words.ts';
import { unwrapClientKey } from '../../openvpn/wrap/client-key.ts';
import { parseClientKey, parseServerKey } from '../../openvpn/wrap/key-file.ts';
import { type ProfileSettings, type ProfileWrap, renderProfile } from './profile.ts';
import { newClientWrapKey, newServerWrapKey } from './wrap-keys.ts';

const pem = (label: string, body: string): string => `-----BEGIN ${label}-----\n${body}\n-----END ${label}-----\n`;
const ca = pem('CERTIFICATE', 'Y2E=');
const identity = { certificate: pem('CERTIFICATE', 'Y2VydA=='), key: pem('PRIVATE KEY', 'a2V5') };
const udp = { address: 'vpn.example.com', port: 1194, protocol: 'UDP' } as const;
const tcp = { address: '2001:db8::1', port: 443, protocol: 'TCP' } as const;
const settings: ProfileSettings = {
  remotes: [udp, tcp],
  ca,
  identity,
  serverName: 'corp',
  wrap: { kind: 'TLSCryptV2', key: pem('OpenVPN tls-crypt-v2 client key', 'djI=') },
  dataCiphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
  minTLSVersion: '1.2',
};

test('a profile has everything in one file', () => {
  expect(renderProfile(settings)).toBe(`client
dev tun
remote vpn.example.com 1194 udp
remote 2001:db8::1 443 tcp
connect-timeout 10
nobind
persist-tun
explicit-exit-notify 1
remote-cert-tls server
verify-x509-name "corp" name
tls-version-min 1.2
data-ciphers AES-256-GCM:CHACHA20-POLY1305
cipher AES-256-GCM
verb 3
<ca>
-----BEGIN CERTIFICATE-----
Y2E=
-----END CERTIFICATE-----
</ca>
<cert>
-----BEGIN CERTIFICATE-----
Y2VydA==
-----END CERTIFICATE-----
</cert>
<key>
-----BEGIN PRIVATE KEY-----
a2V5
-----END PRIVATE KEY-----
</key>
<tls-crypt-v2>
-----BEGIN OpenVPN tls-crypt-v2 client key-----
djI=
-----END OpenVPN tls-crypt-v2 client key-----
</tls-crypt-v2>
`);
});

const staticKey = pem('OpenVPN Static key V1', '00ff');

describe('what a profile leaves out', () => {
  test.each<[string, Partial<ProfileSettings>, RegExp]>([
    ['a timeout, with one remote', { remotes: [udp] }, /connect-timeout/],
    ['a goodbye, over TCP alone', { remotes: [tcp] }, /explicit-exit-notify/],
    ['a name that nobody demands', { serverName: undefined }, /verify-x509-name/],
    ['a key that was issued elsewhere', { identity: undefined }, /^<(cert|key)>$/m],
    ['wrapping', { wrap: { kind: 'None' } }, /tls-(auth|crypt)/],
    ['a direction that nobody agreed on', { wrap: { kind: 'TLSAuth', key: staticKey } }, /key-direction|^auth /m],
  ])('%s', (_, change, absent) => {
    expect(renderProfile({ ...settings, ...change })).not.toMatch(absent);
  });
});

describe('wrapping', () => {
  test.each<[ProfileWrap, string[]]>([
    [{ kind: 'TLSCrypt', key: `#\n# 2048 bit OpenVPN static key\n#\n${staticKey}` }, ['<tls-crypt>', '00ff']],
    [
      { kind: 'TLSAuth', key: staticKey, direction: 'Inverse', digest: 'SHA256' },
      ['key-direction 1', 'auth SHA256', '<tls-auth>', '00ff'],
    ],
    [{ kind: 'TLSAuth', key: staticKey, direction: 'Normal' }, ['key-direction 0']],
  ])('%j', (wrap, lines) => {
    expect(renderProfile({ ...settings, wrap }).split('\n')).toEqual(expect.arrayContaining(lines));
  });
});

describe('what is refused', () => {
  test.each<[string, Partial<ProfileSettings>, string]>([
    ['a CA that is none', { ca: 'Y2E=' }, 'CertificateInvalid'],
    ['a private key for a certificate', { identity: { ...identity, certificate: identity.key } }, 'CertificateInvalid'],
    [
      'a private key with a passphrase',
      { identity: { ...identity, key: pem('ENCRYPTED PRIVATE KEY', 'QQ==') } },
      'CertificateInvalid',
    ],
    ["the server's key for wrapping", { wrap: { kind: 'TLSCryptV2', key: newServerWrapKey() } }, 'KeyMaterialInvalid'],
    ['an address of two lines', { remotes: [{ ...udp, address: 'a\nup /bin/sh' }] }, 'InvalidField'],
    ['a name of two lines', { serverName: 'a\nup /bin/sh' }, 'InvalidField'],
  ])('%s', (_, change, name) => {
    const where = { object: 'Secret a/b' };
    try {
      renderProfile({ ...settings, ...change, where });
      throw new Error('was rendered');
    } catch (error) {
      expect(error).toBeInstanceOf(OvpnError);
      expect(error).toMatchObject({ name, where });
      expect(String(error)).not.toMatch(/QQ==|a2V5/);
    }
  });
});

test('no text around or inside of the material becomes an option', () => {
  const noise = fc.array(
    fc.oneof(
      fc.constantFrom('</ca>', '<ca>', '</key>', 'up /bin/sh', 'script-security 2', '-----BEGIN CERTIFICATE-----', ca),
      fc.string(),
    ),
  );
  const expected = renderProfile(settings)
    .split('\n')
    .filter((line) => line !== 'Y2E=' && !line.includes('CERTIFICATE'));
  fc.assert(
    fc.property(noise, noise, (before, after) => {
      const text = [...before, ca, ...after].join('\n');
      const profile = renderProfile({ ...settings, ca: text });
      const body = /<ca>\n([^]*)\n<\/ca>/.exec(profile)?.[1] ?? '';
      expect(body).toMatch(/^(-----(BEGIN|END) CERTIFICATE-----|[A-Za-z0-9+/=]+|\n)+$/);
      const rest = profile.replace(body, '').split('\n');
      expect(rest.filter((line) => line !== '' && line !== 'Y2VydA==' && !line.includes('CERTIFICATE'))).toEqual(
        expected.filter((line) => line !== '' && line !== 'Y2VydA=='),
      );
    }),
  );
});

test('a name of a server is one word, whatever is in it', () => {
  fc.assert(
    fc.property(
      fc.string({ minLength: 1 }).filter((name) => !/\p{Cc}/u.test(name)),
      (serverName) => {
        const line = renderProfile({ ...settings, serverName })
          .split('\n')
          .find((each) => each.startsWith('verify-'));
        expect(splitWords(line ?? '')).toEqual(['verify-x509-name', serverName, 'name']);
      },
    ),
  );
});

test("a client's key for wrapping is new each time, opens with the server's, and says when it was made", () => {
  const serverKey = newServerWrapKey();
  const [one, other] = [1, 2].map(() => parseClientKey(newClientWrapKey(serverKey, 1_800_000_000_999), {}));
  expect(one!.key).not.toEqual(other!.key);
  const { key, metadata } = unwrapClientKey(parseServerKey(serverKey, {}), one!.wrapped);
  expect(key).toEqual(one!.key);
  expect(metadata).toEqual({ kind: 'timestamp', seconds: 1_800_000_000 });
});
