import { describe, expect, test } from '@jest/globals';
import { SequenceTally } from './sequence-tally.ts';

function tallyOf(numbers: readonly number[]): SequenceTally {
  const tally = new SequenceTally();
  for (const number of numbers) tally.take(number);
  return tally;
}

describe('numbered packets', () => {
  test('that all came in order', () => {
    const tally = tallyOf(Array.from({ length: 200_000 }, (_, number) => number));
    expect(tally.tally).toEqual({ received: 200_000, duplicates: 0, late: 0 });
    expect(tally.missing(200_000)).toEqual([]);
  });

  test('of which some are lost, the first and the last too', () => {
    const tally = tallyOf([1, 2, 5, 8]);
    expect(tally.missing(10)).toEqual([
      [0, 0],
      [3, 4],
      [6, 7],
      [9, 9],
    ]);
    expect(tally.tally).toEqual({ received: 4, duplicates: 0, late: 0 });
  });

  test('that came twice, or after later ones', () => {
    const tally = tallyOf([0, 2, 1, 2, 1, 3]);
    expect(tally.tally).toEqual({ received: 4, duplicates: 2, late: 1 });
    expect(tally.missing(4)).toEqual([]);
  });
});
