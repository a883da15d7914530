import { mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { exists, needSpace, publish } from '../lab/cache.ts';
import { LabError, UsageError, report } from '../lab/errors.ts';
import { withLock } from '../lab/lock.ts';
import { screenProgress, type Progress } from '../lab/progress.ts';
import { lastLines, must, run } from '../lab/run.ts';
import { type Go, needGo } from './go.ts';
import {
  buildFlags,
  cachedPath,
  moduleFolder,
  programPath,
  programsFolder,
  providedPath,
  versionOf,
} from './location.ts';
import { type ProgramName, programs } from './programs.ts';

/** Downloads, objects and programs of all modules together, with a reserve. */
const buildBytes = 6 * 2 ** 30;

/**
 * Sees to it that programs are there: those that KUBEBUILDER_ASSETS does not hold and the cache lacks are built.
 * Any number of processes may do so at once. @throws LabError when one cannot be built
 */
export async function needGoPrograms(names: readonly ProgramName[], progress: Progress): Promise<void> {
  const missing = async (): Promise<ProgramName[]> => {
    const found: ProgramName[] = [];
    for (const name of names) {
      if (providedPath(name) === undefined && !(await exists(cachedPath(name)))) found.push(name);
    }
    return found;
  };
  if ((await missing()).length === 0) return;
  const cache = programsFolder();
  await withLock(cache, progress, async () => {
    await removeLeftovers(join(cache, 'tmp'));
    await needSpace(cache, buildBytes, 'building Go programs');
    const go = await needGo(progress);
    for (const name of await missing()) await build(go, name, progress);
  });
}

/** Under the lock nobody else is at work: what lies here was left by a run that was cut off. */
async function removeLeftovers(temporaries: string): Promise<void> {
  if (!(await exists(temporaries))) return;
  for (const name of await readdir(temporaries)) {
    await rm(join(temporaries, name), { recursive: true, force: true, maxRetries: 5 });
  }
}

async function build({ command, env }: Go, name: ProgramName, progress: Progress): Promise<void> {
  const program = programs[name];
  const target = cachedPath(name);
  await publish(dirname(target), async (folder) => {
    const work = join(folder, 'work');
    await mkdir(work);
    const options = { cwd: moduleFolder(program), env: { ...env, GOTMPDIR: work } };
    progress.step(`${name} ${versionOf(program)}: downloading its modules`);
    const needed = await must(command, ['list', '-deps', program.package], options).catch((error: unknown) => {
      throw new LabError(
        `the modules of ${name} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
        'They come from GOPROXY. Is the network there? Prebuilt programs: set KUBEBUILDER_ASSETS to their folder.',
      );
    });
    const total = needed.stdout.trim().split('\n').length;
    progress.step(`${name}: compiling ${total} packages (those that are compiled already count at once)`);
    let compiled = 0;
    const timer = setInterval(() => progress.detail(`${compiled} packages of ${name} compiled`), 10_000);
    try {
      const args = ['build', '-v', ...buildFlags(program), '-o', join(folder, name), program.package];
      const done = await run(command, args, { ...options, onLine: () => void (compiled += 1) });
      if (done.code !== 0) throw new LabError(`${name} did not compile:\n${lastLines(done.stderr, 15)}`, '');
    } finally {
      clearInterval(timer);
    }
    await rm(work, { recursive: true, force: true });
  });
}

const help = `Usage: programs [NAME]…

Builds the Go programs that the tests use, and prints their paths: ${Object.keys(programs).join(', ')}
(all, unless some are named). What KUBEBUILDER_ASSETS holds is taken from there. Everything goes to
${programsFolder()}; deleting that folder is safe.
`;

function isProgram(name: string): name is ProgramName {
  return Object.hasOwn(programs, name);
}

async function main(words: readonly string[]): Promise<void> {
  if (words.includes('--help') || words.includes('-h')) {
    process.stdout.write(help);
    return;
  }
  const known = words.filter(isProgram);
  const unknown = words.find((word) => !isProgram(word));
  if (unknown !== undefined) throw new UsageError(`there is no program '${unknown}'`, 'npm run programs --');
  const names = known.length > 0 ? known : Object.keys(programs).filter(isProgram);
  await needGoPrograms(names, screenProgress('programs'));
  for (const name of names) process.stdout.write(`${programPath(name)}\n`);
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
