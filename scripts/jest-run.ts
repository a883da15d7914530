import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Counts, countsOfReport, noTests } from './counts.ts';
import { type FileOutcome, outcomesOfReport } from './second-try.ts';
import { projectRoot, show } from './tasks.ts';

/** How a run of jest ended. */
export interface JestRun {
  readonly counts: Counts;
  readonly outcomes: readonly FileOutcome[];
}

/** Runs a program to its end, and says with which code it ended. */
export type RunProgram = (program: string, args: readonly string[], env?: NodeJS.ProcessEnv) => Promise<number>;

const jestEnv = { NODE_OPTIONS: '--experimental-vm-modules --disable-warning=ExperimentalWarning' };

/** Runs jest on this machine; a run that leaves no report has failed. */
export function jestHere(args: readonly string[]): Promise<JestRun> {
  return withReport((folder) =>
    show('jest', ['--json', `--outputFile=${join(folder, 'report.json')}`, ...args], jestEnv),
  );
}

/**
 * Runs jest in a guest of the lab; a run that leaves no report has failed.
 *
 * @param timeout of all of it, in seconds
 * @param kernel as `lab --kernel` takes it; without it the lab chooses
 */
export function jestInLab(
  args: readonly string[],
  timeout: number,
  run: RunProgram = show,
  kernel?: string,
): Promise<JestRun> {
  return withReport((folder) => {
    // The guest writes only to the lab's results folder; jest is given no path with a variable in it.
    const script = '"$@"; code=$?; cp /tmp/report.json "$LAB_RESULTS/"; exit $code';
    const lab = ['test/lab/lab.ts', '--results', folder, '--timeout', `${timeout}`];
    if (kernel !== undefined) lab.push('--kernel', kernel);
    lab.push('--env', `NODE_OPTIONS=${jestEnv.NODE_OPTIONS}`, '--env', 'OVPN_PROGRAMS=dist');
    const command = ['sh', '-c', script, 'sh', 'jest', '--json', '--outputFile=/tmp/report.json', ...args];
    return run(process.execPath, [...lab, '--', ...command]);
  });
}

/** The test files of a project, by their paths. @throws Error when jest does not list them */
export async function testFiles(project: string): Promise<string[]> {
  const { code, output } = await captured('jest', [`--selectProjects=${project}`, '--listTests', '--json'], jestEnv);
  // The names of the projects stand before the list.
  const list: unknown = code === 0 ? JSON.parse(output.slice(output.indexOf('['))) : undefined;
  if (!Array.isArray(list)) throw new Error(`jest does not list the tests of ${project}: ${output}`);
  return list.map(String);
}

/** Runs a program and keeps what it writes. */
async function captured(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [...args], { cwd: projectRoot, env: { ...process.env, ...env } });
    const pieces: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => pieces.push(piece));
    child.stdin.end();
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? 1, output: Buffer.concat(pieces).toString() }));
  });
}

/** Runs what leaves a report in a folder, and reads it. What leaves none has failed, whatever it printed. */
export async function withReport(run: (folder: string) => Promise<number>): Promise<JestRun> {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-test-'));
  try {
    const code = await run(folder);
    const { counts, outcomes } = read(join(folder, 'report.json'));
    return { counts: code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts, outcomes };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function read(path: string): JestRun {
  try {
    const text = readFileSync(path, 'utf8');
    return { counts: countsOfReport(text), outcomes: outcomesOfReport(text) };
  } catch (error) {
    process.stdout.write(`no report of the tests: ${String(error)}\n`);
    return { counts: { ...noTests, failed: 1 }, outcomes: [] };
  }
}
