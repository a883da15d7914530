import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { addressBytes, addressText, canonicalAddress, hostLength, hostPrefix, isIpv6, parsePrefix } from './address.ts';

describe('addresses', () => {
  test('bytes → text → bytes is the identity, for both families', () => {
    for (const length of [4, 16]) {
      fc.assert(
        fc.property(fc.uint8Array({ minLength: length, maxLength: length }), (bytes) => {
          const text = addressText(bytes);
          expect(new Uint8Array(addressBytes(text))).toStrictEqual(bytes);
          expect(canonicalAddress(text)).toBe(text);
          expect(isIpv6(text)).toBe(length === 16);
        }),
      );
    }
  });

  test.each([
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:db8:0:1:0:0:0:1', '2001:db8:0:1::1'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['1:0:0:2:3:0:0:4', '1::2:3:0:0:4'],
    ['1:0:2:3:4:5:6:7', '1:0:2:3:4:5:6:7'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['192.0.2.1', '192.0.2.1'],
  ])('%s is written %s', (text, canonical) => {
    expect(canonicalAddress(text)).toBe(canonical);
  });

  test.each(['', 'x', '1.2.3.4.5', '300.1.1.1', '1.2.3', '::g', '10.0.0.0/8', '1::2::3'])(
    '%j is no address',
    (text) => {
      expect(() => addressBytes(text)).toThrow(TypeError);
    },
  );

  test.each([0, 3, 5, 15, 17])('%i bytes are no address', (length) => {
    expect(() => addressText(Buffer.alloc(length))).toThrow(TypeError);
  });

  test('prefixes are split, and what is none is refused', () => {
    expect(parsePrefix('192.0.2.0/24')).toStrictEqual({ address: '192.0.2.0', length: 24 });
    expect(parsePrefix('::/0')).toStrictEqual({ address: '::', length: 0 });
    expect(hostPrefix('192.0.2.1')).toBe('192.0.2.1/32');
    expect(hostPrefix('::1')).toBe('::1/128');
    expect(hostLength('::1')).toBe(128);
    for (const text of [
      '192.0.2.0',
      '/24',
      '192.0.2.0/',
      '192.0.2.0/x',
      '192.0.2.0/33',
      '::/129',
      '192.0.2.0/-1',
      '::/1e1',
    ]) {
      expect(() => parsePrefix(text)).toThrow(TypeError);
    }
  });
});
