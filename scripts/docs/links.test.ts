import { expect, test } from '@jest/globals';
import { brokenLinks } from './links.ts';
import { allPages, readPage } from './pages.ts';

test('every link between pages leads to a page and a heading that are there', () => {
  const pages = allPages();
  expect(pages.flatMap(({ links }) => links).length).toBeGreaterThan(50);
  expect(brokenLinks(pages)).toEqual([]);
});

test('a link that leads nowhere is found, with its place', () => {
  const from = readPage('docs/a.md', 'See [b](b.md#two-words), [b](b.md#three), [itself](#no),\n![picture](c.svg).\n');
  const to = readPage('docs/b.md', '# Two `words`\n\n## Again\n\n## Again\n\n[above](a.md) [second](#again-1)\n');
  expect(brokenLinks([from, to])).toEqual([
    'docs/a.md:1: b.md#three: docs/b.md has no heading #three',
    'docs/a.md:1: #no: docs/a.md has no heading #no',
    'docs/a.md:1: c.svg: there is no docs/c.svg',
  ]);
});

test('code is not read for links', () => {
  expect(readPage('a.md', '`[a](b.md)`\n\n```text\n[a](b.md)\n```\n').links).toEqual([]);
});
