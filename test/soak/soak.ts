import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { show } from '../../scripts/tasks.ts';

/** `npm run soak`: test/long/soak.test.ts in the lab, for as long as is asked for. */
const help = `usage: npm run soak -- [--minutes M] [--json FILE]

  --minutes M   how long clients, keys and pods come and go (default 20)
  --json FILE   writes the figures of every round
`;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '20' },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
const minutes = Number(values.minutes);
if (values.help) process.stdout.write(help);
else if (!(minutes > 0 && minutes <= 24 * 60)) {
  process.stderr.write(`soak: --minutes takes a number up to 1440\n${help}`);
  process.exitCode = 2;
} else process.exitCode = await soak(minutes, values.json);

async function soak(duration: number, json: string | undefined): Promise<number> {
  const built = await show(process.execPath, ['scripts/build.ts', '--no-types']);
  if (built !== 0) return built;
  const results = mkdtempSync(join(tmpdir(), 'ovpn-soak-'));
  try {
    // Starting, and an answer to a failure, take some minutes on a busy machine.
    const seconds = Math.ceil(duration * 60) + 600;
    const lab = ['test/lab/lab.ts', '--results', results, '--timeout', String(seconds)];
    lab.push('--env', 'NODE_OPTIONS=--experimental-vm-modules --disable-warning=ExperimentalWarning');
    lab.push('--env', 'OVPN_PROGRAMS=dist', '--env', `OVPN_SOAK_MINUTES=${duration}`);
    const jest = ['jest', '--selectProjects=long', `--testTimeout=${seconds * 1000}`, '--runInBand'];
    const code = await show(process.execPath, [...lab, '--', ...jest, 'test/long/soak.test.ts']);
    if (json !== undefined) copyFileSync(join(results, 'soak.json'), json);
    return code;
  } finally {
    rmSync(results, { recursive: true, force: true });
  }
}
