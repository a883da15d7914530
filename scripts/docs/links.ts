import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from './pages.ts';
import { repository } from './reference.ts';

/** Every link between pages that leads nowhere: to a file that is not there, or to no heading of a page. */
export function brokenLinks(pages: readonly Page[]): readonly string[] {
  const byFile = new Map(pages.map((page) => [page.file, page]));
  return pages.flatMap(({ file, links }) =>
    links.flatMap(({ target, line }) => {
      if (/^[a-z][a-z+.-]*:/i.test(target)) return [];
      const [path = '', anchor] = decodeURI(target).split('#');
      const meant = path === '' ? file : join(file, '..', path);
      const place = `${file}:${line}: ${target}: `;
      if (!byFile.has(meant) && !existsSync(join(repository, meant))) return [`${place}there is no ${meant}`];
      if (anchor === undefined || byFile.get(meant)?.anchors.has(anchor) === true) return [];
      return [`${place}${meant} has no heading #${anchor}`];
    }),
  );
}
