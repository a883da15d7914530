/** Lines with columns as wide as their widest cell, as kubectl prints them. */
export function table(rows: readonly (readonly string[])[]): string[] {
  return aligned(rows, []);
}

/**
 * The same for a table that goes on.
 *
 * @param widths of the columns so far; they are widened where the rows need it
 */
export function aligned(rows: readonly (readonly string[])[], widths: number[]): string[] {
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('   ')
      .trimEnd(),
  );
}
