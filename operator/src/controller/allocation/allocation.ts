import {
  addressesOfNumber,
  blockCount,
  type Claim,
  claimName,
  holderLabel,
  isFixedBlock,
  isGivable,
  isHeld,
  numberOfAddress,
  numberRange,
  parseClaimName,
  podBlocksOf,
} from '../../api/allocation.ts';
import type { Condition } from '../../api/condition.ts';
import { findCondition, setCondition, timestampOf, type ConditionUpdate } from '../../api/conditions.ts';
import { peerKind } from '../../api/peer-kind.ts';
import { apiVersion, type VpnAllocation, type VpnNetwork, type VpnPeer, type VpnPeerStatus } from '../../api/types.ts';
import { ApiError } from '../../cluster/api-client.ts';
import { keyOf, type Index, type Tracked } from '../../cluster/informer.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { OvpnError } from '../../errors.ts';
import { admits, onAdmissionChange } from '../admission.ts';
import { isTaking } from '../node-choice.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import { FreeList } from './free-list.ts';
import { type Holder, holderKey, holderText, parseHolderKey } from './holder.ts';
import { type ClaimPlan, planClaims, type Want } from './plan.ts';

/** How long a number that was given up stays out of use. Longer than a watch can lag unnoticed. */
const quarantineMs = 300_000;
/** The label of allocations by network. */
const networkLabel = 'ovpn-operator.io/network';
const fieldManager = 'ovpn-controller/allocation';
/** How many candidates are tried in one go when others are faster. */
const maxTries = 32;

type TrackedClaim = Tracked<VpnAllocation>;

/**
 * Gives every peer and node its number, and every node its block (docs/decisions/0009-allocation.md).
 *
 * A number is had by whoever creates the VpnAllocation of its name; the API server lets one succeed. All else may
 * happen twice, or stop anywhere: a pass looks at what a holder has and should have, and takes the next steps.
 * The order of steps keeps a number from being published by one while another may claim it: claim, then publish, then
 * release; and a claim is deleted only when it was released for the whole quarantine and is still not wanted.
 */
export class Allocation implements Reconciler {
  readonly name = 'allocation';
  readonly #context: ReconcilerContext;
  /** Claims by holder, peers by network and fixed address, claims and peers by network. */
  readonly #claims: Index<VpnAllocation>;
  readonly #claimsOfNetwork: Index<VpnAllocation>;
  readonly #fixed: Index<VpnPeer>;
  readonly #peersOfNetwork: Index<VpnPeer>;
  readonly #numbers = new Map<string, FreeList>();
  readonly #blocks = new Map<string, FreeList>();
  /** Since when this process knows of claims that they are given up, on the monotonic clock: no other is asked. */
  readonly #releasedSince = new Map<string, number>();

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { allocations, peers } = context.caches;
    this.#claims = allocations.index(({ value }) => (value === undefined ? [] : [holderKey(holderOf(value))]));
    this.#claimsOfNetwork = allocations.index(({ key, value }) => {
      const network = value?.spec.networkRef.name;
      return network === undefined ? [] : [network, `${network}/${parseClaimName(key)?.kind ?? ''}`];
    });
    this.#fixed = peers.index(({ value }) =>
      (value?.spec.addresses ?? []).map((address) => `${value?.spec.networkRef.name ?? ''}/${address}`),
    );
    this.#peersOfNetwork = peers.index(({ value }) => (value === undefined ? [] : [value.spec.networkRef.name]));
  }

  watch(enqueue: Enqueue): void {
    const { networks, peers, nodes, allocations } = this.#context.caches;
    peers.onChange((now, before) => {
      for (const peer of [now?.value, before?.value]) if (peer !== undefined) enqueue(holderKey(peerHolder(peer)));
    });
    allocations.onChange((now, before) => {
      if (now === undefined && before !== undefined) this.#releasedSince.delete(before.key);
      const claim = now?.value ?? before?.value;
      if (claim !== undefined) enqueue(holderKey(holderOf(claim)));
    });
    nodes.onChange((now, before) => {
      if (now !== undefined && before !== undefined && sameLabels(now.meta.labels, before.meta.labels)) return;
      const name = now?.key ?? before?.key ?? '';
      for (const network of networks.list()) enqueue(holderKey({ kind: 'Node', network: network.key, name }));
    });
    networks.onChange((now, before) => {
      // Agents write its status all the time; only the spec says who should have what.
      if (now !== undefined && before !== undefined && now.meta.generation === before.meta.generation) return;
      const name = now?.key ?? before?.key ?? '';
      for (const key of this.#holdersIn(name)) enqueue(key);
    });
    onAdmissionChange(this.#context.caches, (network, namespace) => {
      for (const { value } of this.#peersOfNetwork.get(network)) {
        if (value?.metadata.namespace === namespace) enqueue(holderKey(peerHolder(value)));
      }
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const holder = parseHolderKey(key);
    const network = this.#context.caches.networks.get(holder.network);
    // A network that is there but cannot be read says nothing about what its holders should have.
    if (network !== undefined && network.value === undefined) return undefined;
    return holder.kind === 'VpnPeer'
      ? this.#reconcilePeer(holder, network?.value)
      : this.#reconcileNode(holder, network?.value);
  }

  async #reconcilePeer(
    holder: Holder & { kind: 'VpnPeer' },
    network: VpnNetwork | undefined,
  ): Promise<number | undefined> {
    const tracked = this.#context.caches.peers.get(keyOf(holder));
    if (tracked !== undefined && tracked.value === undefined) return undefined;
    const peer = tracked?.value?.spec.networkRef.name === holder.network ? tracked.value : undefined;
    const claims = this.#claims.get(holderKey(holder));
    const want = this.#wantOfPeer(network, peer);
    const plan = planOf(claims, want);
    let problem: OvpnError | undefined;
    const held = await this.#take(holder, network, claims, plan, 'number').catch((error: unknown) => {
      if (!(error instanceof OvpnError)) throw error;
      problem = error;
      return error instanceof ClaimsTaken ? error.held : plan.keep;
    });
    if (peer !== undefined && tracked !== undefined) await this.#publish(tracked, peer, network, want, held, problem);
    const again = await this.#giveUp(claims, plan);
    // What is taken or full comes free by time, and no event of this holder's tells of it.
    return problem === undefined ? again : Math.min(again ?? Infinity, retryMs);
  }

  async #reconcileNode(
    holder: Holder & { kind: 'Node' },
    network: VpnNetwork | undefined,
  ): Promise<number | undefined> {
    const claims = this.#claims.get(holderKey(holder));
    const node = this.#context.caches.nodes.get(holder.name);
    const takesPart =
      network !== undefined &&
      node !== undefined &&
      isTaking(network, node) &&
      !network.spec.nodes.some(({ name }) => name === holder.name);
    const numbers = claims.filter(({ key }) => parseClaimName(key)?.kind === 'number');
    const blocks = claims.filter(({ key }) => parseClaimName(key)?.kind === 'pods');
    const published = undefined;
    const numberPlan = planOf(
      numbers,
      takesPart ? { kind: 'any', fits: (claim) => this.#fitsNumber(network, claim), published } : { kind: 'nothing' },
    );
    const blockPlan = planOf(
      blocks,
      takesPart && network.spec.pools.pods.length > 0
        ? { kind: 'any', fits: (claim) => fitsBlock(network, claim), published }
        : { kind: 'nothing' },
    );
    await this.#take(holder, network, numbers, numberPlan, 'number');
    await this.#take(holder, network, blocks, blockPlan, 'pods');
    const [one, other] = [await this.#giveUp(numbers, numberPlan), await this.#giveUp(blocks, blockPlan)];
    return one === undefined || other === undefined ? (one ?? other) : Math.min(one, other);
  }

  /** Everybody who holds something in a network or should. */
  #holdersIn(network: string): Set<string> {
    const keys = new Set<string>();
    for (const { value } of this.#claimsOfNetwork.get(network)) if (value) keys.add(holderKey(holderOf(value)));
    for (const { value } of this.#peersOfNetwork.get(network)) if (value) keys.add(holderKey(peerHolder(value)));
    for (const { key } of this.#context.caches.nodes.list()) keys.add(holderKey({ kind: 'Node', network, name: key }));
    return keys;
  }

  #wantOfPeer(network: VpnNetwork | undefined, peer: VpnPeer | undefined): Want {
    if (network === undefined || peer === undefined || peerKind(peer) === 'dial-out') return { kind: 'nothing' };
    // What is not allowed must not use up what others need.
    if (!admits(this.#context.caches, network, peer.metadata.namespace)) return { kind: 'nothing' };
    const { addresses } = peer.spec;
    if (addresses.length > 0) return { kind: 'these', claims: fixedClaims(network, addresses) };
    const number = peer.status?.allocation?.number;
    return {
      kind: 'any',
      fits: (claim) => this.#fitsNumber(network, claim),
      published:
        number === undefined
          ? undefined
          : claimName({ kind: 'number', network: network.metadata.name, number: BigInt(number) }),
    };
  }

  #fitsNumber(network: VpnNetwork, claim: Claim): boolean {
    return (
      claim.kind === 'number' &&
      isGivable(network.spec.pools, claim.number) &&
      !addressesOfNumber(network.spec.pools, claim.number).some((address) => isFixedOfNode(network, address))
    );
  }

  /**
   * Creates and revives what is missing.
   *
   * @returns the names of what is held now
   * @throws OvpnError PoolFull; ClaimsTaken, when somebody else holds what is wanted
   */
  async #take(
    holder: Holder,
    network: VpnNetwork | undefined,
    claims: readonly TrackedClaim[],
    plan: ClaimPlan,
    kind: Claim['kind'],
  ): Promise<readonly string[]> {
    const held = [...plan.keep];
    for (const name of plan.revive) {
      const tracked = claims.find(({ key }) => key === name);
      if (tracked === undefined) continue;
      await this.#setReleased(tracked, undefined);
      held.push(name);
    }
    const taken: string[] = [];
    for (const claim of plan.create) {
      // Who is known to have it need not be asked again and again.
      if (!this.#isClaimed(claim) && (await this.#create(claim, holder))) held.push(claimName(claim));
      else taken.push(claimName(claim));
    }
    if (taken.length > 0)
      throw new ClaimsTaken(
        holder,
        taken.map((name) => this.#takenText(name)),
        held,
      );
    if (plan.claimAny && network !== undefined) held.push(await this.#claimAny(network, holder, kind));
    return held;
  }

  #takenText(name: string): string {
    const other = this.#context.caches.allocations.get(name)?.value;
    const claim = parseClaimName(name);
    const network = this.#context.caches.networks.get(claim?.network ?? '')?.value;
    const what =
      network === undefined || claim?.kind !== 'number'
        ? name
        : addressesOfNumber(network.spec.pools, claim.number).join(' and ');
    return other === undefined ? `${what} is held by another` : `${what} is held by ${holderText(holderOf(other))}`;
  }

  async #claimAny(network: VpnNetwork, holder: Holder, kind: Claim['kind']): Promise<string> {
    const name = network.metadata.name;
    for (let tries = 0; tries < maxTries; tries++) {
      const claim = kind === 'number' ? this.#freeNumber(network) : this.#freeBlock(network);
      if (claim === undefined) {
        const what = kind === 'number' ? 'numbers of spec.pools.peers' : 'blocks of spec.pools.pods';
        throw new OvpnError('PoolFull', `all ${what} are held or reserved`, {
          object: `VpnNetwork ${name}`,
          field: kind === 'number' ? 'spec.pools.peers' : 'spec.pools.pods',
        });
      }
      if (await this.#create(claim, holder)) return claimName(claim);
    }
    throw new Error(`others were faster ${maxTries} times; this is tried again`);
  }

  #freeNumber(network: VpnNetwork): Claim | undefined {
    const { name } = network.metadata;
    const list = freeListOf(this.#numbers, name);
    const candidate = list.take(numberRange(network.spec.pools), this.#stateOf(network, 'number'), (number) => {
      const claim: Claim = { kind: 'number', network: name, number: BigInt(number) };
      if (this.#isClaimed(claim)) return true;
      return addressesOfNumber(network.spec.pools, claim.number).some(
        // A peer that asks for the address by its spec and has not claimed it yet is about to.
        (address) => isFixedOfNode(network, address) || this.#fixed.count(`${name}/${address}`) > 0,
      );
    });
    return candidate === undefined ? undefined : { kind: 'number', network: name, number: BigInt(candidate) };
  }

  #freeBlock(network: VpnNetwork): Claim | undefined {
    const { name } = network.metadata;
    const span = { first: 0, last: blockCount(network.spec.pools) - 1 };
    const index = freeListOf(this.#blocks, name).take(
      span,
      this.#stateOf(network, 'pods'),
      (candidate) =>
        this.#isClaimed({ kind: 'pods', network: name, index: candidate }) || isFixedBlock(network, candidate),
    );
    return index === undefined ? undefined : { kind: 'pods', network: name, index };
  }

  /** Another one when there are fewer claims, or the network has changed. */
  #stateOf({ metadata }: VpnNetwork, kind: Claim['kind']): string {
    const claims = this.#claimsOfNetwork.count(`${metadata.name}/${kind}`);
    return `${metadata.uid ?? ''}/${metadata.generation ?? 0}/${claims}`;
  }

  #isClaimed(claim: Claim): boolean {
    return this.#context.caches.allocations.get(claimName(claim)) !== undefined;
  }

  /** False when somebody has it. */
  async #create(claim: Claim, holder: Holder): Promise<boolean> {
    const { writer, caches } = this.#context;
    const { kind, name } = holder;
    const object = {
      apiVersion,
      kind: 'VpnAllocation',
      metadata: {
        name: claimName(claim),
        labels: { [holderLabel]: kind, [networkLabel]: claim.network },
      },
      spec: {
        networkRef: { name: claim.network },
        holder: kind === 'VpnPeer' ? { kind, namespace: holder.namespace, name } : { kind, name },
      },
    };
    try {
      caches.allocations.wrote(await writer.create(apiPath('VpnAllocation'), object));
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.alreadyExists) return false;
      throw error;
    }
  }

  /** Releases what is not wanted, and deletes what was released for long enough. Answers when to look again. */
  async #giveUp(claims: readonly TrackedClaim[], plan: ClaimPlan): Promise<number | undefined> {
    const { clock, writer, caches } = this.#context;
    const find = (name: string): TrackedClaim[] => claims.filter(({ key }) => key === name);
    for (const tracked of plan.release.flatMap(find)) {
      await this.#setReleased(tracked, timestampOf(clock.now()));
      this.#releasedSince.set(tracked.key, clock.monotonic());
    }
    let again = plan.release.length > 0 ? quarantineMs : undefined;
    for (const tracked of plan.quarantined.flatMap(find)) {
      const since = this.#releasedSince.get(tracked.key) ?? clock.monotonic();
      this.#releasedSince.set(tracked.key, since);
      const left = since + quarantineMs - clock.monotonic();
      if (left > 0) {
        again = Math.min(again ?? left, left);
        continue;
      }
      const { uid, resourceVersion } = tracked.meta;
      await writer.delete(apiPath('VpnAllocation', { name: tracked.key }), { uid, resourceVersion });
      caches.allocations.deleted(tracked);
    }
    return again;
  }

  /** Only this very version of the claim: who changed it meanwhile saw more. */
  async #setReleased({ key, meta }: TrackedClaim, releasedAt: string | undefined): Promise<void> {
    const { writer, caches } = this.#context;
    const answer = await writer.applyStatus(
      apiPath('VpnAllocation', { name: key }),
      {
        apiVersion,
        kind: 'VpnAllocation',
        metadata: { name: key, uid: meta.uid, resourceVersion: meta.resourceVersion },
        status: releasedAt === undefined ? {} : { releasedAt },
      },
      fieldManager,
    );
    if (releasedAt === undefined) this.#releasedSince.delete(key);
    caches.allocations.wrote(answer);
  }

  /** Says in the peer's status what it has, where that is not said already. */
  async #publish(
    { meta }: Tracked<VpnPeer>,
    peer: VpnPeer,
    network: VpnNetwork | undefined,
    want: Want,
    held: readonly string[],
    problem: OvpnError | undefined,
  ): Promise<void> {
    const { clock, writer, caches, events } = this.#context;
    const allocation = allocationOf(network, peer, want, held);
    const before = findCondition(peer.status?.conditions, 'Allocated');
    const update = conditionOf(want, allocation, problem);
    const [condition] = setCondition(
      before === undefined ? [] : [before],
      update ?? { type: 'Allocated', status: 'Unknown', reason: 'Pending', message: '' },
      peer.metadata.generation,
      () => clock.now(),
    );
    const said: Condition | undefined = update === undefined ? undefined : condition;
    if (said === before && same(allocation, peer.status?.allocation)) return;
    const { name, namespace = '', uid } = meta;
    const status = {
      ...(allocation === undefined ? {} : { allocation }),
      ...(said === undefined ? {} : { conditions: [said] }),
    };
    const answer = await writer.applyStatus(
      apiPath('VpnPeer', { namespace, name }),
      { apiVersion, kind: 'VpnPeer', metadata: { namespace, name, uid }, status },
      fieldManager,
    );
    caches.peers.wrote(answer);
    if (said === undefined || said.status === before?.status) return;
    events.record(
      { apiVersion, kind: 'VpnPeer', namespace, name, uid },
      {
        type: said.status === 'True' ? 'Normal' : 'Warning',
        reason: said.reason,
        action: 'Allocate',
        note: said.status === 'True' ? `has ${allocation?.addresses.join(' and ') ?? ''}` : said.message,
      },
    );
  }
}

/** When what is taken or full is looked at again. */
const retryMs = 30_000;

/** Somebody else holds addresses that a spec asks for. */
class ClaimsTaken extends OvpnError {
  readonly held: readonly string[];

  constructor(holder: Holder, texts: readonly string[], held: readonly string[]) {
    super('AddressConflict', texts.join('; '), { object: holderText(holder), field: 'spec.addresses' });
    this.held = held;
  }
}

function planOf(claims: readonly TrackedClaim[], want: Want): ClaimPlan {
  return planClaims(
    claims.flatMap(({ key, value }) => {
      const claim = parseClaimName(key);
      return claim === undefined || value === undefined ? [] : [{ claim, released: !isHeld(value) }];
    }),
    want,
  );
}

function holderOf({ spec }: VpnAllocation): Holder {
  const { kind, namespace = '', name } = spec.holder;
  const network = spec.networkRef.name;
  return kind === 'VpnPeer' ? { kind, network, namespace, name } : { kind, network, name };
}

function peerHolder({ metadata, spec }: VpnPeer): Holder {
  return { kind: 'VpnPeer', network: spec.networkRef.name, namespace: metadata.namespace, name: metadata.name };
}

function freeListOf(lists: Map<string, FreeList>, network: string): FreeList {
  let list = lists.get(network);
  if (list === undefined) lists.set(network, (list = new FreeList()));
  return list;
}

/** The numbers that fixed addresses stand for; what is outside the pools has no number and an error of its own. */
function fixedClaims(network: VpnNetwork, addresses: readonly string[]): Claim[] {
  const numbers = new Set(
    addresses.flatMap((address) => {
      const number = numberOfAddress(network.spec.pools, address);
      const usable = number !== undefined && addressesOfNumber(network.spec.pools, number).includes(address);
      return usable && !isFixedOfNode(network, address) ? [number] : [];
    }),
  );
  return [...numbers].map((number) => ({ kind: 'number', network: network.metadata.name, number }));
}

function fitsBlock(network: VpnNetwork, claim: Claim): boolean {
  return (
    claim.kind === 'pods' &&
    podBlocksOf(network.spec.pools, claim.index).length > 0 &&
    !isFixedBlock(network, claim.index)
  );
}

const nodeAddresses = new WeakMap<VpnNetwork, ReadonlySet<string>>();

/** Whether spec.nodes gives an address to a node. */
function isFixedOfNode(network: VpnNetwork, address: string): boolean {
  let known = nodeAddresses.get(network);
  if (known === undefined) {
    known = new Set(network.spec.nodes.flatMap(({ addresses }) => addresses));
    nodeAddresses.set(network, known);
  }
  return known.has(address);
}

/** What is said of a peer's claims: the addresses of its number, or those of its own that it holds. */
function allocationOf(
  network: VpnNetwork | undefined,
  peer: VpnPeer,
  want: Want,
  held: readonly string[],
): VpnPeerStatus['allocation'] {
  if (network === undefined || want.kind === 'nothing') return undefined;
  const { pools } = network.spec;
  const numbers = held.flatMap((name) => {
    const claim = parseClaimName(name);
    return claim?.kind === 'number' ? [claim.number] : [];
  });
  const [number] = numbers;
  if (number === undefined) return undefined;
  if (want.kind === 'any') return { number: Number(number), addresses: addressesOfNumber(pools, number) };
  const addresses = peer.spec.addresses.filter((text) => numbers.includes(numberOfAddress(pools, text) ?? -1n));
  return addresses.length === 0 ? undefined : { addresses };
}

function conditionOf(
  want: Want,
  allocation: VpnPeerStatus['allocation'],
  problem: OvpnError | undefined,
): ConditionUpdate | undefined {
  if (want.kind === 'nothing') return undefined;
  const type = 'Allocated';
  if (problem !== undefined) {
    const reason = problem.name === 'PoolFull' ? 'PoolFull' : 'Conflict';
    return { type, status: 'False', reason, message: problem.message };
  }
  if (allocation === undefined) {
    const message = 'spec.addresses holds no address that a peer of this network can have; see Accepted';
    return { type, status: 'False', reason: 'Invalid', message };
  }
  return { type, status: 'True', reason: 'Allocated', message: '' };
}

function same(one: VpnPeerStatus['allocation'], other: VpnPeerStatus['allocation']): boolean {
  return one?.number === other?.number && (one?.addresses ?? []).join() === (other?.addresses ?? []).join();
}

function sameLabels(one: Readonly<Record<string, string>>, other: Readonly<Record<string, string>>): boolean {
  const keys = Object.keys(one);
  return keys.length === Object.keys(other).length && keys.every((key) => one[key] === other[key]);
}
