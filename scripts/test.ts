import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { report } from '../test/lab/errors.ts';
import { screenProgress } from '../test/lab/progress.ts';
import { needGoPrograms } from '../test/programs/build.ts';
import {
  cniPrograms,
  controlPlanePrograms,
  metaPrograms,
  nodePrograms,
  type ProgramName,
  runtimePrograms,
} from '../test/programs/programs.ts';
import { add, type Counts, countsOfReport, formatCounts, noTests } from './counts.ts';
import { countsOf, type FileOutcome, outcomesOfReport, withSecondTry, worthASecondTry } from './second-try.ts';
import { staticChecks } from './static-checks.ts';
import { headline, projectRoot, show } from './tasks.ts';

/**
 * `npm test` and its tiers. Each tier sets up what it needs; options after `--` go to jest. The last line
 * counts all tests of the run.
 */
const usage = `usage: npm test [-- JEST-OPTION…]            all tiers
       npm run test:unit [-- JEST-OPTION…]   no privileges, no special kernel
       npm run test:fuzz                     parsers and sessions against bytes of all sorts, for less than a minute
       npm run test:kernel [-- JEST-OPTION…] in the lab, on a real ovpn kernel
       npm run test:kube [-- JEST-OPTION…]   on a real API server, the tests with agents in the lab
       npm run test:e2e [-- JEST-OPTION…]    with real OpenVPN peers
`;

const jestEnv = { NODE_OPTIONS: '--experimental-vm-modules --disable-warning=ExperimentalWarning' };

type Tier = (jestOptions: readonly string[]) => Promise<Counts>;

const tiers: Readonly<Record<string, Tier>> = {
  static: staticTier,
  unit: unitTier,
  fuzz: fuzzTier,
  kernel: labTier('kernel', {
    workers: 2,
    testTimeout: 180_000,
    timeout: 2400,
    programs: [...cniPrograms, ...runtimePrograms],
  }),
  kube: kubeTier,
  // Most of the time these wait: for timers of OpenVPN, and for keys to be renewed.
  e2e: labTier('e2e', { workers: 4, testTimeout: 300_000, timeout: 1500 }),
};

async function staticTier(): Promise<Counts> {
  let counts = noTests;
  for (const { name, run } of staticChecks) {
    headline(name);
    counts = add(counts, (await run()) === 0 ? { ...noTests, passed: 1 } : { ...noTests, failed: 1 });
  }
  return counts;
}

/** Builds what is missing; says what went wrong, if something does. */
async function havePrograms(names: readonly ProgramName[]): Promise<boolean> {
  try {
    await needGoPrograms(names, screenProgress('programs'));
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/**
 * The tests that need nothing but an API server run on this machine, those with agents in the lab. The programs
 * are built first, here: in the lab there is no network. A test file that is named runs where it belongs.
 */
async function kubeTier(jestOptions: readonly string[]): Promise<Counts> {
  if (!(await havePrograms(controlPlanePrograms))) return { ...noTests, failed: 1 };
  const files = jestOptions.filter((option) => !option.startsWith('-'));
  const wanted = (project: string): boolean =>
    files.length === 0 || files.some((file) => file.includes(`test/${project}/`));
  let counts = noTests;
  if (wanted('kube'))
    counts = add(counts, await jestTier('kube', jestOptions, ['--maxWorkers=2', '--testTimeout=120000']));
  if (wanted('kube-lab')) {
    const programs = [...cniPrograms, ...metaPrograms, ...runtimePrograms, ...nodePrograms];
    headline('image');
    if ((await show(process.execPath, ['image/build.ts'])) !== 0) return add(counts, { ...noTests, failed: 1 });
    // One at a time: two API servers that start at once in the lab keep each other from it for minutes.
    const lab = labTier('kube-lab', { workers: 1, testTimeout: 120_000, timeout: 3000, programs });
    counts = add(counts, await lab(jestOptions));
  }
  return counts;
}

function unitTier(jestOptions: readonly string[]): Promise<Counts> {
  // Some start programs, which takes seconds on a machine that has other work.
  return jestTier('unit', jestOptions, ['--testTimeout=30000']);
}

/** Runs a jest project on this machine. */
async function jestTier(
  project: string,
  jestOptions: readonly string[],
  settings: readonly string[] = [],
): Promise<Counts> {
  return withReport((folder) => {
    const report = join(folder, 'report.json');
    const args = [`--selectProjects=${project}`, '--json', `--outputFile=${report}`, ...settings, ...jestOptions];
    return show('jest', args, jestEnv);
  });
}

/** The same inputs every time; to look for others, and for longer, there is `npm run fuzz`. */
async function fuzzTier(): Promise<Counts> {
  return withReport((folder) => {
    const args = ['test/fuzz/fuzz.ts', '--seconds', '0.4', '--seed', '1', '--json', join(folder, 'report.json')];
    return show(process.execPath, args);
  });
}

interface LabTier {
  /** Test files side by side. The guest has one CPU; tests that wait for others fill it. */
  readonly workers: number;
  /** Tests of timing wait for what they look for; a loaded machine may take its time. Milliseconds. */
  readonly testTimeout: number;
  /** For the whole tier. Seconds. */
  readonly timeout: number;
  /** Go programs that it needs: in the lab there is no network to build them. */
  readonly programs?: readonly ProgramName[];
}

/** Runs a jest project in the lab; files that failed get a second try alone. */
function labTier(project: string, { workers, testTimeout, timeout, programs = [] }: LabTier): Tier {
  return async (jestOptions) => {
    if (!(await havePrograms(programs))) return { ...noTests, failed: 1 };
    // The bundles are what is shipped, and they start faster than the sources: a node is started some hundred times.
    if ((await show(process.execPath, ['scripts/build.ts', '--no-types'])) !== 0) return { ...noTests, failed: 1 };
    const jest = ['jest', `--selectProjects=${project}`, `--testTimeout=${testTimeout}`];
    const first = await jestInLab([...jest, `--maxWorkers=${workers}`, ...jestOptions], timeout);
    const failed = worthASecondTry(first.outcomes);
    if (failed.length === 0) return first.counts;
    headline(`once more, one after the other: ${failed.map((path) => relative(projectRoot, path)).join(' ')}`);
    const names = jestOptions.filter((option) => option.startsWith('-'));
    const second = await jestInLab([...jest, '--runInBand', ...names, '--runTestsByPath', ...failed], timeout);
    const { outcomes, unsteady } = withSecondTry(first.outcomes, second.outcomes);
    for (const test of unsteady) process.stdout.write(`UNSTEADY, passed only alone: ${relative(projectRoot, test)}\n`);
    return countsOf(outcomes);
  };
}

/** Runs jest in the lab; a run that leaves no report has failed. */
async function jestInLab(
  jest: readonly string[],
  timeout: number,
): Promise<{ counts: Counts; outcomes: readonly FileOutcome[] }> {
  let outcomes: readonly FileOutcome[] = [];
  const counts = await withReport(async (folder) => {
    // The guest writes only to the lab's results folder; jest is given no path with a variable in it.
    const script = '"$@"; code=$?; cp /tmp/report.json "$LAB_RESULTS/"; exit $code';
    const lab = ['test/lab/lab.ts', '--results', folder, '--timeout', `${timeout}`];
    lab.push('--env', `NODE_OPTIONS=${jestEnv.NODE_OPTIONS}`, '--env', 'OVPN_PROGRAMS=dist');
    const [program = '', ...options] = jest;
    const report = ['--json', '--outputFile=/tmp/report.json'];
    const command = ['sh', '-c', script, 'sh', program, ...report, ...options];
    const code = await show(process.execPath, [...lab, '--', ...command]);
    const path = join(folder, 'report.json');
    if (existsSync(path)) outcomes = outcomesOfReport(readFileSync(path, 'utf8'));
    return code;
  });
  return { counts, outcomes };
}

/** Runs jest and counts by its report; a run that leaves none has failed, whatever it printed. */
async function withReport(run: (folder: string) => Promise<number>): Promise<Counts> {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-test-'));
  try {
    const code = await run(folder);
    const counts = readReport(join(folder, 'report.json'));
    return code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readReport(path: string): Counts {
  try {
    return countsOfReport(readFileSync(path, 'utf8'));
  } catch (error) {
    process.stdout.write(`no report of the tests: ${String(error)}\n`);
    return { ...noTests, failed: 1 };
  }
}

const [wanted = '', ...jestOptions] = process.argv.slice(2);
const chosen = wanted === 'all' ? Object.keys(tiers) : [wanted];
if (!chosen.every((name) => name in tiers) || jestOptions.includes('--help')) {
  process.stdout.write(usage);
  process.exit(jestOptions.includes('--help') ? 0 : 2);
}
let total = noTests;
for (const name of chosen) {
  headline(`test:${name}`);
  const counts = await tiers[name]?.(jestOptions);
  total = add(total, counts ?? noTests);
}
process.stdout.write(`\n${formatCounts(total)}\n`);
process.exitCode = total.failed === 0 ? 0 : 1;
