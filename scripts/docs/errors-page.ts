import { errorTable } from '../../operator/src/errors.ts';
import { cellText, markdownTable, pageHead } from './markdown.ts';

const sections: Readonly<Record<string, string>> = {
  '1': 'Resources',
  '2': 'Keys',
  '3': 'Kernel',
  '4': 'Agent and its sockets',
  '5': 'CNI configuration and runtime',
  '6': 'kubectl ovpn',
};

/** docs/reference/errors.md: the table of errors. */
export function errorsPage(): string {
  const head = pageHead(
    'Errors',
    'operator/src/errors.ts',
    'Every error names the object and the field, says what is wrong and what to do, and carries a stable code. The codes stand in logs, in conditions of resources and in the results of the CNI plugin. [Troubleshooting](../troubleshooting.md) begins with what you see instead.',
  );
  const parts = Object.entries(sections).map(([digit, title]) => {
    const rows = Object.entries(errorTable)
      .filter(([, { code }]) => code.startsWith(`OVPN${digit}`))
      .sort(([, a], [, b]) => a.code.localeCompare(b.code))
      .map(([name, { code, meaning, remedy }]) => [code, name, cellText(meaning), cellText(remedy)]);
    return `\n## ${title}\n\n${markdownTable(['Code', 'Name', 'What it means', 'What to do'], rows)}`;
  });
  return head + parts.join('');
}
