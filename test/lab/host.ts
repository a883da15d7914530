import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LabOptions } from './args.ts';
import { LabError } from './errors.ts';
import { projectFolder, withJob } from './job.ts';
import { hasProgram, lastLines, run } from './run.ts';
import { supervise } from './supervise.ts';

/** Whether an id map of /proc is that of the initial user namespace. */
export function isInitialUserNamespace(uidMap: string): boolean {
  return /^\s*0\s+0\s+4294967295\s*$/.test(uidMap);
}

/** Why the host's own kernel cannot run jobs; undefined when it can. Tries it for real. */
export async function whyNotHost(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'you are not root';
  // Elsewhere a link can be made, but the driver refuses every further request.
  if (!isInitialUserNamespace(await readFile('/proc/self/uid_map', 'utf8')))
    return 'this is not the initial user namespace';
  for (const program of ['unshare', 'ip'])
    if (!(await hasProgram(program))) return `the program '${program}' is missing`;
  // Making a device in a network namespace that ends with the command loads the module, too.
  const probe = await run('unshare', ['--net', 'ip', 'link', 'add', 'ovpnprobe', 'type', 'ovpn']);
  return probe.code === 0 ? undefined : `making an ovpn device fails: ${lastLines(probe.stderr, 1)}`;
}

/** Runs a job on the host's own kernel, in namespaces of its own. */
export async function runOnHost(options: LabOptions): Promise<number> {
  const reason = await whyNotHost();
  if (reason !== undefined)
    throw new LabError(
      `the host's own kernel cannot be used: ${reason}`,
      'It takes root and Linux 6.16 or newer with the ovpn driver. Use --kernel uml.',
    );
  return withJob('host', options, async (job) => {
    const namespaces = ['--mount', '--net', '--uts', '--ipc', '--cgroup', '--pid', '--fork', '--kill-child=KILL'];
    const child = spawn(
      'unshare',
      [...namespaces, 'sh', join(job.control, 'init-host.sh'), job.control, projectFolder],
      {
        stdio: ['ignore', 'inherit', 'inherit'],
        detached: true,
      },
    );
    const ended = once(child, 'exit') as Promise<[number | null]>;
    return (await supervise(child, options.timeout)) ?? (await ended)[0] ?? 125;
  });
}
