import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { allPages } from './pages.ts';
import { repository } from './reference.ts';

const pictures = globSync('docs/pictures/*.svg', { cwd: repository }).sort();
const shown = new Set(
  allPages().flatMap(({ file, links }) =>
    links.filter(({ target }) => target.endsWith('.svg')).map(({ target }) => join(file, '..', target)),
  ),
);

test('every picture is shown by a page', () => {
  expect(pictures.length).toBeGreaterThan(3);
  expect(pictures.filter((file) => !shown.has(file))).toEqual([]);
});

test.each(pictures)('%s says what it shows, and can be read on a light and on a dark page', (file) => {
  const text = readFileSync(join(repository, file), 'utf8');
  expect(text).toMatch(/<title id="title">.{10,}<\/title>\s*<desc id="desc">.{40,}<\/desc>/);
  expect(text).toContain('aria-labelledby="title desc"');
  expect(text).toContain('prefers-color-scheme: dark');
  // Shown by <img>, a picture can load nothing.
  expect(text.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|@import|<script/);
});

test.each(pictures)('%s has all of its words inside of its frame', (file) => {
  const text = readFileSync(join(repository, file), 'utf8');
  const [, width = '0', height = '0'] = /viewBox="0 0 (\d+) (\d+)"/.exec(text) ?? [];
  const outside = [...text.matchAll(/<text(?: class="(\w*)")? x="(\d+)" y="(\d+)"[^>]*>([^<]*)</g)].filter(
    ([, name = '', x, y, words = '']) => {
      // About as wide as letters of the widest usual font; those in the middle of their place reach half as far.
      const reach = words.length * (name === 'code' ? 7.3 : 7) * (name === 'number' || name === 'middle' ? 0.5 : 1);
      return Number(x) + reach > Number(width) || Number(y) > Number(height);
    },
  );
  expect(outside.map(([, , , , words]) => words)).toEqual([]);
});
