import { join } from 'node:path';
import {
  cniPrograms,
  controlPlanePrograms,
  metaPrograms,
  nodePrograms,
  runtimePrograms,
} from '../test/programs/programs.ts';
import { add, type Counts, formatCounts, noTests } from './counts.ts';
import { jestHere, withReport } from './jest-run.ts';
import { alone, havePrograms, type LabTier, runLabTier, twice } from './lab-tier.ts';
import { staticChecks } from './static-checks.ts';
import { headline, show } from './tasks.ts';

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
       npm run test:long -- FILE             in the lab, for minutes or hours; no part of npm test (test/long/README.md)
`;

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

/** Not among `npm test`. */
const others: Readonly<Record<string, Tier>> = {
  long: labTier('long', {
    ...{ workers: 1, testTimeout: 900_000, timeout: 7200 },
    programs: [...controlPlanePrograms, ...cniPrograms],
  }),
};

async function staticTier(): Promise<Counts> {
  let counts = noTests;
  for (const { name, run } of staticChecks) {
    headline(name);
    counts = add(counts, (await run()) === 0 ? { ...noTests, passed: 1 } : { ...noTests, failed: 1 });
  }
  return counts;
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
  if (wanted('kube')) {
    const jest = ['--selectProjects=kube', '--testTimeout=120000'];
    const run = twice(
      () => jestHere([...jest, '--maxWorkers=2', ...jestOptions]),
      (files) => jestHere([...jest, ...alone(jestOptions, files)]),
    );
    counts = add(counts, await run);
  }
  if (wanted('kube-lab')) {
    const programs = [...cniPrograms, ...metaPrograms, ...runtimePrograms, ...nodePrograms];
    headline('image');
    if ((await show(process.execPath, ['image/build.ts'])) !== 0) return add(counts, { ...noTests, failed: 1 });
    // One at a time: a guest with a cluster fills more than one processor, and two at once miss their bounds.
    const tier: LabTier = { workers: 1, testTimeout: 120_000, timeout: 3000, programs, guestPerFile: true };
    counts = add(counts, await runLabTier('kube-lab', tier, jestOptions));
  }
  return counts;
}

async function unitTier(jestOptions: readonly string[]): Promise<Counts> {
  // Some start programs, which takes seconds on a machine that has other work.
  const { counts } = await jestHere(['--selectProjects=unit', '--testTimeout=30000', ...jestOptions]);
  return counts;
}

/** The same inputs every time; to look for others, and for longer, there is `npm run fuzz`. */
async function fuzzTier(): Promise<Counts> {
  const { counts } = await withReport((folder) => {
    const args = ['test/fuzz/fuzz.ts', '--seconds', '0.4', '--seed', '1', '--json', join(folder, 'report.json')];
    return show(process.execPath, args);
  });
  return counts;
}

function labTier(project: string, tier: LabTier): Tier {
  return (jestOptions) => runLabTier(project, tier, jestOptions);
}

const [wanted = '', ...jestOptions] = process.argv.slice(2);
const chosen = wanted === 'all' ? Object.keys(tiers) : [wanted];
const known = { ...tiers, ...others };
if (!chosen.every((name) => name in known) || jestOptions.includes('--help')) {
  process.stdout.write(usage);
  process.exit(jestOptions.includes('--help') ? 0 : 2);
}
let total = noTests;
const lines: string[] = [];
for (const name of chosen) {
  headline(`test:${name}`);
  const began = performance.now();
  const counts = (await known[name]?.(jestOptions)) ?? noTests;
  const seconds = Math.round((performance.now() - began) / 1000);
  lines.push(`${name.padEnd(8)}${String(seconds).padStart(6)} s   ${formatCounts(counts)}`);
  total = add(total, counts);
}
process.stdout.write(`\n${lines.join('\n')}\n${formatCounts(total)}\n`);
process.exitCode = total.failed === 0 ? 0 : 1;
