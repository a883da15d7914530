import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import MarkdownIt, { type Token } from 'markdown-it';
import { repository } from './reference.ts';

/** A page of Markdown, as far as checks look at it. */
export interface Page {
  /** Its path in the repository. */
  readonly file: string;
  /** What may stand behind `#` in a link to it. */
  readonly anchors: ReadonlySet<string>;
  readonly links: readonly { readonly target: string; readonly line: number }[];
  readonly blocks: readonly Block[];
}

/** A fenced block of code. */
export interface Block {
  /** The word behind the fence: yaml, console, … */
  readonly language: string;
  readonly text: string;
  /** The line of its first fence. */
  readonly line: number;
}

const markdown = new MarkdownIt({ html: true });

/** All pages of the repository. */
export function allPages(): readonly Page[] {
  const exclude = ['**/node_modules/**', '**/dist/**', 'out/**', 'coverage/**'];
  const files = globSync('**/*.md', { cwd: repository, exclude });
  return files.sort().map((file) => readPage(file, readFileSync(join(repository, file), 'utf8')));
}

/** Reads a page. `file` is its path in the repository. */
export function readPage(file: string, text: string): Page {
  const tokens = markdown.parse(text, {});
  const taken = new Map<string, number>();
  const anchors = tokens.flatMap((token, index) => {
    if (token.type !== 'heading_open') return [];
    const slug = slugOf(plainText(tokens[index + 1]));
    const count = taken.get(slug) ?? 0;
    taken.set(slug, count + 1);
    return [count === 0 ? slug : `${slug}-${count}`];
  });
  // What stands in a cell of a table has no line of its own, but its row does.
  let line = 1;
  const links = tokens.flatMap(({ children, map }) => {
    line = map === null ? line : map[0] + 1;
    return (children ?? []).flatMap((child) => {
      const target = child.attrGet(child.type === 'image' ? 'src' : 'href');
      return target === null ? [] : [{ target: String(target), line }];
    });
  });
  const blocks = tokens.flatMap(({ type, info, content, map }) =>
    type === 'fence' ? [{ language: info.trim(), text: content, line: (map?.[0] ?? 0) + 1 }] : [],
  );
  return { file, anchors: new Set(anchors), links, blocks };
}

function plainText(token: Token | undefined): string {
  return (token?.children ?? []).map(({ content }) => content).join('');
}

/** The anchor of a heading, as GitHub makes it; the site is told to do the same. */
export function slugOf(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, '')
    .replaceAll(' ', '-');
}
