import { describe, expect, test } from '@jest/globals';
import type { Rate } from '../token-buckets.ts';
import { BeginLimit, type BeginRefusal } from './begin-limit.ts';

class Bench {
  now = 0;
  readonly limit: BeginLimit;

  constructor(limits: { begins?: Rate; beginsPerSource?: Rate } = {}) {
    this.limit = new BeginLimit({ limits: () => limits, now: () => this.now, random: (n) => Buffer.alloc(n, 7) });
  }

  begin(address: string): BeginRefusal | 'begun' {
    const refusal = this.limit.refusal(address);
    if (refusal === undefined) {
      this.limit.count(address);
    }
    return refusal ?? 'begun';
  }

  /** How many of so many tries come to something. */
  begins(tries: number, address: (i: number) => string): number {
    return Array.from({ length: tries }, (_, i) => this.begin(address(i))).filter((one) => one === 'begun').length;
  }
}

const host = (net: number, i: number): string => `10.${net}.${i >> 8}.${i & 255}`;

describe('handshakes may begin', () => {
  test('of 200 clients behind one address at once, and of 1000 in all', () => {
    const bench = new Bench();
    expect(bench.begins(200, () => '192.0.2.1')).toBe(200);
    expect(bench.begins(800, (i) => host(1, i))).toBe(800);
    // Again after a gateway's second restart within a minute.
    bench.now += 30_000;
    expect(bench.begins(200, () => '192.0.2.1')).toBe(200);
    expect(bench.begins(800, (i) => host(1, i))).toBe(800);
  });

  test('at a limited rate from one source, and in all', () => {
    const bench = new Bench();
    expect(bench.begins(5000, () => '192.0.2.1')).toBe(256);
    expect(bench.begins(5000, (i) => `2001:db8:0:1${(i % 256).toString(16).padStart(2, '0')}::${i}`)).toBe(256);
    expect(bench.begins(9000, (i) => host(1, i))).toBe(2048 - 512);
    expect(bench.begin('198.51.100.1')).toBe('rate');
    expect(bench.begin('192.0.2.1')).toBe('source-rate');
    bench.now += 1000;
    expect(bench.begins(100, () => '192.0.2.1')).toBe(10);
    expect(bench.begins(1000, (i) => host(2, i))).toBe(190);
  });

  test('of others while some sources are at their limit, and after very many sources have come', () => {
    const bench = new Bench({ begins: { burst: 1e9, perSecond: 1e9 }, beginsPerSource: { burst: 100, perSecond: 1 } });
    const hostile = 60;
    expect(bench.begins(hostile * 300, (i) => host(1, i % hostile))).toBeLessThanOrEqual(hostile * 100);
    expect(bench.begins(1000, (i) => host(2, i))).toBeGreaterThanOrEqual(999);
    expect(bench.begins(100_000, (i) => `172.${16 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`)).toBeGreaterThan(99_900);
    expect(bench.begins(1000, (i) => host(3, i))).toBeGreaterThanOrEqual(995);
  });
});
