import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  CLONE_NEWNET,
  MNT_DETACH,
  MS_BIND,
  MS_REC,
  MS_SHARED,
  mount,
  setns,
  SystemError,
  tryLock,
  umount,
  unshare,
} from './libc.ts';

/**
 * Named network namespaces as ip-netns(8) keeps them: a file per namespace that the namespace is mounted on.
 * `ip netns exec NAME …` therefore works on every namespace of ours.
 */
export const defaultNetnsFolder = '/run/netns';
/** Whoever has the lock makes or removes one namespace, which takes milliseconds. */
const lockPatienceMs = 5_000;

// The thread's own entry: /proc/self names the main thread, which is the one that runs JavaScript, but
// saying so keeps this right inside a worker too.
const ownNetns = '/proc/thread-self/ns/net';

/**
 * Runs `fn` with the calling thread inside the namespace at `path` and returns to where it was.
 *
 * `fn` must be synchronous: nothing else of this process may run meanwhile. What it opens (sockets, files
 * under /proc/sys/net) belongs to that namespace for good.
 *
 * @throws SystemError (ENOENT, EINVAL, EPERM) when the namespace cannot be entered; nothing was run then
 */
export function inNamespace<T>(path: string, fn: () => T extends PromiseLike<unknown> ? never : T): T {
  const home = openSync(ownNetns, constants.O_RDONLY);
  try {
    const target = openSync(path, constants.O_RDONLY);
    try {
      setns(target, CLONE_NEWNET);
    } finally {
      closeSync(target);
    }
    try {
      return fn();
    } finally {
      returnHome(home);
    }
  } finally {
    closeSync(home);
  }
}

function returnHome(home: number): void {
  try {
    setns(home, CLONE_NEWNET);
  } catch (error) {
    // To go on in a stranger's namespace would program the wrong network: stopping is the only safe thing.
    process.stderr.write(`fatal: cannot return to the agent's own network namespace: ${String(error)}\n`);
    process.abort();
  }
}

/** Whether both paths name the same namespace, or the path names one at all (nsfs inode and device). */
export function namespaceId(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

/**
 * The identity of the namespace at a path, for records that outlive the machine's uptime: inode numbers start anew
 * with every boot. undefined when there is none.
 */
export function sandboxId(path: string): string | undefined {
  const id = namespaceId(path);
  if (id === undefined) return undefined;
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return `${bootId}/${id}`;
}

let bootId: string | undefined;

/** The identity of the namespace this thread is in, comparable with {@link namespaceId}. */
export function ownNamespaceId(): string {
  const { dev, ino } = statSync(ownNetns, { bigint: true });
  return `${dev}:${ino}`;
}

/**
 * Makes a named namespace; one that exists already is left as it is, also when another process makes it now.
 *
 * @returns whether it was made now
 */
export function createNamespace(name: string, folder = defaultNetnsFolder): boolean {
  const path = join(folder, name);
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  return withFolderLock(folder, () => {
    shareFolder(folder);
    if (isNamespace(path, folder)) return false;
    writeFileSync(path, '', { mode: 0o444 });
    const home = openSync(ownNetns, constants.O_RDONLY);
    try {
      unshare(CLONE_NEWNET);
      try {
        mount(ownNetns, path, 'none', MS_BIND);
      } finally {
        returnHome(home);
      }
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      closeSync(home);
    }
    return true;
  });
}

/** Removes a named namespace; what is inside goes when its last user has left. A missing one is no error. */
export function deleteNamespace(name: string, folder = defaultNetnsFolder): void {
  if (!existsSync(folder)) return;
  const path = join(folder, name);
  withFolderLock(folder, () => {
    // Somebody may have mounted over it.
    while (unmounted(path));
    rmSync(path, { force: true });
  });
}

/** Takes a mount off the path. @returns whether there was one */
function unmounted(path: string): boolean {
  try {
    umount(path, MNT_DETACH);
    return true;
  } catch (error) {
    // EINVAL: a plain file, left by a crash between the two steps of creation. ENOENT: already gone.
    if (error instanceof SystemError && (error.code === 'EINVAL' || error.code === 'ENOENT')) return false;
    throw error;
  }
}

/**
 * Two processes that find no mount would both make one, of the folder or of a namespace, and what is below
 * the second is lost to sight. The lock is the one that ip-netns(8) takes; the kernel gives it back with the
 * process.
 */
function withFolderLock<T>(folder: string, fn: () => T): T {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const deadline = performance.now() + lockPatienceMs;
    while (!tryLock(fd)) {
      if (performance.now() > deadline) throw new Error(`another process keeps ${folder} locked`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
    return fn();
  } finally {
    closeSync(fd);
  }
}

/** Names of the namespaces in the folder; files that no namespace is mounted on are left out. */
export function listNamespaces(folder = defaultNetnsFolder): string[] {
  try {
    return readdirSync(folder).filter((name) => isNamespace(join(folder, name), folder));
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** By its code, not its class: node:fs throws errors of another realm where modules run in a vm context. */
function isMissing(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === 'ENOENT';
}

/** A file that a namespace is mounted on lies on nsfs, hence on another device than its folder. */
function isNamespace(path: string, folder: string): boolean {
  try {
    return statSync(path).dev !== statSync(folder).dev;
  } catch {
    return false;
  }
}

/**
 * Makes the folder a shared mount, as ip-netns(8) does: a namespace that is mounted by a process in one
 * mount namespace must be seen, and unmounted, in all of them.
 */
function shareFolder(folder: string): void {
  try {
    mount('', folder, 'none', MS_SHARED | MS_REC);
  } catch (error) {
    // EINVAL: not a mount point yet.
    if (!(error instanceof SystemError && error.code === 'EINVAL')) throw error;
    mount(folder, folder, 'none', MS_BIND | MS_REC);
    mount('', folder, 'none', MS_SHARED | MS_REC);
  }
}
