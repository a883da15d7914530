import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import { tryLock } from '../kernel/libc.ts';

/**
 * Makes sure that one agent at a time uses a state folder: two would install the same keys. The lock goes with
 * the process, however it ends.
 *
 * @returns gives the lock back
 * @throws OvpnError StateUnusable when another agent has it, or the folder cannot be used
 */
export function lockState(folder: string): () => void {
  const path = join(folder, 'lock');
  let fd: number;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    fd = openSync(path, 'a', 0o600);
  } catch (error) {
    throw new OvpnError('StateUnusable', `cannot be used: ${describe(error)}`, { object: folder }, { cause: error });
  }
  if (!tryLock(fd)) {
    closeSync(fd);
    throw new OvpnError(
      'StateUnusable',
      'another agent uses this state folder',
      { object: folder },
      { remedy: 'stop the other agent, or give each agent a folder of its own' },
    );
  }
  return () => closeSync(fd);
}
