import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { allPassed, formatResults, type StockResult } from './stock-results.ts';
import { stockSuites } from './stock-suites.ts';
import { projectRoot } from './tasks.ts';

const result = (series: string, passed: number, failed: number, failures: readonly string[] = []): StockResult => ({
  ...{ series, suite: 'netlink', seconds: 93 },
  ...{ counts: { passed, failed, skipped: 2 }, failures },
});

describe('tests on stock kernels', () => {
  test('are there, each in one suite, and of the project that the suite names', () => {
    const files = stockSuites.flatMap((suite) => suite.files);
    expect(files.filter((file) => !existsSync(join(projectRoot, file)))).toEqual([]);
    expect(new Set(files).size).toBe(files.length);
    for (const { project, files: own } of stockSuites)
      for (const file of own) expect(file).toMatch(new RegExp(`^test/${project}/`));
  });

  test('are a table, the oldest kernel first, with what failed below', () => {
    expect(formatResults([result('7.10', 100, 1, ['a.test.ts: works']), result('7.3', 7, 0)])).toBe(
      [
        'Linux  suite    passed  failed  skipped  seconds',
        '7.3    netlink       7       0        2       93',
        '7.10   netlink     100       1        2       93',
        'failed on 7.10: a.test.ts: works',
        '',
      ].join('\n'),
    );
  });

  test('passed only when something ran and nothing failed', () => {
    expect(allPassed([])).toBe(false);
    expect(allPassed([result('7.0', 0, 0)])).toBe(false);
    expect(allPassed([result('7.0', 3, 0), result('7.3', 3, 1)])).toBe(false);
    expect(allPassed([result('7.0', 3, 0), result('7.3', 3, 0)])).toBe(true);
  });
});
