import { isDeepStrictEqual } from 'node:util';
import { findCondition } from '../../../operator/src/api/conditions.ts';
import type { VpnNetwork, VpnPeer } from '../../../operator/src/api/types.ts';
import { vethName } from '../../../operator/src/agent/names.ts';
import type { NodeReport } from '../../../operator/src/agent/report.ts';
import { formatEndpoint } from '../../../operator/src/kernel/transport-socket.ts';
import type { NodeKernel } from './node-kernel.ts';

/**
 * What has to hold when everything is healed: the kernel against the resources, and what is said against the kernel.
 * Pure; each finding is a sentence.
 */

/** A pod that is attached now. */
export interface AttachedPod {
  readonly node: string;
  readonly containerId: string;
  /** Of its interface, by the kernel, without length. */
  readonly addresses: readonly string[];
}

/** All that is known of the cluster at one moment. */
export interface World {
  readonly network: VpnNetwork;
  readonly peers: readonly VpnPeer[];
  readonly kernels: readonly NodeKernel[];
  readonly reports: readonly NodeReport[];
  readonly pods: readonly AttachedPod[];
  /** Addresses of attachments that agents have written down, by their owners `node/container`. */
  readonly records: ReadonlyMap<string, readonly string[]>;
  /** Clients that are connected by their own word: the VpnPeer, and the addresses of their tunnel. */
  readonly clients: ReadonlyMap<string, readonly string[]>;
  /** The addresses inside of their tunnels of the remotes that are dialled, by VpnPeer. */
  readonly remotes: ReadonlyMap<string, readonly string[]>;
  /** What was there before anything was broken. */
  readonly filters: { readonly network: string; readonly host: string };
}

/** What does not hold; empty when all does. */
export function violations(world: World): string[] {
  return [...twiceOwned(world), ...world.kernels.flatMap((kernel) => [...ofKernel(world, kernel)]), ...ofStatus(world)];
}

const nameOf = ({ metadata }: VpnPeer): string => metadata.name;
const isDialIn = ({ spec }: VpnPeer): boolean => spec.identity !== undefined;
const statusNode = ({ network }: World, name: string) => network.status?.nodes?.find((node) => node.name === name);
const allocated = ({ status }: VpnPeer): readonly string[] => status?.allocation?.addresses ?? [];
const sorted = (texts: Iterable<string>): string[] => [...texts].sort();

/** Addresses with two owners: in kernels, in records, in status, and one of these against another. */
function* twiceOwned(world: World): Iterable<string> {
  const owners = new Map<string, Map<string, string>>();
  const own = (address: string, owner: string, where: string): void => {
    const of = owners.get(address) ?? new Map<string, string>();
    owners.set(address, of.set(owner, where));
  };
  for (const { node, addresses } of world.kernels)
    for (const address of addresses) own(address, `node ${node}`, 'kernel');
  for (const { node, containerId, addresses } of world.pods)
    for (const address of addresses) own(address, `pod ${node}/${containerId}`, 'kernel');
  for (const [owner, addresses] of world.records)
    for (const address of addresses) own(address, `pod ${owner}`, 'record');
  for (const [name, addresses] of world.clients)
    for (const address of addresses) own(address, `peer ${name}`, 'kernel');
  for (const { name, addresses = [] } of world.network.status?.nodes ?? [])
    for (const address of addresses) own(address, `node ${name}`, 'status');
  for (const peer of world.peers) for (const address of allocated(peer)) own(address, `peer ${nameOf(peer)}`, 'status');
  for (const [address, of] of owners) {
    const all = [...of].map(([owner, where]) => `${owner} (${where})`);
    if (all.length > 1) yield `address ${address} is owned by ${all.join(' and by ')}`;
  }
}

/** Says what one list has and the other has not. */
function* compare(what: string, found: Iterable<string>, wanted: Iterable<string>): Iterable<string> {
  const [is, should] = [sorted(found), sorted(wanted)];
  const [rest, missing] = [[...is], [] as string[]];
  for (const one of should) {
    const at = rest.indexOf(one);
    if (at < 0) missing.push(one);
    else rest.splice(at, 1);
  }
  for (const one of rest) yield `${what}: ${one} is there and should not be`;
  for (const one of missing) yield `${what}: ${one} is missing`;
}

/** A node's kernel against what the resources and the clients say. */
function* ofKernel(world: World, kernel: NodeKernel): Iterable<string> {
  const { node } = kernel;
  const pods = world.pods.filter((pod) => pod.node === node);
  const here = world.peers.filter(({ status }) => status?.holder?.node === node);
  const dialled = here.filter((peer) => !isDialIn(peer)).map(nameOf);
  const clients = here.filter((peer) => isDialIn(peer) && world.clients.has(nameOf(peer)));
  const neighbours = (world.network.status?.nodes ?? []).filter(({ name }) => name !== node);

  yield* compare(`${node}: namespace`, kernel.namespaces, [`ovpn-${world.network.metadata.name}`]);
  const veths = pods.map(({ containerId }) => vethName({ containerId, ifname: 'vpn0' }));
  const links = ['lo', 'ovpn0', ...veths, ...kernel.dialled.map(({ device }) => device)];
  yield* compare(`${node}: interface`, kernel.links, links);
  yield* compare(
    `${node}: remote with a tunnel`,
    kernel.dialled.filter(({ peer }) => peer !== undefined).map(({ of }) => of),
    dialled,
  );
  yield* compare(`${node}: own address`, kernel.addresses, statusNode(world, node)?.addresses ?? []);
  const expected = [...neighbours.map(({ addresses }) => addresses ?? []), ...clients.map(allocated)];
  const text = (addresses: readonly (string | undefined)[]): string =>
    sorted(addresses.filter((address) => address !== undefined)).join(' ');
  yield* compare(
    `${node}: peer in the kernel`,
    kernel.peers.map(({ vpnIpv4, vpnIpv6 }) => text([vpnIpv4, vpnIpv6])),
    expected.map(text),
  );
  for (const { id, keys, vpnIpv4 } of kernel.peers)
    if (keys.startsWith('-')) yield `${node}: peer ${id} (${vpnIpv4}) has no key to send with`;
  yield* compare(`${node}: route`, kernel.routes, expectedRoutes(world, kernel));
  if (kernel.filter !== world.filters.network) yield `${node}: the network's filter is another one: ${kernel.filter}`;
  yield* compare(`${node}: interface of the host`, kernel.host.links, ['eth0', 'lo']);
  yield* compare(`${node}: route of the host`, kernel.host.routes, []);
  if (kernel.host.filter !== world.filters.host)
    yield `${node}: the host's filter is another one: ${kernel.host.filter}`;
}

/** The routes of a node's namespace: to its pods, to the pods of others, to peers here and elsewhere, and the refusing ones. */
function expectedRoutes(world: World, { node, dialled }: NodeKernel): string[] {
  const routes: string[] = [];
  const addressOf = (name: string, like: string): string | undefined =>
    statusNode(world, name)?.addresses?.find((address) => address.includes(':') === like.includes(':'));
  const prefix = (address: string): string => `${address}/${address.includes(':') ? 128 : 32}`;
  const over = (name: string, destination: string): void => {
    const gateway = addressOf(name, destination);
    if (gateway !== undefined) routes.push(`${destination} via ${gateway} dev ovpn0`);
  };
  for (const pod of world.pods) {
    if (pod.node !== node) continue;
    const device = vethName({ containerId: pod.containerId, ifname: 'vpn0' });
    for (const address of pod.addresses) routes.push(`${prefix(address)} dev ${device}`);
  }
  for (const { name, podBlocks = [] } of world.network.status?.nodes ?? [])
    if (name !== node) for (const block of podBlocks) over(name, block);
  for (const peer of world.peers) {
    const holder = peer.status?.holder?.node;
    for (const destination of peer.spec.routes) routes.push(`unreachable ${destination}`);
    if (holder === undefined) continue;
    if (holder !== node)
      for (const destination of [...allocated(peer).map(prefix), ...peer.spec.routes]) over(holder, destination);
    else if (!isDialIn(peer)) {
      const device = dialled.find(({ of }) => of === nameOf(peer))?.device ?? '?';
      const remote = world.remotes.get(nameOf(peer)) ?? [];
      for (const destination of [...remote.map(prefix), ...peer.spec.routes])
        routes.push(`${destination} dev ${device}`);
    }
  }
  return routes;
}

/** What status and the agents say, against the kernel. */
function* ofStatus(world: World): Iterable<string> {
  const { network, peers, kernels, reports, pods, clients } = world;
  const kernelOf = (name: string | undefined): NodeKernel | undefined => kernels.find(({ node }) => node === name);
  for (const peer of peers) {
    const { status = { conditions: [] } } = peer;
    const name = `status of VpnPeer ${nameOf(peer)}`;
    const holder = kernelOf(status.holder?.node);
    const connected = findCondition(status.conditions, 'Connected')?.status;
    if (isDialIn(peer) && !clients.has(nameOf(peer))) {
      if (connected !== 'False') yield `${name}: Connected is ${connected}, and its client is not`;
      continue;
    }
    const found = isDialIn(peer)
      ? holder?.peers.find(({ vpnIpv4 }) => allocated(peer).includes(vpnIpv4 ?? ''))
      : holder?.dialled.find(({ of }) => of === nameOf(peer))?.peer;
    const { id, remote } = found ?? {};
    const endpoint = remote === undefined ? undefined : formatEndpoint(remote);
    yield* same(`${name}: node`, status.node, holder?.node);
    yield* same(`${name}: Connected`, connected, 'True');
    yield* same(`${name}: Ready`, findCondition(status.conditions, 'Ready')?.status, 'True');
    yield* same(`${name}: peerID`, status.peerID, id);
    // Of a peer over TCP the kernel says no address: it is that of its socket.
    if (found === undefined || endpoint !== undefined) yield* same(`${name}: endpoint`, status.endpoint, endpoint);
    if (isDialIn(peer)) yield* same(`${name}: addresses`, sorted(status.addresses ?? []), sorted(allocated(peer)));
  }
  yield* same('status of the network: peersConnected', network.status?.peersConnected, clients.size + dialOuts(peers));
  yield* same('status of the network: nodesReady', network.status?.nodesReady, kernels.length);
  for (const kernel of kernels) {
    const said = statusNode(world, kernel.node);
    const name = `status of the network, ${kernel.node}`;
    const attached = pods.filter(({ node }) => node === kernel.node).length;
    yield* same(`${name}: ready`, said?.ready, true);
    yield* same(`${name}: mtu`, said?.mtu, kernel.mtu);
    yield* same(`${name}: attachments`, said?.attachments, attached);
    yield* same(`${name}: mesh`, said?.mesh, { neighbours: kernels.length - 1, connected: kernels.length - 1 });
  }
  for (const report of reports) yield* ofReport(world, report, kernelOf(report.node));
}

const dialOuts = (peers: readonly VpnPeer[]): number => peers.filter((peer) => !isDialIn(peer)).length;

/** What an agent says at its node. */
function* ofReport({ pods }: World, report: NodeReport, kernel: NodeKernel | undefined): Iterable<string> {
  const { node } = report;
  const [said] = report.networks;
  const name = `report of ${node}`;
  yield* same(`${name}: rejections`, report.rejections, []);
  yield* same(`${name}: problem`, said?.problem, undefined);
  const devices = kernel?.dialled.flatMap(({ peer }) => (peer === undefined ? [] : [String(peer.id)])) ?? [];
  const ids = [...(said?.peers ?? []), ...(said?.neighbours ?? [])].flatMap(({ peerId }) =>
    peerId === undefined ? [] : [String(peerId)],
  );
  yield* compare(`${name}: peer id`, ids, [...(kernel?.peers.map(({ id }) => String(id)) ?? []), ...devices]);
  for (const { node: other, connected, message } of said?.neighbours ?? [])
    if (!connected) yield `${name}: not connected to ${other}: ${message}`;
  const attached = pods.filter((pod) => pod.node === node).map(({ containerId }) => containerId);
  yield* compare(`${name}: attachment`, said?.attachments.map(({ containerId }) => containerId) ?? [], attached);
}

function* same(what: string, said: unknown, found: unknown): Iterable<string> {
  if (!isDeepStrictEqual(said, found))
    yield `${what} is ${JSON.stringify(said)}, and ought to be ${JSON.stringify(found)}`;
}
