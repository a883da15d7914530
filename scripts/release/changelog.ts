/** What CHANGELOG.md says of a version, or undefined: its section (`## 1.2.3` or `## 1.2.3 - 2026-12-01`), trimmed. */
export function sectionOf(changelog: string, version: string): string | undefined {
  const sections = changelog.split(/^## /m).slice(1);
  for (const section of sections) {
    const [heading = '', ...rest] = section.split('\n');
    if (heading.replace(/^\[([^\]]+)\].*/, '$1').split(' ')[0] !== version) continue;
    const text = rest.join('\n').trim();
    return text === '' ? undefined : text;
  }
  return undefined;
}
