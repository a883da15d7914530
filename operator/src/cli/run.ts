import { Command, InvalidArgumentError, Option } from 'commander';
import { hostname } from 'node:os';
import { defaultAgentSocket } from '../agent/attach-protocol.ts';
import { defaultHolderSocket } from '../holder/protocol.ts';
import { healthAddress } from './health-address.ts';
import { defaultNetnsFolder } from '../kernel/netns.ts';
import { logLevels } from '../telemetry/levels.ts';
import type { RunOptions } from './run-options.ts';

/** `ovpn-agent run`: the node agent, on a folder of manifests or on the API server. */
export function runCommand(): Command {
  return new Command('run')
    .description('Run the node agent: on the API server, or with --manifests on a folder of YAML files.')
    .option('--manifests <folder>', 'take resources from this folder instead of the API server')
    .option('--node <name>', 'name of this node', process.env['NODE_NAME'] ?? hostname())
    .option(
      '--label <key=value>',
      'a label of this node for node selectors (with --manifests; repeatable)',
      collectLabel,
      [],
    )
    .option(
      '--state <folder>',
      'where the ledger of spent keys, attachments and status files are kept',
      '/var/lib/ovpn-operator',
    )
    .option('--socket <path>', 'the socket that the CNI plugin and `ovpn-agent status` use', defaultAgentSocket)
    .option(
      '--holder <path>',
      'socket of the socket holder, or `none` to keep sockets in this process only',
      defaultHolderSocket,
    )
    .option('--netns <folder>', 'folder of named network namespaces', defaultNetnsFolder)
    .option('--kubeconfig <file>', 'kubeconfig; by default the service account of the pod')
    .option('--namespace <name>', "the operator's namespace, the only one that Secrets are read in", 'ovpn-system')
    .option('--resync <seconds>', 'read everything from the kernel again this often', seconds, 60)
    .option('--status-interval <seconds>', 'bring traffic figures in status up to date this often', seconds, 60)
    .option(
      '--node-lease <seconds>',
      'in a mesh: after so long without a word another node takes over the peers that this one dials',
      leaseSeconds,
      5,
    )
    .option(
      '--restart-grace <seconds>',
      'how long other nodes wait instead for an agent that ended in order and comes back',
      leaseSeconds,
      60,
    )
    .addOption(
      new Option('--health <address:port>', 'where /healthz, /readyz and /metrics are served, or `off`')
        .argParser((text) => (text === 'off' ? text : healthAddress(text)))
        .default({ host: '127.0.0.1', port: 9908 }, '127.0.0.1:9908'),
    )
    .option(
      '--metrics-peers <number>',
      'with more peers than this on the node, or with `off`, metrics have no series of single peers',
      peerSeries,
      10_000,
    )
    .addOption(new Option('--log-level <level>', 'how much to log').choices(logLevels).default('info'))
    .action(async (options: RunOptions) => {
      const { runAgent } = await import('./run-agent.ts');
      await runAgent(options);
    });
}

function collectLabel(value: string, before: readonly [string, string][]): [string, string][] {
  const [key, ...rest] = value.split('=');
  if (key === undefined || key === '' || rest.length === 0) throw new InvalidArgumentError('must be key=value');
  return [...before, [key, rest.join('=')]];
}

function peerSeries(value: string): number {
  if (value === 'off') return 0;
  const parsed = Number(value);
  if (!Number.isInteger(parsed) || parsed < 1 || parsed > 1_000_000)
    throw new InvalidArgumentError('must be `off` or a whole number from 1 to 1000000');
  return parsed;
}

/** The Lease says whole seconds; below three, every pause of the API server would move peers. */
function leaseSeconds(value: string): number {
  const parsed = Number(value);
  if (!Number.isInteger(parsed) || parsed < 3 || parsed > 600) {
    throw new InvalidArgumentError('must be a whole number of seconds from 3 to 600');
  }
  return parsed;
}

function seconds(value: string): number {
  const parsed = Number(value);
  if (!Number.isInteger(parsed) || parsed < 1 || parsed > 86_400) {
    throw new InvalidArgumentError('must be a whole number of seconds from 1 to 86400');
  }
  return parsed;
}
