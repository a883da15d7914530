import { existsSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { table } from '../table.ts';
import { alreadyThere, writeArchive } from './bundle/archive.ts';
import { collect } from './bundle/collect.ts';
import { redactor } from './bundle/redact.ts';
import { connect, connectionOptions, duration } from './connection.ts';

interface BundleOptions {
  readonly output?: string;
  /** Milliseconds. */
  readonly since: number;
  readonly logBytes: number;
}

const day = 86_400_000;
const MiB = 1024 * 1024;

/** `kubectl ovpn support-bundle`: what somebody needs who is to find a fault from afar, and no secrets. */
export function supportBundleCommand(): Command {
  return new Command('support-bundle')
    .description('Put together what is needed to find a fault from afar, without secrets, as a .tar.gz.')
    .option('-o, --output <file>', 'the file to write; by default ovpn-support-TIME.tar.gz in this folder')
    .addOption(
      new Option('--since <time>', 'take log lines of so long: 30m, 2h, at most 24h')
        .argParser(duration)
        .default(day, '24h'),
    )
    .option('--log-bytes <number>', "take so many bytes of each container's log, the newest", logBytes, 2 * MiB)
    .action(async ({ output, since, logBytes: bytes }: BundleOptions, command: Command) => {
      const now = new Date();
      const name = `ovpn-support-${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-')}`;
      const file = output ?? `${name}.tar.gz`;
      // Told before minutes of work rather than after.
      if (existsSync(file)) throw alreadyThere(file);
      const cluster = await connect(connectionOptions(command));
      const progress = (text: string): void => void process.stderr.write(`${text}\n`);
      try {
        const redact = redactor();
        const bounds = { sinceSeconds: Math.max(1, Math.floor(since / 1000)), logBytes: bytes };
        const files = await collect(cluster, bounds, redact, progress);
        await writeArchive(file, name, files, now);
        const rows = files.map(({ path, text }) => [path, `${Buffer.byteLength(text)} bytes`]);
        process.stdout.write(
          `${file}:\n${table(rows)
            .map((line) => `  ${line}\n`)
            .join('')}`,
        );
        const errors = files.find(({ path }) => path === 'errors.txt');
        if (errors !== undefined)
          process.stdout.write(`what could not be read:\n${errors.text.replaceAll(/^(?=.)/gm, '  ')}`);
        process.stdout.write(
          `${redact.count} passages that looked like secrets were taken out; look through it before you share it\n`,
        );
      } finally {
        cluster.client.close();
      }
    });
}

function logBytes(text: string): number {
  const parsed = Number(text);
  if (Number.isInteger(parsed) && parsed >= 1024 && parsed <= 256 * MiB) return parsed;
  throw new InvalidArgumentError(`must be a whole number of bytes from 1024 to ${256 * MiB}`);
}
