import { Command, Option } from 'commander';
import { sleep, systemClock } from '../../cluster/clock.ts';
import { OvpnError } from '../../errors.ts';
import { type Cluster, connect, connectionOptions, duration } from './connection.ts';
import { fits, formatLogLine, type LogFilter, type LogLine } from './log-line.ts';
import { type LogSource, logSources, nameOfSource, readLog } from './log-source.ts';
import { operatorSelector } from './operator-pods.ts';
import { forTerminal } from '../terminal.ts';
import { getRaw, notFound, seen } from './read.ts';
import { allowed } from './view.ts';

interface LogsOptions {
  readonly node?: string;
  readonly peer?: string;
  readonly network?: string;
  readonly controller?: true;
  readonly follow?: true;
  /** Milliseconds. */
  readonly since: number;
  readonly output: 'text' | 'json';
}

/** `kubectl ovpn logs`: what controller and agents wrote, in one row, as far as it concerns something. */
export function logsCommand(): Command {
  return new Command('logs')
    .description('Show what the controller and the agents log, of all nodes in the order of time.')
    .option('--node <name>', 'only the agent and the socket holder of this node')
    .option('--peer <name>', 'only lines about this VpnPeer and its VpnKey')
    .option('--network <name>', 'only lines about this VpnNetwork')
    .option('--controller', 'only the controller')
    .option('-f, --follow', 'go on with what comes')
    .addOption(new Option('--since <time>', 'how far back: 30s, 5m, 2h').argParser(duration).default(3_600_000, '1h'))
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .action(async (options: LogsOptions, command: Command) => {
      const cluster = await connect(connectionOptions(command));
      const filter = await filterOf(cluster, options);
      const print = (line: LogLine): void => {
        if (!fits(line, filter)) return;
        process.stdout.write(options.output === 'json' ? `${line.text}\n` : `${forTerminal(formatLogLine(line))}\n`);
      };
      const tell = (message: string): void => void process.stderr.write(`kubectl ovpn: ${forTerminal(message)}\n`);
      const signal = new AbortController().signal;
      const lastSeen = await readAll(cluster, options, print, tell);
      if (options.follow === true) await followAll(cluster, options, lastSeen, { print, tell, signal });
    });
}

type Reading = Pick<Cluster, 'client' | 'timeoutMs' | 'namespace' | 'operatorNamespace'>;
type Choice = Pick<LogsOptions, 'node' | 'controller'>;

/** @throws OvpnError ApiUnavailable */
export async function filterOf(
  cluster: Reading,
  { peer, network }: Pick<LogsOptions, 'peer' | 'network'>,
): Promise<LogFilter> {
  const ofNetwork = network === undefined ? {} : { network };
  if (peer === undefined) return ofNetwork;
  const name = peer.includes('/') ? peer : `${cluster.namespace}/${peer}`;
  const [namespace = '', own = ''] = name.split('/');
  // One that is deleted has a story, too; and for the lines about the peer itself, nobody needs a right to see it.
  const found = await allowed(getRaw(cluster, 'VpnPeer', { namespace, name: own }));
  const spec = found === undefined ? undefined : seen('VpnPeer', found).resource?.spec;
  const keys = [spec?.keyRef?.name, spec?.identity?.key].filter((key) => key !== undefined);
  return { ...ofNetwork, objects: [name, ...keys.map((key) => `${namespace}/${key}`)] };
}

/** Those that are chosen. @throws OvpnError ObjectNotFound when there is none */
export function chosen(all: readonly LogSource[], { node, controller }: Choice, namespace: string): LogSource[] {
  if (all.length === 0) {
    const remedy = `say by --operator-namespace where the operator is; \`kubectl get pods -A -l ${operatorSelector}\``;
    throw new OvpnError('ObjectNotFound', `namespace ${namespace} has no pod of the operator`, {}, { remedy });
  }
  const isChosen = ({ component, node: at }: LogSource): boolean =>
    node !== undefined
      ? at === node && component !== 'controller'
      : controller === true
        ? component === 'controller'
        : component !== 'holder';
  const sources = all.filter(isChosen);
  if (sources.length > 0) return sources;
  if (node === undefined) throw new OvpnError('ObjectNotFound', `namespace ${namespace} has no such pod that runs`);
  const nodes = all.filter(({ component }) => component === 'agent').map(({ node: name }) => name);
  throw notFound({ kind: 'Node', name: node }, [...new Set(nodes)]);
}

/** So many logs are read at once: of many nodes, each is a request that the API server hands on to a kubelet. */
const atOnce = 8;

/** By pod and container, the time of the last line. */
type LastSeen = Map<string, string>;

const keyOf = ({ uid, container }: LogSource): string => `${uid}/${container}`;

/**
 * What there is, in the order of time.
 *
 * @param tell is told of single logs that cannot be read
 * @throws OvpnError when none can be read
 */
export async function readAll(
  cluster: Reading,
  options: Choice & Pick<LogsOptions, 'since'>,
  print: (line: LogLine) => void,
  tell: (message: string) => void,
): Promise<LastSeen> {
  const sources = chosen(await logSources(cluster), options, cluster.operatorNamespace);
  const signal = new AbortController().signal;
  const lines: LogLine[] = [];
  const lastSeen: LastSeen = new Map();
  const waiting = [...sources];
  const failures: unknown[] = [];
  const work = async (): Promise<void> => {
    for (let source = waiting.shift(); source !== undefined; source = waiting.shift()) {
      const key = keyOf(source);
      const keep = (line: LogLine): void => {
        lines.push(line);
        lastSeen.set(key, line.time);
      };
      const since = { seconds: options.since / 1000 };
      // Why a container was started again, the one before has said. Kubelets may have thrown that away.
      if (source.restarted)
        await readLog(cluster, source, since, keep, { previous: true, signal }).catch(() => undefined);
      try {
        await readLog(cluster, source, since, keep, { signal });
      } catch (error) {
        failures.push(error);
        if (error instanceof OvpnError) tell(`${nameOfSource(source)}: ${error.message}`);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  if (failures.length === sources.length) throw failures[0] as Error;
  // Lines of one pod are in their order; a sort that is stable keeps it.
  for (const line of lines.sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : 0)))
    print(line);
  return lastSeen;
}

/** How long to wait before it is looked who is there now. */
const lookAgainMs = 2_000;

/** Goes on with what comes, also of pods that come later: a rollout replaces all of them. Ends when the signal aborts. */
export async function followAll(
  cluster: Reading,
  options: Choice & Pick<LogsOptions, 'since'>,
  lastSeen: LastSeen,
  {
    print,
    tell,
    signal,
  }: {
    readonly print: (line: LogLine) => void;
    readonly tell: (message: string) => void;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const began = new Date(systemClock.now()).toISOString();
  const followed = new Set<string>();
  let trouble = '';
  // The clock's timers do not keep a process alive.
  const alive = setInterval(() => undefined, 60_000);
  const begin = async (source: LogSource): Promise<void> => {
    const key = keyOf(source);
    followed.add(key);
    const since = lastSeen.get(key) ?? began;
    try {
      await readLog(
        cluster,
        source,
        { time: since.replace(/\.\d+Z$/, 'Z') },
        (line) => {
          // The API server goes by whole seconds.
          if (line.time !== '' && line.time <= (lastSeen.get(key) ?? '')) return;
          lastSeen.set(key, line.time);
          print(line);
        },
        { follow: true, signal },
      );
    } catch {
      // It is looked at again, and then said what is wrong if it stays.
    }
    followed.delete(key);
  };
  try {
    while (!signal.aborted) {
      try {
        const sources = chosen(await logSources(cluster), options, cluster.operatorNamespace);
        for (const source of sources) if (!followed.has(keyOf(source))) void begin(source);
        trouble = '';
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        if (message !== trouble) tell(message);
        trouble = message;
      }
      await sleep(systemClock, lookAgainMs, signal);
    }
  } finally {
    clearInterval(alive);
  }
}
