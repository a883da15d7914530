import { Command } from 'commander';
import { version } from '../../version.ts';
import { commands } from './commands.ts';
import { addConnectionOptions } from './connection.ts';

/** `kubectl ovpn` with all its subcommands. */
export function kubectlProgram(): Command {
  const program = new Command('kubectl ovpn')
    .usage('COMMAND [options]')
    .description('Look at the VPNs of a cluster, and at what is wrong with them.')
    .version(version, '--version', 'print the version')
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError('(kubectl ovpn --help shows the commands)');
  addConnectionOptions(program);
  for (const [group, members] of Object.entries(commands)) {
    for (const make of members) {
      const command = make().helpGroup(group).copyInheritedSettings(program);
      program.addCommand(command);
    }
  }
  return program;
}
