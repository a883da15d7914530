import { describe, expect, test } from '@jest/globals';
import { alone, twice } from './lab-tier.ts';
import type { JestRun } from './jest-run.ts';

const run = (passed: number, ...failures: string[]): JestRun => {
  const counts = { passed, failed: failures.length, skipped: 0 };
  return { counts, outcomes: [{ path: '/project/a.test.ts', counts, failures }] };
};

describe('a second try', () => {
  test('is not made when all passed', async () => {
    const again = (): never => {
      throw new Error('asked again');
    };
    expect(await twice(() => Promise.resolve(run(2)), again)).toEqual({ passed: 2, failed: 0, skipped: 0 });
  });

  test('decides, and gets the files that failed', async () => {
    const asked: (readonly string[])[] = [];
    const again = (second: JestRun) => (files: readonly string[]) => {
      asked.push(files);
      return Promise.resolve(second);
    };
    const first = (): Promise<JestRun> => Promise.resolve(run(1, 'a breaks'));
    expect(await twice(first, again(run(2)))).toEqual({ passed: 2, failed: 0, skipped: 0 });
    expect(await twice(first, again(run(1, 'a breaks')))).toEqual({ passed: 1, failed: 1, skipped: 0 });
    expect(asked).toEqual([['/project/a.test.ts'], ['/project/a.test.ts']]);
  });

  test('has the options of the first, and its own files', () => {
    expect(alone(['--verbose', 'a'], ['/project/a.test.ts'])).toEqual([
      '--runInBand',
      '--verbose',
      '--runTestsByPath',
      '/project/a.test.ts',
    ]);
  });
});
