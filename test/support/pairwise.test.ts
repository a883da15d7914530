import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Factors, pairwise } from './pairwise.ts';

/** Each pair of values of two properties, that the rows have or that they should have. */
const pairsOf = (entries: readonly (readonly [string, unknown])[]): string[] =>
  entries.flatMap((one, n) => entries.slice(n + 1).map((other) => JSON.stringify([one, other])));
const pairsOfRows = (rows: readonly Readonly<Record<string, unknown>>[]): Set<string> =>
  new Set(rows.flatMap((row) => pairsOf(Object.entries(row))));
function allPairs(factors: Factors): Set<string> {
  const values = Object.entries(factors).map(([name, list]) => list.map((value) => [name, value] as const));
  return new Set(
    values.flatMap((one, n) =>
      values.slice(n + 1).flatMap((other) => one.flatMap((a) => other.map((b) => JSON.stringify([a, b])))),
    ),
  );
}

const anyFactors = fc
  .array(fc.integer({ min: 1, max: 5 }), { minLength: 2, maxLength: 7 })
  .map((sizes): Factors => Object.fromEntries(sizes.map((size, n) => [`f${n}`, [...Array(size).keys()]])));

describe('pairwise', () => {
  test('covers every pair of values, and has no row that covers nothing', () => {
    fc.assert(
      fc.property(anyFactors, (factors) => {
        const rows = pairwise(factors);
        expect(pairsOfRows(rows)).toEqual(allPairs(factors));
        const seen = new Set<string>();
        for (const row of rows) {
          const pairs = pairsOf(Object.entries(row));
          expect(pairs.some((pair) => !seen.has(pair))).toBe(true);
          for (const pair of pairs) seen.add(pair);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('gives the same rows each time', () => {
    const factors = { a: [1, 2, 3], b: ['x', 'y'], c: [true, false], d: [1, 2, 3, 4] };
    expect(pairwise(factors)).toEqual(pairwise(factors));
  });

  test('stays near the fewest rows, which are those of the two widest properties', () => {
    const factors = { a: [1, 2], b: [1, 2], c: [1, 2], d: [1, 2, 3, 4], e: [1, 2, 3], f: [1, 2], g: [1, 2, 3] };
    const { length } = pairwise(factors);
    expect(length).toBeGreaterThanOrEqual(12);
    expect(length).toBeLessThanOrEqual(16);
  });

  test('a single property has a row for each value', () => {
    expect(pairwise({ only: ['x', 'y'] })).toEqual([{ only: 'x' }, { only: 'y' }]);
  });

  test('a property without values is refused by name', () => {
    expect(() => pairwise({ good: [1], empty: [] })).toThrow('no value for empty');
  });
});
