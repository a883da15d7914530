import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { projectRoot, show } from '../../scripts/tasks.ts';
import { screenProgress } from '../lab/progress.ts';
import { needGoPrograms } from '../programs/build.ts';
import { cniPrograms, controlPlanePrograms } from '../programs/programs.ts';
import { benchHelp, type BenchOptions, BenchUsageError, parseBenchArgs } from './args.ts';
import { chartOf } from './chart.ts';
import { readHistory, recorded, writeHistory } from './history.ts';
import { BenchError, benchCache, buildReference } from './reference.ts';
import { makePki } from './suites/handshake-pki.ts';
import { kubeSuite } from './suites/kube.ts';
import { meshSuite } from './suites/mesh.ts';
import {
  type HostSuiteName,
  isHostSuiteName,
  isLabSuiteName,
  parseRows,
  type Row,
  type Suite,
  type SuiteContext,
  type SuiteName,
  suiteNames,
} from './suite.ts';
import { formatTable } from './table.ts';

/** `npm run bench`: builds what is measured, runs the suites in the lab, shows what came out. */
async function main(): Promise<number> {
  const options = parseBenchArgs(process.argv.slice(2), process.cwd());
  if (options === 'help') process.stdout.write(benchHelp);
  else if (options === 'list') process.stdout.write(suiteNames.map((name) => `${name}\n`).join(''));
  else return bench(options);
  return 0;
}

async function bench(options: BenchOptions): Promise<number> {
  const reference = await buildReference();
  await buildPrograms();
  const cni = join(projectRoot, 'dist/ovpn-cni');
  const results = await mkdtemp(join(tmpdir(), 'ovpn-bench-'));
  try {
    const { suites, peers, clients, nodes } = options;
    if (suites.includes('cni')) await needGoPrograms(cniPrograms, screenProgress('programs'));
    if (suites.includes('apply')) await needGoPrograms(controlPlanePrograms, screenProgress('programs'));
    const pki = await pkiFor(suites, clients);
    const context = { peers, clients, nodes, reference, cni, pki };
    const inside = suites.filter(isLabSuiteName);
    let code = inside.length === 0 ? 0 : await inLab(options, results, { ...context, suites: inside });
    // A suite that failed leaves the rows of those before it.
    const text = await readFile(join(results, 'rows.json'), 'utf8').catch(() => '[]');
    const rows = parseRows(text);
    for (const name of suites.filter(isHostSuiteName)) {
      try {
        rows.push(...(await here(name, context)));
      } catch (error) {
        process.stderr.write(`bench: ${name}: ${String(error)}\n`);
        code ||= 1;
      }
    }
    if (rows.length > 0) process.stdout.write(`\n${formatTable(rows)}`);
    if (options.json !== undefined) await writeJson(options.json, rows);
    if (options.record && rows.length > 0)
      await record(rows, await readFile(join(results, 'kernel'), 'utf8').catch(() => undefined));
    return code;
  } finally {
    await rm(results, { recursive: true, force: true });
  }
}

/** What is shipped is what is measured: the bundles, which need less time and memory than the sources. */
async function buildPrograms(): Promise<void> {
  if ((await show(process.execPath, ['scripts/build.ts', '--no-types'])) !== 0)
    throw new BenchError('the build failed');
}

/** Certificates for the suites in which clients connect; made once. Resolves with their folder. */
async function pkiFor(suites: readonly SuiteName[], clients: readonly number[]): Promise<string> {
  if (suites.includes('control-channel')) return makePki(benchCache(), Math.max(...clients));
  return suites.some((name) => name === 'datapath' || name === 'footprint') ? makePki(benchCache(), 1) : '';
}

/** Those that need no ovpn kernel. */
const suitesHere: Readonly<Record<HostSuiteName, Suite>> = { kube: kubeSuite, mesh: meshSuite };

async function here(name: HostSuiteName, context: Omit<SuiteContext, 'progress'>): Promise<readonly Row[]> {
  await needGoPrograms(controlPlanePrograms, screenProgress('programs'));
  const progress = (text: string): void => void process.stderr.write(`bench: ${name}: ${text}\n`);
  return suitesHere[name]({ ...context, progress });
}

/** Runs inside.ts in the lab; its words go to the screen, its rows to the results folder. */
async function inLab({ kernel }: BenchOptions, results: string, request: object): Promise<number> {
  const lab = join(import.meta.dirname, '..', 'lab', 'lab.ts');
  const inside = join(import.meta.dirname, 'inside.ts');
  const settings = ['--kernel', kernel, '--results', results, '--env', 'OVPN_PROGRAMS=dist'];
  const args = [...settings, '--', process.execPath, inside, JSON.stringify(request)];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [lab, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 130)));
  });
}

/** Keeps the ratios, and draws the charts of the suites that were run. */
async function record(rows: readonly Row[], labKernel: string | undefined): Promise<void> {
  const inLab = rows.filter(({ suite }) => isLabSuiteName(suite));
  const onHost = rows.filter(({ suite }) => !isLabSuiteName(suite));
  const date = new Date().toISOString().slice(0, 10);
  const host = `${release()} (host)`;
  const past = recorded(await readHistory(), inLab, { date, kernel: labKernel ?? host });
  const history = recorded(past, onHost, { date, kernel: host });
  await writeHistory(history);
  const pictures = join(projectRoot, 'docs/pictures');
  await mkdir(pictures, { recursive: true });
  for (const suite of new Set(rows.map(({ suite }) => suite))) {
    const last = history[suite]?.at(-1);
    if (last !== undefined) await writeFile(join(pictures, `bench-${suite}.svg`), chartOf(suite, last));
  }
}

async function writeJson(file: string, rows: readonly Row[]): Promise<void> {
  await writeFile(file, `${JSON.stringify(rows, undefined, 2)}\n`);
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof BenchUsageError || error instanceof BenchError)) throw error;
  process.stderr.write(`bench: ${error.message}\n`);
  process.exitCode = error instanceof BenchUsageError ? 2 : 1;
}
