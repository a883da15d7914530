/**
 * Every metric of the agent and the controller: the one place that says what there is. docs/reference/metrics.md
 * is generated from it.
 *
 * Names follow https://prometheus.io/docs/practices/naming: base units, `_total` for what only grows. Label values come
 * from bounded sets, or are names of objects whose number is bounded by an option or by the owner of the cluster.
 */
export interface MetricSpec {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  /** The programs that have it. */
  readonly of: readonly MetricProgram[];
  /**
   * `scrape` is read from state that is there when somebody asks, and says nothing of what is gone; `event` is counted
   * when something happens.
   */
  readonly at: 'scrape' | 'event';
}

export type MetricProgram = 'agent' | 'controller';

const both = ['agent', 'controller'] as const;
const agent = ['agent'] as const;
const controller = ['controller'] as const;
const peer = ['network', 'namespace', 'peer'] as const;

export const metricTable = {
  ovpn_build_info: {
    ...{ type: 'gauge', labels: ['version'], of: both, at: 'scrape' },
    help: 'Always 1; the version of the program.',
  },

  ovpn_network_ready: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: '1 when the network stands on this node and its last round failed in nothing, else 0.',
  },
  ovpn_network_peers: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: 'Peers that may be connected on this node.',
  },
  ovpn_network_peers_connected: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: 'Peers that are connected on this node.',
  },
  ovpn_network_attachments: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: 'Interfaces of pods of this node in the network.',
  },
  ovpn_network_pod_addresses: {
    ...{ type: 'gauge', labels: ['network', 'family'], of: agent, at: 'scrape' },
    help: "Pod addresses in this node's blocks.",
  },
  ovpn_network_pod_addresses_used: {
    ...{ type: 'gauge', labels: ['network', 'family'], of: agent, at: 'scrape' },
    help: 'Pod addresses that pods of this node have.',
  },
  ovpn_network_certificate_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: "When the certificate expires that this node's server shows to clients.",
  },
  ovpn_network_crl_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: ['network'], of: agent, at: 'scrape' },
    help: 'When the CRL expires by which this node judges clients, and with that refuses all; of several the first.',
  },

  ovpn_peer_connected: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: '1 while the peer is connected (static: has a key in the kernel), 0 when it was or should be.',
  },
  ovpn_peer_session_start_timestamp_seconds: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: 'When the present session of the peer came up.',
  },
  ovpn_peer_last_handshake_timestamp_seconds: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: 'When keys were last agreed on with the peer.',
  },
  ovpn_peer_key_timestamp_seconds: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: 'Since when the present data key is in use; for a static peer when it was installed.',
  },
  ovpn_peer_certificate_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: 'When the certificate expires that we show to a dialled server.',
  },
  ovpn_peer_crl_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: peer, of: agent, at: 'scrape' },
    help: 'When the CRL expires by which we judge a dialled server, and with that refuse it; of several the first.',
  },
  ovpn_peer_vpn_received_bytes_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Bytes inside the tunnel from the peer, as the kernel last reported them.',
  },
  ovpn_peer_vpn_transmitted_bytes_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Bytes inside the tunnel to the peer, as the kernel last reported them.',
  },
  ovpn_peer_vpn_received_packets_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Packets inside the tunnel from the peer, as the kernel last reported them.',
  },
  ovpn_peer_vpn_transmitted_packets_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Packets inside the tunnel to the peer, as the kernel last reported them.',
  },
  ovpn_peer_link_received_bytes_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Encrypted bytes from the peer, as the kernel last reported them.',
  },
  ovpn_peer_link_transmitted_bytes_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Encrypted bytes to the peer, as the kernel last reported them.',
  },
  ovpn_peer_link_received_packets_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Encrypted packets from the peer, as the kernel last reported them.',
  },
  ovpn_peer_link_transmitted_packets_total: {
    ...{ type: 'counter', labels: peer, of: agent, at: 'scrape' },
    help: 'Encrypted packets to the peer, as the kernel last reported them.',
  },
  ovpn_peer_series_limited: {
    ...{ type: 'gauge', labels: [], of: agent, at: 'scrape' },
    help: '1 when this node has more peers than --metrics-peers, and so no series of single peers.',
  },

  ovpn_handshakes_total: {
    ...{ type: 'counter', labels: ['network', 'role', 'result'], of: agent, at: 'scrape' },
    help: 'Handshakes that began a session (established), renewed its keys (renewed), or came to nothing (failed).',
  },
  ovpn_handshake_failures_total: {
    ...{ type: 'counter', labels: ['network', 'role', 'reason'], of: agent, at: 'scrape' },
    help: 'Handshakes that came to nothing, by the reason.',
  },
  ovpn_control_packets_dropped_total: {
    ...{ type: 'counter', labels: ['network', 'reason'], of: agent, at: 'scrape' },
    help: "Packets of the control channel that this node's server passed over.",
  },

  ovpn_placement_takeovers_total: {
    ...{ type: 'counter', labels: ['reason'], of: agent, at: 'event' },
    help: 'Placed peers that this node took: Placed (nobody had it), NodeLost (its node did not renew its lease), NodeReleased (its node gave it up).',
  },
  ovpn_node_lease_renewals_total: {
    ...{ type: 'counter', labels: ['result'], of: agent, at: 'event' },
    help: "Renewals of this node's lease, which it needs while it holds placed peers: renewed, failed.",
  },

  ovpn_reconcile_rounds_total: {
    ...{ type: 'counter', labels: ['network', 'result'], of: agent, at: 'event' },
    help: 'Rounds that compared a network with the kernel: done, refused (for some peers), failed.',
  },
  ovpn_reconcile_duration_seconds: {
    ...{ type: 'histogram', labels: ['scope'], of: agent, at: 'event' },
    help: 'How long such a round took, for a whole network or for some of its peers.',
  },
  ovpn_attach_requests_total: {
    ...{ type: 'counter', labels: ['verb', 'result'], of: agent, at: 'event' },
    help: 'Requests on the socket of the CNI plugin: ok, or the code of the error.',
  },
  ovpn_attach_duration_seconds: {
    ...{ type: 'histogram', labels: ['verb'], of: agent, at: 'event' },
    help: 'How long such a request took.',
  },

  ovpn_kernel_notifications_total: {
    ...{ type: 'counter', labels: ['type'], of: agent, at: 'event' },
    help: 'Notifications of the ovpn driver.',
  },
  ovpn_netlink_overruns_total: {
    ...{ type: 'counter', labels: [], of: agent, at: 'event' },
    help: 'Times that notifications were lost and everything was read again.',
  },
  ovpn_netlink_requests_total: {
    ...{ type: 'counter', labels: ['kind'], of: agent, at: 'scrape' },
    help: 'Netlink requests about networks. On a settled node write stands still.',
  },
  ovpn_netlink_errors_total: {
    ...{ type: 'counter', labels: ['errno'], of: agent, at: 'scrape' },
    help: 'Netlink requests about networks that the kernel refused. ENOENT and ESRCH: what was to go is gone.',
  },

  ovpn_status_writes_total: {
    ...{ type: 'counter', labels: ['result'], of: agent, at: 'event' },
    help: 'Statuses handed to the API server or written to files: written, gone, refused, failed.',
  },
  ovpn_watch_restarts_total: {
    ...{ type: 'counter', labels: ['path'], of: both, at: 'scrape' },
    help: 'Times that a watch of the API server broke and was taken up again.',
  },
  ovpn_watch_events_total: {
    ...{ type: 'counter', labels: ['path'], of: both, at: 'scrape' },
    help: 'Events that the API server sent over a watch: what changed of the objects that this process follows.',
  },
  ovpn_watch_bytes_total: {
    ...{ type: 'counter', labels: ['path'], of: both, at: 'scrape' },
    help: 'Bytes of these events.',
  },
  ovpn_watch_activity_timestamp_seconds: {
    ...{ type: 'gauge', labels: ['path'], of: both, at: 'scrape' },
    help: 'When a watch of the API server last brought anything; an API server sends something every minute.',
  },

  ovpn_controller_leader: {
    ...{ type: 'gauge', labels: [], of: controller, at: 'scrape' },
    help: '1 in the replica that works, 0 in those that stand by.',
  },
  ovpn_controller_reconciles_total: {
    ...{ type: 'counter', labels: ['reconciler', 'result'], of: controller, at: 'event' },
    help: 'Objects that a part of the controller looked at: done, conflict (an object changed meanwhile), failed.',
  },
  ovpn_controller_reconcile_duration_seconds: {
    ...{ type: 'histogram', labels: ['reconciler'], of: controller, at: 'event' },
    help: 'How long that took.',
  },
  ovpn_certificate_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: ['kind', 'namespace', 'name'], of: controller, at: 'scrape' },
    help: 'When the first certificate expires that a VpnNetwork or a VpnKey tls has; of the 1,000 that end first.',
  },
  ovpn_crl_expiry_timestamp_seconds: {
    ...{ type: 'gauge', labels: ['kind', 'namespace', 'name'], of: controller, at: 'scrape' },
    help: 'When the first CRL expires that a VpnNetwork or a VpnKey tls has; of the 1,000 that end first.',
  },
} as const satisfies Readonly<Record<`ovpn_${string}`, MetricSpec>>;

export type MetricName = keyof typeof metricTable;

type Where<Match> = {
  [Name in MetricName]: (typeof metricTable)[Name] extends Match ? Name : never;
}[MetricName];

/** What is counted when it happens. */
export type CountedName = Where<{ readonly type: 'counter'; readonly at: 'event' }>;
export type ObservedName = Where<{ readonly type: 'histogram' }>;
/** What is read at a scrape. */
export type SampledName = Where<{ readonly at: 'scrape' }>;

/** A value for each label of a metric. */
export type LabelsOf<Name extends MetricName> = Readonly<Record<(typeof metricTable)[Name]['labels'][number], string>>;
