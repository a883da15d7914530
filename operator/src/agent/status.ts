import {
  type ConditionReason,
  type ConditionType,
  type ConditionUpdate,
  setCondition,
  timestampOf,
} from '../api/conditions.ts';
import { peerKind } from '../api/peer-kind.ts';
import { type PlacementReason, standing } from '../api/placement.ts';
import { reasonOf } from '../api/reasons.ts';
import { shared } from '../api/shared.ts';
import {
  type Condition,
  formatRef,
  type KeyInstallation,
  type VpnKey,
  type VpnKeyStatus,
  type VpnNetwork,
  type VpnNetworkStatus,
  type VpnPeer,
  type VpnPeerStatus,
} from '../api/types.ts';
import type { OvpnError } from '../errors.ts';
import type { Peer } from '../kernel/ovpn/codec.ts';
import { formatEndpoint } from '../kernel/transport-socket.ts';
import type { BookEntry } from './peer-book.ts';
import type { DesiredSession } from './sessions/desired-session.ts';
import { expiryProblem } from './sessions/materials.ts';
import type { TunnelFacts } from './sessions/tunnel-facts.ts';
import type { PeerState } from './network-agent.ts';

/** What status says of the objects: pure, from what the kernel reports and the plan wanted. */

const yes = (type: ConditionType & ConditionReason): ConditionUpdate => ({
  type,
  status: 'True',
  reason: type,
  message: '',
});
const no = (type: ConditionType, reason: ConditionReason, message: string): ConditionUpdate => ({
  type,
  status: 'False',
  reason,
  message,
});

function because(type: ConditionType, error: OvpnError, otherwise: ConditionReason): ConditionUpdate {
  return no(type, reasonOf(error, otherwise), error.message);
}

function withAll(
  before: readonly Condition[] | undefined,
  updates: readonly ConditionUpdate[],
  generation: number | undefined,
  now: number,
): Condition[] {
  // Those of other types are somebody else's: the controller's.
  let conditions: readonly Condition[] = (before ?? []).filter(({ type }) => updates.some((one) => one.type === type));
  for (const update of updates) conditions = setCondition(conditions, update, generation, () => now);
  return shared([...conditions]);
}

/** What a peer's status is made of. */
export interface PeerFacts {
  readonly peer: VpnPeer;
  /** Undefined when there is no such network on this node. */
  readonly entry: BookEntry | undefined;
  readonly networkProblem: string | undefined;
  readonly state: PeerState | undefined;
  readonly observed: Peer | undefined;
  readonly primaryKeyId: number | undefined;
  readonly node: string;
  readonly now: number;
  readonly since: string | undefined;
  /** Of a peer with a control channel: how its tunnel fares. */
  readonly tunnel?: TunnelFacts | undefined;
  /** Whether several nodes could dial it, one of which has it. */
  readonly placed?: boolean;
}

export function peerStatus(facts: PeerFacts, before: VpnPeerStatus | undefined): VpnPeerStatus {
  const { peer, entry, state, observed, node, tunnel } = facts;
  const conditions = withAll(before?.conditions, peerConditions(facts), peer.metadata.generation, facts.now);
  const key = entry?.inForce?.key;
  const failure = entry?.plan.problems[0] ?? entry?.plan.keyProblem ?? state?.problem;
  return {
    ...(peer.metadata.generation === undefined ? {} : { observedGeneration: peer.metadata.generation }),
    conditions,
    ...lastErrorOf(failure?.message ?? tunnel?.lastError),
    ...(tunnel === undefined ? {} : tunnelStatus(tunnel)),
    ...(observed === undefined
      ? {}
      : {
          peerID: observed.id,
          addresses: [...(tunnel?.addresses ?? definedOf(observed.vpnIpv4, observed.vpnIpv6))],
          node,
          ...(observed.remote === undefined ? {} : { endpoint: formatEndpoint(observed.remote) }),
          ...(facts.since === undefined || tunnel !== undefined ? {} : { since: facts.since }),
          traffic: {
            rxBytes: Number(observed.vpn.rxBytes),
            txBytes: Number(observed.vpn.txBytes),
            rxPackets: Number(observed.vpn.rxPackets),
            txPackets: Number(observed.vpn.txPackets),
          },
          ...(facts.primaryKeyId === undefined ? {} : { keyID: facts.primaryKeyId }),
          ...(key !== undefined && facts.primaryKeyId === key.keyId && state?.problem?.name !== 'KeySpent'
            ? { keyGeneration: key.generation }
            : {}),
        }),
  };
}

/** As long as the schema lets a message be. */
function bounded(message: string): string {
  return message.slice(0, 4096);
}

function lastErrorOf(message: string | undefined): Pick<VpnPeerStatus, 'lastError'> {
  return message === undefined ? {} : { lastError: bounded(message) };
}

function definedOf(...addresses: readonly (string | undefined)[]): string[] {
  return addresses.filter((address) => address !== undefined);
}

type TunnelStatus = Pick<VpnPeerStatus, 'since' | 'endpoint' | 'cipher' | 'tlsVersion' | 'lastHandshake'>;

function tunnelStatus({ since, endpoint, cipher, tlsVersion, lastHandshake }: TunnelFacts): TunnelStatus {
  return {
    since: timestampOf(since),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(cipher === undefined ? {} : { cipher }),
    ...(tlsVersion === undefined ? {} : { tlsVersion }),
    ...(lastHandshake === undefined ? {} : { lastHandshake: timestampOf(lastHandshake) }),
  };
}

function peerConditions(facts: PeerFacts): ConditionUpdate[] {
  const { peer, entry, networkProblem, state, observed, primaryKeyId, tunnel } = facts;
  if (entry === undefined) {
    const message = networkProblem ?? `there is no VpnNetwork ${peer.spec.networkRef.name} on this node`;
    return [
      no('Accepted', 'NetworkNotFound', message),
      no('Programmed', 'Pending', message),
      no('Ready', 'NetworkNotFound', message),
    ];
  }
  const { plan } = entry;
  const [problem] = plan.problems;
  const accepted = problem === undefined ? yes('Accepted') : because('Accepted', problem, 'Invalid');
  const resolved = resolvedCondition(plan.keyProblem ?? expiredKey(entry.session, facts.now));
  const placed = facts.placed === true ? [placedCondition(peer)] : [];
  if (peerKind(peer) !== 'static')
    return [...placed, ...tunnelConditions([accepted, resolved], entry, tunnel, observed, networkProblem, placed[0])];
  const programmed = programmedCondition(entry, state, observed, networkProblem);
  return [accepted, resolved, programmed, readyCondition([accepted, programmed, resolved], state, primaryKeyId)];
}

/** Why the remote will not take the certificate that we show it. */
function expiredKey(session: DesiredSession | undefined, now: number): OvpnError | undefined {
  if (session?.kind !== 'dial-out') return undefined;
  return expiryProblem(session.notAfter, now, { object: formatRef(session.ref), field: 'spec.keyRef.name' });
}

const whyThere: Readonly<Record<PlacementReason, string>> = {
  Placed: '',
  NodeLost: ' that did not renew its lease',
  NodeReleased: ' that gave it up',
};

/** Which node has a peer that several could dial, and why. */
function placedCondition({ status }: VpnPeer): ConditionUpdate {
  const holder = standing(status?.holder);
  if (holder === undefined) {
    const gone = status?.holder === undefined ? '' : `node ${status.holder.node} gave it up, and `;
    return no('Placed', 'Pending', `${gone}no node that spec.placement selects has taken it yet`);
  }
  const reason = Object.keys(whyThere).find((known): known is PlacementReason => known === holder.reason) ?? 'Placed';
  const from = holder.previousNode === undefined ? '' : `; before, node ${holder.previousNode}${whyThere[reason]}`;
  return { type: 'Placed', status: 'True', reason, message: `node ${holder.node} has it since ${holder.since}${from}` };
}

/** A tunnel comes and goes with its control channel: in the kernel is what is connected. */
function tunnelConditions(
  before: readonly [accepted: ConditionUpdate, resolved: ConditionUpdate],
  { peer, session }: BookEntry,
  tunnel: TunnelFacts | undefined,
  observed: Peer | undefined,
  networkProblem: string | undefined,
  placed: ConditionUpdate | undefined,
): ConditionUpdate[] {
  const [accepted, resolved] = before;
  if (session === undefined || tunnel === undefined) {
    const isFine = before.every(({ status }) => status === 'True');
    const [reason, message] = whyNoTunnel(peer, isFine, networkProblem, placed);
    const conditions = [no('Connected', reason, message), no('Programmed', reason, message)];
    const failing = [...before, ...conditions].find(({ status }) => status !== 'True');
    return [...before, ...conditions, { ...no('Ready', reason, message), ...failing, type: 'Ready' }];
  }
  const { state, message } = tunnel;
  const connected = state === 'Connected' ? yes('Connected') : no('Connected', state, message);
  const inKernel = observed !== undefined;
  const programmed = inKernel
    ? yes('Programmed')
    : no('Programmed', 'Pending', 'the kernel has the peer while it is connected');
  const failing = [accepted, connected, programmed].find(({ status }) => status !== 'True');
  const ready = failing === undefined ? yes('Ready') : no('Ready', failing.reason, failing.message);
  return [accepted, resolved, connected, programmed, ready];
}

/** Why a peer has no tunnel on this node: reason and message. @param isFine whether nothing is wrong with it itself */
function whyNoTunnel(
  { spec }: VpnPeer,
  isFine: boolean,
  networkProblem: string | undefined,
  placed: ConditionUpdate | undefined,
): readonly [ConditionReason, string] {
  if (spec.suspend) return ['Suspended', 'spec.suspend is set'];
  if (networkProblem !== undefined) return ['Pending', networkProblem];
  if (!isFine) return ['Pending', 'nothing is connected; see the other conditions'];
  if (placed === undefined) return ['Pending', 'spec.placement does not select this node'];
  return [placed.status === 'True' ? 'Elsewhere' : 'Pending', placed.message];
}

/** A peer and a key refer to nothing else than keys and Secrets: what is not found is one of these. */
function resolvedCondition(problem: OvpnError | undefined): ConditionUpdate {
  if (problem === undefined) return yes('ResolvedRefs');
  return because('ResolvedRefs', problem, problem.name === 'ReferenceNotFound' ? 'KeyNotFound' : 'KeyInvalid');
}

function programmedCondition(
  { peer, plan, inForce }: BookEntry,
  state: PeerState | undefined,
  observed: Peer | undefined,
  networkProblem: string | undefined,
): ConditionUpdate {
  if (inForce === undefined) {
    if (peer.spec.suspend) return no('Programmed', 'Suspended', 'spec.suspend is set');
    const away = plan.problems.length === 0;
    return no(
      'Programmed',
      'Pending',
      away ? 'spec.placement does not select this node' : 'nothing is wanted of the kernel; see Accepted',
    );
  }
  if (state?.problem?.name === 'KernelRefused') return because('Programmed', state.problem, 'KernelRefused');
  if (observed !== undefined) return yes('Programmed');
  return no('Programmed', 'Pending', networkProblem ?? 'not in the kernel yet');
}

function readyCondition(
  others: readonly ConditionUpdate[],
  state: PeerState | undefined,
  primaryKeyId: number | undefined,
): ConditionUpdate {
  const failing = others.find(({ status }) => status !== 'True');
  if (state?.problem !== undefined && failing === undefined) return because('Ready', state.problem, 'KernelRefused');
  if (failing !== undefined) return no('Ready', failing.reason, failing.message);
  return primaryKeyId === undefined ? no('Ready', 'Pending', 'no data key is installed yet') : yes('Ready');
}

/** What a network's status on this node is made of. */
export interface NetworkFacts {
  /** Of a mesh: where the other nodes reach this one, and how many of them are connected. */
  readonly underlayAddresses?: readonly string[];
  readonly mesh?: { readonly neighbours: number; readonly connected: number };
  /** Of a network with cluster access: what keeps peers from it. */
  readonly access?: { readonly problem: OvpnError | undefined };
  readonly network: VpnNetwork;
  readonly node: string;
  /** False when the node selector leaves this node out. */
  readonly selected: boolean;
  readonly problem: OvpnError | undefined;
  readonly namespace: string;
  readonly device: { readonly name: string; readonly mtu: number } | undefined;
  readonly listeners: readonly { readonly name: string; readonly address: string; readonly port: number }[];
  readonly peers: number;
  readonly attachments: number;
  readonly now: number;
  /** The node's own VPN addresses, and its blocks of pod addresses. */
  readonly addresses: readonly string[];
  readonly podBlocks: readonly string[];
  /** Whether a controller sums up what all nodes say: then this one speaks of itself only. */
  readonly shared: boolean;
}

export function networkStatus(facts: NetworkFacts, before: VpnNetworkStatus | undefined): VpnNetworkStatus {
  const { network, problem, device, selected } = facts;
  const ready = selected && problem === undefined && device !== undefined;
  const generation = network.metadata.generation;
  const updates: ConditionUpdate[] = [];
  if (!selected) updates.push(no('Ready', 'NoNodes', 'spec.nodeSelector does not select this node'));
  else if (problem !== undefined) updates.push(because('Ready', problem, 'NodesNotReady'));
  else updates.push(ready ? yes('Ready') : no('Ready', 'Pending', 'the device is not there yet'));
  const access = selected ? accessStatus(facts, ready) : undefined;
  if (access !== undefined) {
    updates.push(
      access.ready ? yes('ClusterAccessReady') : no('ClusterAccessReady', access.reason, access.message ?? ''),
    );
  }
  const whole = {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: withAll(before?.conditions, updates, generation, facts.now),
  };
  return {
    ...(facts.shared ? {} : whole),
    nodes: selected
      ? [
          {
            name: facts.node,
            ready,
            ...(device === undefined
              ? {}
              : { namespace: facts.namespace, device: device.name, mtu: device.mtu, listeners: [...facts.listeners] }),
            addresses: facts.addresses.map((text) => text.split('/')[0] ?? text),
            podBlocks: [...facts.podBlocks],
            ...(facts.underlayAddresses === undefined ? {} : { underlayAddresses: [...facts.underlayAddresses] }),
            ...(facts.mesh === undefined ? {} : { mesh: facts.mesh }),
            ...(access === undefined ? {} : { clusterAccess: access }),
            peers: facts.peers,
            attachments: facts.attachments,
            ...(problem === undefined ? {} : { message: bounded(problem.message) }),
          },
        ]
      : [],
  };
}

interface AccessStatus {
  readonly ready: boolean;
  readonly reason: ConditionReason;
  readonly message?: string;
}

function accessStatus({ access, problem }: NetworkFacts, ready: boolean): AccessStatus | undefined {
  if (access === undefined) return undefined;
  if (access.problem !== undefined) {
    const message = bounded(access.problem.message);
    return { ready: false, reason: reasonOf(access.problem, 'KernelRefused'), message };
  }
  if (ready) return { ready: true, reason: 'Ready' };
  const message = bounded(problem?.message ?? 'the device is not there yet');
  return { ready: false, reason: 'Pending', message };
}

/** What a key's status on this node is made of. */
export interface KeyFacts {
  readonly key: VpnKey;
  readonly fingerprint: string | undefined;
  /** Why the key cannot be used at all: no Secret, wrong material. */
  readonly problem: OvpnError | undefined;
  /** Why this generation is not in the kernel though it should be. */
  readonly spent: OvpnError | undefined;
  readonly installation: { readonly generation: number; readonly since: number } | undefined;
  readonly node: string;
  readonly now: number;
}

export function keyStatus(facts: KeyFacts, before: VpnKeyStatus | undefined): VpnKeyStatus {
  const { key, problem, spent, now } = facts;
  const resolved = resolvedCondition(problem);
  const ready =
    problem !== undefined
      ? { ...resolved, type: 'Ready' as const }
      : spent !== undefined
        ? because('Ready', spent, 'KeySpent')
        : yes('Ready');
  const generation = key.metadata.generation;
  return {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: withAll(before?.conditions, [resolved, ready], generation, now),
    ...(facts.fingerprint === undefined ? {} : { fingerprint: facts.fingerprint }),
    ...(key.spec.static === undefined ? {} : { generation: key.spec.static.generation }),
    installations: installationsOf(facts, before),
  };
}

/**
 * What this node installed of a key: the highest generation ever said. It never goes back, not even when the
 * ledger is lost or no peer uses the key: it is what keeps a spent generation from being installed again.
 */
function installationsOf({ installation, node }: KeyFacts, before: VpnKeyStatus | undefined): KeyInstallation[] {
  const said = before?.installations?.find((entry) => entry.node === node);
  if (installation === undefined || (said !== undefined && said.generation > installation.generation)) {
    return said === undefined ? [] : [said];
  }
  return [
    {
      node,
      generation: installation.generation,
      since: timestampOf(installation.since),
      // What was installed once may not be installed again.
      spent: true,
    },
  ];
}
