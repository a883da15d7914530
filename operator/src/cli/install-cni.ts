import { Command, Option } from 'commander';
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { defaultAgentSocket } from '../agent/attach-protocol.ts';
import { systemClock } from '../cluster/clock.ts';
import { OvpnError } from '../errors.ts';
import { Follower } from '../install/follow.ts';
import { chain, installPlugin, type Outcome, removePlugin, unchain } from '../install/installer.ts';
import { type ChainEntry, pluginType } from '../install/network-list.ts';
import { createLog } from '../telemetry/log.ts';
import { table } from './table.ts';

interface InstallOptions {
  readonly plugin?: string;
  readonly binDir: string;
  readonly confDir: string;
  readonly chain: boolean;
  readonly socket: string;
  readonly watch: boolean;
  readonly remove: boolean;
  readonly output: 'text' | 'json';
}

/** `ovpn-agent install-cni`: the plugin's file and its place in the configuration list, on this node. */
export function installCniCommand(): Command {
  return new Command('install-cni')
    .description(
      "Install the CNI plugin for the node's container runtime, or remove it. Running pods do not notice, and no call of the runtime fails meanwhile.",
    )
    .option('--plugin <file>', 'the ovpn-cni file to install; by default the one beside this program')
    .option('--bin-dir <folder>', "the runtime's folder of plugins", '/opt/cni/bin')
    .option('--conf-dir <folder>', "the runtime's folder of network configurations", '/etc/cni/net.d')
    .option('--chain', "also put the plugin behind the cluster's main plugin, in the list that is in force", false)
    .option('--socket <path>', "the agent's socket, as the plugin sees it", defaultAgentSocket)
    .option('--watch', 'stay, and put it back whenever another program changes the folders', false)
    .addOption(
      new Option('--remove', 'take it out of every list, then remove the file').default(false).conflicts('watch'),
    )
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .action((options: InstallOptions) => {
      if (options.watch) {
        follow(options);
        return;
      }
      print(options.remove ? [...unchain(options.confDir), removePlugin(options.binDir)] : install(options), options);
    });
}

/** The file first: a list must never name a plugin that is not there. */
function install({ plugin = besideProgram(), binDir, confDir, chain: chained, socket }: InstallOptions): Outcome[] {
  const entry: ChainEntry = { type: pluginType, ...(socket === defaultAgentSocket ? {} : { agentSocket: socket }) };
  return [installPlugin(plugin, binDir), ...(chained ? [chain(confDir, entry)] : [])];
}

function follow(options: InstallOptions): void {
  const follower = new Follower({
    folders: [options.binDir, ...(options.chain ? [options.confDir] : [])],
    pass: () => install(options),
    clock: systemClock,
    random: Math.random,
    log: createLog(),
  });
  follower.start();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => follower.stop());
}

/** In a build and in an image the plugin lies one folder above the agent's program, which PATH may have a link to. */
function besideProgram(): string {
  const program = realpathSync(process.argv[1] ?? '');
  const candidates = ['../ovpn-cni', '../../ovpn-cni', '../../../../dist/ovpn-cni'].map((path) => join(program, path));
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new OvpnError('ConfigInvalid', 'no ovpn-cni lies beside this program', { field: '--plugin' });
}

function print(outcomes: readonly Outcome[], { confDir, output }: InstallOptions): void {
  if (output === 'json') {
    process.stdout.write(`${JSON.stringify(outcomes, undefined, 2)}\n`);
    return;
  }
  process.stdout.write(`${table(outcomes.map(({ path, done }) => [done, path])).join('\n')}\n`);
  if (outcomes.some(({ done }) => done === 'waiting')) {
    process.stdout.write(
      `${confDir} holds no configuration list yet: run this again when it does, or stay with --watch\n`,
    );
  }
}
