import { userInfo } from 'node:os';
import { LabError } from './errors.ts';
import type { HostProgram } from './packages.ts';
import type { Progress } from './progress.ts';
import { hasProgram, lastLines, run } from './run.ts';

/** Makes sure that programs are on this machine: installs what is missing, or says what to install. */
export async function needPrograms(programs: readonly HostProgram[], why: string, progress: Progress): Promise<void> {
  const missing: HostProgram[] = [];
  for (const wanted of programs) if (!(await hasProgram(wanted.program))) missing.push(wanted);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((wanted) => wanted.package))];
  const names = missing.map((wanted) => wanted.program).join(', ');
  const missingError = (hint: string): LabError =>
    new LabError(`${why} needs programs that are not here: ${names}`, hint);
  if (!(await hasProgram('apt-get')))
    throw missingError(
      `On Debian or Ubuntu they are in: ${packages.join(' ')}. This machine has no apt-get; install them its own way.`,
    );
  if (userInfo().uid !== 0)
    throw missingError(`Run: sudo apt-get install --no-install-recommends ${packages.join(' ')}`);
  progress.step(`installing ${packages.join(', ')} (apt-get; ${why} needs them)`);
  const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };
  const install = ['-q', '-o', 'DPkg::Lock::Timeout=300', 'install', '--yes', '--no-install-recommends', ...packages];
  let done = await run('apt-get', install, { env });
  if (done.code !== 0) {
    // A fresh machine has no package indexes yet, or old ones.
    await run('apt-get', ['-q', 'update'], { env });
    done = await run('apt-get', install, { env });
  }
  if (done.code !== 0)
    throw missingError(`'apt-get install ${packages.join(' ')}' failed:\n${lastLines(done.stderr, 6)}`);
}
