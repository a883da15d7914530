import { existsSync, globSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PrivateApt } from '../lab/apt.ts';
import { cacheFolder, cacheKey, exists, publish } from '../lab/cache.ts';
import { LabError } from '../lab/errors.ts';
import { needPrograms } from '../lab/host-programs.ts';
import { withLock } from '../lab/lock.ts';
import { unpackPrograms } from '../lab/packages.ts';
import type { Progress } from '../lab/progress.ts';
import { must } from '../lab/run.ts';
import { unpackDeb } from '../lab/tools.ts';
import { programsFolder } from './location.ts';

/** Programs for tests that Debian has built already: unpacked in the cache, nothing is installed. */
export interface DebianPrograms {
  readonly name: string;
  /** All of them, each as `name/suite`: nothing comes along. */
  readonly packages: readonly string[];
  /** A file that tells, in an error, how these programs come to be there. */
  readonly test: string;
}

function folderOf({ name, packages }: DebianPrograms): string {
  return join(programsFolder(), `debian-${name}-${cacheKey({ packages: packages.join(' ') })}`);
}

/** Sees to it that programs are there. @throws LabError when they cannot be fetched */
export async function needDebianPrograms(programs: DebianPrograms, progress: Progress): Promise<void> {
  const { name, packages } = programs;
  const folder = folderOf(programs);
  if (await exists(folder)) return;
  await withLock(programsFolder(), progress, async () => {
    if (await exists(folder)) return;
    await needPrograms(unpackPrograms, `fetching ${name}`, progress);
    const apt = new PrivateApt(cacheFolder(), progress);
    progress.step(`fetching Debian's ${packages.join(', ')}`);
    await publish(folder, async (target) => {
      for (const deb of await apt.download(packages, target)) {
        await unpackDeb(deb, target);
        await must('rm', [deb]);
      }
    });
  });
}

/** The path of a file of the packages. @throws LabError when it is not there */
export function debianPath(programs: DebianPrograms, file: string): string {
  const path = join(folderOf(programs), file);
  if (existsSync(path)) return path;
  throw new LabError(
    `${programs.name} is not there (looked for ${path})`,
    `Run: npm run test:kube -- ${programs.test}`,
  );
}

/**
 * The words that start a program that is linked with libraries of the packages: by their own dynamic loader, because the
 * machine's C library may be older. @throws LabError when it is not there
 */
export function debianCommand(programs: DebianPrograms, file: string): [string, ...string[]] {
  const path = debianPath(programs, file);
  const [loader = ''] = globSync(debianPath(programs, 'usr/lib') + '/*-linux-gnu/ld-linux-*');
  return [loader, '--library-path', dirname(loader), path];
}
