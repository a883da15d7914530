import { readFile, statfs } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LabOptions } from './args.ts';
import { LabError, codeOf } from './errors.ts';
import { runGuest } from './guest-process.ts';
import { withJob } from './job.ts';
import { toolsFolder } from './tools.ts';
import { umlFolder } from './uml-build.ts';

const defaultMemory = 3072;

/** Runs a job in user-mode Linux. */
export async function runInUml(cache: string, options: LabOptions): Promise<number> {
  const kernel = join(await umlFolder(cache), 'linux');
  const memory = options.memory ?? defaultMemory;
  return withJob('uml', options, async (job) => {
    const cpus = options.cpus ?? Math.min(2, availableParallelism());
    const settings = {
      LAB_CTL: job.control,
      LAB_TOOLS: toolsFolder(cache),
      LAB_RESULTS_DIR: job.results,
      LAB_STDOUT: '/dev/tty1',
      LAB_STDERR: '/dev/tty2',
    };
    const args = [
      `mem=${memory}M`,
      // More than one CPU needs the seccomp way of running processes; with the older one it ends at once.
      `ncpus=${cpus}`,
      'seccomp=on',
      'rootfstype=hostfs',
      'rootflags=/',
      'ro',
      'con=null',
      'con0=null,fd:1',
      'con1=null,fd:3',
      'con2=null,fd:4',
      'ssl=null',
      // Its control socket; by default it would litter the home folder.
      `uml_dir=${job.control}`,
      // Rings shared with a process that then forks (Node.js starting a program) corrupt this kernel's
      // memory: "Bad page map … io_uring". Programs fall back to epoll.
      'sysctl.kernel.io_uring_disabled=2',
      // No devices but the loopback one: these drivers, when built in, make some unasked.
      'dummy.numdummies=0',
      'ifb.numifbs=0',
      'sysctl.net.core.fb_tunnels_only_for_init_net=2',
      'init=/bin/sh',
      ...Object.entries(settings).map(([name, value]) => kernelArgument(name, value)),
      '--',
      join(job.control, 'init-uml.sh'),
    ];
    return runGuest(kernel, args, { TMPDIR: await memoryFolder(memory) }, job);
  });
}

/** `name=value` as the kernel's command line takes it. */
export function kernelArgument(name: string, value: string): string {
  if (/["\\\n]/.test(value))
    throw new LabError(
      `the path ${JSON.stringify(value)} cannot be passed to a kernel`,
      'Use a path without quotes and backslashes.',
    );
  return /\s/.test(value) ? `${name}="${value}"` : `${name}=${value}`;
}

/** Picks from /proc/self/mounts the tmpfs mounts that programs may be mapped from. */
export function executableTmpfs(mounts: string): string[] {
  return mounts
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type, flags = '']) => type === 'tmpfs' && !/(^|,)(noexec|ro)(,|$)/.test(flags))
    .flatMap(([, where]) => (where === undefined ? [] : [where]));
}

/** Where the guest's memory file goes: a tmpfs with room if there is one (a disk works, but slower). */
async function memoryFolder(megabytes: number): Promise<string> {
  const allowed = executableTmpfs(await readFile('/proc/self/mounts', 'utf8'));
  for (const folder of ['/dev/shm', '/tmp', '/run']) {
    if (!allowed.includes(folder)) continue;
    try {
      const { bavail, bsize } = await statfs(folder);
      if (bavail * bsize > megabytes * 2 ** 20) return folder;
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
    }
  }
  return tmpdir();
}
