import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { report, UsageError } from '../test/lab/errors.ts';
import { screenProgress } from '../test/lab/progress.ts';
import { needGoPrograms } from '../test/programs/build.ts';
import { controlPlanePrograms } from '../test/programs/programs.ts';
import { headline, show } from './tasks.ts';

/** `npm run chaos`: five nodes of a lab, and faults by a seed, for as long as is asked (test/long/chaos.test.ts). */
const usage = `usage: npm run chaos [-- OPTION…]

  --seed N      the first round's seed; each further round has the next (default: drawn, and shown)
  --minutes M   how many rounds of a minute (default 10); the cluster takes some more to start and to be looked at
  --results DIR where the logs of all go when something does not hold
`;

const command = 'npm run chaos --';

function wholeNumber(name: string, text: string, least: number): number {
  if (/^\d+$/.test(text) && Number(text) >= least) return Number(text);
  throw new UsageError(`--${name} '${text}' is not a whole number from ${least} on`, command);
}

function parse(): { readonly seed: number; readonly minutes: number; readonly results?: string | undefined } | 'help' {
  const options = {
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    minutes: { type: 'string', default: '10' },
    results: { type: 'string' },
    help: { type: 'boolean' },
  } as const;
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
  try {
    ({ values } = parseArgs({ options }));
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), command);
  }
  if (values.help === true) return 'help';
  const { seed, minutes, results } = values;
  return { seed: wholeNumber('seed', seed, 0), minutes: wholeNumber('minutes', minutes, 1), results };
}

async function main(): Promise<number> {
  const args = parse();
  if (args === 'help') {
    process.stdout.write(usage);
    return 0;
  }
  const { seed, minutes, results } = args;
  await needGoPrograms(controlPlanePrograms, screenProgress('programs'));
  const built = await show(process.execPath, ['scripts/build.ts', '--no-types']);
  if (built !== 0) return built;
  headline(`chaos: seed ${seed}, ${minutes} rounds of a minute`);
  return show(process.execPath, [
    'test/lab/lab.ts',
    // A round takes up to three minutes until all is looked at.
    ...['--timeout', String(600 + minutes * 240)],
    ...(results === undefined ? [] : ['--results', results]),
    ...['--env', 'NODE_OPTIONS=--experimental-vm-modules --disable-warning=ExperimentalWarning'],
    ...['--env', 'OVPN_PROGRAMS=dist', '--env', `OVPN_CHAOS_SEED=${seed}`, '--env', `OVPN_CHAOS_MINUTES=${minutes}`],
    ...['--', 'jest', '--selectProjects=long', '--runInBand', '--verbose', 'test/long/chaos.test.ts'],
  ]);
}

try {
  process.exitCode = await main();
} catch (error) {
  report(error);
  process.exitCode = error instanceof UsageError ? 2 : 125;
}
