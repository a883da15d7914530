import { isStaticPeer } from '../api/peer-kind.ts';
import { type ObjectRef, refOf } from '../api/types.ts';
import { isIpv6 } from '../kernel/address.ts';
import type { RequestCounters } from '../kernel/netlink/socket.ts';
import type { Peer } from '../kernel/ovpn/codec.ts';
import type { LabelsOf } from '../telemetry/metric-table.ts';
import type { Sample } from '../telemetry/metrics.ts';
import type { AttachmentStore } from './attachment-store.ts';
import type { Ledger } from './ledger.ts';
import type { ManagedNetwork } from './managed-network.ts';
import type { NetworkAgent } from './network-agent.ts';
import type { BookEntry } from './peer-book.ts';
import { podAddressesIn } from './pod-addresses.ts';
import type { NetworkSessions } from './sessions/network-sessions.ts';

/** What of a network on this node metrics are made of. */
export interface MeasuredNetwork extends Pick<
  ManagedNetwork,
  'book' | 'selected' | 'problem' | 'serverNotAfter' | 'crlNotAfter'
> {
  readonly agent: Pick<NetworkAgent, 'desired' | 'observedKeys' | 'ready' | 'refusedPeers'>;
  readonly sessions: Pick<NetworkSessions, 'facts' | 'handshakes' | 'dropped'>;
}

export interface MeasuredNode {
  readonly networks: ReadonlyMap<string, MeasuredNetwork>;
  /** A peer as the kernel had it when it was last looked at. */
  readonly observed: (ref: ObjectRef) => Peer | undefined;
  readonly attachments: Pick<AttachmentStore, 'ofNetwork'>;
  readonly ledger: Pick<Ledger, 'entry'>;
  readonly requests: RequestCounters;
  readonly maxPeerSeries: number;
}

type PeerLabels = LabelsOf<'ovpn_peer_connected'>;

/** What is known of a peer that is, was, or should be connected here. Times in milliseconds since 1970. */
interface MeasuredPeer {
  readonly labels: PeerLabels;
  readonly connected: boolean;
  readonly observed: Peer | undefined;
  readonly since?: number | undefined;
  readonly lastHandshake?: number | undefined;
  readonly keySince?: number | undefined;
  readonly notAfter?: number | undefined;
  readonly crlNotAfter?: number | undefined;
}

/** Says how the node stands, from what is at hand: nothing is asked of the kernel. */
export function sampleNode(sample: Sample, node: MeasuredNode): void {
  const peers: MeasuredPeer[] = [];
  for (const [network, managed] of node.networks) {
    if (!managed.selected) continue;
    const here = sampleNetwork(sample, network, managed, node);
    for (const peer of here) peers.push(peer);
  }
  const limited = peers.length > node.maxPeerSeries;
  sample('ovpn_peer_series_limited', {}, limited ? 1 : 0);
  if (!limited) for (const peer of peers) samplePeer(sample, peer);
  sample('ovpn_netlink_requests_total', { kind: 'read' }, node.requests.reads);
  sample('ovpn_netlink_requests_total', { kind: 'write' }, node.requests.writes);
  for (const [errno, count] of node.requests.refused) sample('ovpn_netlink_errors_total', { errno }, count);
}

/** @returns the peers that are, were or should be connected here */
function sampleNetwork(sample: Sample, network: string, managed: MeasuredNetwork, node: MeasuredNode): MeasuredPeer[] {
  const { agent, book, sessions, problem, serverNotAfter, crlNotAfter } = managed;
  const entries = [...book.entries.values()];
  const peers = entries.flatMap((entry) => measure(network, entry, managed, node) ?? []);
  sample('ovpn_network_ready', { network }, agent.ready && problem === undefined && agent.refusedPeers === 0 ? 1 : 0);
  const configured = entries.filter(({ inForce, session }) => inForce !== undefined || session !== undefined);
  sample('ovpn_network_peers', { network }, configured.length);
  sample('ovpn_network_peers_connected', { network }, peers.filter(({ connected }) => connected).length);
  for (const [name, at] of [
    ['ovpn_network_certificate_expiry_timestamp_seconds', serverNotAfter],
    ['ovpn_network_crl_expiry_timestamp_seconds', crlNotAfter],
  ] as const)
    if (at !== undefined && Number.isFinite(at)) sample(name, { network }, at / 1000);
  sampleAttachments(sample, network, agent.desired?.podBlocks ?? [], node);
  sampleHandshakes(sample, network, sessions);
  return peers;
}

function sampleAttachments(sample: Sample, network: string, blocks: readonly string[], node: MeasuredNode): void {
  const attachments = node.attachments.ofNetwork(network);
  sample('ovpn_network_attachments', { network }, attachments.length);
  const used = attachments.flatMap(({ addresses }) => addresses);
  for (const [family, v6] of [
    ['ipv4', false],
    ['ipv6', true],
  ] as const) {
    const ofFamily = blocks.filter((block) => isIpv6(block) === v6);
    if (ofFamily.length === 0) continue;
    const all = ofFamily.reduce((sum, block) => sum + podAddressesIn(block), 0);
    sample('ovpn_network_pod_addresses', { network, family }, all);
    const taken = used.filter((address) => isIpv6(address) === v6).length;
    sample('ovpn_network_pod_addresses_used', { network, family }, taken);
  }
}

function sampleHandshakes(sample: Sample, network: string, { handshakes, dropped }: MeasuredNetwork['sessions']): void {
  for (const role of ['server', 'client'] as const) {
    const { established, renewed, failures } = handshakes[role];
    let failed = 0;
    for (const [reason, count] of failures) {
      failed += count;
      sample('ovpn_handshake_failures_total', { network, role, reason }, count);
    }
    for (const [result, count] of Object.entries({ established, renewed, failed }))
      sample('ovpn_handshakes_total', { network, role, result }, count);
  }
  for (const [reason, count] of dropped) sample('ovpn_control_packets_dropped_total', { network, reason }, count);
}

function measure(
  network: string,
  entry: BookEntry,
  { agent, sessions }: MeasuredNetwork,
  { observed, ledger }: MeasuredNode,
): MeasuredPeer | undefined {
  const { peer, inForce, session } = entry;
  const ref = refOf(peer);
  const labels = { network, namespace: peer.metadata.namespace, peer: peer.metadata.name };
  const inKernel = observed(ref);
  if (isStaticPeer(peer)) {
    if (inForce === undefined) return undefined;
    const keySince = inForce.key === undefined ? undefined : ledger.entry(inForce.key.keys.fingerprint)?.installedAt;
    const connected = inKernel !== undefined && agent.observedKeys(inForce.id).primary !== undefined;
    return { labels, connected, observed: inKernel, keySince };
  }
  const facts = sessions.facts(ref);
  // One that has never been here is most often at another node.
  if (facts === undefined || facts.state === 'WaitingForClient') return undefined;
  const connected = facts.state === 'Connected';
  return {
    labels,
    connected,
    observed: connected ? inKernel : undefined,
    since: connected ? facts.since : undefined,
    lastHandshake: facts.lastHandshake,
    keySince: connected ? facts.lastHandshake : undefined,
    ...(session?.kind === 'dial-out' ? { notAfter: session.notAfter, crlNotAfter: session.crlNotAfter } : {}),
  };
}

function samplePeer(sample: Sample, peer: MeasuredPeer): void {
  const { labels, connected, observed, since, lastHandshake, keySince, notAfter, crlNotAfter } = peer;
  sample('ovpn_peer_connected', labels, connected ? 1 : 0);
  for (const [name, at] of [
    ['ovpn_peer_session_start_timestamp_seconds', since],
    ['ovpn_peer_last_handshake_timestamp_seconds', lastHandshake],
    ['ovpn_peer_key_timestamp_seconds', keySince],
    ['ovpn_peer_certificate_expiry_timestamp_seconds', notAfter],
    ['ovpn_peer_crl_expiry_timestamp_seconds', crlNotAfter],
  ] as const)
    if (at !== undefined && Number.isFinite(at)) sample(name, labels, at / 1000);
  if (observed === undefined) return;
  for (const layer of ['vpn', 'link'] as const) {
    const { rxBytes, txBytes, rxPackets, txPackets } = observed[layer];
    sample(`ovpn_peer_${layer}_received_bytes_total`, labels, Number(rxBytes));
    sample(`ovpn_peer_${layer}_transmitted_bytes_total`, labels, Number(txBytes));
    sample(`ovpn_peer_${layer}_received_packets_total`, labels, Number(rxPackets));
    sample(`ovpn_peer_${layer}_transmitted_packets_total`, labels, Number(txPackets));
  }
}
