import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { referenceFolder, referencePages } from './reference.ts';
import { chartValues } from './values-page.ts';

const pages = await referencePages();

test('docs/reference holds what the source generates, and nothing else (else run: npm run generate)', () => {
  expect(readdirSync(referenceFolder).sort()).toEqual(Object.keys(pages).sort());
});

test.each(Object.entries(pages))('docs/reference/%s is as generated (else run: npm run generate)', (file, text) => {
  expect(readFileSync(join(referenceFolder, file), 'utf8')).toBe(text);
});

test('every value of the chart has a comment that says what it is good for', () => {
  expect(
    chartValues()
      .filter(({ words }) => words === '')
      .map(({ path }) => path.join('.')),
  ).toEqual([]);
});
