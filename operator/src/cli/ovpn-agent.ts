#!/usr/bin/env node
import { Command } from 'commander';
import { describe } from '../errors.ts';
import { checkCommand } from './check.ts';
import { doctorCommand } from './doctor.ts';
import { explainRouteCommand } from './explain-route.ts';
import { holderCommand } from './holder.ts';
import { installCniCommand } from './install-cni.ts';
import { runCommand } from './run.ts';
import { statusCommand } from './status.ts';
import { forTerminal } from './terminal.ts';
import { version } from '../version.ts';

/**
 * The node agent's program: `run` and `holder` are the services, `install-cni` prepares the node, `status`, `check`,
 * `explain-route` and `doctor` are for people.
 */
const program = new Command('ovpn-agent')
  .description('Runs OpenVPN tunnels of VpnNetwork, VpnPeer and VpnKey resources on the Linux ovpn driver.')
  .version(version, '--version', 'print the version')
  .showHelpAfterError('(ovpn-agent --help shows the options)')
  .addCommand(runCommand())
  .addCommand(holderCommand())
  .addCommand(installCniCommand())
  .addCommand(statusCommand())
  .addCommand(checkCommand())
  .addCommand(explainRouteCommand())
  .addCommand(doctorCommand());

// Commands that are added do not get it by themselves.
for (const command of program.commands) command.copyInheritedSettings(program);

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(forTerminal(`ovpn-agent: ${describe(error)}\n`));
  process.exitCode = 1;
}
