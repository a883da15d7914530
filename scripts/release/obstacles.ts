import { sectionOf } from './changelog.ts';
import { isVersion } from './versions.ts';

/** What a release depends on. */
export interface Situation {
  readonly version: string;
  /** Of git; empty when no branch is checked out. */
  readonly branch: string;
  /** `git status --porcelain`. */
  readonly status: string;
  /** Whether the version's tag is there. */
  readonly tagged: boolean;
  readonly changelog: string;
}

/** What stands against a release, each with what to do; all at once, so that nobody has to try again and again. */
export function obstacles({ version, branch, status, tagged, changelog }: Situation): string[] {
  const found: string[] = [];
  if (!isVersion(version)) return [`'${version}' is no version; it has the form 1.2.3 or 1.2.3-rc.1, without v`];
  if (branch !== 'main')
    found.push(`the branch is ${branch === '' ? 'none' : `'${branch}'`}; releases are made of main`);
  if (status.trim() !== '')
    found.push(`files differ from the last commit; commit or remove them:\n${status.trimEnd()}`);
  if (tagged) found.push(`the tag v${version} is there; a version is released once`);
  if (sectionOf(changelog, version) === undefined)
    found.push(`CHANGELOG.md says nothing of ${version}; call what is under 'Unreleased' '## ${version}', and commit`);
  return found;
}
