import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';

/** Signals that end the lab, with the exit codes shells give them. */
const endings = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/**
 * Waits until a child that leads its process group has ended and its output has arrived. Kills the group when
 * the time limit (seconds) is over, when this process is told to end, or when nobody reads our output any more.
 * Returns the exit code for such an ending; undefined when the child ended by itself. A guest that hangs does
 * not listen to polite signals, so it is always killed outright.
 */
export async function supervise(child: ChildProcess, timeout: number | undefined): Promise<number | undefined> {
  let ending: number | undefined;
  const kill = (code: number): void => {
    ending ??= code;
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  };
  const timer =
    timeout === undefined
      ? undefined
      : setTimeout(() => {
          process.stderr.write(`lab: the command took longer than ${timeout} s and was killed\n`);
          kill(124);
        }, timeout * 1000);
  const onBrokenPipe = (): void => kill(141);
  const listeners = Object.entries(endings).map(([signal, code]) => [signal, (): void => kill(code)] as const);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  process.stdout.on('error', onBrokenPipe);
  try {
    await once(child, 'close');
    return ending;
  } finally {
    clearTimeout(timer);
    for (const [signal, listener] of listeners) process.off(signal, listener);
    if (ending !== 141) process.stdout.off('error', onBrokenPipe);
  }
}
