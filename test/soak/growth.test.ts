import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { fit, grows, settled } from './growth.ts';

describe('growth', () => {
  test('a line is found as it is', () => {
    const { slope, error, total } = fit([3, 5, 7, 9]);
    expect([slope, error, total]).toEqual([2, 0, 6]);
    expect(() => fit([1, 2])).toThrow(RangeError);
  });

  test('the first quarter does not count, as long as three are left', () => {
    expect(settled([1, 2, 3, 4, 5, 6, 7, 8])).toEqual([3, 4, 5, 6, 7, 8]);
    expect(settled([1, 2, 3])).toEqual([1, 2, 3]);
    expect(settled([9, 1, 2, 3])).toEqual([1, 2, 3]);
  });

  test.each([
    ['one in each round', [20, 21, 22, 23, 24, 25], true],
    [
      'one in three rounds, among others that come and go',
      Array.from({ length: 40 }, (_, i) => 20 + Math.floor(i / 3) + (i % 2)),
      true,
    ],
    ['what a cache takes at first', [10, 18, 20, 20, 20, 20, 20, 20], false],
    ['one sample that is far off', [20, 20, 20, 20, 20, 20, 20, 20, 20, 60, 20, 20], false],
    ['one object more, once', [20, 20, 20, 20, 20, 20, 21, 21, 21, 21, 21, 21], false],
    ['less and less', [30, 28, 26, 24, 22, 20, 18, 16], false],
  ])('%s', (_, samples, expected) => {
    expect(grows(samples, 2)).toBe(expected);
  });

  test('noise alone is none, and a leak is one in any noise that is smaller', () => {
    const noise = fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 60, maxLength: 60 });
    fc.assert(
      fc.property(noise, (values) => {
        expect(
          grows(
            values.map((value, i) => value + i),
            10,
          ),
        ).toBe(true);
      }),
    );
    let alarms = 0;
    fc.assert(
      fc.property(noise, (values) => {
        if (grows(values, 2)) alarms += 1;
      }),
      { numRuns: 500 },
    );
    expect(alarms).toBeLessThan(5);
  });
});
