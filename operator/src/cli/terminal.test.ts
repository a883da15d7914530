import { expect, test } from '@jest/globals';
import { forTerminal } from './terminal.ts';

test.each([
  ['a colour', 'so \u001b[31mred', 'so ?[31mred'],
  ['a control character of one byte', 'wipe \u009b2J', 'wipe ?2J'],
  ['a title', '\u001b]0;owned\u0007', '?]0;owned?'],
  ['a line drawn over', 'Ready\rBroken', 'Ready?Broken'],
  ['text that runs the other way', 'user\u202etxt.exe', 'user?txt.exe'],
  ['what is not seen', 'al\u200bice', 'al?ice'],
  ['a separator of lines', 'one\u2028two', 'one?two'],
])('%s does nothing', (_what, text, shown) => {
  expect(forTerminal(text)).toBe(shown);
});

test('lines, columns and letters of all languages stay', () => {
  const text = 'PEER   STATE\nbüro   Ready\n事務所   Ready\n';
  expect(forTerminal(text)).toBe(text);
});
