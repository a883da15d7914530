import type { KubeConfig } from '@kubernetes/client-node';
import { InvalidArgumentError, type Command, Option } from 'commander';
import { nearest } from '../../api/suggest.ts';
import { ApiClient } from '../../cluster/api-client.ts';
import { systemClock } from '../../cluster/clock.ts';
import { kubeAccess, loadKubeConfig } from '../../cluster/kube-access.ts';
import { OvpnError } from '../../errors.ts';
import { version } from '../../version.ts';

/** How the cluster is reached, and what of it is looked at: as kubectl's own options say it. */
export interface ConnectionOptions {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly namespace?: string;
  readonly allNamespaces?: boolean;
  /** Milliseconds. */
  readonly requestTimeout: number;
  readonly operatorNamespace: string;
}

/** An API server as one person sees it. */
export interface Cluster {
  readonly client: ApiClient;
  /** What the client was made from, for what it cannot do itself. */
  readonly config: KubeConfig;
  /** The namespace that is asked for, else the one of the context. */
  readonly namespace: string;
  /** The only namespace to look at; undefined for all of them, by -A. */
  readonly scope: string | undefined;
  /** Whether a namespace was asked for by -n. */
  readonly narrowed: boolean;
  readonly operatorNamespace: string;
  readonly timeoutMs: number;
}

const defaultTimeoutMs = 30_000;

/** Adds the options of a connection to the program; every subcommand takes them before and after its name. */
export function addConnectionOptions(program: Command): Command {
  return program
    .optionsGroup('Connection:')
    .option('--kubeconfig <file>', 'kubeconfig; by default as kubectl finds it')
    .option('--context <name>', 'context of the kubeconfig')
    .option('-n, --namespace <name>', 'namespace; by default the one of the context')
    .option('-A, --all-namespaces', 'look at all namespaces')
    .addOption(
      new Option('--request-timeout <time>', 'how long one request may take: 30, 30s, 2m; 0 for as long as it takes')
        .argParser(duration)
        .default(defaultTimeoutMs, '30s'),
    )
    .option('--operator-namespace <name>', "the operator's namespace", 'ovpn-system');
}

/** The options of the connection as they were given to the program or to the subcommand. */
export function connectionOptions(command: Command): ConnectionOptions {
  return command.optsWithGlobals<ConnectionOptions & Record<string, unknown>>();
}

/** Reads the kubeconfig; nothing is sent yet. @throws OvpnError ConfigInvalid */
export async function connect(options: ConnectionOptions): Promise<Cluster> {
  const { kubeconfig, context } = options;
  const config = await loadKubeConfig({
    ...(kubeconfig === undefined ? {} : { kubeconfig }),
    ...(context === undefined ? {} : { context }),
  });
  checkChoice(config, context);
  const ofContext = config.getContextObject(config.getCurrentContext())?.namespace;
  const namespace = options.namespace ?? (ofContext === undefined || ofContext === '' ? 'default' : ofContext);
  return {
    config,
    client: new ApiClient(kubeAccess(config), systemClock, `kubectl-ovpn/${version}`),
    namespace,
    scope: options.allNamespaces === true ? undefined : namespace,
    narrowed: options.namespace !== undefined && options.allNamespaces !== true,
    operatorNamespace: options.operatorNamespace,
    timeoutMs: options.requestTimeout,
  };
}

/** @throws OvpnError ConfigInvalid when there is no such context, or no kubeconfig at all */
function checkChoice(config: KubeConfig, context: string | undefined): void {
  const names = config.getContexts().map(({ name }) => name);
  if (context !== undefined && !names.includes(context)) {
    const near = nearest(context, names);
    const hint =
      near !== undefined ? `; did you mean "${near}"?` : names.length === 0 ? '' : `; there is ${names.join(', ')}`;
    const remedy = 'correct --context; `kubectl config get-contexts` shows all';
    throw new OvpnError('ConfigInvalid', `there is no context "${context}" in the kubeconfig${hint}`, {}, { remedy });
  }
  // Where the client library finds nothing, it makes this up.
  if (config.getCurrentCluster()?.server === 'http://localhost:8080') {
    const remedy = 'set KUBECONFIG or --kubeconfig, or log in to the cluster as `kubectl` needs it, too';
    throw new OvpnError('ConfigInvalid', 'there is no kubeconfig', {}, { remedy });
  }
}

/** Milliseconds of a time as kubectl takes it. A timer cannot be set for ever, so 0 means a day. */
export function duration(text: string): number {
  const [, amount, unit = 's'] = /^(\d+)(ms|s|m|h)?$/.exec(text) ?? [];
  if (amount === undefined) throw new InvalidArgumentError('must be like 30, 30s, 2m or 1h');
  const milliseconds = Number(amount) * ({ ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[unit] ?? 1000);
  const day = 86_400_000;
  if (milliseconds > day) throw new InvalidArgumentError('must be at most 24h');
  return milliseconds === 0 ? day : milliseconds;
}
