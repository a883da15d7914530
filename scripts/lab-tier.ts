import { relative } from 'node:path';
import { needGoPrograms } from '../test/programs/build.ts';
import { report } from '../test/lab/errors.ts';
import { screenProgress } from '../test/lab/progress.ts';
import type { ProgramName } from '../test/programs/programs.ts';
import { add, type Counts, noTests } from './counts.ts';
import { type JestRun, jestInLab, testFiles } from './jest-run.ts';
import { countsOf, withSecondTry, worthASecondTry } from './second-try.ts';
import { headline, projectRoot, show } from './tasks.ts';

/** A tier of tests that run in guests of the lab. */
export interface LabTier {
  /** Test files side by side in a guest; tests that wait for others leave it time. */
  readonly workers: number;
  /** Tests of timing wait for what they look for; a loaded machine may take its time. Milliseconds. */
  readonly testTimeout: number;
  /** For a guest. Seconds. */
  readonly timeout: number;
  /** Go programs that it needs: in the lab there is no network to build them. */
  readonly programs?: readonly ProgramName[];
  /** Each file has a guest of its own: one that dies takes only its file along. */
  readonly guestPerFile?: boolean;
}

/** Builds what is missing; says what went wrong, if something does. */
export async function havePrograms(names: readonly ProgramName[]): Promise<boolean> {
  try {
    await needGoPrograms(names, screenProgress('programs'));
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/** Runs a jest project in the lab; files that failed get a second try alone. */
export async function runLabTier(project: string, tier: LabTier, jestOptions: readonly string[]): Promise<Counts> {
  if (!(await havePrograms(tier.programs ?? []))) return { ...noTests, failed: 1 };
  // The bundles are what is shipped, and they start faster than the sources: a node is started some hundred times.
  if ((await show(process.execPath, ['scripts/build.ts', '--no-types'])) !== 0) return { ...noTests, failed: 1 };
  const jest = [`--selectProjects=${project}`, `--testTimeout=${tier.testTimeout}`];
  return twice(
    () =>
      tier.guestPerFile === true && jestOptions.length === 0
        ? inGuests(project, jest, tier.timeout)
        : jestInLab([...jest, `--maxWorkers=${tier.workers}`, ...jestOptions], tier.timeout),
    (files) => jestInLab([...jest, ...alone(jestOptions, files)], tier.timeout),
  );
}

/** The options of jest for files that are run once more, one after the other. */
export function alone(jestOptions: readonly string[], files: readonly string[]): string[] {
  return ['--runInBand', ...jestOptions.filter((option) => option.startsWith('-')), '--runTestsByPath', ...files];
}

/** Runs tests, and files that failed once more with nothing beside them. */
export async function twice(
  all: () => Promise<JestRun>,
  again: (files: readonly string[]) => Promise<JestRun>,
): Promise<Counts> {
  const first = await all();
  const failed = worthASecondTry(first.outcomes);
  if (failed.length === 0) return first.counts;
  headline(`once more, one after the other: ${failed.map((path) => relative(projectRoot, path)).join(' ')}`);
  const second = await again(failed);
  const { outcomes, unsteady } = withSecondTry(first.outcomes, second.outcomes);
  for (const test of unsteady) process.stdout.write(`UNSTEADY, passed only alone: ${relative(projectRoot, test)}\n`);
  return countsOf(outcomes);
}

/** One guest after the other. */
async function inGuests(project: string, jest: readonly string[], timeout: number): Promise<JestRun> {
  let sum: JestRun = { counts: noTests, outcomes: [] };
  for (const path of await testFiles(project)) {
    headline(relative(projectRoot, path));
    const run = await jestInLab([...jest, '--runInBand', '--runTestsByPath', path], timeout);
    sum = { counts: add(sum.counts, run.counts), outcomes: [...sum.outcomes, ...outcomesOf(path, run)] };
  }
  return sum;
}

/** A guest that left no report has failed with its file, which is worth a second try as any other. */
function outcomesOf(path: string, { counts, outcomes }: JestRun): JestRun['outcomes'] {
  return outcomes.length > 0 ? outcomes : [{ path, counts, failures: ['the guest itself'] }];
}
