import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A test that a page names as the proof of what it says. */
export interface NamedTest {
  readonly file: string;
  readonly name: string;
}

/** Tests as pages name them: a file as code, and behind it the title in quotes; more titles of it behind commas. */
const named = /`([\w./-]+\.test\.ts)`:((?:,?\s“[^”]+”)+)/g;

/** The tests that a page names, in its order. */
export function namedTests(text: string): readonly NamedTest[] {
  return [...text.matchAll(named)].flatMap(([, file = '', titles = '']) =>
    [...titles.matchAll(/“([^”]+)”/g)].map(([, name = '']) => ({ file, name })),
  );
}

/** The files of tests that a page names without a title. */
export function bareTestFiles(text: string): readonly string[] {
  return [...text.replaceAll(named, '').matchAll(/`([\w./-]+\.test\.ts)`/g)].map(([, file = '']) => file);
}

/** What stands for a value in a title of test.each: %s, $name, and the expressions of templates. */
const placeholder = /%[sidfjop#]|\$\{[^}]*\}|\$\w+/;

/**
 * Whether a test file has a test, a group of tests or a case of a table with this title. A page may leave out how a
 * title goes on after a placeholder.
 */
export function hasTest(source: string, name: string): boolean {
  const literals = [...source.matchAll(/'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`/g)];
  return literals.some(([, single, double, template]) => {
    const title = (single ?? double ?? template ?? '').replaceAll(/\\(.)/g, '$1');
    if (title === name) return true;
    const [beginning = ''] = title.split(placeholder);
    return placeholder.test(title) && beginning.length >= 12 && name === beginning.replace(/[ :,]+$/, '');
  });
}

/** Of the tests that a page names, those that are not there, in words. */
export function missingTests(text: string, repository: string): readonly string[] {
  const sources = new Map<string, string | undefined>();
  const sourceOf = (file: string): string | undefined => {
    if (!sources.has(file)) sources.set(file, readOrNothing(join(repository, file)));
    return sources.get(file);
  };
  return [
    ...namedTests(text).flatMap(({ file, name }) => {
      const source = sourceOf(file);
      if (source === undefined) return [`there is no ${file}`];
      return hasTest(source, name) ? [] : [`${file} has no test "${name}"`];
    }),
    ...bareTestFiles(text).flatMap((file) => (sourceOf(file) === undefined ? [`there is no ${file}`] : [])),
  ];
}

function readOrNothing(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
