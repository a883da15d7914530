import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { TokenBuckets } from './token-buckets.ts';

test('a bucket gives its burst, and then no more than comes in', () => {
  const step = fc.record({ wait: fc.nat(3000), tries: fc.nat(30), back: fc.nat(3) });
  const rate = fc.record({ burst: fc.integer({ min: 0, max: 20 }), perSecond: fc.integer({ min: 1, max: 2000 }) });
  const start = fc.constantFrom(0, 1.8e12, 12345.678);
  fc.assert(
    fc.property(rate, start, fc.array(step, { maxLength: 20 }), ({ burst, perSecond }, from, steps) => {
      let now = from;
      const buckets = new TokenBuckets(2, () => now);
      let tokens = burst;
      for (const { wait, tries, back } of steps) {
        now += wait;
        tokens = Math.min(burst, tokens + (wait / 1000) * perSecond);
        for (let i = 0; i < tries; i++) {
          const has = buckets.has(1, { burst, perSecond });
          // A tenth of a token is rounding.
          expect(has ? tokens > 0.85 : tokens < 1).toBe(true);
          if (has) {
            buckets.take(1, { burst, perSecond });
            tokens -= 1;
          }
        }
        for (let i = 0; i < back; i++) {
          buckets.giveBack(1, { burst, perSecond });
          tokens = Math.min(burst, tokens + 1);
        }
        expect(buckets.has(0, { burst, perSecond })).toBe(burst > 0);
      }
    }),
  );
});

test('a clock set back far fills a bucket, and a changed rate holds at once', () => {
  let now = 1e6;
  const buckets = new TokenBuckets(1, () => now);
  const take = (burst: number, perSecond: number): number => {
    let count = 0;
    for (; count < 100 && buckets.has(0, { burst, perSecond }); count++) {
      buckets.take(0, { burst, perSecond });
    }
    return count;
  };
  expect(take(3, 1)).toBe(3);
  expect(take(3, 1)).toBe(0);
  now = 0;
  expect(take(3, 1)).toBe(3);
  expect(take(5, 1)).toBe(2);
  now += 1000;
  expect(take(5, 10)).toBe(5);
});
