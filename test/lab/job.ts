import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import type { KernelKind, LabOptions } from './args.ts';
import { cacheFolder } from './cache.ts';
import { codeOf } from './errors.ts';
import { shellCommand, shellQuote } from './quote.ts';

/** The project folder: what a job sees at the same path as the host. */
export const projectFolder = resolve(import.meta.dirname, '..', '..');
const guestScripts = join(import.meta.dirname, 'guest');
const passedOn = ['HOME', 'LANG', 'CI', 'NODE_OPTIONS', 'TERM', 'FORCE_COLOR', 'NO_COLOR'] as const;
/** Where built programs are (test/programs): the same in the lab as here. */
const programFolders = ['OVPN_LAB_CACHE', 'XDG_CACHE_HOME', 'KUBEBUILDER_ASSETS'] as const;
const systemPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** One run in the lab: what to run, and the folders it talks to the host by. */
export interface Job {
  options: LabOptions;
  cwd: string;
  /** Holds the guest's scripts and gets its exit code. */
  control: string;
  /** The host's folder behind $LAB_RESULTS. */
  results: string;
}

/** The environment of the command, nothing else of the host's is passed on. */
export function jobEnvironment(
  kind: KernelKind,
  options: LabOptions,
  resultsInGuest: string,
  host: NodeJS.ProcessEnv = process.env,
): Record<string, string> {
  const env: Record<string, string> = {};
  for (const name of [...passedOn, ...programFolders]) {
    const value = host[name];
    if (value !== undefined) env[name] = value;
  }
  // The host's own extra folders come last, so that the lab's newer tools are found before them.
  const own = (host['PATH'] ?? '').split(delimiter).filter((folder) => folder.startsWith('/'));
  const path = [dirname(process.execPath), join(projectFolder, 'node_modules/.bin'), ...systemPath, ...own];
  return {
    HOME: '/root',
    LANG: 'C.UTF-8',
    ...env,
    PATH: [...new Set(path)].join(delimiter),
    LAB_KERNEL: kind,
    LAB_RESULTS: resultsInGuest,
    ...options.env,
  };
}

/** The script that becomes the command: exact environment, folder and arguments. */
export function jobScript(env: Readonly<Record<string, string>>, cwd: string, argv: readonly string[]): string {
  const words = ['exec', 'env', '-i', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), ...argv];
  return `cd ${shellQuote(cwd)} || exit 125\n${shellCommand(words)}\n`;
}

/** Folders below /run and /tmp that the job needs to see although those are fresh in the lab. */
export function keptFolders(...more: string[]): string[] {
  const wanted = [projectFolder, dirname(process.execPath), ...more];
  const hidden = wanted.filter((folder) => /^\/(tmp|run)\//.test(folder));
  // A folder inside another kept one comes with it.
  return [...new Set(hidden)].filter((folder) => !hidden.some((other) => folder.startsWith(`${other}/`)));
}

/**
 * Makes the control and results folders of a job, and removes what is not needed afterwards. A guest kernel
 * sees the results at /run/lab/results; on the host's own they stay where they are.
 */
export async function withJob<T>(kind: KernelKind, options: LabOptions, work: (job: Job) => Promise<T>): Promise<T> {
  const control = await mkdtemp(join(tmpdir(), 'ovpn-lab-'));
  const ownResults = options.results === undefined;
  if (options.results !== undefined) await mkdir(options.results, { recursive: true });
  const results = options.results ?? (await mkdtemp(join(tmpdir(), 'ovpn-lab-results-')));
  try {
    const cwd = process.cwd();
    for (const name of await readdir(guestScripts)) await copyFile(join(guestScripts, name), join(control, name));
    const env = jobEnvironment(kind, options, kind === 'host' ? results : '/run/lab/results');
    const outside = [
      cwd,
      ...[cacheFolder(), process.env['KUBEBUILDER_ASSETS'] ?? ''].filter((folder) => existsSync(folder)),
    ];
    const kept = kind === 'host' ? keptFolders(...outside, control, results) : keptFolders(...outside);
    await writeFile(join(control, 'job.sh'), jobScript(env, cwd, options.argv));
    await writeFile(join(control, 'keep'), kept.map((folder) => `${folder}\n`).join(''));
    return await work({ options, cwd, control, results });
  } finally {
    await rm(control, { recursive: true, force: true });
    if (ownResults) {
      if ((await readdir(results)).length === 0) await rm(results, { recursive: true, force: true });
      else process.stderr.write(`lab: results are in ${results}\n`);
    }
  }
}

/** The exit code the guest left, if it came that far. */
export async function guestExitCode(control: string): Promise<number | undefined> {
  try {
    const code = Number((await readFile(join(control, 'exit'), 'utf8')).trim());
    return Number.isInteger(code) ? code : undefined;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
