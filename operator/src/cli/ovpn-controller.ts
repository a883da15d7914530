#!/usr/bin/env node
import { Command, Option } from 'commander';
import { hostname } from 'node:os';
import { describe } from '../errors.ts';
import { logLevels } from '../telemetry/levels.ts';
import { healthAddress } from './health-address.ts';
import type { ControllerRunOptions } from './run-controller.ts';
import { version } from '../version.ts';

/** The controller's program: the cluster-wide part of the operator. Start several; a lease says which one works. */
const program = new Command('ovpn-controller')
  .description('Gives out addresses, copies key material for the agents and sums up status, for a whole cluster.')
  .version(version, '--version', 'print the version')
  .showHelpAfterError('(ovpn-controller --help shows the options)')
  .option('--kubeconfig <file>', 'kubeconfig; by default the service account of the pod')
  .option('--namespace <name>', "the operator's namespace", process.env['POD_NAMESPACE'] ?? 'ovpn-system')
  .option('--name <name>', 'name of this replica', process.env['POD_NAME'] ?? hostname())
  .addOption(
    new Option('--health <address:port>', 'where /healthz, /readyz and /metrics are served')
      .argParser(healthAddress)
      .default({ host: '0.0.0.0', port: 8081 }, '0.0.0.0:8081'),
  )
  .addOption(new Option('--log-level <level>', 'how much to log').choices(logLevels).default('info'))
  .action(async (options: ControllerRunOptions) => {
    const { runController } = await import('./run-controller.ts');
    await runController(options);
  });

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`ovpn-controller: ${describe(error)}\n`);
  process.exitCode = 1;
}
