import { Command } from 'commander';
import { version } from '../../version.ts';

/** `kubectl ovpn version`: the version of this program. */
export function versionCommand(): Command {
  return new Command('version').description('Print the version of this program.').action(() => {
    process.stdout.write(`kubectl-ovpn ${version}\n`);
  });
}
