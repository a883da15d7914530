import { blockCount, isHeld, numberRange, parseClaimName } from '../api/allocation.ts';
import {
  conditionReasons,
  type ConditionReason,
  type ConditionType,
  type ConditionUpdate,
  findCondition,
  isTrue,
  setCondition,
} from '../api/conditions.ts';
import {
  apiVersion,
  type Condition,
  type VpnAllocation,
  type VpnNetwork,
  type VpnNetworkStatus,
  type VpnPeer,
} from '../api/types.ts';
import type { Index, Tracked } from '../cluster/informer.ts';
import { canonical } from '../cluster/json.ts';
import { apiPath } from '../cluster/resource-path.ts';
import { admittedNamespaces, onAdmissionChange } from './admission.ts';
import { isTaking } from './node-choice.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from './reconciler.ts';

const fieldManager = 'ovpn-controller/summary';
/** However much happens in a network, its figures are brought up to date this often at most. */
const coalesceMs = 2_000;

/** What the summary of a network is made of. */
export interface NetworkFigures {
  readonly network: VpnNetwork;
  readonly nodesWanted: readonly string[];
  readonly peers: number;
  readonly peersConnected: number;
  readonly numbersUsed: number;
  readonly blocksUsed: number;
  /** Of a network with a selector of namespaces: those that it takes. */
  readonly peerNamespaces: readonly string[] | undefined;
  readonly now: number;
}

type Summary = Pick<
  VpnNetworkStatus,
  | 'observedGeneration'
  | 'conditions'
  | 'peerNamespaces'
  | 'nodesWanted'
  | 'nodesReady'
  | 'peers'
  | 'peersConnected'
  | 'pools'
>;

/** The state of a network as a whole. Pure. */
export function summarise(figures: NetworkFigures): Summary {
  const { network, nodesWanted, now } = figures;
  const { status, metadata, spec } = network;
  const said = new Map((status?.nodes ?? []).map((node) => [node.name, node]));
  const missing = nodesWanted.filter((name) => said.get(name)?.ready !== true);
  const updates = [
    readiness(nodesWanted, missing, (name) => said.get(name)?.message ?? 'its agent has not said that it is'),
    ...(spec.clusterAccess?.enabled === true ? [accessReadiness(nodesWanted, said)] : []),
  ];
  let conditions: readonly Condition[] = (status?.conditions ?? []).filter(({ type }) =>
    updates.some((update) => update.type === type),
  );
  for (const update of updates) conditions = setCondition(conditions, update, metadata.generation, () => now);
  const { first, last } = numberRange(spec.pools);
  return {
    ...(metadata.generation === undefined ? {} : { observedGeneration: metadata.generation }),
    conditions: [...conditions],
    ...(figures.peerNamespaces === undefined ? {} : { peerNamespaces: [...figures.peerNamespaces] }),
    nodesWanted: nodesWanted.length,
    nodesReady: nodesWanted.length - missing.length,
    peers: figures.peers,
    peersConnected: figures.peersConnected,
    pools: {
      numbers: { used: figures.numbersUsed, total: Math.max(0, last - first + 1) },
      podBlocks: { used: figures.blocksUsed, total: blockCount(spec.pools) },
    },
  };
}

function readiness(
  wanted: readonly string[],
  missing: readonly string[],
  whyNot: (node: string) => string,
): ConditionUpdate {
  const type = 'Ready';
  const [first] = missing;
  if (wanted.length === 0) {
    return { type, status: 'False', reason: 'NoNodes', message: 'spec.nodeSelector selects no Node' };
  }
  if (first === undefined) return { type, status: 'True', reason: 'Ready', message: '' };
  const message = `${missing.length} of ${wanted.length} nodes are not ready; ${first}: ${whyNot(first)}`;
  return { type, status: 'False', reason: 'NodesNotReady', message };
}

type NodeStatus = NonNullable<VpnNetworkStatus['nodes']>[number];

/** Whether peers reach the cluster by all nodes; of several nodes where they do not, the first says why. */
function accessReadiness(wanted: readonly string[], said: ReadonlyMap<string, NodeStatus>): ConditionUpdate {
  const type = 'ClusterAccessReady';
  const failing = wanted.filter((name) => said.get(name)?.clusterAccess?.ready !== true);
  const [first] = failing;
  if (wanted.length === 0) {
    return { type, status: 'False', reason: 'NoNodes', message: 'spec.nodeSelector selects no Node' };
  }
  if (first === undefined) return { type, status: 'True', reason: type, message: '' };
  const access = said.get(first)?.clusterAccess;
  const why = access?.message ?? 'its agent has not said that it is';
  return {
    type,
    status: 'False',
    reason: isReason(access?.reason) ? access.reason : 'NodesNotReady',
    message: `${failing.length} of ${wanted.length} nodes do not give access to the cluster; ${first}: ${why}`,
  };
}

/** What agents of other versions say may be none of our reasons. */
function isReason(reason: string | undefined): reason is ConditionReason {
  return reason !== undefined && Object.hasOwn(conditionReasons, reason);
}

/**
 * Says in a network's status how it fares as a whole, from what the agents say of their nodes and peers, and tells by
 * Events when networks become ready and peers come and go. Figures are counted by indexes, and written when they
 * differ: nothing here grows with the number of peers, and a settled network is not written.
 */
export class NetworkSummary implements Reconciler {
  readonly name = 'summary';
  readonly #context: ReconcilerContext;
  readonly #peers: Index<VpnPeer>;
  readonly #connected: Index<VpnPeer>;
  readonly #held: Index<VpnAllocation>;

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { peers, allocations } = context.caches;
    this.#peers = peers.index(({ value }) => (value === undefined ? [] : [value.spec.networkRef.name]));
    this.#connected = peers.index(({ value }) =>
      value !== undefined && isConnected(value) ? [value.spec.networkRef.name] : [],
    );
    this.#held = allocations.index(({ key, value }) => {
      const claim = parseClaimName(key);
      return claim === undefined || value === undefined || !isHeld(value) ? [] : [`${claim.network}/${claim.kind}`];
    });
  }

  watch(enqueue: Enqueue): void {
    const { networks, peers, nodes, allocations } = this.#context.caches;
    networks.onChange((now, before) => {
      if (now === undefined) return;
      enqueue(now.key, now.meta.generation === before?.meta.generation ? coalesceMs : 0);
    });
    peers.onChange((now, before) => {
      for (const { value } of [now, before].filter((one) => one !== undefined)) {
        if (value !== undefined) enqueue(value.spec.networkRef.name, coalesceMs);
      }
      this.#tellOfConnection(now, before);
      this.#tellOfTakeover(now, before);
    });
    allocations.onChange((now, before) => {
      const claim = parseClaimName(now?.key ?? before?.key ?? '');
      if (claim !== undefined) enqueue(claim.network, coalesceMs);
    });
    nodes.onChange((now, before) => {
      if (now !== undefined && before !== undefined && canonical(now.meta.labels) === canonical(before.meta.labels)) {
        return;
      }
      for (const network of networks.list()) enqueue(network.key, coalesceMs);
    });
    onAdmissionChange(this.#context.caches, (network) => enqueue(network));
  }

  async reconcile(key: string): Promise<undefined> {
    const { caches, clock, writer, events } = this.#context;
    const network = caches.networks.get(key)?.value;
    if (network === undefined) return undefined;
    const summary = summarise({
      network,
      nodesWanted: [...caches.nodes.list()].filter((node) => isTaking(network, node)).map((node) => node.key),
      peerNamespaces: admittedNamespaces(caches, network),
      peers: this.#peers.count(key),
      peersConnected: this.#connected.count(key),
      numbersUsed: this.#held.count(`${key}/number`) + fixedNumbers(network),
      blocksUsed:
        this.#held.count(`${key}/pods`) + network.spec.nodes.filter((node) => node.podBlocks.length > 0).length,
      now: clock.now(),
    });
    const { status } = network;
    if (canonical(summary) === canonical(pickSummary(status))) return undefined;
    const { name, uid = '' } = network.metadata;
    const answer = await writer.applyStatus(
      apiPath('VpnNetwork', { name }),
      { apiVersion, kind: 'VpnNetwork', metadata: { name, uid }, status: summary },
      fieldManager,
    );
    caches.networks.wrote(answer);
    const ready = findCondition(summary.conditions, 'Ready');
    if (ready !== undefined && ready.status !== findCondition(status?.conditions, 'Ready')?.status) {
      const [type, note] =
        ready.status === 'True' ? (['Normal', 'all nodes are ready'] as const) : (['Warning', ready.message] as const);
      const about = { apiVersion, kind: 'VpnNetwork', name, uid };
      events.record(about, { type, reason: ready.reason, action: 'Summarise', note });
    }
    return undefined;
  }

  #tellOfTakeover(now: Tracked<VpnPeer> | undefined, before: Tracked<VpnPeer> | undefined): void {
    const [to, from] = [now?.value?.status?.holder, before?.value?.status?.holder];
    const why = takeovers[to?.reason ?? ''];
    if (now === undefined || to === undefined || why === undefined || from === undefined || to.epoch <= from.epoch)
      return;
    const { namespace = '', name, uid } = now.meta;
    const about = { apiVersion, kind: 'VpnPeer', namespace, name, uid };
    const note = `node ${to.node} took it over from node ${to.previousNode ?? from.node}, which ${why}`;
    const type = to.reason === 'NodeLost' ? 'Warning' : 'Normal';
    this.#context.events.record(about, { type, reason: to.reason ?? '', action: 'TakeOver', note });
  }

  /** Only of what was seen to change: on taking the lead everything is told as new, and nobody wants to hear it again. */
  #tellOfConnection(now: Tracked<VpnPeer> | undefined, before: Tracked<VpnPeer> | undefined): void {
    const [peer, old] = [now?.value, before?.value];
    if (now === undefined || peer === undefined || old === undefined || isConnected(peer) === isConnected(old)) return;
    const { namespace = '', name, uid } = now.meta;
    const about = { apiVersion, kind: 'VpnPeer', namespace, name, uid };
    const where = `${peer.status?.node ?? 'a node'}${peer.status?.endpoint === undefined ? '' : ` from ${peer.status.endpoint}`}`;
    const why = findCondition(peer.status?.conditions, 'Connected')?.message ?? '';
    this.#context.events.record(
      about,
      isConnected(peer)
        ? { type: 'Normal', reason: 'Connected', action: 'Connect', note: `is connected to ${where}` }
        : { type: 'Normal', reason: 'Disconnected', action: 'Disconnect', note: why === '' ? 'is gone' : why },
    );
  }
}

/** Why a node took a peer over, for people. */
const takeovers: Readonly<Record<string, string>> = {
  NodeLost: 'did not renew its lease',
  NodeReleased: 'gave it up',
};

/** A peer with a static key has no connection: it works when it is in the kernel with its key. */
function isConnected({ status, spec }: VpnPeer): boolean {
  return isTrue(status?.conditions, spec.static === undefined ? 'Connected' : 'Ready');
}

function fixedNumbers({ spec }: VpnNetwork): number {
  return spec.nodes.length;
}

/** The conditions that are ours; the others are those of other reconcilers. */
const summarised: ReadonlySet<string> = new Set<ConditionType>(['Ready', 'ClusterAccessReady']);

function pickSummary(status: VpnNetworkStatus | undefined): Summary {
  const { observedGeneration, conditions, peerNamespaces, nodesWanted, nodesReady, peers, peersConnected, pools } =
    status ?? {};
  return {
    ...(observedGeneration === undefined ? {} : { observedGeneration }),
    conditions: (conditions ?? []).filter(({ type }) => summarised.has(type)),
    ...(peerNamespaces === undefined ? {} : { peerNamespaces }),
    ...(nodesWanted === undefined ? {} : { nodesWanted }),
    ...(nodesReady === undefined ? {} : { nodesReady }),
    ...(peers === undefined ? {} : { peers }),
    ...(peersConnected === undefined ? {} : { peersConnected }),
    ...(pools === undefined ? {} : { pools }),
  };
}
