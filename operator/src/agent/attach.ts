import { randomBytes } from 'node:crypto';
import { allowsNamespace } from '../api/rules.ts';
import type { VpnNetwork } from '../api/types.ts';
import { describe, OvpnError } from '../errors.ts';
import { hostPrefix, isIpv6 } from '../kernel/address.ts';
import { SystemError } from '../kernel/libc.ts';
import { NetlinkError } from '../kernel/netlink/error.ts';
import type { Log } from '../telemetry/log.ts';
import type { AddRequest, AddResult, Attachment, DelRequest, GcRequest } from './attach-protocol.ts';
import type { AttachmentRecord, AttachmentStore } from './attachment-store.ts';
import { sameCall } from './attachment-store.ts';
import { KeyedMutex } from './keyed-mutex.ts';
import type { NetworkAgent } from './network-agent.ts';
import { allocateAddress, gatewayOf } from './pod-addresses.ts';
import { removeAttachment } from './sandbox.ts';

/** What attaching needs of a network. */
export type AttachAgent = Pick<NetworkAgent, 'attach' | 'detach' | 'desired' | 'device' | 'destinations' | 'kernel'>;

/** What attaching needs to know of the networks of this node. */
export interface AttachNetworks {
  find(name: string): { readonly network: VpnNetwork; readonly agent: AttachAgent } | undefined;
}

/** Serves ADD and DEL of the CNI plugin. */
export class Attacher {
  readonly #networks: AttachNetworks;
  readonly #store: AttachmentStore;
  readonly #log: Log;
  /** By container: the runtime may call DEL while an ADD still runs. */
  readonly #mutex = new KeyedMutex();

  constructor(networks: AttachNetworks, store: AttachmentStore, log: Log) {
    this.#networks = networks;
    this.#store = store;
    this.#log = log;
  }

  /**
   * Attaches a sandbox to a network, or finds that it is attached already. Returns only when the pod's routes,
   * and the refusing ones below them, stand.
   *
   * @throws OvpnError NetworkNotReady, AttachNotAllowed, PoolExhausted, NamespaceUnusable, StateUnusable
   */
  async add(request: AddRequest): Promise<AddResult> {
    return this.#mutex.run(request.containerId, () => Promise.resolve({ attachments: [this.#add(request)] }));
  }

  /** Takes away what a call has; what is not there, or whose network is gone, is no error (CNI spec, DEL). */
  async del(request: DelRequest): Promise<void> {
    await this.#mutex.run(request.containerId, () => {
      for (const record of this.#store.ofCall(request)) this.#remove(record);
      return Promise.resolve();
    });
  }

  /** Takes away what a network configuration has and its runtime does not know any more (CNI spec, GC). */
  async gc(request: GcRequest): Promise<void> {
    const valid = new Set(request.valid.map(({ containerId, cniIfname }) => `${containerId}/${cniIfname}`));
    const isStale = ({ config, network, containerId, cniIfname }: AttachmentRecord): boolean =>
      config === request.config &&
      (request.network ?? network) === network &&
      !valid.has(`${containerId}/${cniIfname}`);
    for (const { containerId } of [...this.#store.all()].filter(isStale)) {
      await this.#mutex.run(containerId, () => {
        const stale = [...this.#store.all()].filter((record) => record.containerId === containerId && isStale(record));
        for (const record of stale) this.#remove(record);
        return Promise.resolve();
      });
    }
  }

  #remove(record: AttachmentRecord): void {
    const agent = this.#networks.find(record.network)?.agent;
    if (agent !== undefined) agent.detach(record);
    // The network is gone or not there yet: the pod's end takes the far end along.
    else removeAttachment(record, new Set(), undefined, { writes: 0 });
    this.#store.remove(record);
    this.#log.info({ event: 'attachment.removed', ...identity(record) }, 'detached the sandbox');
  }

  #add(request: AddRequest): Attachment {
    if (request.network === undefined) {
      throw new OvpnError('CniConfigInvalid', 'is missing; this agent does not choose networks yet', {
        field: 'network',
      });
    }
    return this.#attach(request, request.network);
  }

  #attach(request: AddRequest, name: string): Attachment {
    const found = this.#networks.find(name);
    const object = `VpnNetwork ${name}`;
    if (found === undefined) {
      throw new OvpnError('NetworkNotReady', 'there is no such network on this node', { object });
    }
    const { network, agent } = found;
    const namespace = request.pod?.namespace;
    if (namespace !== undefined && !allowsNamespace(network.spec.attach.namespaces, namespace)) {
      const problem = `pods of namespace ${namespace} may not join`;
      throw new OvpnError('AttachNotAllowed', problem, { object, field: 'spec.attach.namespaces' });
    }
    const known = this.#store.get(request);
    if (known !== undefined && (known.network !== name || known.netns !== request.netns || !sameCall(known, request))) {
      throw new OvpnError(
        'NamespaceUnusable',
        `${request.ifname} of container ${request.containerId} is attached to network ${known.network} by another call`,
        { object: request.netns },
        { remedy: 'call DEL for that attachment first' },
      );
    }
    if (known === undefined) this.#refuseSharedDestinations(request, name, agent);
    const record = known ?? this.#record(request, name, agent);
    // On disk before the kernel: a crash from here on leaves an address that is written down.
    if (known === undefined) this.#store.put(record);
    try {
      const attachment = describeAttachment(record, agent);
      if (known === undefined)
        this.#log.info({ event: 'attachment.added', ...identity(record) }, 'attached the sandbox');
      return attachment;
    } catch (error) {
      if (known === undefined) this.#rollBack(record, agent);
      throw kernelTrouble(error, record);
    }
  }

  /** A sandbox has one routing table: what two attachments both claim could only go to one of them. */
  #refuseSharedDestinations({ netns }: AddRequest, network: string, agent: AttachAgent): void {
    for (const other of this.#store.all()) {
      if (other.netns !== netns) continue;
      const theirs = this.#networks.find(other.network)?.agent.destinations;
      const shared = [...agent.destinations].find((destination) => theirs?.has(destination));
      if (shared === undefined) continue;
      throw new OvpnError(
        'RouteConflict',
        `${shared} is reached in this sandbox by ${other.ifname} already, which is attached to VpnNetwork ${other.network}`,
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

  #record(request: AddRequest, network: string, agent: AttachAgent): AttachmentRecord {
    const { desired } = agent;
    if (desired === undefined || agent.device === undefined) {
      throw new OvpnError('NetworkNotReady', 'is not set up on this node yet', {
        object: `VpnNetwork ${network}`,
      });
    }
    if (desired.podBlocks.length === 0) {
      throw new OvpnError(
        'PoolExhausted',
        'this node has no block of pod addresses',
        { object: `VpnNetwork ${network}`, field: 'spec.nodes[].podBlocks' },
        { remedy: "add podBlocks to this node's entry in spec.nodes" },
      );
    }
    const addresses = desired.podBlocks.map((block) =>
      allocateAddress(block, (address) => this.#store.isTaken(network, address), network),
    );
    return {
      config: request.config,
      containerId: request.containerId,
      cniIfname: request.cniIfname,
      ifname: request.ifname,
      network,
      netns: request.netns,
      addresses,
      mac: randomMac(),
      pod: request.pod,
    };
  }
}

/** Makes the attachment stand and says what it is. */
function describeAttachment(record: AttachmentRecord, agent: AttachAgent): Attachment {
  const { inside, far } = agent.attach(record);
  const blocks = agent.desired?.podBlocks ?? [];
  const gateways = blocks.map(gatewayOf);
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

/** Locally administered, unicast (IEEE 802, the two low bits of the first byte). */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return bytes.toString('hex').replaceAll(/(..)(?!$)/g, '$1:');
}
