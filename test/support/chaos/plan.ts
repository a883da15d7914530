import { Random } from '../../fuzz/random.ts';

/**
 * The plan of a chaos run: which fault begins when, and for how long. Pure: the same seed and scene give the same plan,
 * on every machine. What else happens in between is the machine's; a run that failed is repeated by its plan.
 */

/** What is done. A fault lasts `forMs` from its beginning; then it is healed. */
export type Fault =
  /** The agent is killed, and is started again. */
  | { readonly kind: 'agent-killed'; readonly node: string; readonly forMs: number }
  /** With it the socket holder, so that the kernel drops what both held. */
  | { readonly kind: 'agent-and-holder-killed'; readonly node: string; readonly forMs: number }
  /** The agent ends in order, as in a rollout of the DaemonSet. */
  | { readonly kind: 'agent-rolled-out'; readonly node: string; readonly forMs: number }
  /** The same on a node that was taken out of service first. */
  | { readonly kind: 'node-drained'; readonly node: string; readonly forMs: number }
  /** Nobody runs for a while, as on a machine that is paused; its kernel goes on. */
  | { readonly kind: 'agent-stopped'; readonly node: string; readonly forMs: number }
  | { readonly kind: 'holder-killed'; readonly node: string; readonly forMs: number }
  | { readonly kind: 'controller-killed'; readonly forMs: number }
  /** The API server hangs, with all connections open. */
  | { readonly kind: 'api-hangs'; readonly forMs: number }
  | { readonly kind: 'api-killed'; readonly forMs: number }
  /** What the API server sends to a node is lost. */
  | { readonly kind: 'api-cut-off'; readonly node: string; readonly forMs: number }
  /** All that a node sends and gets is lost. */
  | { readonly kind: 'node-cut-off'; readonly node: string; readonly forMs: number }
  | ({ readonly kind: 'line-bad'; readonly node: string; readonly forMs: number } & LineFault)
  | { readonly kind: 'interface-down'; readonly node: string; readonly forMs: number }
  /** A client ends and comes back, to the node that is named first in its profile then. */
  | {
      readonly kind: 'client-moves';
      readonly client: string;
      readonly signal: 'SIGTERM' | 'SIGKILL';
      readonly to: string;
      readonly forMs: number;
    }
  /** The server that is dialled ends and comes back. */
  | { readonly kind: 'remote-ends'; readonly signal: 'SIGTERM' | 'SIGKILL'; readonly forMs: number };

export type FaultKind = Fault['kind'];

/** A line as netem makes it, each way. */
export interface LineFault {
  readonly lossPercent: number;
  readonly delayMs: number;
  readonly jitterMs: number;
  readonly reorderPercent: number;
}

export interface Step {
  /** From the beginning of the run. */
  readonly atMs: number;
  readonly fault: Fault;
}

export interface ChaosOptions {
  readonly nodes: readonly string[];
  readonly clients: readonly string[];
  /** How long the run is: every fault is healed by then, as far as the clock alone decides it. */
  readonly lastMs: number;
  /** From one beginning to the next, on average. */
  readonly everyMs: number;
  /** Faults to choose from; all by default. */
  readonly kinds?: readonly FaultKind[];
}

/** How long a fault of each kind may last, from and to. Some are longer than a Lease of a node, and than keepalives. */
const durations: Readonly<Record<FaultKind, readonly [fromMs: number, toMs: number]>> = {
  'agent-killed': [0, 6_000],
  'agent-and-holder-killed': [0, 4_000],
  'agent-rolled-out': [0, 6_000],
  'node-drained': [1_000, 6_000],
  'agent-stopped': [1_000, 14_000],
  'holder-killed': [0, 2_000],
  'controller-killed': [500, 8_000],
  'api-hangs': [1_000, 14_000],
  'api-killed': [500, 5_000],
  'api-cut-off': [2_000, 14_000],
  'node-cut-off': [2_000, 20_000],
  'line-bad': [4_000, 15_000],
  'interface-down': [200, 5_000],
  'client-moves': [0, 4_000],
  'remote-ends': [200, 5_000],
};

export const faultKinds = Object.keys(durations) as readonly FaultKind[];

/** What a fault keeps busy: two of the same would undo each other. */
export function targetOf(fault: Fault): string {
  switch (fault.kind) {
    case 'agent-killed':
    case 'agent-and-holder-killed':
    case 'agent-rolled-out':
    case 'node-drained':
    case 'agent-stopped':
    case 'holder-killed':
      return `agent of ${fault.node}`;
    case 'api-cut-off':
      return `way of ${fault.node} to the API server`;
    case 'node-cut-off':
    case 'line-bad':
    case 'interface-down':
      return `line of ${fault.node}`;
    case 'controller-killed':
      return 'controller';
    case 'api-hangs':
    case 'api-killed':
      return 'API server';
    case 'client-moves':
      return `client ${fault.client}`;
    case 'remote-ends':
      return 'remote';
  }
}

/**
 * The steps, in the order of their beginning. Kinds are drawn from a bag that has each of them once, and is filled when
 * it is empty, so that a short run has something of everything. A target is hit again only when it was healed.
 */
export function planChaos(seed: number, options: ChaosOptions): Step[] {
  const { nodes, clients, lastMs, everyMs, kinds = faultKinds } = options;
  if (nodes.length === 0 || clients.length === 0 || kinds.length === 0)
    throw new RangeError('a plan needs nodes, clients and kinds of faults');
  const random = new Random(seed);
  const between = (from: number, to: number): number => from + random.below(to - from + 1);
  const steps: Step[] = [];
  const busyUntil = new Map<string, number>();
  let bag: FaultKind[] = [];
  for (let atMs = between(0, everyMs); atMs < lastMs; atMs += between(0, 2 * everyMs)) {
    if (bag.length === 0) bag = shuffled(kinds, random);
    const kind = bag.pop();
    if (kind === undefined) break;
    const [fromMs, toMs] = durations[kind];
    const forMs = Math.min(between(fromMs, toMs), lastMs - atMs);
    const fault = faultOf(kind, forMs, random, nodes, clients);
    const target = targetOf(fault);
    if ((busyUntil.get(target) ?? -1) >= atMs) continue;
    busyUntil.set(target, atMs + forMs);
    steps.push({ atMs, fault });
  }
  return steps;
}

function faultOf(
  kind: FaultKind,
  forMs: number,
  random: Random,
  nodes: readonly string[],
  clients: readonly string[],
): Fault {
  const signal = (): 'SIGTERM' | 'SIGKILL' => random.pick(['SIGTERM', 'SIGKILL'] as const);
  switch (kind) {
    case 'controller-killed':
    case 'api-hangs':
    case 'api-killed':
      return { kind, forMs };
    case 'remote-ends':
      return { kind, signal: signal(), forMs };
    case 'client-moves':
      return { kind, client: random.pick(clients), signal: signal(), to: random.pick(nodes), forMs };
    case 'line-bad':
      return {
        kind,
        node: random.pick(nodes),
        forMs,
        ...{ lossPercent: 5 + random.below(16), delayMs: 5 + random.below(96), jitterMs: random.below(31) },
        reorderPercent: random.below(26),
      };
    default:
      return { kind, node: random.pick(nodes), forMs };
  }
}

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const left = [...items];
  return items.map(() => left.splice(random.below(left.length), 1)).flat();
}

/** `tc`'s words for a line. Without a delay netem cannot reorder. */
export function netemOf({ lossPercent, delayMs, jitterMs, reorderPercent }: LineFault): string[] {
  return [
    ...['root', 'netem', 'delay', `${delayMs}ms`, `${jitterMs}ms`, 'loss', `${lossPercent}%`],
    ...(reorderPercent === 0 ? [] : ['reorder', `${reorderPercent}%`]),
  ];
}

/** A step in words, for the screen. */
export function formatStep({ atMs, fault }: Step): string {
  const { kind, forMs, ...rest } = fault;
  const details = Object.entries(rest).map(([name, value]) => `${name} ${value}`);
  return [`${(atMs / 1000).toFixed(1)} s: ${kind} for ${(forMs / 1000).toFixed(1)} s`, ...details].join(', ');
}
