import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { LabError } from './errors.ts';
import { guestExitCode } from './job.ts';
import type { Job } from './job.ts';
import { hasProgram, lastLines } from './run.ts';

/** How much of the guest's console is kept for an error report. */
const consoleBytes = 256 * 1024;

/** Signals that end the lab, with the exit codes shells give them. */
const endings = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/**
 * Runs the program that is the guest (user-mode Linux or QEMU) until it ends and returns the job's exit
 * code. Of the program's file descriptors, 1 and 2 are the guest's console, 3 and 4 the job's stdout and
 * stderr. A guest that hangs does not listen to polite signals, so it is always killed outright.
 */
export async function runGuest(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  job: Job,
): Promise<number> {
  // Should this process be killed outright, the guest goes with it.
  const tied = (await hasProgram('setpriv')) ? ['setpriv', '--pdeathsig', 'KILL', '--', program] : [program];
  const child = spawn(tied[0] ?? program, [...tied.slice(1), ...args], {
    // A process group of its own: killed as a whole, and not by the terminal's Ctrl-C behind our back.
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe'],
  });
  let console = Buffer.alloc(0);
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      console = Buffer.concat([console, chunk]).subarray(-consoleBytes);
    });
  (child.stdio[3] as Readable).pipe(process.stdout, { end: false });
  (child.stdio[4] as Readable).pipe(process.stderr, { end: false });

  let ending: number | undefined;
  const kill = (code: number): void => {
    ending ??= code;
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  };
  const { timeout } = job.options;
  const timer = timeout === undefined ? undefined : setTimeout(() => kill(124), timeout * 1000);
  const listeners = Object.entries(endings).map(([signal, code]) => [signal, () => kill(code)] as const);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  try {
    await once(child, 'close');
  } finally {
    clearTimeout(timer);
    for (const [signal, listener] of listeners) process.off(signal, listener);
  }

  if (ending === 124) process.stderr.write(`lab: the command took longer than ${timeout ?? 0} s and was killed\n`);
  if (ending !== undefined) return ending;
  const code = await guestExitCode(job.control);
  if (code !== undefined) return code;
  const text = console.toString('utf8').replaceAll('\r', '');
  const log = join(tmpdir(), `ovpn-lab-console-${process.pid}.log`);
  await writeFile(log, text);
  throw new LabError(
    `the guest kernel ended before the command did. The end of its console:\n${lastLines(text, 40)}`,
    `The whole console: ${log}\nIf this comes again: is there enough memory (--memory), and does --cpus 1 help?`,
  );
}
