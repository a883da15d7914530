import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { LabError } from './errors.ts';
import { guestExitCode } from './job.ts';
import type { Job } from './job.ts';
import { lastLines, tied } from './run.ts';
import { supervise } from './supervise.ts';

/** How much of the guest's console is kept for an error report. */
const consoleBytes = 256 * 1024;

/**
 * Runs the program that is the guest (user-mode Linux or QEMU) until it ends and returns the job's exit
 * code. Of the program's file descriptors, 1 and 2 are the guest's console, 3 and 4 the job's stdout and
 * stderr.
 */
export async function runGuest(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  job: Job,
): Promise<number> {
  const child = spawn(...tied(program, args, 'KILL'), {
    // A process group of its own: killed as a whole, and not by the terminal's Ctrl-C behind our back.
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe'],
  });
  const [, console1, console2, stdout, stderr] = child.stdio;
  let console = Buffer.alloc(0);
  for (const stream of [console1, console2]) {
    stream?.on('data', (chunk: Buffer) => {
      console = Buffer.concat([console, chunk]).subarray(-consoleBytes);
    });
  }
  if (stdout instanceof Readable) stdout.pipe(process.stdout, { end: false });
  if (stderr instanceof Readable) stderr.pipe(process.stderr, { end: false });

  const ending = await supervise(child, job.options.timeout);
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
