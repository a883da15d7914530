import { withAllocatedAddresses } from '../api/allocation.ts';
import type { Condition } from '../api/condition.ts';
import { findCondition, setCondition, type ConditionUpdate } from '../api/conditions.ts';
import { peerKind } from '../api/peer-kind.ts';
import { reasonOf } from '../api/reasons.ts';
import { NetworkIndex } from '../api/rules.ts';
import { apiVersion, formatRef, type ObjectRef, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import { keyOf, type Index, type Tracked } from '../cluster/informer.ts';
import { canonical } from '../cluster/json.ts';
import { apiPath } from '../cluster/resource-path.ts';
import { admittedNamespaces, onAdmissionChange } from './admission.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from './reconciler.ts';

const fieldManager = 'ovpn-controller/acceptance';
/** How many of those who lose to a peer are named. */
const maxNamed = 5;

/** How long agents are given to say of a new peer that it is accepted, before this does. */
const agentsTurnMs = 10_000;

/** Reasons of Accepted that come from the rules between objects; others are what only a node's agent finds. */
const reasonsOfRules: ReadonlySet<string> = new Set(['NetworkNotFound', 'NotAllowed', 'Conflict', 'Accepted']);

/**
 * Says on every VpnPeer whether it is accepted among the others, and on the winner of a conflict that another one is
 * refused for its sake. The rules are those by which the agents go (api/rules.ts); what this adds is that they are said
 * where no agent speaks: without a network, without nodes, and on the other side of a conflict. Where nodes are ready,
 * their agents have the first word on a peer that is new and in order, with all else that they say of it.
 */
export class Acceptance implements Reconciler {
  readonly name = 'acceptance';
  readonly #context: ReconcilerContext;
  readonly #indexes = new Map<string, NetworkIndex>();
  readonly #peersOfNetwork: Index<VpnPeer>;
  /** Since when an agent is expected to speak, by peer, on the monotonic clock. */
  readonly #agentsTurn = new Map<string, number>();

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { peers } = context.caches;
    this.#peersOfNetwork = peers.index(({ value }) => (value === undefined ? [] : [value.spec.networkRef.name]));
  }

  watch(enqueue: Enqueue): void {
    const { caches } = this.#context;
    const all = (refs: readonly ObjectRef[]): void => refs.forEach((ref) => enqueue(keyOf(ref)));
    caches.peers.onChange((now, before) => {
      const [peer, old] = [now?.value, before?.value];
      // One that is there but cannot be read goes on as it was.
      if (now !== undefined && peer === undefined) return;
      if (peer !== undefined) enqueue(keyOf(peer.metadata));
      if (peer !== undefined && old !== undefined && sameClaims(peer, old)) return;
      const network = peer?.spec.networkRef.name;
      const contested = old === undefined ? [] : this.#winnersOver(old);
      if (old !== undefined && old.spec.networkRef.name !== network) all(this.#forget(old));
      if (peer !== undefined && network !== undefined) {
        all(this.#indexes.get(network)?.set(withAllocatedAddresses(peer)) ?? []);
        all(this.#winnersOver(peer));
      }
      // Who had what the old version asked for may not be contested any more. Last: work begins as soon as it is queued.
      all(contested);
    });
    caches.networks.onChange((now, before) => {
      if (now !== undefined && now.value === undefined) return;
      if (now !== undefined && before !== undefined && now.meta.generation === before.meta.generation) return;
      all(this.#judgeAnew(now?.key ?? before?.key ?? '', now?.value));
    });
    onAdmissionChange(caches, (name) => all(this.#judgeAnew(name, caches.networks.get(name)?.value)));
  }

  async reconcile(key: string): Promise<number | undefined> {
    const { caches, clock, writer, events } = this.#context;
    const tracked = caches.peers.get(key);
    const peer = tracked?.value;
    if (tracked === undefined || peer === undefined) {
      this.#agentsTurn.delete(key);
      return undefined;
    }
    const { status, metadata } = peer;
    const verdict = this.#verdictOf(peer);
    const contest = this.#contestOf(peer);
    const accepted = findCondition(status?.conditions, 'Accepted');
    const contested = findCondition(status?.conditions, 'Contested');
    if (accepted === undefined && contest === undefined && verdict.status === 'True') {
      const left = this.#leftToAgents(key, peer);
      if (left > 0) return left;
    }
    this.#agentsTurn.delete(key);
    const set = (before: Condition | undefined, update: ConditionUpdate): Condition | undefined =>
      setCondition(before === undefined ? [] : [before], update, metadata.generation, () => clock.now())[0];
    // An agent may know of more that is wrong: then it has the word.
    const agrees =
      accepted !== undefined &&
      (accepted.status === 'False' && verdict.status === 'True'
        ? !reasonsOfRules.has(accepted.reason)
        : accepted.status === verdict.status && accepted.reason === verdict.reason);
    const next = agrees ? accepted : set(accepted, verdict);
    const nextContest = contest === undefined ? undefined : set(contested, contest);
    if (agrees && canonical(nextContest) === canonical(contested)) return undefined;
    const { namespace = '', name, uid } = tracked.meta;
    const conditions = [next, nextContest].filter((condition) => condition !== undefined);
    const answer = await writer.applyStatus(
      apiPath('VpnPeer', { namespace, name }),
      { apiVersion, kind: 'VpnPeer', metadata: { namespace, name, uid }, status: { conditions } },
      fieldManager,
    );
    caches.peers.wrote(answer);
    const about = { apiVersion, kind: 'VpnPeer', namespace, name, uid };
    if (verdict.status === 'False' && accepted?.status !== 'False') {
      events.record(about, { type: 'Warning', reason: verdict.reason, action: 'Accept', note: verdict.message });
    }
    if (contest !== undefined && contested === undefined) {
      events.record(about, { type: 'Warning', reason: contest.reason, action: 'Accept', note: contest.message });
    }
    return undefined;
  }

  /** For how many milliseconds more an agent may be the first to speak of a peer; 0 where none will. */
  #leftToAgents(key: string, peer: VpnPeer): number {
    const nodes = this.#context.caches.networks.get(peer.spec.networkRef.name)?.value?.status?.nodes ?? [];
    if (!nodes.some(({ ready }) => ready)) return 0;
    // What waits for its addresses says nothing to an agent yet.
    const isAllocated = findCondition(peer.status?.conditions, 'Allocated') !== undefined;
    if (!isAllocated && peerKind(peer) !== 'dial-out') return agentsTurnMs;
    const now = this.#context.clock.monotonic();
    const since = this.#agentsTurn.get(key) ?? now;
    this.#agentsTurn.set(key, since);
    return Math.max(0, since + agentsTurnMs - now);
  }

  #verdictOf(peer: VpnPeer): ConditionUpdate {
    const type = 'Accepted';
    const { networkRef } = peer.spec;
    const index = this.#indexes.get(networkRef.name);
    if (index === undefined) {
      const message = `there is no VpnNetwork ${networkRef.name}`;
      return { type, status: 'False', reason: 'NetworkNotFound', message };
    }
    const [problem] = index.problemsOf(refOfPeer(peer));
    return problem === undefined
      ? { type, status: 'True', reason: 'Accepted', message: '' }
      : { type, status: 'False', reason: reasonOf(problem, 'Invalid'), message: problem.message };
  }

  #contestOf(peer: VpnPeer): ConditionUpdate | undefined {
    const index = this.#indexes.get(peer.spec.networkRef.name);
    const names = [...new Set((index?.losersTo(refOfPeer(peer)) ?? []).map(formatRef))].sort();
    if (index === undefined || names.length === 0) return undefined;
    const more = names.length > maxNamed ? ` and ${names.length - maxNamed} more` : '';
    const message = `${names.slice(0, maxNamed).join(', ')}${more} asked for the same later, and are refused; see Accepted there`;
    return { type: 'Contested', status: 'True', reason: 'Conflict', message };
  }

  #winnersOver(peer: VpnPeer): ObjectRef[] {
    return this.#indexes.get(peer.spec.networkRef.name)?.winnersOver(refOfPeer(peer)) ?? [];
  }

  #forget(peer: VpnPeer): ObjectRef[] {
    return this.#indexes.get(peer.spec.networkRef.name)?.delete(refOfPeer(peer)) ?? [];
  }

  /** Takes a network or its new version, or forgets one that is gone. Answers all its peers. */
  #judgeAnew(name: string, network: VpnNetwork | undefined): ObjectRef[] {
    const peers = this.#peersOfNetwork.get(name).flatMap(({ value }: Tracked<VpnPeer>) => value ?? []);
    if (network === undefined) this.#indexes.delete(name);
    else {
      const resolved = this.#resolved(network);
      const index = this.#indexes.get(name);
      if (index !== undefined) return index.setNetwork(resolved);
      const fresh = new NetworkIndex(resolved);
      this.#indexes.set(name, fresh);
      for (const peer of peers) fresh.set(withAllocatedAddresses(peer));
    }
    return peers.map(refOfPeer);
  }

  #resolved(network: VpnNetwork): VpnNetwork {
    const names = admittedNamespaces(this.#context.caches, network);
    if (names === undefined) return network;
    const { allowedPeers } = network.spec;
    const namespaces = { from: 'Names' as const, names };
    return { ...network, spec: { ...network.spec, allowedPeers: { ...allowedPeers, namespaces } } };
  }
}

function refOfPeer({ metadata }: VpnPeer): ObjectRef {
  return { kind: 'VpnPeer', namespace: metadata.namespace, name: metadata.name };
}

/** Whether two versions of a peer claim the same: what agents say in the status changes nothing. */
function sameClaims(one: VpnPeer, other: VpnPeer): boolean {
  return (
    one.metadata.uid === other.metadata.uid &&
    one.metadata.generation === other.metadata.generation &&
    canonical(one.status?.allocation ?? {}) === canonical(other.status?.allocation ?? {})
  );
}
