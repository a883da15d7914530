import { asRecord } from '../../cluster/json.ts';
import { OvpnError } from '../../errors.ts';
import type { Cluster } from './connection.ts';
import { execInPod, type Executed } from './exec.ts';
import { listRaw } from './read.ts';

/** The parts of the operator that run in pods, as the chart labels them. */
export type Component = 'agent' | 'controller' | 'holder';

/** One container as the kubelet tells of it. */
export interface ContainerState {
  readonly name: string;
  readonly image: string;
  /** What its command gets. */
  readonly args: readonly string[];
  readonly ready: boolean;
  readonly restarts: number;
  /** Why it does not run: `CrashLoopBackOff: …`; undefined when it runs. */
  readonly waiting: string | undefined;
  /** How its process before this one ended: `OOMKilled (137)`. */
  readonly lastExit: string | undefined;
  /** When that was; milliseconds. */
  readonly lastExitAt: number | undefined;
}

/** A pod of the operator. */
export interface OperatorPod {
  readonly namespace: string;
  readonly name: string;
  readonly component: Component;
  /** Undefined until it is placed. */
  readonly node: string | undefined;
  /** The version of the programs by the chart's label. */
  readonly version: string | undefined;
  readonly phase: string;
  readonly ready: boolean;
  /** Being deleted. */
  readonly leaving: boolean;
  readonly account: string | undefined;
  readonly containers: readonly ContainerState[];
  /** Why it is not ready, as far as it says; undefined when it is. */
  readonly problem: string | undefined;
}

const labels = {
  component: 'app.kubernetes.io/component',
  version: 'app.kubernetes.io/version',
} as const;

/** Selects what the chart installs: other objects of the operator's namespace are none of ours. */
export const operatorSelector = 'app.kubernetes.io/part-of=ovpn-operator';

/** The part of the operator that an object belongs to, by its labels; undefined when it is none. */
export function componentOf(own: unknown): Component | undefined {
  const component = asRecord(own)?.[labels.component];
  return component === 'agent' || component === 'controller' || component === 'holder' ? component : undefined;
}

/** The pods of the operator, by name. @throws OvpnError AccessDenied, ApiUnavailable */
export async function operatorPods(cluster: Cluster): Promise<OperatorPod[]> {
  const namespace = cluster.operatorNamespace;
  const found = await listRaw(cluster, 'Pod', { namespace, labelSelector: operatorSelector });
  return found.flatMap((pod) => operatorPod(pod) ?? []).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** What counts of a pod; undefined when it is none of the operator's. */
export function operatorPod(object: unknown): OperatorPod | undefined {
  const pod = asRecord(object) ?? {};
  const metadata = asRecord(pod['metadata']) ?? {};
  const spec = asRecord(pod['spec']) ?? {};
  const status = asRecord(pod['status']) ?? {};
  const own = asRecord(metadata['labels']) ?? {};
  const component = componentOf(own);
  const [namespace, name] = [text(metadata['namespace']), text(metadata['name'])];
  if (namespace === undefined || name === undefined || component === undefined) return undefined;
  const argsOf = new Map(records(spec['containers']).map((one) => [one['name'], strings(one['args'])]));
  const states = [...records(status['initContainerStatuses']), ...records(status['containerStatuses'])];
  const containers = states.map((state) => containerState(state, argsOf.get(state['name']) ?? []));
  const conditions = records(status['conditions']);
  const ready = conditions.some(({ type, status: value }) => type === 'Ready' && value === 'True');
  return {
    namespace,
    name,
    component,
    node: text(spec['nodeName']),
    version: text(own[labels.version]),
    phase: text(status['phase']) ?? 'Unknown',
    ready,
    leaving: metadata['deletionTimestamp'] !== undefined,
    account: text(spec['serviceAccountName']),
    containers,
    problem: ready ? undefined : problemOf(status, conditions, containers),
  };
}

function containerState(found: Readonly<Record<string, unknown>>, args: readonly string[]): ContainerState {
  const state = asRecord(found['state']) ?? {};
  const waiting = asRecord(state['waiting']) ?? asRecord(state['terminated']);
  const last = asRecord(asRecord(found['lastState'])?.['terminated']);
  const { restartCount } = found;
  const { exitCode: exit, finishedAt } = last ?? {};
  const ended = typeof finishedAt === 'string' ? Date.parse(finishedAt) : Number.NaN;
  return {
    name: text(found['name']) ?? '?',
    image: text(found['image']) ?? '?',
    args,
    ready: found['ready'] === true,
    restarts: typeof restartCount === 'number' ? restartCount : 0,
    waiting: waiting === undefined ? undefined : withMessage(text(waiting['reason']), text(waiting['message'])),
    lastExit:
      last === undefined ? undefined : `${text(last['reason']) ?? 'ended'} (${typeof exit === 'number' ? exit : '?'})`,
    lastExitAt: Number.isNaN(ended) ? undefined : ended,
  };
}

function problemOf(
  status: Readonly<Record<string, unknown>>,
  conditions: readonly Readonly<Record<string, unknown>>[],
  containers: readonly ContainerState[],
): string {
  const unplaced = conditions.find(({ type, status: value }) => type === 'PodScheduled' && value === 'False');
  if (unplaced !== undefined) return withMessage(text(unplaced['reason']), text(unplaced['message']));
  const stuck = containers.find(({ waiting, ready }) => waiting !== undefined && !ready);
  if (stuck !== undefined) return `container ${stuck.name}: ${stuck.waiting ?? ''}`;
  const unready = containers.filter(({ ready }) => !ready).map(({ name }) => name);
  if (unready.length > 0) return `not ready by its probes: ${unready.join(', ')}`;
  return withMessage(text(status['reason']) ?? text(status['phase']), text(status['message']));
}

function withMessage(reason = 'Unknown', message?: string): string {
  return message === undefined || message === '' ? reason : `${reason}: ${message}`;
}

/**
 * The agent of a node, ready to be asked.
 *
 * @throws OvpnError AgentAbsent with the reason
 */
export function agentOf(pods: readonly OperatorPod[], node: string, namespace: string): OperatorPod {
  const agents = pods.filter(({ component }) => component === 'agent');
  const [here] = agents.filter((pod) => pod.node === node).sort((a, b) => Number(a.leaving) - Number(b.leaving));
  const object = `Node ${node}`;
  if (agents.length === 0) {
    const remedy = 'install the operator, or say by --operator-namespace where it is';
    throw new OvpnError('AgentAbsent', `namespace ${namespace} has no pods of agents`, { object }, { remedy });
  }
  if (here === undefined) throw new OvpnError('AgentAbsent', 'no agent is placed on the node', { object });
  if (!isUp(here)) {
    throw new OvpnError('AgentAbsent', `the agent's pod ${here.name} does not run: ${here.problem ?? '?'}`, { object });
  }
  return here;
}

/** Whether the container of the agent runs: one that is not ready answers all the same, and knows best why. */
export function isUp({ phase, containers }: OperatorPod): boolean {
  return phase === 'Running' && containers.some(({ name, waiting }) => name === 'agent' && waiting === undefined);
}

/** Runs `ovpn-agent` in a container of a pod. @throws OvpnError AccessDenied, ExecFailed */
export function askPod(
  cluster: Cluster,
  { namespace, name }: OperatorPod,
  args: readonly string[],
  container = 'agent',
): Promise<Executed> {
  return execInPod(cluster, { namespace, pod: name, container }, ['ovpn-agent', ...args]);
}

/**
 * The JSON that `ovpn-agent` prints in a pod. It exits with 1 also when what it found is not well, so what it prints
 * tells whether it answered.
 *
 * @throws OvpnError AccessDenied, ExecFailed with what it says on stderr
 */
export async function askForJson(
  cluster: Cluster,
  pod: OperatorPod,
  args: readonly string[],
  container = 'agent',
): Promise<unknown> {
  const { code, stdout, stderr } = await askPod(cluster, pod, args, container);
  try {
    return JSON.parse(stdout);
  } catch {
    const said = stderr.trim().split('\n')[0] ?? '';
    const problem =
      said === '' ? `it exited with ${code}, and printed no JSON` : said.replace(/^(?:ovpn-agent|error): /, '');
    throw new OvpnError('ExecFailed', problem, { object: `Pod ${pod.namespace}/${pod.name}` });
  }
}

/** A text that says something; undefined for all else. */
export function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** The objects of a list; none when it is no list. */
export function records(value: unknown): Readonly<Record<string, unknown>>[] {
  if (!Array.isArray(value)) return [];
  return (value as unknown[]).map(asRecord).filter((one) => one !== undefined);
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? (value as unknown[]).filter((one) => typeof one === 'string') : [];
}
