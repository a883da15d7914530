/** The beginning of a generated page: its title, what it was made from, and a sentence about it. */
export function pageHead(title: string, source: string, words: string): string {
  return `<!-- Generated from ${source}; do not edit. To change it, edit that and run: npm run generate -->\n\n# ${title}\n\n${words}\n`;
}

/** A Markdown table, with a line for each row. */
export function markdownTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  return line(header) + line(header.map(() => '---')) + rows.map(line).join('');
}

/** Words of a source as text of a table's cell: on one line, with nothing in it that Markdown or HTML would read. */
export function cellText(text: string): string {
  const plain = (part: string): string => part.replaceAll('<', '&lt;').replaceAll('*', '\\*').replaceAll('_', '\\_');
  return text
    .replaceAll(/\s+/g, ' ')
    .trim()
    .replaceAll('|', '\\|')
    .split(/(`[^`]*`)/)
    .map((part) => (part.startsWith('`') ? part : plain(part)))
    .join('');
}

/** A value as code in a table's cell. */
export function cellCode(value: string): string {
  const text = value.replaceAll('|', '\\|');
  return text.includes('`') ? `\`\` ${text} \`\`` : `\`${text}\``;
}
