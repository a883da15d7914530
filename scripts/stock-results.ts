import type { Counts } from './counts.ts';

/** How a suite ended on a kernel. */
export interface StockResult {
  readonly series: string;
  readonly suite: string;
  readonly counts: Counts;
  readonly seconds: number;
  /** Failed tests by file and name. */
  readonly failures: readonly string[];
}

/** Whether something ran and nothing failed. */
export function allPassed(results: readonly StockResult[]): boolean {
  return results.length > 0 && results.every(({ counts }) => counts.failed === 0 && counts.passed > 0);
}

/** A table for people, a row for each kernel and suite, and what failed below it. */
export function formatResults(results: readonly StockResult[]): string {
  const sorted = [...results].sort((a, b) => a.series.localeCompare(b.series, 'en', { numeric: true }));
  const head = ['Linux', 'suite', 'passed', 'failed', 'skipped', 'seconds'];
  const rows = sorted.map(({ series, suite, counts: { passed, failed, skipped }, seconds }) => [
    series,
    suite,
    ...[passed, failed, skipped, seconds].map(String),
  ]);
  const lines = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...lines.map((cells) => cells[column]?.length ?? 0)));
  const table = lines.map((cells) =>
    cells
      .map((cell, column) => (column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  '),
  );
  const failed = sorted.flatMap(({ series, failures }) => failures.map((test) => `failed on ${series}: ${test}`));
  return [...table, ...failed].map((line) => `${line}\n`).join('');
}
