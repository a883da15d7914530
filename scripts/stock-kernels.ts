import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { cacheFolder } from '../test/lab/cache.ts';
import { report } from '../test/lab/errors.ts';
import { type StockSeries, stockSeries } from '../test/lab/packages.ts';
import { screenProgress } from '../test/lab/progress.ts';
import { setUp } from '../test/lab/setup.ts';
import { formatCounts } from './counts.ts';
import { type RunProgram, jestInLab } from './jest-run.ts';
import { allPassed, formatResults, type StockResult } from './stock-results.ts';
import { type StockSuite, stockSuites } from './stock-suites.ts';
import { projectRoot, show } from './tasks.ts';

/**
 * `npm run test:stock-kernels`: what depends on the driver, on Debian's own kernels in QEMU. One kernel beside the other,
 * each with one test at a time. It takes long where processors are emulated, so CI does not run it.
 */
const usage = `usage: npm run test:stock-kernels [-- WORD…]

WORD is a kernel (${stockSeries.join(', ')}) or a suite (${stockSuites.map(({ name }) => name).join(', ')}); without any of one sort, all of it.
The output of the tests goes to dist/stock-kernels.
`;

const logs = join(projectRoot, 'dist/stock-kernels');

/** Runs a program with its output in a file, as it comes. */
const intoFile =
  (path: string): RunProgram =>
  async (program, args, env = {}) => {
    const file = await open(path, 'w');
    try {
      return await new Promise((resolve, reject) => {
        const stdio = ['ignore' as const, file.fd, file.fd];
        const child = spawn(program, [...args], { cwd: projectRoot, stdio, env: { ...process.env, ...env } });
        child.on('error', reject);
        child.on('exit', (code) => resolve(code ?? 1));
      });
    } finally {
      await file.close();
    }
  };

async function runOn(series: StockSeries, suites: readonly StockSuite[], results: StockResult[]): Promise<void> {
  for (const { name, project, files, timeout } of suites) {
    const path = join(logs, `${series}-${name}.log`);
    const since = performance.now();
    const jest = [`--selectProjects=${project}`, '--testTimeout=180000', '--verbose', '--runInBand'];
    const args = [...jest, '--runTestsByPath', ...files];
    const { counts, outcomes } = await jestInLab(args, timeout, intoFile(path), `qemu:${series}`);
    const failures = outcomes.flatMap((file) =>
      file.failures.map((test) => `${relative(projectRoot, file.path)}: ${test}`),
    );
    const seconds = Math.round((performance.now() - since) / 1000);
    results.push({ series, suite: name, counts, seconds, failures });
    process.stdout.write(
      `Linux ${series}, ${name}: ${formatCounts(counts)}, ${seconds} s (${relative(projectRoot, path)})\n`,
    );
  }
}

const isIn =
  (words: readonly string[]) =>
  (word: string): boolean =>
    words.includes(word);

async function main(words: readonly string[]): Promise<number> {
  const named = {
    kernels: stockSeries.filter(isIn(words)),
    suites: stockSuites.filter(({ name }) => isIn(words)(name)),
  };
  if (words.length !== named.kernels.length + named.suites.length) {
    process.stdout.write(usage);
    return words.includes('--help') ? 0 : 2;
  }
  const kernels = named.kernels.length > 0 ? named.kernels : stockSeries;
  const suites = named.suites.length > 0 ? named.suites : stockSuites;
  await setUp(
    kernels.map((one) => ({ kind: 'qemu', series: one })),
    cacheFolder(),
    screenProgress('lab'),
  );
  if ((await show(process.execPath, ['scripts/build.ts', '--no-types'])) !== 0) return 1;
  mkdirSync(logs, { recursive: true });
  const results: StockResult[] = [];
  await Promise.all(kernels.map((one) => runOn(one, suites, results)));
  process.stdout.write(`\n${formatResults(results)}`);
  return allPassed(results) ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  report(error);
  process.exitCode = 1;
}
