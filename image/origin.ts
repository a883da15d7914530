/** From which sources an image is built, and of when they are. */
import { LabError } from '../test/lab/errors.ts';
import { run } from '../test/lab/run.ts';

export interface Origin {
  /** Seconds since 1970: of SOURCE_DATE_EPOCH, else of the last commit. */
  readonly seconds: number;
  /** The commit, with `-dirty` behind it when files differ from it; undefined outside of a repository. */
  readonly revision: string | undefined;
}

/** @throws LabError when there is no time to go by */
export async function originOf(folder: string, env: NodeJS.ProcessEnv = process.env): Promise<Origin> {
  const git = async (...args: string[]): Promise<string | undefined> => {
    const { code, stdout } = await run('git', ['-C', folder, ...args]).catch(() => ({ code: 1, stdout: '' }));
    return code === 0 ? stdout.trim() : undefined;
  };
  const commit = await git('rev-parse', '--show-prefix', 'HEAD');
  // Below the top folder of another repository, that one's commits say nothing of these files.
  const head = commit !== undefined && /^[0-9a-f]{40,64}$/.test(commit) ? commit : undefined;
  const dirty = head !== undefined && (await git('status', '--porcelain')) !== '';
  const revision = head === undefined ? undefined : `${head}${dirty ? '-dirty' : ''}`;
  const given = env['SOURCE_DATE_EPOCH'] ?? '';
  if (given !== '') return { seconds: epoch(given), revision };
  const committed = head === undefined ? undefined : await git('log', '-1', '--format=%ct');
  if (committed !== undefined) return { seconds: Number(committed), revision };
  throw new LabError(
    `${folder} is not the top of a git repository with a commit, so the image has no time to be dated by`,
    'Set SOURCE_DATE_EPOCH to a time in seconds since 1970: https://reproducible-builds.org/specs/source-date-epoch/',
  );
}

function epoch(text: string): number {
  // Until the end of the year 9999, which is what RFC 3339 can say.
  if (/^\d{1,12}$/.test(text) && Number(text) < 253_402_300_800) return Number(text);
  throw new LabError(
    `SOURCE_DATE_EPOCH is '${text}', which is no time in whole seconds since 1970`,
    'For example: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)',
  );
}
