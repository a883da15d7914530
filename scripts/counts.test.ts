import { describe, expect, test } from '@jest/globals';
import { add, countsOfReport, formatCounts } from './counts.ts';

const report = {
  numPassedTests: 5,
  numFailedTests: 1,
  numRuntimeErrorTestSuites: 0,
  numPendingTests: 2,
  numTodoTests: 1,
};

describe('counts', () => {
  test('come from a jest report', () => {
    expect(countsOfReport(JSON.stringify(report))).toEqual({ passed: 5, failed: 1, skipped: 3 });
  });

  test('show a file that could not be loaded as a failure', () => {
    expect(countsOfReport(JSON.stringify({ ...report, numRuntimeErrorTestSuites: 2 })).failed).toBe(3);
  });

  test.each(['{}', '[]', 'null', '{"numPassedTests":"5"}'])('refuse %s, which is no report', (text) => {
    expect(() => countsOfReport(text)).toThrow(TypeError);
  });

  test('add up and end in the closing line', () => {
    const sum = add({ passed: 1, failed: 2, skipped: 3 }, { passed: 10, failed: 20, skipped: 30 });
    expect(formatCounts(sum)).toBe('11 passed, 22 failed, 33 skipped');
  });
});
