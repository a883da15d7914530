import { add, type Counts, noTests } from './counts.ts';

/**
 * Tests of timing share one guest with others. Files that fail there are run once more with nothing beside them: what
 * fails then has failed; what passes only then is named, so that it gets mended.
 */

/** A test file in a jest report. */
export interface FileOutcome {
  readonly path: string;
  readonly counts: Counts;
  /** The full names of its failed tests. */
  readonly failures: readonly string[];
}

/** More than these is no accident of timing, and a second run would only take time. */
const mostFiles = 6;

/**
 * The files of a jest report (`--json`). One that could not be loaded, or failed beside its tests, has a failure of its
 * own: none of its tests tells.
 *
 * @throws TypeError when the text is not such a report
 */
export function outcomesOfReport(text: string): FileOutcome[] {
  return array(JSON.parse(text), 'testResults').map((file) => {
    const tests = array(file, 'assertionResults').map((entry) => ({
      status: string(entry, 'status'),
      name: string(entry, 'fullName'),
    }));
    const failures = tests.filter(({ status }) => status === 'failed').map(({ name }) => name);
    const passed = tests.filter(({ status }) => status === 'passed').length;
    const skipped = tests.length - passed - failures.length;
    if (failures.length === 0 && string(file, 'status') === 'failed') failures.push('the file itself');
    return { path: string(file, 'name'), counts: { passed, failed: failures.length, skipped }, failures };
  });
}

/** The sum over files. */
export function countsOf(outcomes: readonly FileOutcome[]): Counts {
  return outcomes.reduce((sum, { counts }) => add(sum, counts), noTests);
}

/** The paths to run again; none when all passed or too much failed. */
export function worthASecondTry(outcomes: readonly FileOutcome[]): string[] {
  const failed = outcomes.filter(({ counts }) => counts.failed > 0);
  return failed.length > mostFiles ? [] : failed.map(({ path }) => path);
}

/** The outcomes after a second run, and the tests that passed only there. */
export function withSecondTry(
  first: readonly FileOutcome[],
  second: readonly FileOutcome[],
): { outcomes: FileOutcome[]; unsteady: string[] } {
  const again = new Map(second.map((outcome) => [outcome.path, outcome]));
  const unsteady: string[] = [];
  const outcomes = first.map((outcome) => {
    const later = again.get(outcome.path);
    // A second run that left a file out, or tests of it, proves nothing.
    if (outcome.counts.failed === 0 || later === undefined || sum(later) < sum(outcome)) return outcome;
    const passedNow = outcome.failures.filter((name) => later.counts.failed === 0 && !later.failures.includes(name));
    unsteady.push(...passedNow.map((name) => `${outcome.path}: ${name}`));
    return later;
  });
  return { outcomes, unsteady };
}

function sum({ counts: { passed, failed, skipped } }: FileOutcome): number {
  return passed + failed + skipped;
}

function array(value: unknown, name: string): unknown[] {
  const found = field(value, name);
  if (!Array.isArray(found)) throw new TypeError(`the jest report has no ${name}`);
  return found;
}

function string(value: unknown, name: string): string {
  const found = field(value, name);
  if (typeof found !== 'string') throw new TypeError(`the jest report has no ${name}`);
  return found;
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
