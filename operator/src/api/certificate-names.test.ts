import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { certificateKeys, identityKey, normaliseAltName, normaliseFingerprint } from './certificate-names.ts';

describe('normal form', () => {
  test.each([
    ['DNS:Alice.EXAMPLE', 'DNS:alice.example'],
    ['IP:FD00:0:0::0001', 'IP:fd00::1'],
    ['IP:nonsense', 'IP:nonsense'],
    ['email:Alice@B.Example', 'email:Alice@b.example'],
    ['URI:HTTPS://B.Example/A', 'URI:HTTPS://B.Example/A'],
    // The Kelvin sign has k as its lower case, but is no letter of DNS.
    ['DNS:\u212Aa', 'DNS:\u212Aa'],
  ])('of %s is %s', (text, expected) => {
    expect(normaliseAltName(text)).toBe(expected);
  });

  test('is its own normal form', () => {
    fc.assert(
      fc.property(fc.constantFrom('DNS', 'IP', 'email', 'URI', 'x'), fc.string(), (type, value) => {
        const once = normaliseAltName(`${type}:${value}`);
        expect(normaliseAltName(once)).toBe(once);
      }),
    );
  });

  test('of a fingerprint has no colons and capitals', () => {
    expect(normaliseFingerprint('ab:Cd:0f')).toBe('ABCD0F');
  });
});

describe('keys', () => {
  test('of a certificate: fingerprint, alternative names, common name', () => {
    expect(
      certificateKeys({
        commonName: 'DNS:a',
        subjectAltNames: [
          { type: 'uri', value: 'urn:a' },
          { type: 'other', value: 'b' },
          { type: 'email', value: 'a@B' },
          // How Node.js writes IPv6.
          { type: 'ip', value: 'FD00:0:0:0:0:0:0:1' },
        ],
        fingerprint: 'ab:cd',
      }),
    ).toEqual([
      'fingerprint ABCD',
      'subjectAltName URI:urn:a',
      'subjectAltName email:a@b',
      'subjectAltName IP:fd00::1',
      'commonName DNS:a',
    ]);
  });

  test('of an identity is among those of its certificate, and of no other field', () => {
    expect(identityKey({ subjectAltName: 'DNS:a' })).toBe('subjectAltName DNS:a');
    expect(identityKey({ commonName: 'DNS:a' })).toBe('commonName DNS:a');
    expect(identityKey({})).toBeUndefined();
  });
});
