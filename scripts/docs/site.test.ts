import { expect, test } from '@jest/globals';
import { navigation } from '../../docs/.vitepress/navigation.ts';
import { brokenLinks } from './links.ts';
import { allPages } from './pages.ts';

const entries = navigation.flatMap(({ items }) => items ?? []).map(({ link = '' }) => link.slice(1));

test('every page of docs/ has its place in the navigation', () => {
  const pages = allPages().map(({ file }) => file);
  const reached = new Set(entries.map((link) => link.split('#')[0]));
  expect(pages.filter((file) => file.startsWith('docs/') && !reached.has(file))).toEqual([]);
});

test('every entry of the navigation leads to a page and a heading that are there', () => {
  const links = entries.filter((link) => link !== '').map((target) => ({ target, line: 1 }));
  const asPage = { file: 'navigation', anchors: new Set<string>(), links, blocks: [] };
  expect(links.length).toBeGreaterThan(20);
  expect(brokenLinks([...allPages(), asPage])).toEqual([]);
});
