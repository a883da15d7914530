import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { removeDurably, renameDurably, writeDurably } from '../agent/durable-file.ts';
import { describe, OvpnError } from '../errors.ts';
import { type ChainEntry, pluginType } from './network-list.ts';
import { type ConfFile, planChain, planUnchain, type Step } from './plan.ts';

/** One thing that was done, or found done. */
export interface Outcome {
  readonly path: string;
  readonly done: 'installed' | 'replaced' | 'unchanged' | 'removed' | 'absent' | 'chained' | 'unchained' | 'waiting';
}

const ownMode = 0o755;

/**
 * Puts the plugin's file into the runtime's folder. At every moment there is one whole file: the new one is written
 * aside and renamed over the old, which goes on in those who run it (rename(2)).
 *
 * @throws OvpnError CniInstallFailed
 */
export function installPlugin(source: string, folder: string): Outcome {
  const path = join(folder, pluginType);
  return attempt(path, () => {
    const wanted = readFileSync(source);
    mkdirSync(folder, { recursive: true });
    const present = readIfThere(path);
    if (present?.equals(wanted) === true) {
      // Somebody may have taken the right to run it away.
      if ((statSync(path).mode & 0o777) !== ownMode) chmodSync(path, ownMode);
      return { path, done: 'unchanged' };
    }
    writeDurably(path, wanted, ownMode);
    return { path, done: present === undefined ? 'installed' : 'replaced' };
  });
}

/** @throws OvpnError CniInstallFailed */
export function removePlugin(folder: string): Outcome {
  const path = join(folder, pluginType);
  return attempt(path, () => {
    if (readIfThere(path) === undefined) return { path, done: 'absent' };
    removeDurably(path);
    return { path, done: 'removed' };
  });
}

/** Puts our entry into the list that is in force, if there is one yet. @throws OvpnError CniInstallFailed */
export function chain(folder: string, entry: ChainEntry): Outcome {
  return attempt(folder, () => {
    mkdirSync(folder, { recursive: true });
    const { list, steps } = planChain(readFolder(folder), entry);
    if (list === undefined) return { path: folder, done: 'waiting' };
    carryOut(folder, steps);
    return { path: join(folder, list), done: steps.length === 0 ? 'unchanged' : 'chained' };
  });
}

/** What is there of an installation. */
export interface Installed {
  /** Whether the plugin's file is there, and may be run. */
  readonly plugin: boolean;
  /** The file that the runtime takes; undefined while there is none. */
  readonly list: string | undefined;
  /** Whether that file names the plugin as `install-cni --chain` would have it. */
  readonly chained: boolean;
}

/** Looks, and changes nothing. @throws OvpnError CniInstallFailed when the list in force is none */
export function inspectInstallation(binFolder: string, confFolder: string, entry: ChainEntry): Installed {
  return attempt(confFolder, () => {
    const plugin = statSync(join(binFolder, pluginType), { throwIfNoEntry: false });
    const { list, steps } = planChain(readFolder(confFolder), entry);
    return {
      plugin: plugin?.isFile() === true && (plugin.mode & 0o111) !== 0,
      list,
      chained: list !== undefined && steps.length === 0,
    };
  });
}

/** Takes our entry out of every list; one outcome for each that had it. @throws OvpnError CniInstallFailed */
export function unchain(folder: string): Outcome[] {
  return attempt(folder, () => {
    const steps = planUnchain(readFolder(folder));
    carryOut(folder, steps);
    const paths = steps.flatMap((step) =>
      step.kind === 'rename' ? [step.to] : step.kind === 'write' ? [step.name] : [],
    );
    return paths.map((name) => ({ path: join(folder, name), done: 'unchained' }));
  });
}

function carryOut(folder: string, steps: readonly Step[]): void {
  for (const step of steps) {
    switch (step.kind) {
      case 'write':
        // The main plugin's configuration can hold secrets: whoever could not read it still cannot.
        writeDurably(join(folder, step.name), step.text, modeOf(join(folder, step.name)));
        break;
      case 'rename':
        renameDurably(join(folder, step.from), join(folder, step.to));
        break;
      case 'remove':
        removeDurably(join(folder, step.name));
        break;
    }
  }
}

function readFolder(folder: string): ConfFile[] {
  let names: string[];
  try {
    names = readdirSync(folder, { withFileTypes: true }).flatMap((file) => (file.isDirectory() ? [] : [file.name]));
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
  return names.flatMap((name) => {
    if (name.startsWith('.')) return [];
    // A file may go between the two calls.
    const text = readIfThere(join(folder, name))?.toString('utf8');
    return text === undefined ? [] : [{ name, text }];
  });
}

function modeOf(path: string): number | undefined {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats === undefined ? undefined : stats.mode & 0o777;
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}

function attempt<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof OvpnError) throw error;
    throw new OvpnError('CniInstallFailed', describe(error), { object: path }, { cause: error });
  }
}
