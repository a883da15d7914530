import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import { type ObjectRef, type VpnPeer } from '../api/types.ts';
import { peerManifest } from '../cluster/testing/objects.ts';
import { OvpnError } from '../errors.ts';
import { requestCounters } from '../kernel/netlink/socket.ts';
import type { Peer } from '../kernel/ovpn/codec.ts';
import { seriesOf, testMetrics } from '../telemetry/metrics.fixture.ts';
import { type MeasuredNetwork, type MeasuredNode, sampleNode } from './agent-metrics.ts';
import { measured } from './attach-metrics.ts';
import { protocolVersion } from './attach-protocol.ts';
import type { BookEntry } from './peer-book.ts';
import { readinessOf } from './readiness.ts';
import { HandshakeCounts } from './sessions/handshake-counts.ts';
import { idleFacts, type TunnelFacts } from './sessions/tunnel-facts.ts';

const dialIn = (name: string): VpnPeer => {
  const spec = { endpoint: undefined, static: undefined, keyRef: undefined, identity: { commonName: name } };
  const parsed = parseResource(JSON.parse(JSON.stringify(peerManifest(name, spec))), 'test');
  if (!parsed.ok || parsed.resource.kind !== 'VpnPeer') throw new Error(JSON.stringify(parsed));
  return parsed.resource;
};

const traffic = (n: bigint) => ({ rxBytes: n, txBytes: n + 1n, rxPackets: n + 2n, txPackets: n + 3n });
const inKernel = { id: 8388608, vpn: traffic(100n), link: traffic(200n) } as Peer;

const connected: TunnelFacts = {
  ...idleFacts('WaitingForClient', 0, ''),
  state: 'Connected',
  since: 5_000,
  lastHandshake: 7_000,
};

/** A network with these clients: what is known of the tunnel of each. */
function nodeWith(tunnels: Readonly<Record<string, TunnelFacts>>, change: Partial<MeasuredNode> = {}): MeasuredNode {
  const peers = Object.keys(tunnels).map(dialIn);
  const entries = peers.map(
    (peer) => ({ peer, session: { kind: 'dial-in' }, inForce: undefined }) as unknown as BookEntry,
  );
  const client = new HandshakeCounts();
  client.established = 2;
  client.fail('refused');
  const network = {
    book: { entries: new Map(entries.map((entry) => [entry.peer.metadata.name, entry])) },
    selected: true,
    problem: undefined,
    serverNotAfter: 9_000,
    crlNotAfter: 8_000,
    agent: {
      desired: { podBlocks: ['10.81.0.0/29', 'fd81::/125'] },
      observedKeys: () => ({ primary: undefined, secondary: undefined }),
      ...{ ready: true, refusedPeers: 0 },
    },
    sessions: {
      facts: (ref: ObjectRef) => tunnels[ref.name],
      handshakes: { server: new HandshakeCounts(), client },
      dropped: new Map([['replay', 3]]),
    },
  } as unknown as MeasuredNetwork;
  const requests = requestCounters();
  requests.writes = 4;
  requests.refused.set('EBUSY', 1);
  return {
    networks: new Map([['corp', network]]),
    observed: (ref) => (tunnels[ref.name]?.state === 'Connected' ? inKernel : undefined),
    attachments: { ofNetwork: () => [{ addresses: ['10.81.0.2', 'fd81::2'] }] as never },
    ledger: { entry: () => undefined },
    requests,
    maxPeerSeries: 10,
    ...change,
  };
}

async function scrape(node: MeasuredNode): Promise<ReadonlyMap<string, number>> {
  const metrics = testMetrics('agent');
  metrics.onScrape((sample) => sampleNode(sample, node));
  return seriesOf(await metrics.text());
}

const alice = '{network="corp",namespace="team-a",peer="alice"}';

describe('the metrics of a node', () => {
  test('have what the kernel counts of a peer, and its times', async () => {
    const series = await scrape(nodeWith({ alice: connected }));
    expect(series.get(`ovpn_peer_connected${alice}`)).toBe(1);
    expect(series.get(`ovpn_peer_session_start_timestamp_seconds${alice}`)).toBe(5);
    expect(series.get(`ovpn_peer_last_handshake_timestamp_seconds${alice}`)).toBe(7);
    expect(series.get(`ovpn_peer_key_timestamp_seconds${alice}`)).toBe(7);
    expect(series.get(`ovpn_peer_vpn_received_bytes_total${alice}`)).toBe(100);
    expect(series.get(`ovpn_peer_vpn_transmitted_bytes_total${alice}`)).toBe(101);
    expect(series.get(`ovpn_peer_link_received_packets_total${alice}`)).toBe(202);
    expect(series.get(`ovpn_peer_link_transmitted_packets_total${alice}`)).toBe(203);
  });

  test('name a peer that left, and none that has never been here', async () => {
    const left: TunnelFacts = { ...idleFacts('Disconnected', 0, ''), lastHandshake: 3_000 };
    const waits = idleFacts('WaitingForClient', 0, '');
    const series = await scrape(nodeWith({ alice: left, bob: waits }));
    expect(series.get(`ovpn_peer_connected${alice}`)).toBe(0);
    expect(series.get(`ovpn_peer_last_handshake_timestamp_seconds${alice}`)).toBe(3);
    expect(series.has(`ovpn_peer_session_start_timestamp_seconds${alice}`)).toBe(false);
    expect([...series.keys()].filter((name) => name.includes('bob'))).toEqual([]);
    expect(series.get('ovpn_network_peers{network="corp"}')).toBe(2);
    expect(series.get('ovpn_network_peers_connected{network="corp"}')).toBe(0);
  });

  test('above the limit name no peer and say so', async () => {
    const series = await scrape(nodeWith({ alice: connected, bob: connected }, { maxPeerSeries: 1 }));
    expect([...series.keys()].filter((name) => name.includes('peer='))).toEqual([]);
    expect(series.get('ovpn_peer_series_limited')).toBe(1);
    expect(series.get('ovpn_network_peers_connected{network="corp"}')).toBe(2);
    expect((await scrape(nodeWith({ alice: connected }, { maxPeerSeries: 1 }))).get('ovpn_peer_series_limited')).toBe(
      0,
    );
  });

  test('say of a dialled server when our certificate and the CRL for its own expire', async () => {
    const node = nodeWith({ alice: connected });
    const entry = node.networks.get('corp')!.book.entries.get('alice');
    Object.assign(entry!, { session: { kind: 'dial-out', notAfter: 11_000, crlNotAfter: 10_000 } });
    const series = await scrape(node);
    expect(series.get(`ovpn_peer_certificate_expiry_timestamp_seconds${alice}`)).toBe(11);
    expect(series.get(`ovpn_peer_crl_expiry_timestamp_seconds${alice}`)).toBe(10);
  });

  test('have the figures of the network', async () => {
    const series = await scrape(nodeWith({ alice: connected }));
    expect(
      Object.fromEntries([...series].filter(([name]) => !name.includes('peer="') && !name.includes('role="server"'))),
    ).toEqual({
      'ovpn_build_info{version="0.0.0"}': 1,
      'ovpn_network_ready{network="corp"}': 1,
      'ovpn_network_peers{network="corp"}': 1,
      'ovpn_network_peers_connected{network="corp"}': 1,
      'ovpn_network_attachments{network="corp"}': 1,
      // Without network, gateway and broadcast address; the IPv6 block also keeps its first address.
      'ovpn_network_pod_addresses{network="corp",family="ipv4"}': 5,
      'ovpn_network_pod_addresses{network="corp",family="ipv6"}': 6,
      'ovpn_network_pod_addresses_used{network="corp",family="ipv4"}': 1,
      'ovpn_network_pod_addresses_used{network="corp",family="ipv6"}': 1,
      'ovpn_network_certificate_expiry_timestamp_seconds{network="corp"}': 9,
      'ovpn_network_crl_expiry_timestamp_seconds{network="corp"}': 8,
      ovpn_peer_series_limited: 0,
      'ovpn_handshakes_total{network="corp",role="client",result="established"}': 2,
      'ovpn_handshakes_total{network="corp",role="client",result="renewed"}': 0,
      'ovpn_handshakes_total{network="corp",role="client",result="failed"}': 1,
      'ovpn_handshake_failures_total{network="corp",role="client",reason="refused"}': 1,
      'ovpn_control_packets_dropped_total{network="corp",reason="replay"}': 3,
      'ovpn_netlink_requests_total{kind="read"}': 0,
      'ovpn_netlink_requests_total{kind="write"}': 4,
      'ovpn_netlink_errors_total{errno="EBUSY"}': 1,
      ovpn_netlink_overruns_total: 0,
    });
  });
});

test('requests of the CNI plugin are counted by verb and code, and timed', async () => {
  const metrics = testMetrics('agent');
  const answers = [
    () => 1,
    () => {
      throw new OvpnError('PoolExhausted', 'full');
    },
    () => {
      throw new Error('defect');
    },
  ];
  const handle = measured(metrics, () => Promise.resolve().then(answers.shift()));
  await expect(handle({ op: 'report', version: protocolVersion })).resolves.toBe(1);
  await expect(handle({ op: 'report', version: protocolVersion })).rejects.toThrow('full');
  await expect(handle({ op: 'report', version: protocolVersion })).rejects.toThrow('defect');
  const series = seriesOf(await metrics.text());
  for (const result of ['ok', 'OVPN505', 'OVPN406'])
    expect(series.get(`ovpn_attach_requests_total{verb="report",result="${result}"}`)).toBe(1);
  expect(series.get('ovpn_attach_duration_seconds_count{verb="report"}')).toBe(3);
});

describe('the agent is ready', () => {
  const facts = (...names: ('KernelWithoutOvpn' | 'SecretMissing' | 'KernelRefused')[]) => ({
    started: true,
    defects: new Set<string>(),
    networks: new Map(names.map((name, i) => [`n${i}`, { problem: new OvpnError(name, 'words') }])),
  });

  test('once it has read all resources', () => {
    expect(readinessOf({ ...facts(), started: false })).toEqual({
      ok: false,
      message: 'the resources have not been read yet',
    });
    expect(readinessOf(facts())).toEqual({ ok: true, message: '' });
  });

  test('also when what it was told cannot be done', () => {
    expect(readinessOf(facts('SecretMissing', 'KernelRefused')).ok).toBe(true);
  });

  test('but not when it is to blame itself', () => {
    expect(readinessOf(facts('SecretMissing', 'KernelWithoutOvpn'))).toMatchObject({
      ok: false,
      message: expect.stringContaining('OVPN301'),
    });
    expect(readinessOf({ ...facts(), defects: new Set(['corp']) })).toMatchObject({
      ok: false,
      message: expect.stringContaining('VpnNetwork corp'),
    });
  });
});
