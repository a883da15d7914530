import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { bareTestFiles, hasTest, missingTests, namedTests } from './named-tests.ts';
import { repository } from './reference.ts';

const pages = ['docs/security.md', 'docs/reliability.md', 'SECURITY.md'].filter((page) =>
  existsSync(join(repository, page)),
);

test.each(pages)('every test that %s names is there', (page) => {
  const text = readFileSync(join(repository, page), 'utf8');
  if (page.startsWith('docs/')) expect(namedTests(text).length).toBeGreaterThan(20);
  expect(missingTests(text, repository)).toEqual([]);
});

test('tests are found by file and title, and what is not there is told', () => {
  const text =
    'Shown by `scripts/docs/named-tests.test.ts`: “tests are found by file and title, and what is not there is told”,\n' +
    '“every test that”; `scripts/docs/named-tests.test.ts`: “no such thing”; `gone.test.ts`; `lost.test.ts`: “a”.';
  expect(namedTests(text).map(({ name }) => name)).toHaveLength(4);
  expect(bareTestFiles(text)).toEqual(['gone.test.ts']);
  expect(missingTests(text, repository)).toEqual([
    expect.stringContaining('has no test "no such'),
    'there is no lost.test.ts',
    'there is no gone.test.ts',
  ]);
});

test('a title may have an apostrophe, and end at what its table fills in', () => {
  expect(hasTest(String.raw`test('one\'s own', x)`, "one's own")).toBe(true);
  expect(hasTest('test("one\'s own", x)', "one's own")).toBe(true);
  expect(hasTest("test.each(a)('comes back after %s', x)", 'comes back after')).toBe(true);
  expect(hasTest("test.each(a)('comes back after %s', x)", 'comes back')).toBe(false);
});
