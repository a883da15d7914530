import { describe, expect, test } from '@jest/globals';
import type { Traffic } from '../../kernel/ovpn/codec.ts';
import { KeyUsage } from './key-usage.ts';

const unlimited = { bytes: 0, packets: 0 };

function traffic(counts: Partial<Traffic> = {}): { link: Traffic } {
  return { link: { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n, ...counts } };
}

describe('a data key is spent', () => {
  test.each<[string, 'AES-256-GCM' | 'CHACHA20-POLY1305', Partial<Traffic>, boolean]>([
    ['not by nothing', 'AES-256-GCM', {}, false],
    ['by half of all packet ids', 'CHACHA20-POLY1305', { txPackets: 2n ** 31n }, true],
    ['not by one less', 'CHACHA20-POLY1305', { txPackets: 2n ** 31n - 1n }, false],
    ['not by what the other end sends', 'AES-256-GCM', { rxPackets: 2n ** 33n, rxBytes: 2n ** 60n }, false],
    ['by 2^35 blocks of AES-GCM', 'AES-256-GCM', { txBytes: 2n ** 39n, txPackets: 0n }, true],
    ['not by a block less', 'AES-256-GCM', { txBytes: 2n ** 39n - 16n, txPackets: 0n }, false],
    ['by blocks and packets together', 'AES-256-GCM', { txBytes: 2n ** 39n - 32n, txPackets: 1n }, true],
    ['not by bytes with ChaCha20-Poly1305', 'CHACHA20-POLY1305', { txBytes: 2n ** 50n }, false],
  ])('%s', (_, cipher, counts, spent) => {
    expect(new KeyUsage(cipher).isSpent(traffic(counts), unlimited)).toBe(spent);
  });

  test.each<[string, Partial<Traffic>, Partial<typeof unlimited>, boolean]>([
    ['by the bytes of both ends', { rxBytes: 600n, txBytes: 400n }, { bytes: 1000 }, true],
    ['not by a byte less', { rxBytes: 600n, txBytes: 399n }, { bytes: 1000 }, false],
    ['by the packets of both ends', { rxPackets: 6n, txPackets: 4n }, { packets: 10 }, true],
    ['not by a packet less', { rxPackets: 6n, txPackets: 3n }, { packets: 10 }, false],
  ])('of the settings: %s', (_, counts, limits, spent) => {
    expect(new KeyUsage('AES-256-GCM').isSpent(traffic(counts), { ...unlimited, ...limits })).toBe(spent);
  });

  test('by what it has protected itself, and not by the keys before it', () => {
    const usage = new KeyUsage('AES-256-GCM');
    const limits = { bytes: 0, packets: 10 };
    expect(usage.isSpent(traffic({ txPackets: 10n }), limits)).toBe(true);
    usage.renew();
    expect(usage.isSpent(traffic({ txPackets: 12n }), limits)).toBe(false);
    expect(usage.isSpent(traffic({ txPackets: 21n }), limits)).toBe(false);
    expect(usage.isSpent(traffic({ txPackets: 22n }), limits)).toBe(true);
  });
});
