import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LabError, codeOf } from './errors.ts';
import type { Progress } from './progress.ts';

/**
 * Runs `work` while no other process does so on the same cache.
 *
 * The lock is the kernel's (flock), held by a child that lives exactly as long as our end of its stdin:
 * when this process dies, however it dies, the lock is free. There is no stale lock to recover from.
 */
export async function withLock<T>(cache: string, progress: Progress, work: () => Promise<T>): Promise<T> {
  await mkdir(cache, { recursive: true });
  const file = join(cache, 'lock');
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const waiting = setTimeout(() => {
    progress.step(`another lab setup is at work on ${cache}; waiting for it`);
  }, 500);
  try {
    await new Promise<void>((resolve, reject) => {
      holder.stdout.once('data', () => resolve());
      holder.once('error', (error) =>
        reject(
          codeOf(error) === 'ENOENT'
            ? new LabError("the program 'flock' is not on this machine", 'Install the package util-linux.')
            : error,
        ),
      );
      holder.once('exit', (code) =>
        reject(
          new LabError(`cannot lock ${file} (flock ended with code ${code ?? 'none'})`, 'Is the folder writable?'),
        ),
      );
    });
    clearTimeout(waiting);
    return await work();
  } finally {
    clearTimeout(waiting);
    holder.removeAllListeners('exit');
    holder.stdin.end();
  }
}
