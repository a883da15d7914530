import { Option } from 'commander';
import { stringify } from 'yaml';

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
  return printable(text(format === 'wide'));
}

/** Text that does nothing to a terminal: names and messages of a cluster are written by others. */
export function printable(text: string): string {
  return text.replaceAll(/[^\P{Cc}\n]/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
