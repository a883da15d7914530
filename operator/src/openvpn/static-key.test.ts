import { describe, expect, test } from '@jest/globals';
import { createHash, createHmac } from 'node:crypto';
import fc from 'fast-check';
import {
  type DataCipher,
  type DataKeyOptions,
  deriveDataKeys,
  formatStaticKey,
  type KeyDerivation,
  parseStaticKey,
  staticKeyFingerprint,
} from './static-key.ts';

/** Every byte tells its own place. */
const counting = Uint8Array.from({ length: 256 }, (_, i) => i);
const bytesFrom = (start: number, length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => start + i);

const ciphers: DataCipher[] = ['AES-128-GCM', 'AES-192-GCM', 'AES-256-GCM', 'CHACHA20-POLY1305'];
const derivations: KeyDerivation[] = ['HKDF-SHA256', 'None'];
const plain: DataKeyOptions = { cipher: 'AES-256-GCM', direction: 'Normal', generation: 1, derivation: 'None' };
const where = { object: 'Secret team-a/office', field: 'data[static.key]' };

const anyKey = fc
  .uint8Array({ minLength: 256, maxLength: 256 })
  .filter((key) => Buffer.compare(key.subarray(0, 16), key.subarray(128, 144)) !== 0);
const anyOptions = fc.record({
  cipher: fc.constantFrom(...ciphers),
  direction: fc.constantFrom('Normal' as const, 'Inverse' as const),
  generation: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  derivation: fc.constantFrom(...derivations),
});

describe('the layout of a static key', () => {
  test.each<[DataCipher, number]>([
    ['AES-128-GCM', 16],
    ['AES-192-GCM', 24],
    ['AES-256-GCM', 32],
    ['CHACHA20-POLY1305', 32],
  ])('%s takes %d bytes of each half, and eight of its HMAC key', (cipher, length) => {
    const keys = deriveDataKeys(counting, { ...plain, cipher });
    expect(keys.encrypt).toEqual({ cipherKey: bytesFrom(0, length), nonceTail: bytesFrom(64, 8) });
    expect(keys.decrypt).toEqual({ cipherKey: bytesFrom(128, length), nonceTail: bytesFrom(192, 8) });
  });

  test('Inverse is the other end', () => {
    const { encrypt, decrypt } = deriveDataKeys(counting, { ...plain, direction: 'Inverse' });
    expect(encrypt.cipherKey).toEqual(bytesFrom(128, 32));
    expect(decrypt.cipherKey).toEqual(bytesFrom(0, 32));
  });

  test('HKDF-SHA256 is RFC 5869 without salt, by generation and cipher', () => {
    // Extract and expand by hand (RFC 5869, sections 2.2 and 2.3), for one block more than one hash.
    const info = Buffer.from('ovpn-operator static data key v1|generation 5|AES-256-GCM');
    const prk = createHmac('sha256', Buffer.alloc(32)).update(counting).digest();
    const blocks: Buffer[] = [];
    for (let i = 1; i <= 8; i++) {
      blocks.push(
        createHmac('sha256', prk)
          .update(Buffer.concat([blocks.at(-1) ?? Buffer.alloc(0), info, Buffer.from([i])]))
          .digest(),
      );
    }
    const material = Buffer.concat(blocks);
    const keys = deriveDataKeys(counting, { ...plain, generation: 5, derivation: 'HKDF-SHA256' });
    expect(Buffer.from(keys.encrypt.cipherKey)).toEqual(material.subarray(0, 32));
    expect(Buffer.from(keys.encrypt.nonceTail)).toEqual(material.subarray(64, 72));
    expect(Buffer.from(keys.decrypt.cipherKey)).toEqual(material.subarray(128, 160));
    expect(Buffer.from(keys.decrypt.nonceTail)).toEqual(material.subarray(192, 200));
  });

  test('never changes: the other end may be an older version', () => {
    const keys = deriveDataKeys(counting, { ...plain, derivation: 'HKDF-SHA256' });
    expect(Buffer.from(keys.encrypt.cipherKey).toString('hex')).toBe(
      '62566a0ee6f41b95f44ff509961cf148ddcca50a251e6f74b8cb3dc79213d3a7',
    );
    expect(Buffer.from(keys.decrypt.nonceTail).toString('hex')).toBe('517b4bfba64b3535');
    expect(keys.fingerprint).toBe('5ad267377f583fcd786d7e137de13e7b3237a4005dcee3ef01afe4ce1c79081f');
  });
});

describe('data keys', () => {
  test('of the two directions mirror each other', () => {
    fc.assert(
      fc.property(anyKey, anyOptions, (key, options) => {
        const normal = deriveDataKeys(key, { ...options, direction: 'Normal' });
        const inverse = deriveDataKeys(key, { ...options, direction: 'Inverse' });
        expect(normal.encrypt).toEqual(inverse.decrypt);
        expect(normal.decrypt).toEqual(inverse.encrypt);
        expect(normal.fingerprint).not.toBe(inverse.fingerprint);
      }),
    );
  });

  test('of two generations share nothing with HKDF, and everything without', () => {
    fc.assert(
      fc.property(anyKey, anyOptions, fc.integer({ min: 1, max: 1000 }), (key, options, step) => {
        const one = deriveDataKeys(key, { ...options, generation: options.generation });
        const other = deriveDataKeys(key, { ...options, generation: options.generation + step });
        if (options.derivation === 'None') {
          expect(other).toEqual(one);
          return;
        }
        const parts = [one, other].flatMap(({ encrypt, decrypt }) => [
          encrypt.cipherKey,
          decrypt.cipherKey,
          encrypt.nonceTail,
          decrypt.nonceTail,
        ]);
        expect(new Set(parts.map((part) => Buffer.from(part).toString('hex'))).size).toBe(parts.length);
        expect(other.fingerprint).not.toBe(one.fingerprint);
      }),
    );
  });

  test('of two ciphers of one key length share nothing with HKDF', () => {
    const gcm = deriveDataKeys(counting, { ...plain, derivation: 'HKDF-SHA256' });
    const chacha = deriveDataKeys(counting, { ...plain, derivation: 'HKDF-SHA256', cipher: 'CHACHA20-POLY1305' });
    expect(gcm.encrypt.cipherKey).not.toEqual(chacha.encrypt.cipherKey);
  });

  test('are copies: wiping the Secret does not change them', () => {
    const key = counting.slice();
    const keys = deriveDataKeys(key, plain);
    key.fill(0);
    expect(keys.encrypt.cipherKey).toEqual(bytesFrom(0, 32));
  });

  test('have a fingerprint of what nonces must not repeat under, and of nothing else', () => {
    fc.assert(
      fc.property(
        anyKey,
        fc.constantFrom(...ciphers),
        fc.nat(255),
        fc.integer({ min: 1, max: 255 }),
        (key, cipher, at, flip) => {
          const other = key.slice();
          other[at] = (other[at] ?? 0) ^ flip;
          const length = deriveDataKeys(key, { ...plain, cipher }).encrypt.cipherKey.length;
          const matters = at < length || (at >= 64 && at < 72);
          const same =
            deriveDataKeys(key, { ...plain, cipher }).fingerprint ===
            deriveDataKeys(other, { ...plain, cipher }).fingerprint;
          expect(same).toBe(!matters);
        },
      ),
    );
    const { encrypt, fingerprint } = deriveDataKeys(counting, plain);
    const digest = createHash('sha256')
      .update('ovpn-operator data key\0')
      .update(encrypt.cipherKey)
      .update(encrypt.nonceTail);
    expect(fingerprint).toBe(digest.digest('hex'));
  });

  test('are refused when both directions would get the same one', () => {
    const key = counting.slice();
    key.set(key.subarray(0, 16), 128);
    key.set(key.subarray(64, 72), 192);
    const refused = expect.objectContaining({
      name: 'KeyMaterialInvalid',
      problem: expect.stringContaining('same AES-128-GCM key'),
    });
    expect(() => deriveDataKeys(key, { ...plain, cipher: 'AES-128-GCM' })).toThrow(refused);
    expect(() => deriveDataKeys(key, plain)).not.toThrow();
    expect(() => deriveDataKeys(key, { ...plain, cipher: 'AES-128-GCM', derivation: 'HKDF-SHA256' })).not.toThrow();
  });
});

describe('a static key file', () => {
  test('is read as it was written', () => {
    fc.assert(
      fc.property(anyKey, (key) => {
        expect(Buffer.from(parseStaticKey(formatStaticKey(key), where))).toEqual(Buffer.from(key));
      }),
    );
  });

  test('is written as openvpn --genkey does', () => {
    const lines = formatStaticKey(counting).split('\n');
    expect(lines[0]).toBe('-----BEGIN OpenVPN Static key V1-----');
    expect(lines[1]).toBe('000102030405060708090a0b0c0d0e0f');
    expect(lines[16]).toBe('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff');
    expect(lines.slice(17)).toEqual(['-----END OpenVPN Static key V1-----', '']);
  });

  test.each<[string, (text: string) => string]>([
    ['the comment that openvpn writes above it', (text) => `#\n# 2048 bit OpenVPN static key\n#\n${text}`],
    ['Windows line ends', (text) => text.replaceAll('\n', '\r\n')],
    ['upper-case digits', (text) => text.replaceAll(/^[0-9a-f]+$/gm, (line) => line.toUpperCase())],
    ['other widths and indentation', (text) => text.replaceAll(/([0-9a-f]{16})$/gm, '\n\t  $1')],
    ['no line end at its end', (text) => text.trimEnd()],
  ])('may have %s', (_name, change) => {
    expect(Buffer.from(parseStaticKey(change(formatStaticKey(counting)), where))).toEqual(Buffer.from(counting));
  });

  test.each<[string, string, string]>([
    ['nothing', '', 'it has no "OpenVPN Static key V1" block'],
    [
      'another sort of key',
      '-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n',
      'no "OpenVPN Static key V1" block',
    ],
    ['no end', formatStaticKey(counting).split('-----END')[0] ?? '', 'no "OpenVPN Static key V1" block'],
    ['an empty block', '-----BEGIN OpenVPN Static key V1-----\n-----END OpenVPN Static key V1-----', 'holds 0 bits'],
    ['half a key', formatStaticKey(counting.subarray(0, 128)), 'holds 1024 bits of key, not 2048'],
    ['a byte too many', formatStaticKey(Uint8Array.from([...counting, 7])), 'holds 2056 bits of key, not 2048'],
    ['an odd digit too many', formatStaticKey(counting).replace('0f\n', '0fa\n'), 'holds 2052 bits'],
    ['garbage', formatStaticKey(counting).replace('10111213', '1011121x'), 'something else than hexadecimal digits'],
    [
      'digits that only look like some',
      formatStaticKey(counting).replace('10111213', '1011121３'),
      'something else than hexadecimal',
    ],
    [
      'one key twice',
      formatStaticKey(Uint8Array.from([...counting.subarray(0, 128), ...counting.subarray(0, 128)])),
      'the same key for both directions',
    ],
  ])('with %s is refused without a word of it', (_name, text, problem) => {
    let message = '';
    try {
      parseStaticKey(text, where);
    } catch (error) {
      expect(error).toMatchObject({ name: 'KeyMaterialInvalid', where });
      message = (error as Error).message;
    }
    expect(message).toContain(problem);
    expect(message).toContain('openvpn --genkey secret FILE');
    for (const quoted of text.match(/[0-9a-fA-F]{8,}|c2VjcmV0/g) ?? []) expect(message).not.toContain(quoted);
  });

  test('of any text is a key or a KeyMaterialInvalid that quotes nothing', () => {
    const block = fc.tuple(
      fc.string({ maxLength: 40 }),
      fc.string({ unit: fc.constantFrom(...'0123456789abcdefxyz \n'.split('')), maxLength: 600 }),
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          block.map(
            ([head, body]) => `${head}-----BEGIN OpenVPN Static key V1-----${body}-----END OpenVPN Static key V1-----`,
          ),
        ),
        (text) => {
          try {
            expect(parseStaticKey(text, {})).toHaveLength(256);
          } catch (error) {
            expect(error).toMatchObject({ name: 'KeyMaterialInvalid' });
            for (const line of text.split('\n')) {
              if (/[0-9a-f]{6}/.test(line)) expect((error as Error).message).not.toContain(line.trim());
            }
          }
        },
      ),
    );
  });

  test('a file of openings without an end is refused as fast as any other', () => {
    const before = process.cpuUsage();
    expect(() => parseStaticKey('-----BEGIN OpenVPN Static key V1-----'.repeat(28_000), where)).toThrow('no "OpenVPN');
    // A Secret holds 1 MiB. Looking for an end from each opening anew took seconds.
    expect(process.cpuUsage(before).user).toBeLessThan(500_000);
  });
});

describe('the fingerprint of a static key', () => {
  test('changes with every byte and gives none away', () => {
    const known = staticKeyFingerprint(counting);
    expect(known).toMatch(/^[0-9a-f]{32}$/);
    for (let at = 0; at < 256; at++) {
      const other = counting.slice();
      other[at] = (other[at] ?? 0) ^ 1;
      expect(staticKeyFingerprint(other)).not.toBe(known);
    }
    expect(known).not.toBe(createHash('sha256').update(counting).digest('hex').slice(0, 32));
  });
});
