import { describe, expect, test } from '@jest/globals';
import { countsOf, type FileOutcome, outcomesOfReport, withSecondTry, worthASecondTry } from './second-try.ts';

const file = (path: string, passed: number, ...failures: string[]): FileOutcome => ({
  path,
  counts: { passed, failed: failures.length, skipped: 0 },
  failures,
});

describe('the files of a jest report', () => {
  const one = {
    name: '/a.test.ts',
    status: 'failed',
    assertionResults: [
      { status: 'passed', fullName: 'a works' },
      { status: 'failed', fullName: 'a breaks' },
      { status: 'pending', fullName: 'a waits' },
    ],
  };
  const unloadable = { name: '/b.test.ts', status: 'failed', assertionResults: [] };

  test('are counted with the names of what failed', () => {
    expect(outcomesOfReport(JSON.stringify({ testResults: [one] }))).toEqual([
      { path: '/a.test.ts', counts: { passed: 1, failed: 1, skipped: 1 }, failures: ['a breaks'] },
    ]);
  });

  test('that could not be loaded have failed', () => {
    expect(countsOf(outcomesOfReport(JSON.stringify({ testResults: [one, unloadable] }))).failed).toBe(2);
  });

  test.each(['{}', '[]', 'null', '{"testResults":[{}]}'])('are not found in %s', (text) => {
    expect(() => outcomesOfReport(text)).toThrow(TypeError);
  });
});

describe('a second try', () => {
  test('is given to the files that failed', () => {
    expect(worthASecondTry([file('a', 3), file('b', 1, 'late')])).toEqual(['b']);
  });

  test('is not given when everything passed, nor when so much failed that timing is no excuse', () => {
    expect(worthASecondTry([file('a', 3)])).toEqual([]);
    expect(worthASecondTry(Array.from({ length: 7 }, (_, n) => file(`${n}`, 0, 'late')))).toEqual([]);
  });

  test('counts instead of the first, and names what passed only then', () => {
    const { outcomes, unsteady } = withSecondTry([file('a', 3), file('b', 1, 'late')], [file('b', 2)]);
    expect(countsOf(outcomes)).toEqual({ passed: 5, failed: 0, skipped: 0 });
    expect(unsteady).toEqual(['b: late']);
  });

  test('that fails again, or runs less, leaves a failure', () => {
    const first = [file('a', 0, 'broken'), file('b', 0, 'broken'), file('c', 5, 'broken')];
    const { outcomes, unsteady } = withSecondTry(first, [file('a', 0, 'broken'), file('c', 1)]);
    expect(countsOf(outcomes).failed).toBe(3);
    expect(unsteady).toEqual([]);
  });
});
