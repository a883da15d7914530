import type { Row } from './suite.ts';

/** The rows as a table for people: columns aligned, and a rate beside what is a cost per item. */
export function formatTable(rows: readonly Row[]): string {
  const head = ['suite', 'name', 'ours', 'peer', 'unit', 'ratio', 'ours/s', 'peer name'];
  const body = rows.map((row) => [
    row.suite,
    row.name,
    formatFigure(row.ours),
    formatFigure(row.peer),
    row.unit,
    row.ratio.toFixed(2),
    rate(row),
    row.peerName,
  ]);
  const lines = [head, ...body];
  const widths = head.map((_, column) => Math.max(...lines.map((cells) => cells[column]?.length ?? 0)));
  const right = new Set(['ours', 'peer', 'ratio', 'ours/s']);
  return lines
    .map((cells) =>
      cells
        .map((cell, column) =>
          right.has(head[column] ?? '') ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** Items per second, for costs in microseconds per item. */
function rate({ unit, ours }: Row): string {
  return unit.startsWith('µs/') && ours > 0 ? Math.round(1e6 / ours).toLocaleString('en-US') : '';
}

/** Three significant digits, never an exponent. */
export function formatFigure(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString('en-US');
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
