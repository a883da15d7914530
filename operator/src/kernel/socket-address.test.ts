import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { addressText } from './address.ts';
import { AF_INET, AF_INET6 } from './libc.ts';
import { familyOf, isLinkLocal, readSockaddr, sockaddr, writeSockaddr } from './socket-address.ts';

const v4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map(addressText);
const v6 = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .map(addressText)
  .filter((text) => !text.startsWith('::ffff:'));
const port = fc.nat(65_535);

describe('struct sockaddr', () => {
  test('is laid out as the kernel has it', () => {
    expect(sockaddr({ address: '192.0.2.1', port: 1194 }).toString('hex')).toBe('020004aac00002010000000000000000');
    expect(sockaddr({ address: 'fe80::9', port: 1194, scopeId: 3 }).toString('hex')).toBe(
      '0a0004aa00000000fe80000000000000000000000000000903000000',
    );
  });

  test('gives back what was written, whatever was in its memory before', () => {
    fc.assert(
      fc.property(
        fc.oneof(v4, v6),
        port,
        fc.nat(0xffff),
        fc.uint8Array({ minLength: 40, maxLength: 40 }),
        (address, port, scope, before) => {
          const family = familyOf(address);
          const peer =
            family === AF_INET6 && scope > 0
              ? { address, port, scopeId: scope }
              : { address, port, scopeId: undefined };
          const raw = Buffer.from(before);
          writeSockaddr(peer, family, raw, 8);
          expect(readSockaddr(raw, 8)).toEqual(peer);
        },
      ),
    );
  });

  test('has IPv4 v4-mapped on an IPv6 socket, and as plain text outside', () => {
    fc.assert(
      fc.property(v4, port, (address, port) => {
        const raw = Buffer.alloc(28, 0xee);
        expect(writeSockaddr({ address, port }, AF_INET6, raw)).toBe(28);
        expect(raw.subarray(8, 20).toString('hex')).toBe('00000000000000000000ffff');
        expect(readSockaddr(raw)).toStrictEqual({ address, port });
      }),
    );
  });

  test('of IPv4 cannot hold IPv6', () => {
    expect(() => writeSockaddr({ address: '::1', port: 1 }, AF_INET, Buffer.alloc(16))).toThrow('::1');
  });

  test('is right for more IPv6 addresses than are remembered', () => {
    for (let i = 0; i < 10_000; i++) {
      const address = `2001:db8::${(i % 5000 || 1).toString(16)}`;
      expect(readSockaddr(sockaddr({ address, port: 1 })).address).toBe(address);
    }
  });
});

test.each([
  ['fe80::1', true],
  ['febf::1', true],
  ['fec0::1', false],
  ['fe8::1', false],
  ['2001:db8::fe80', false],
  ['169.254.0.1', false],
])('%s is link-local: %s', (address, expected) => {
  expect(isLinkLocal(address)).toBe(expected);
});
