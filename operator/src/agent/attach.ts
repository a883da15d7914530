import { randomBytes } from 'node:crypto';
import { chooseNetworks, needsLabels, type PodFacts, requireAllowed } from '../api/attach-rules.ts';
import { compareRanges, contains, parseCidr } from '../api/ip.ts';
import type { VpnNetwork } from '../api/types.ts';
import { describe, OvpnError } from '../errors.ts';
import { canonicalAddress, hostPrefix, isIpv6 } from '../kernel/address.ts';
import { SystemError } from '../kernel/libc.ts';
import { NetlinkError } from '../kernel/netlink/error.ts';
import type { Log } from '../telemetry/log.ts';
import type {
  AddRequest,
  AddResult,
  Attachment,
  CheckRequest,
  DelRequest,
  GcRequest,
  PodIdentity,
} from './attach-protocol.ts';
import { expectationDeviations } from './attachment-check.ts';
import { type AttachmentRecord, type AttachmentStore, sameCall } from './attachment-store.ts';
import { KeyedMutex } from './keyed-mutex.ts';
import type { LeftDetach } from './left-detaches.ts';
import type { NetworkAgent } from './network-agent.ts';
import { allocateAddresses, gatewaysFor, type PodAddressSpace, requireDelegated } from './pod-addresses.ts';
import { removeAttachment } from './sandbox.ts';
import { Turns } from './turns.ts';

/** What attaching needs of a network. */
export type AttachAgent = Pick<
  NetworkAgent,
  'attach' | 'check' | 'collectGone' | 'desired' | 'destinations' | 'detach' | 'device' | 'hasRouteTo' | 'kernel'
>;

/** A network on this node. */
export interface AttachNetwork {
  readonly network: VpnNetwork;
  readonly agent: AttachAgent;
}

/** What attaching needs to know of the node. */
export interface AttachNode {
  /** False until all resources were read once: nobody can say which networks there are. */
  readonly started: boolean;
  find(name: string): AttachNetwork | undefined;
  /** The networks of this node. */
  all(): Iterable<VpnNetwork>;
  /** Resolves when nothing is under way that a network which is not ready could become ready by. */
  settled(name: string): Promise<void>;
  /** @throws OvpnError PodUnknown, ApiUnavailable */
  findPod(pod: PodIdentity): Promise<PodFacts>;
  /** Which namespace a path names. @throws OvpnError NamespaceUnusable when no sandbox has it */
  identifySandbox(netns: string): string;
  /** DELs that nobody has served yet: those that came while the agent was away. */
  leftDetaches(): readonly LeftDetach[];
}

/** An interface that a call is to have. */
interface Wanted extends AttachNetwork {
  readonly ifname: string;
}

/** Serves ADD, DEL, CHECK and GC of the CNI plugin. */
export class Attacher {
  readonly #node: AttachNode;
  readonly #store: AttachmentStore;
  readonly #log: Log;
  /** By container: the runtime may call DEL while an ADD still runs. */
  readonly #mutex = new KeyedMutex();
  readonly #turns = new Turns();

  constructor(node: AttachNode, store: AttachmentStore, log: Log) {
    this.#node = node;
    this.#store = store;
    this.#log = log;
  }

  /**
   * Attaches a sandbox to one network, or to those that are for its pod; or finds that it is attached already. Returns
   * only when the pod's routes, and the refusing ones below them, stand. All of it stands, or nothing was changed.
   *
   * @throws OvpnError NetworkNotReady, AttachNotAllowed, PodUnknown, ApiUnavailable, InvalidField, CniConfigInvalid,
   *   AddressOutsidePool, AddressConflict, PoolExhausted, RouteConflict, NamespaceUnusable, StateUnusable, KernelRefused
   */
  async add(request: AddRequest): Promise<AddResult> {
    this.serveLeftDetaches();
    return this.#mutex.run(request.containerId, async () => {
      const sandbox = this.#node.identifySandbox(request.netns);
      const wanted = request.network === undefined ? await this.#chosen(request) : [await this.#named(request)];
      return this.#turns.run(() => {
        // From here on in one go: no other call, and no round of the networks, comes in between.
        const current = wanted.map((one) => ({ ...one, ...this.#require(one.network.metadata.name) }));
        return { attachments: this.#attachAll(request, sandbox, current) };
      });
    });
  }

  /** Takes away what a call has; what is not there, or whose network is gone, is no error (CNI spec, DEL). */
  async del(request: DelRequest): Promise<void> {
    await this.#mutex.run(request.containerId, () =>
      this.#turns.run(() => {
        for (const record of this.#store.ofCall(request)) this.#remove(record);
      }),
    );
  }

  /**
   * Looks whether all that a call has is as it should be.
   *
   * @throws OvpnError AttachmentDeviates naming every deviation; NetworkNotReady
   */
  check(request: CheckRequest): void {
    const records = this.#store.ofCall(request);
    const found = records.flatMap((record) => {
      const { agent } = this.#require(record.network);
      return [
        ...(record.netns === request.netns ? [] : [`the agent's record is of sandbox ${record.netns}`]),
        ...agent.check(record),
        ...expectationDeviations(record, request.expected),
      ].map((text) => `VpnNetwork ${record.network}: ${text}`);
    });
    if (request.network !== undefined && !records.some(({ network }) => network === request.network)) {
      found.push(`VpnNetwork ${request.network}: the agent has no record of an attachment`);
    }
    if (found.length === 0) return;
    const object = `container ${request.containerId}, ${request.cniIfname}`;
    throw new OvpnError('AttachmentDeviates', found.join('; '), { object });
  }

  /** Takes away what a network configuration has and its runtime does not know any more (CNI spec, GC). */
  async gc(request: GcRequest): Promise<void> {
    const valid = new Set(request.valid.map(({ containerId, cniIfname }) => `${containerId}/${cniIfname}`));
    const isStale = ({ config, network, containerId, cniIfname }: AttachmentRecord): boolean =>
      config === request.config &&
      (request.network ?? network) === network &&
      !valid.has(`${containerId}/${cniIfname}`);
    const containers = new Set([...this.#store.all()].filter(isStale).map(({ containerId }) => containerId));
    for (const containerId of containers) {
      await this.#mutex.run(containerId, () =>
        this.#turns.run(() => {
          for (const record of this.#store.ofContainer(containerId).filter(isStale)) this.#remove(record);
        }),
      );
    }
  }

  /** Serves the DELs that came while the agent was away, before any later call; what fails is tried again next time. */
  serveLeftDetaches(): void {
    for (const { request, done } of this.#node.leftDetaches()) {
      this.del(request).then(done, (error: unknown) => {
        this.#log.error(
          { event: 'attachment.left-over', containerId: request.containerId, error: describe(error) },
          'a DEL that came while the agent was away cannot be served',
        );
      });
    }
  }

  async #named(request: AddRequest): Promise<Wanted> {
    const { network: name = '', pod, ifname } = request;
    await this.#node.settled(name);
    const found = this.#require(name);
    if (pod !== undefined) {
      const facts = needsLabels(found.network) ? await this.#node.findPod(pod) : { ...unlabelled, ...pod };
      requireAllowed(found.network, facts);
    }
    return { ...found, ifname };
  }

  async #chosen(request: AddRequest): Promise<Wanted[]> {
    const { pod, ifname: stem } = request;
    if (pod === undefined) return [];
    if (!this.#node.started) {
      throw new OvpnError('NetworkNotReady', 'the agent has not read all resources yet', {}, { remedy: 'try again' });
    }
    const facts = await this.#node.findPod(pod);
    const names = chooseNetworks(this.#node.all(), facts);
    for (const name of names) await this.#node.settled(name);
    const before = this.#store.ofCall(request);
    // Others of the container have names of the same stem, when the plugin stands in two chains.
    const taken = new Set(this.#store.ofContainer(request.containerId).map(({ ifname }) => ifname));
    let number = 0;
    return names.map((name) => {
      const found = this.#require(name);
      requireAllowed(found.network, facts);
      let ifname = before.find(({ network }) => network === name)?.ifname;
      while (ifname === undefined) {
        const candidate = `${stem}${number++}`;
        if (!taken.has(candidate)) ifname = candidate;
      }
      if (Buffer.byteLength(ifname) > 15) {
        throw new OvpnError('CniConfigInvalid', `makes the interface name ${ifname}, which has more than 15 bytes`, {
          field: 'interface',
        });
      }
      return { ...found, ifname };
    });
  }

  #require(name: string): AttachNetwork {
    const found = this.#node.find(name);
    if (found !== undefined) return found;
    throw new OvpnError('NetworkNotReady', 'there is no such network on this node', { object: `VpnNetwork ${name}` });
  }

  #attachAll(request: AddRequest, sandbox: string, wanted: readonly Wanted[]): Attachment[] {
    const made: { record: AttachmentRecord; agent: AttachAgent }[] = [];
    try {
      if (request.network === undefined) this.#removeUnchosen(request, wanted);
      return wanted.map(({ network, agent, ifname }) => {
        const known = this.#known(request, sandbox, network.metadata.name, ifname);
        const record = known ?? this.#record(request, sandbox, { network, agent, ifname });
        if (known === undefined) {
          // On disk before the kernel: a crash from here on leaves an address that is written down.
          this.#store.put(record);
          made.push({ record, agent });
        }
        try {
          return describeAttachment(record, agent);
        } catch (error) {
          throw kernelTrouble(error, record);
        }
      });
    } catch (error) {
      for (const { record, agent } of made.reverse()) this.#rollBack(record, agent);
      throw error;
    } finally {
      for (const { record } of made) {
        if (this.#store.get(record) === record)
          this.#log.info({ event: 'attachment.added', ...identity(record) }, 'attached the sandbox');
      }
    }
  }

  /** What an earlier call of the same name attached, and the pod is not for any more. */
  #removeUnchosen(request: AddRequest, wanted: readonly Wanted[]): void {
    const names = new Set(wanted.map(({ network }) => network.metadata.name));
    for (const record of this.#store.ofCall(request)) if (!names.has(record.network)) this.#remove(record);
  }

  /** The attachment if it was made before, by this call. */
  #known(request: AddRequest, sandbox: string, network: string, ifname: string): AttachmentRecord | undefined {
    const known = this.#store.get({ containerId: request.containerId, ifname });
    if (known === undefined) return undefined;
    const another = (problem: string): OvpnError =>
      new OvpnError(
        'NamespaceUnusable',
        `${ifname} of container ${known.containerId} is attached to network ${known.network} ${problem}`,
        { object: request.netns },
        { remedy: 'call DEL for that attachment first' },
      );
    if (known.network !== network || known.netns !== request.netns || !sameCall(known, request)) {
      throw another('by another call');
    }
    if (known.sandbox !== sandbox) {
      // The machine was booted anew, or the runtime made the sandbox anew without a DEL.
      this.#remove(known);
      return undefined;
    }
    const wanted = [...withoutLength(request.ips), ...withoutLength(request.delegated)];
    if (!wanted.every((address) => known.addresses.includes(address)) || (request.mac ?? known.mac) !== known.mac) {
      throw another('with other addresses');
    }
    return known;
  }

  #record(request: AddRequest, sandbox: string, { network, agent, ifname }: Wanted): AttachmentRecord {
    const { name } = network.metadata;
    if (agent.desired === undefined || agent.device === undefined) {
      throw new OvpnError('NetworkNotReady', 'is not set up on this node yet', { object: `VpnNetwork ${name}` });
    }
    this.#refuseSharedDestinations(request.netns, sandbox, name, agent);
    const { config, containerId, cniIfname, netns, pod } = request;
    return {
      ...{ config, containerId, cniIfname, ifname, network: name, netns, sandbox },
      addresses: this.#addresses(request, network, agent),
      mac: request.mac === undefined ? randomMac() : usableMac(request.mac),
      pod,
    };
  }

  #addresses(request: AddRequest, network: VpnNetwork, agent: AttachAgent): string[] {
    try {
      return addressesFor(request, this.#space(network, agent));
    } catch (error) {
      // What stands in the way may belong to a sandbox that is gone without a DEL.
      if (agent.collectGone() === 0) throw error;
      return addressesFor(request, this.#space(network, agent));
    }
  }

  #space({ metadata: { name }, spec }: VpnNetwork, agent: AttachAgent): PodAddressSpace {
    const { desired } = agent;
    const blocks = desired?.podBlocks ?? [];
    return {
      network: name,
      blocks,
      pools: spec.pools.pods,
      elsewhere: spec.nodes
        .flatMap(({ name: node, podBlocks }) => podBlocks.map((block) => ({ node, block })))
        .filter(({ block }) => !blocks.includes(block)),
      nodeAddresses: desired?.addresses ?? [],
      // The kernel's word counts, too: a record that cannot be read hides an address that is in use.
      isTaken: (address) => this.#store.isTaken(name, address) || agent.hasRouteTo(address),
    };
  }

  /** A sandbox has one routing table: what two attachments both claim could only go to one of them. */
  #refuseSharedDestinations(netns: string, sandbox: string, network: string, agent: AttachAgent): void {
    for (const other of this.#store.ofNetns(netns)) {
      if (other.sandbox !== sandbox) continue;
      const shared = overlap(agent.destinations, this.#node.find(other.network)?.agent.destinations ?? new Set());
      if (shared === undefined) continue;
      const [mine, theirs] = shared;
      throw new OvpnError(
        'RouteConflict',
        `${mine} meets ${theirs}, which is reached in this sandbox by ${other.ifname} already, of VpnNetwork ${other.network}`,
        { object: `VpnNetwork ${network}` },
        { remedy: 'attach the pod to one of the two networks only, or give them different address ranges' },
      );
    }
  }

  /** What cannot be taken back stays written down: the runtime's DEL, or the next round, meets it again. */
  #rollBack(record: AttachmentRecord, agent: AttachAgent): void {
    try {
      agent.detach(record);
      this.#store.remove(record);
    } catch (error) {
      this.#log.warn(
        { event: 'attachment.left-over', ...identity(record), error: describe(error) },
        'a failed attachment could not be taken back',
      );
    }
  }

  #remove(record: AttachmentRecord): void {
    const agent = this.#node.find(record.network)?.agent;
    if (agent !== undefined) agent.detach(record);
    // The network is gone or not there yet: the pod's end takes the far end along.
    else removeAttachment(record, new Set(), undefined, { writes: 0 });
    this.#store.remove(record);
    this.#log.info({ event: 'attachment.removed', ...identity(record) }, 'detached the sandbox');
  }
}

const unlabelled = { labels: {}, annotations: {}, namespaceLabels: {} };

function addressesFor(request: AddRequest, space: PodAddressSpace): string[] {
  const { ips, delegated } = request;
  if (delegated !== undefined) {
    const addresses = withoutLength(delegated);
    requireDelegated(addresses, space);
    return addresses;
  }
  const wanted = withoutLength(ips);
  if (new Set(wanted.map(isIpv6)).size < wanted.length) {
    throw new OvpnError('CniConfigInvalid', 'must be at most one address of each IP family', { field: 'ips' });
  }
  return allocateAddresses(space, wanted);
}

function withoutLength(addresses: readonly string[] = []): string[] {
  return addresses.map((text) => canonicalAddress(text.split('/')[0] ?? ''));
}

/** Two destinations that have addresses in common; default routes never reach a pod, and do not count. */
function overlap(mine: ReadonlySet<string>, theirs: ReadonlySet<string>): [string, string] | undefined {
  const ranges = [mine, theirs].flatMap((destinations, whose) =>
    [...destinations].flatMap((text) => {
      const range = parseCidr(text);
      return range === undefined || range.prefix === 0 ? [] : [{ range, text, whose }];
    }),
  );
  // In this order a range comes right after those that hold it, and those make a chain.
  ranges.sort((one, other) => compareRanges(one.range, other.range));
  const open: (typeof ranges)[number][] = [];
  for (const next of ranges) {
    for (let last = open.at(-1); last !== undefined && !contains(last.range, next.range); last = open.at(-1))
      open.pop();
    const other = open.find(({ whose }) => whose !== next.whose);
    if (other !== undefined) return next.whose === 0 ? [next.text, other.text] : [other.text, next.text];
    open.push(next);
  }
  return undefined;
}

/** Makes the attachment stand and says what it is. */
function describeAttachment(record: AttachmentRecord, agent: AttachAgent): Attachment {
  const { inside, far } = agent.attach(record);
  const gateways = gatewaysFor(record.addresses, {
    blocks: agent.desired?.podBlocks ?? [],
    nodeAddresses: agent.desired?.addresses ?? [],
  });
  const gatewayFor = (address: string): string | undefined =>
    gateways.find((gateway) => isIpv6(gateway) === isIpv6(address));
  return {
    containerId: record.containerId,
    ifname: record.ifname,
    network: record.network,
    netns: record.netns,
    mac: inside.mac,
    mtu: inside.mtu,
    hostInterface: { name: far.name, mac: far.mac, netns: agent.kernel?.path ?? '' },
    addresses: record.addresses.map((address) => ({
      address: hostPrefix(address),
      gateway: gatewayFor(address) ?? '',
    })),
    routes: [...agent.destinations].sort().flatMap((dst) => {
      const gw = dst.endsWith('/0') ? undefined : gatewayFor(dst);
      return gw === undefined ? [] : [{ dst, gw }];
    }),
  };
}

/** What the kernel refused, told about the sandbox it concerns. */
function kernelTrouble(error: unknown, record: AttachmentRecord): unknown {
  if (!(error instanceof NetlinkError || error instanceof SystemError)) return error;
  return new OvpnError(
    'KernelRefused',
    error.message,
    { object: `${record.ifname} in ${record.netns}` },
    { cause: error },
  );
}

function identity({ containerId, ifname, network, addresses, pod }: AttachmentRecord): Record<string, unknown> {
  return {
    containerId,
    ifname,
    network,
    addresses,
    ...(pod === undefined ? {} : { pod: `${pod.namespace}/${pod.name}` }),
  };
}

/** An interface needs an address of its own: neither of a group nor none (IEEE 802; the kernel refuses others). */
function usableMac(mac: string): string {
  const first = Number.parseInt(mac.slice(0, 2), 16);
  if ((first & 1) === 0 && mac !== '00:00:00:00:00:00') return mac;
  throw new OvpnError('CniConfigInvalid', `${mac} is not the address of an interface`, { field: 'mac' });
}

/** Locally administered, unicast (IEEE 802, the two low bits of the first byte). */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return bytes.toString('hex').replaceAll(/(..)(?!$)/g, '$1:');
}
