/** How tests ended. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export const noTests: Counts = { passed: 0, failed: 0, skipped: 0 };

export function add(one: Counts, other: Counts): Counts {
  return {
    passed: one.passed + other.passed,
    failed: one.failed + other.failed,
    skipped: one.skipped + other.skipped,
  };
}

/**
 * The counts of a jest report (`--json`). A file that could not even be loaded counts as a failed test: its
 * tests are not in the numbers.
 *
 * @throws TypeError when the text is not such a report
 */
export function countsOfReport(text: string): Counts {
  const report: unknown = JSON.parse(text);
  const field = (name: string): number => {
    const value = typeof report === 'object' && report !== null ? (report as Record<string, unknown>)[name] : undefined;
    if (typeof value !== 'number') throw new TypeError(`the jest report has no ${name}`);
    return value;
  };
  return {
    passed: field('numPassedTests'),
    failed: field('numFailedTests') + field('numRuntimeErrorTestSuites'),
    skipped: field('numPendingTests') + field('numTodoTests'),
  };
}

/** The closing line. */
export function formatCounts({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}
