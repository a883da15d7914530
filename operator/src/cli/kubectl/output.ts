import { Option } from 'commander';
import { stringify } from 'yaml';
import { forTerminal } from '../terminal.ts';

/** How a result is printed. */
export type OutputFormat = 'text' | 'wide' | 'json' | 'yaml';

/** The option `-o`, as kubectl has it. */
export function outputOption(): Option {
  return new Option('-o, --output <format>', 'how to print').choices(['text', 'wide', 'json', 'yaml']).default('text');
}

/** A result as it is asked for; `text` makes the one for people. */
export function render(value: unknown, format: OutputFormat, text: (wide: boolean) => string): string {
  if (format === 'json') return `${JSON.stringify(value, undefined, 2)}\n`;
  if (format === 'yaml') return stringify(value);
  return forTerminal(text(format === 'wide'));
}
