import { findCondition, timestampOf } from '../api/conditions.ts';
import { peerKind } from '../api/peer-kind.ts';
import { hostnameLabel, isPlaced, standing } from '../api/placement.ts';
import {
  formatRef,
  type ObjectRef,
  refOf,
  type Resource,
  type VpnKey,
  type VpnNetwork,
  type VpnNetworkStatus,
  type VpnPeer,
} from '../api/types.ts';
import { isMesh } from '../api/vpn-network.ts';
import type { Clock } from '../cluster/clock.ts';
import type { ResourceSource } from '../cluster/source.ts';
import type { OvpnError } from '../errors.ts';
import { hostPrefix } from '../kernel/address.ts';
import { SystemError } from '../kernel/libc.ts';
import { NetlinkError } from '../kernel/netlink/error.ts';
import type { Peer } from '../kernel/ovpn/codec.ts';
import { formatEndpoint } from '../kernel/transport-socket.ts';
import { parseStaticKey, staticKeyFingerprint } from '../openvpn/static-key.ts';
import type { AttachmentStore } from './attachment-store.ts';
import type { Ledger } from './ledger.ts';
import type { ManagedNetwork } from './managed-network.ts';
import { nodesOf } from './mesh/network-nodes.ts';
import { namespaceName } from './names.ts';
import type { NetworkAgent } from './network-agent.ts';
import { lacksNeighbours, type NodeStatus, sayIn } from './node-news.ts';
import type { BookEntry, PeerBook } from './peer-book.ts';
import { secretOf } from './plan.ts';
import type { LivePeer } from './sessions/live-peers.ts';
import type { NetworkSessions } from './sessions/network-sessions.ts';
import type { NetworkReport, NodeReport, PeerReport } from './report.ts';
import { type KeyFacts, keyStatus, type NetworkFacts, networkStatus, peerStatus } from './status.ts';

/** How long nothing is said of a peer that waits for the controller to give it addresses. */
const addressPatienceMs = 10_000;

/** What the board reads of a network on this node. */
export interface BoardNetwork extends Pick<
  ManagedNetwork,
  'book' | 'neighbours' | 'selected' | 'problem' | 'serverProblem'
> {
  readonly agent: Pick<
    NetworkAgent,
    'accessProblem' | 'desired' | 'device' | 'kernel' | 'observedKeys' | 'peerCount' | 'peers'
  >;
  readonly sessions: Pick<NetworkSessions, 'facts' | 'livePeer' | 'used'>;
}

/** What the board reads. */
export interface StatusServices {
  readonly node: string;
  readonly source: Pick<
    ResourceSource,
    'complete' | 'get' | 'nodeAddresses' | 'publishStatus' | 'rejections' | 'shared'
  >;
  readonly networks: ReadonlyMap<string, BoardNetwork>;
  readonly attachments: Pick<AttachmentStore, 'ofNetwork'>;
  readonly ledger: Pick<Ledger, 'entry'>;
  /** Who refers to a VpnKey. */
  readonly users: (ref: ObjectRef) => Iterable<ObjectRef>;
  readonly clock: Pick<Clock, 'now' | 'monotonic'>;
  /** Figures of the agent's work with the kernel. */
  readonly netlink: () => NodeReport['netlink'];
  /** The Lease of this node; undefined where it needs none, or has nobody to tell. */
  readonly lease?: () => NodeReport['lease'];
}

/** Says what is: publishes the status of objects when it changed, and makes the report for a person. */
export class StatusBoard {
  readonly #services: StatusServices;
  readonly #statuses = new Map<string, unknown>();
  readonly #programmedSince = new Map<string, string>();
  /** Since when peers wait for their addresses. Milliseconds. */
  readonly #pendingSince = new Map<string, number>();
  /** What was handed to the source, and not taken back. */
  readonly #told = new Set<string>();
  /** When this node last spoke of itself as a part of a network, and since when it lacks other nodes. Milliseconds. */
  readonly #saidAt = new Map<string, number>();
  readonly #lackingSince = new Map<string, number>();
  /** Peers as the kernel had them when they were last looked at. */
  readonly #observed = new Map<string, Peer>();

  constructor(services: StatusServices) {
    this.#services = services;
  }

  /** Forgets an object that is gone. */
  forget(ref: ObjectRef): void {
    this.#statuses.delete(formatRef(ref));
    this.#told.delete(formatRef(ref));
    this.#saidAt.delete(formatRef(ref));
    this.#lackingSince.delete(formatRef(ref));
    this.#pendingSince.delete(formatRef(ref));
    this.#programmedSince.delete(formatRef(ref));
    this.#observed.delete(formatRef(ref));
  }

  /** A peer as the kernel had it for its latest status; undefined when it had none. */
  observed(ref: ObjectRef): Peer | undefined {
    return this.#observed.get(formatRef(ref));
  }

  /** @returns after how many milliseconds to come again, as there is something to say then; undefined for no need to */
  publishNetwork(managed: BoardNetwork): number | undefined {
    const { network } = managed.book;
    const name = formatRef(refOf(network));
    const known = this.#statuses.get(name) as VpnNetworkStatus | undefined;
    const status = this.#networkStatus(managed, known ?? network.status);
    const [said, now] = [known?.nodes?.[0], status.nodes?.[0]];
    const { source } = this.#services;
    if (source.shared && said !== undefined && now !== undefined && this.#told.has(name)) {
      const waitMs = this.#sayIn(name, network, said, now);
      if (waitMs > 0) return Number.isFinite(waitMs) ? waitMs : undefined;
    }
    this.#saidAt.set(name, this.#services.clock.monotonic());
    this.#publish(network, () => status);
    return undefined;
  }

  #sayIn(name: string, network: VpnNetwork, said: NodeStatus, now: NodeStatus): number {
    const at = this.#services.clock.monotonic();
    if (!lacksNeighbours(now.mesh)) this.#lackingSince.delete(name);
    else if (!this.#lackingSince.has(name)) this.#lackingSince.set(name, at);
    return sayIn(said, now, {
      nodes: network.spec.nodes.length,
      saidAgoMs: at - (this.#saidAt.get(name) ?? at),
      lackingForMs: at - (this.#lackingSince.get(name) ?? at),
    });
  }

  #networkStatus(managed: BoardNetwork, before: VpnNetworkStatus | undefined): VpnNetworkStatus {
    const { agent, book } = managed;
    const { network } = book;
    const { device } = agent;
    const mesh = this.#meshFacts(managed);
    return networkStatus(
      {
        network,
        node: this.#services.node,
        selected: managed.selected,
        problem: managed.problem ?? managed.serverProblem,
        namespace: namespaceName(network.metadata.name),
        device: device === undefined ? undefined : { name: device.name, mtu: device.mtu },
        listeners: agent.desired?.listeners ?? [],
        // The other nodes are counted by themselves: they come to every node at once.
        peers: Math.max(0, agent.peerCount - (mesh.mesh?.connected ?? 0)),
        attachments: this.#services.attachments.ofNetwork(network.metadata.name).length,
        now: this.#services.clock.now(),
        addresses: agent.desired?.addresses ?? [],
        podBlocks: agent.desired?.podBlocks ?? [],
        ...mesh,
        ...(network.spec.clusterAccess?.enabled === true ? { access: { problem: agent.accessProblem } } : {}),
        shared: this.#services.source.shared,
      },
      before,
    );
  }

  #meshFacts({ book, neighbours, sessions }: BoardNetwork): Pick<NetworkFacts, 'underlayAddresses' | 'mesh'> {
    const { nodeAddresses } = this.#services.source;
    if (!isMesh(book.network.spec)) return {};
    const connected = neighbours.count((ref) => sessions.facts(ref)?.state === 'Connected');
    const mesh = { neighbours: neighbours.all.size, connected };
    return { mesh, ...(nodeAddresses.length === 0 ? {} : { underlayAddresses: nodeAddresses.slice(0, 4) }) };
  }

  /** Also for a peer whose network is not there: its status says so. */
  publishPeer(peer: VpnPeer): void {
    const managed = this.#services.networks.get(peer.spec.networkRef.name);
    const ref = refOf(peer);
    const name = formatRef(ref);
    const entry = managed?.book.entry(ref);
    if (this.#comesAtOnce(name, entry)) return;
    const id = entry?.inForce?.id;
    const index = managed?.agent.device?.index;
    const live = managed?.sessions.livePeer(ref);
    const observed =
      live !== undefined
        ? readPeer(managed?.agent, live.ifindex, live.id)
        : id === undefined || index === undefined
          ? undefined
          : readPeer(managed?.agent, index, id);
    if (live !== undefined && observed !== undefined) managed?.sessions.used(ref, observed);
    const now = this.#services.clock.now();
    if (observed === undefined) this.#observed.delete(name);
    else this.#observed.set(name, observed);
    if (observed === undefined) this.#programmedSince.delete(name);
    else if (!this.#programmedSince.has(name)) {
      this.#programmedSince.set(name, timestampOf(now));
    }
    this.#publish(
      peer,
      (before: VpnPeer['status']) =>
        peerStatus(
          {
            peer,
            entry,
            networkProblem: managed?.problem?.message,
            state: id === undefined ? undefined : managed?.agent.peers.get(id),
            observed,
            primaryKeyId: id === undefined ? undefined : managed?.agent.observedKeys(id).primary,
            node: this.#services.node,
            now,
            since: this.#programmedSince.get(name),
            tunnel: managed?.sessions.facts(ref),
            placed: this.#isPlaced(peer, managed),
          },
          before,
        ),
      this.#speaksFor(peer, managed),
    );
  }

  #isPlaced(peer: VpnPeer, managed: BoardNetwork | undefined): boolean {
    return this.#services.source.shared && managed !== undefined && isPlaced(managed.book.network, peer);
  }

  /**
   * Whether a peer that nothing was said of yet has just begun to wait for its addresses. The controller gives them in a
   * moment; if it does not, the next round says that the peer waits.
   */
  #comesAtOnce(name: string, entry: BookEntry | undefined): boolean {
    const isPending = entry?.plan.problems.some((problem) => problem.name === 'AddressPending') === true;
    if (!isPending || !this.#services.source.shared || this.#told.has(name)) {
      this.#pendingSince.delete(name);
      return false;
    }
    const since = this.#pendingSince.get(name) ?? this.#services.clock.monotonic();
    this.#pendingSince.set(name, since);
    return this.#services.clock.monotonic() - since < addressPatienceMs;
  }

  publishKey(key: VpnKey): void {
    // What the controller issues, it also reports.
    if (key.spec.issued !== undefined) return;
    const speaks = this.#speaksForKey(key);
    // Most nodes have nothing to say of most keys, and never had.
    if (!speaks && !this.#told.has(formatRef(refOf(key)))) return;
    const facts = this.#keyFacts(key);
    this.#publish(key, (before: VpnKey['status']) => {
      const status = keyStatus(facts, before);
      // What was installed here stays said when its peer goes elsewhere: it may never be installed again.
      return speaks ? status : { installations: status.installations ?? [] };
    });
  }

  /**
   * Whether this node speaks for a key: it speaks for a peer that uses it. Nodes without such a peer have not even its
   * Secret to look at, and a key that nobody uses is neither good nor bad.
   */
  #speaksForKey(key: VpnKey): boolean {
    const { source, users, networks } = this.#services;
    if (!source.shared) return true;
    for (const user of users(refOf(key))) {
      const peer = source.get('VpnPeer', user.namespace, user.name);
      if (peer !== undefined && this.#speaksFor(peer, networks.get(peer.spec.networkRef.name))) return true;
    }
    return false;
  }

  #keyFacts(key: VpnKey): KeyFacts {
    const { source, node, ledger, users, clock } = this.#services;
    const ref = refOf(key);
    const secret = secretOf(key);
    let problem: OvpnError | undefined;
    let spent: OvpnError | undefined;
    let installation: KeyFacts['installation'];
    for (const user of users(ref)) {
      const peer = source.get('VpnPeer', user.namespace, user.name);
      const managed = peer === undefined ? undefined : this.#services.networks.get(peer.spec.networkRef.name);
      const entry = managed?.book.entry(user);
      problem ??= entry?.plan.keyProblem;
      const inForce = entry?.inForce;
      const trouble = inForce === undefined ? undefined : managed?.agent.peers.get(inForce.id)?.problem;
      if (trouble?.name === 'KeySpent') spent ??= trouble;
      const record = inForce?.key === undefined ? undefined : ledger.entry(inForce.key.keys.fingerprint);
      if (record !== undefined) installation = { generation: record.generation, since: record.installedAt };
    }
    const entry = key.spec.static?.secretRef.key;
    const material =
      entry === undefined || secret === undefined
        ? undefined
        : source.get('Secret', secret.namespace, secret.name)?.data[entry];
    return { key, fingerprint: fingerprintOf(material), problem, spent, installation, node, now: clock.now() };
  }

  /**
   * Hands a status to the source when it differs from the one before.
   *
   * @param isOurs false when another node speaks for the object: what this one said of it before is taken back
   */
  #publish<T>(resource: Resource, make: (before: T | undefined) => T, isOurs = true): void {
    const name = formatRef(refOf(resource));
    const known = this.#statuses.get(name) ?? ('status' in resource ? resource.status : undefined);
    const status = make(known as T | undefined);
    const same = JSON.stringify(status) === JSON.stringify(this.#statuses.get(name));
    this.#statuses.set(name, status);
    if (isOurs ? same && this.#told.has(name) : !this.#told.has(name)) return;
    if (isOurs) this.#told.add(name);
    else this.#told.delete(name);
    this.#services.source.publishStatus(resource, isOurs ? status : {});
  }

  /**
   * Whether this node speaks for a peer. With an API server all nodes could, and would contradict each other: so it is
   * the node that has the peer; for one that nobody has, the node that had it last; for one that nobody ever had, the
   * first node of the network.
   */
  #speaksFor(peer: VpnPeer, managed: BoardNetwork | undefined): boolean {
    const { source, node } = this.#services;
    if (!source.shared) return true;
    const ref = refOf(peer);
    if (managed?.sessions.livePeer(ref) !== undefined || managed?.book.entry(ref)?.inForce !== undefined) return true;
    const { node: had, holder } = source.get('VpnPeer', ref.namespace, ref.name)?.status ?? {};
    const last = holder?.node ?? had;
    const nodes = managed === undefined ? undefined : nodesOf(managed.book.network);
    if (last !== undefined && nodes?.byName.has(last) === true) return last === node;
    // A peer that is placed by the name of its node is that node's to speak of.
    const placed = peer.spec.placement.nodeSelector[hostnameLabel];
    return placed !== undefined && nodes?.byName.has(placed) === true ? placed === node : nodes?.first === node;
  }

  /** What the kernel holds now, for a person. */
  report(): NodeReport {
    const { source, node, networks, netlink, lease } = this.#services;
    return {
      node,
      sourcesComplete: source.complete,
      netlink: netlink(),
      lease: lease?.(),
      rejections: source.rejections.map(({ ref, origin, errors }) => ({
        origin,
        object: ref === undefined ? undefined : formatRef(ref),
        errors: errors.map(({ message }) => message),
      })),
      networks: [...networks.values()].map((managed) => this.#reportNetwork(managed)),
    };
  }

  #reportNetwork({ agent, book, neighbours, sessions, problem, serverProblem }: BoardNetwork): NetworkReport {
    const name = book.network.metadata.name;
    return {
      name,
      namespace: namespaceName(name),
      netns: agent.kernel?.path,
      device: agent.device?.name,
      mtu: agent.device?.mtu,
      addresses: agent.desired?.addresses ?? [],
      listeners: (agent.desired?.listeners ?? []).map(
        (listener) => `${listener.protocol.toLowerCase()} ${formatEndpoint(listener)}`,
      ),
      problem: (problem ?? serverProblem ?? agent.accessProblem)?.message,
      peers: [...book.entries.values()].map(({ peer }) => this.#reportPeer(agent, book, sessions, peer)),
      neighbours: [...neighbours.all.values()].map(({ ref, routes }) => {
        const facts = sessions.facts(ref);
        return {
          node: ref.name,
          peerId: sessions.livePeer(ref)?.id,
          endpoint: facts?.endpoint,
          podBlocks: routes.map(({ destination }) => destination),
          connected: facts?.state === 'Connected',
          message: facts?.lastError ?? facts?.message ?? 'its address is not known yet',
        };
      }),
      attachments: this.#services.attachments.ofNetwork(name).map(({ containerId, ifname, netns, addresses, pod }) => ({
        containerId,
        ifname,
        netns,
        addresses,
        pod: pod === undefined ? undefined : `${pod.namespace}/${pod.name}`,
      })),
    };
  }

  #reportPeer(
    agent: BoardNetwork['agent'],
    book: PeerBook,
    sessions: BoardNetwork['sessions'],
    peer: VpnPeer,
  ): PeerReport {
    this.publishPeer(peer);
    const ref = refOf(peer);
    const status = this.#statuses.get(formatRef(ref)) as VpnPeer['status'];
    const ready = findCondition(status?.conditions, 'Ready');
    const inForce = book.entry(ref)?.inForce;
    const live = sessions.livePeer(ref);
    return {
      name: `${peer.metadata.namespace}/${peer.metadata.name}`,
      kind: peerKind(peer),
      holder: standing(peer.status?.holder)?.node,
      peerId: peer.spec.static?.peerID ?? live?.id,
      addresses: status?.addresses ?? [],
      endpoint: status?.endpoint,
      cipher: status?.cipher,
      keys:
        live !== undefined
          ? readKeys(agent, live)
          : peer.spec.static === undefined
            ? noKeys
            : agent.observedKeys(peer.spec.static.peerID),
      keyGeneration: status?.keyGeneration,
      routes: (live ?? inForce)?.routes.map(({ destination }) => destination) ?? [],
      claims: [...peer.spec.addresses, ...peer.spec.routes].map(asPrefix),
      rxBytes: status?.traffic?.rxBytes ?? 0,
      txBytes: status?.traffic?.txBytes ?? 0,
      rxPackets: status?.traffic?.rxPackets ?? 0,
      txPackets: status?.traffic?.txPackets ?? 0,
      ready: ready?.status ?? 'Unknown',
      reason: ready?.reason ?? 'Pending',
      message: ready?.message ?? '',
    };
  }
}

function fingerprintOf(material: Uint8Array | undefined): string | undefined {
  if (material === undefined) return undefined;
  try {
    return staticKeyFingerprint(parseStaticKey(Buffer.from(material).toString('latin1'), {}));
  } catch {
    return undefined;
  }
}

const asPrefix = (text: string): string => (text.includes('/') ? text : hostPrefix(text));

const noKeys: PeerReport['keys'] = { primary: undefined, secondary: undefined };

function readKeys(agent: BoardNetwork['agent'], { ifindex, id }: LivePeer): PeerReport['keys'] {
  const keys = agent.kernel?.observePeers(ifindex, [id]).get(id)?.keys;
  return { primary: keys?.primary?.keyId, secondary: keys?.secondary?.keyId };
}

/** The peer as the kernel has it; unknown when its device or namespace has just gone: the next round says more. */
function readPeer(agent: BoardNetwork['agent'] | undefined, index: number, id: number): Peer | undefined {
  try {
    return agent?.kernel?.getPeer(index, id);
  } catch (error) {
    if (error instanceof NetlinkError || error instanceof SystemError) return undefined;
    throw error;
  }
}
