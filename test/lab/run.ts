import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { LabError, codeOf } from './errors.ts';

/** What a finished program left. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  cwd?: string;
  env?: Readonly<Record<string, string>>;
  /** Called for every full line of stdout and stderr as it comes. */
  onLine?: (line: string) => void;
  /** Milliseconds after which the program is killed (exit code 124). */
  timeout?: number;
}

const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));

/**
 * A command line for a program that dies with this process, even when this process is killed outright.
 * (Without setpriv on the machine, the program as it is.)
 */
export function tied(program: string, args: readonly string[], signal: 'KILL' | 'TERM'): [string, string[]] {
  return setpriv === undefined ? [program, [...args]] : [setpriv, ['--pdeathsig', signal, '--', program, ...args]];
}

/** Runs a program to its end and returns its exit code and output; fails only if it cannot be started. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    // What a setup that was killed leaves running would be in the way of the next one.
    const child = spawn(...tied(program, args, 'TERM'), {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const text = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      let rest = '';
      child[name].setEncoding('utf8').on('data', (chunk: string) => {
        text[name] += chunk;
        if (options.onLine === undefined) return;
        const lines = (rest + chunk).split('\n');
        rest = lines.pop() ?? '';
        lines.forEach(options.onLine);
      });
    }
    let timedOut = false;
    const timer =
      options.timeout === undefined
        ? undefined
        : setTimeout(() => {
            timedOut = true;
            child.kill('SIGKILL');
          }, options.timeout);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(
        codeOf(error) === 'ENOENT'
          ? new LabError(`the program '${program}' is not on this machine`, 'Install it, or put it on PATH.')
          : error,
      );
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code: timedOut ? 124 : (code ?? (signal === null ? 1 : 128)), ...text });
    });
  });
}

/** Runs a program that must succeed; on failure says what failed and shows the end of its output. */
export async function must(program: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const done = await run(program, args, options);
  if (done.code !== 0) {
    const tail = lastLines(`${done.stdout}\n${done.stderr}`, 15);
    throw new LabError(`'${[program, ...args].join(' ')}' failed with exit code ${done.code}:\n${tail}`, '');
  }
  return done;
}

/** The last non-empty lines of a text, for error messages. */
export function lastLines(text: string, count: number): string {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-count)
    .join('\n');
}

/** Whether a program is on PATH, or at one of the system folders that a user's PATH often lacks. */
export async function hasProgram(name: string): Promise<boolean> {
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  return (await run('/bin/sh', ['-c', 'command -v "$1" >/dev/null', 'sh', name], { env: { PATH: path } })).code === 0;
}
