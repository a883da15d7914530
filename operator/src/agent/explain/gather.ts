import { dirname, basename } from 'node:path';
import { OvpnError } from '../../errors.ts';
import { isIpv6 } from '../../kernel/address.ts';
import { SystemError } from '../../kernel/libc.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { namespaceId } from '../../kernel/netns.ts';
import type { Peer } from '../../kernel/ovpn/codec.ts';
import { OvpnFamily } from '../../kernel/ovpn/family.ts';
import { dumpLinks, type Link } from '../../kernel/rtnetlink/links.ts';
import { lookupWay, type Way } from '../../kernel/rtnetlink/lookup.ts';
import { readSysctls } from '../../kernel/sysctl.ts';
import { vethName } from '../names.ts';
import { NetworkKernel } from '../network-kernel.ts';
import type { AttachmentReport, NetworkReport, NodeReport } from '../report.ts';
import { tunnelDeviceName } from '../sessions/tunnel-devices.ts';
import type { NetworkFacts, OutFacts, PeerFacts, PodFacts, RouteFacts } from './facts.ts';

/** Where the packet begins. */
export type Origin =
  | { readonly kind: 'pod'; readonly name: string }
  | { readonly kind: 'netns'; readonly path: string }
  | { readonly kind: 'network'; readonly name: string; readonly from: string };

/**
 * Finds out about a packet's way: asks the kernel in the pod's and in the network's namespace. Only reads.
 *
 * @param report what the agent of this node says
 * @param destination an IP address in canonical form
 * @throws OvpnError NetworkNotReady, NamespaceUnusable, KernelWithoutOvpn; NetlinkError
 */
export function gatherRoute(report: NodeReport, origin: Origin, destination: string): RouteFacts {
  if (origin.kind === 'network') {
    const network = report.networks.find(({ name }) => name === origin.name);
    if (network === undefined) {
      throw new OvpnError('NetworkNotReady', 'is not on this node', { object: `VpnNetwork ${origin.name}` });
    }
    return { destination, pod: undefined, network: gatherNetwork(network, { source: origin.from, destination }) };
  }
  const { pod, attachment } = gatherPod(report, origin, destination);
  const network = report.networks.find(
    ({ attachments }) => attachment !== undefined && attachments.includes(attachment),
  );
  if (attachment === undefined || network === undefined || pod.way?.kind !== 'forward') {
    return { destination, pod, network: undefined };
  }
  const source = pod.way.source ?? attachment.addresses.find((each) => isIpv6(each) === isIpv6(destination));
  return { destination, pod, network: gatherNetwork(network, { source, destination, input: vethName(attachment) }) };
}

function gatherPod(
  report: NodeReport,
  origin: Exclude<Origin, { kind: 'network' }>,
  destination: string,
): { readonly pod: PodFacts; readonly attachment: AttachmentReport | undefined } {
  const all = report.networks.flatMap(({ attachments }) => attachments);
  const wantedId = origin.kind === 'netns' ? namespaceId(origin.path) : undefined;
  const attachments = all.filter(({ pod, netns }) =>
    origin.kind === 'pod' ? pod === origin.name : wantedId !== undefined && namespaceId(netns) === wantedId,
  );
  const name = origin.kind === 'pod' ? origin.name : origin.path;
  const path = origin.kind === 'netns' ? origin.path : attachments[0]?.netns;
  const inside = path === undefined ? undefined : inNetns(path, (socket) => wayAndName(socket, destination));
  const pod = { name, attachments, present: inside !== undefined, way: inside?.way, out: inside?.link?.name };
  return { pod, attachment: attachments.find(({ ifname }) => ifname === pod.out) };
}

/** Runs something with a netlink socket in a namespace; undefined when that is gone. */
function inNetns<T>(path: string, read: (socket: NetlinkSocket) => T): T | undefined {
  let socket: NetlinkSocket;
  try {
    socket = NetlinkSocket.open(NETLINK_ROUTE, path);
  } catch (error) {
    if (error instanceof SystemError || (error instanceof Error && 'code' in error)) return undefined;
    throw error;
  }
  try {
    return read(socket);
  } finally {
    socket.close();
  }
}

function wayAndName(
  socket: NetlinkSocket,
  destination: string,
): { readonly way: Way; readonly link: Link | undefined } {
  const way = lookupWay(socket, { destination });
  return { way, link: linkOf(dumpLinks(socket), way) };
}

function linkOf(links: readonly Link[], way: Way | undefined): Link | undefined {
  return way?.kind === 'forward' ? links.find(({ index }) => index === way.index) : undefined;
}

interface Packet {
  readonly source: string | undefined;
  readonly destination: string;
  /** The interface of the network's namespace on which it comes in, where that is known. */
  readonly input?: string;
}

function gatherNetwork(report: NetworkReport, { source, destination, input: given }: Packet): NetworkFacts {
  const { netns } = report;
  if (netns === undefined) {
    throw new OvpnError('NetworkNotReady', 'has no network namespace on this node yet', {
      object: `VpnNetwork ${report.name}`,
    });
  }
  const facts = inNetns(netns, (socket): NetworkFacts => {
    const links = dumpLinks(socket);
    const named = (name: string | undefined): Link | undefined => links.find((link) => link.name === name);
    const sourceWay = source === undefined ? undefined : lookupWay(socket, { destination: source });
    const sourceOut = linkOf(links, sourceWay)?.name;
    // A packet that begins inside comes in where its source is, if it is not the node's own.
    const input = given ?? sourceOut;
    const inputIndex = named(input)?.index;
    const way = lookupWay(
      socket,
      inputIndex === undefined || sourceOut !== input ? { destination } : { destination, source, input: inputIndex },
    );
    const out = linkOf(links, way);
    return {
      report,
      source,
      input,
      sourceOut,
      filterStands: filterStands(netns),
      forwards: forwards(netns, destination),
      way,
      out:
        out === undefined || way.kind !== 'forward'
          ? undefined
          : gatherOut(report, netns, socket, out, way, destination),
      answer:
        source === undefined || out === undefined
          ? undefined
          : answerWay(socket, links, source, destination, out.index),
    };
  });
  if (facts === undefined) {
    throw new OvpnError('NamespaceUnusable', 'the network namespace cannot be entered', { object: netns });
  }
  return facts;
}

function answerWay(
  socket: NetlinkSocket,
  links: readonly Link[],
  source: string,
  destination: string,
  input: number,
): NonNullable<NetworkFacts['answer']> {
  const way = lookupWay(socket, { destination: source, source: destination, input });
  return { way, out: linkOf(links, way)?.name };
}

function filterStands(netns: string): boolean {
  const kernel = NetworkKernel.open(basename(netns), dirname(netns));
  try {
    return kernel.filterStands();
  } finally {
    kernel.close();
  }
}

function forwards(netns: string, destination: string): boolean {
  const name = isIpv6(destination) ? 'net.ipv6.conf.all.forwarding' : 'net.ipv4.ip_forward';
  return readSysctls(netns, [name]).get(name) === '1';
}

function gatherOut(
  report: NetworkReport,
  netns: string,
  socket: NetlinkSocket,
  link: Link,
  way: Extract<Way, { kind: 'forward' }>,
  destination: string,
): OutFacts {
  const { name, up, mtu, ovpnMode: mode, index } = link;
  const shared = { name, up, mode, mtu: way.mtu ?? mtu };
  if (mode === undefined) return { ...shared, peer: undefined, sourceCheck: undefined };
  const nextHop = way.gateway ?? destination;
  // The driver looks the source of a packet up as a destination.
  const back = lookupWay(socket, { destination });
  const sourceCheck = back.kind === 'forward' && back.index === index ? (back.gateway ?? destination) : undefined;
  const ovpn = OvpnFamily.open(netns);
  try {
    const peers = ovpn.dumpPeers(index);
    const peer = mode === 'p2p' ? peers[0] : peers.find((each) => each.vpnIpv4 === nextHop || each.vpnIpv6 === nextHop);
    return { ...shared, sourceCheck, peer: peer === undefined ? undefined : peerFacts(report, ovpn, link, peer) };
  } finally {
    ovpn.close();
  }
}

function peerFacts(report: NetworkReport, ovpn: OvpnFamily, { name, index, ovpnMode }: Link, peer: Peer): PeerFacts {
  const owner = report.peers.find((each) =>
    ovpnMode === 'p2p' ? deviceOf(each.name) === name : each.kind !== 'dial-out' && each.peerId === peer.id,
  );
  return { peer, keys: ovpn.getKeys(index, [peer.id]).get(peer.id) ?? [], name: owner?.name };
}

function deviceOf(peerName: string): string {
  const [namespace = '', name = ''] = peerName.split('/');
  return tunnelDeviceName({ kind: 'VpnPeer', namespace, name });
}
