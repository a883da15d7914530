import { Command, Option } from 'commander';
import { stringify } from 'yaml';
import { defaultAgentSocket } from '../agent/attach-protocol.ts';
import type { NetworkReport, NodeReport, PeerReport } from '../agent/report.ts';
import { callReport } from './agent-call.ts';
import { table } from './table.ts';
import { forTerminal } from './terminal.ts';
import { bytes } from './units.ts';

interface StatusOptions {
  readonly socket: string;
  readonly output: 'text' | 'wide' | 'json' | 'yaml';
}

/** `ovpn-agent status`: what the kernel of this node holds. */
export function statusCommand(): Command {
  return new Command('status')
    .description("Show this node's networks, peers and attached pods as the kernel has them.")
    .option('--socket <path>', "the agent's socket", defaultAgentSocket)
    .addOption(
      new Option('-o, --output <format>', 'how to print').choices(['text', 'wide', 'json', 'yaml']).default('text'),
    )
    .action(async ({ socket, output }: StatusOptions) => {
      // The agent of this node is the same version as this program, or refuses by its protocol number.
      const report = (await callReport(socket)) as NodeReport;
      process.stdout.write(render(report, output));
    });
}

function render(report: NodeReport, output: StatusOptions['output']): string {
  if (output === 'json') return `${JSON.stringify(report, undefined, 2)}\n`;
  if (output === 'yaml') return stringify(report);
  return forTerminal(statusText(report, output === 'wide'));
}

/** The report for people: short and aligned. */
export function statusText(report: NodeReport, wide: boolean): string {
  const lines: string[] = [];
  for (const network of report.networks) lines.push(...networkLines(network, wide), '');
  if (report.networks.length === 0) lines.push(`no VpnNetwork on node ${report.node}`, '');
  for (const { origin, object, errors } of report.rejections) {
    for (const error of errors)
      lines.push(`rejected: ${origin}${object === undefined ? '' : ` (${object})`}: ${error}`);
  }
  if (report.lease !== undefined) lines.push(leaseLine(report.lease));
  if (!report.sourcesComplete) lines.push('nothing is removed until all resources can be read');
  return `${lines.join('\n').trimEnd()}\n`;
}

function leaseLine({ renewedAgoMs, held, peers }: NonNullable<NodeReport['lease']>): string {
  const renewed = renewedAgoMs === undefined ? 'not renewed yet' : `renewed ${(renewedAgoMs / 1000).toFixed(1)} s ago`;
  const lost = held ? '' : '; another node may take over';
  return `lease of this node: ${renewed}, for ${peers} placed ${peers === 1 ? 'peer' : 'peers'}${lost}`;
}

function networkLines(network: NetworkReport, wide: boolean): string[] {
  const { name, namespace, device, mtu, addresses, listeners, problem, peers, attachments } = network;
  const lines = [
    [
      `network ${name}: ${device ?? 'no device'} in namespace ${namespace}`,
      ...addresses,
      `MTU ${mtu ?? '-'}`,
      ...(listeners.length === 0 ? [] : [`listening on ${listeners.join(', ')}`]),
    ].join(', '),
  ];
  if (problem !== undefined) lines.push(`  not ready: ${problem}`);
  const header = ['PEER', 'ID', 'VPN ADDRESS', 'ENDPOINT', 'KEYS', 'RX', 'TX', 'STATE'];
  if (wide) header.push('KIND', 'NODE', 'CIPHER', 'ROUTES');
  lines.push(...table([header, ...peers.map((peer) => peerRow(peer, wide))]).map((line) => `  ${line}`));
  for (const peer of peers) if (peer.ready !== 'True') lines.push(`  ${peer.name}: ${peer.message}`);
  const nodes = network.neighbours.map(({ node, peerId, podBlocks, endpoint, connected }) => [
    node,
    String(peerId ?? '-'),
    podBlocks.join(', ') || '-',
    endpoint ?? '-',
    connected ? 'Connected' : 'Disconnected',
  ]);
  if (nodes.length > 0)
    lines.push(...table([['NODE', 'ID', 'PODS', 'ENDPOINT', 'STATE'], ...nodes]).map((line) => `  ${line}`));
  for (const { node, connected, message } of network.neighbours) if (!connected) lines.push(`  ${node}: ${message}`);
  const pods = attachments.map(({ pod, containerId, ifname, addresses: own }) => [
    pod ?? containerId.slice(0, 12),
    ifname,
    own.join(', '),
  ]);
  if (pods.length > 0) lines.push(...table([['POD', 'INTERFACE', 'ADDRESS'], ...pods]).map((line) => `  ${line}`));
  return lines;
}

function peerRow(peer: PeerReport, wide: boolean): string[] {
  const row = [
    peer.name,
    String(peer.peerId ?? '-'),
    peer.addresses.join(', ') || '-',
    peer.endpoint ?? '-',
    keysText(peer),
    `${peer.rxPackets} pkt ${bytes(peer.rxBytes)}`,
    `${peer.txPackets} pkt ${bytes(peer.txBytes)}`,
    stateText(peer),
  ];
  return wide ? [...row, peer.kind, peer.holder ?? '-', peer.cipher ?? '-', peer.routes.join(', ') || '-'] : row;
}

/** `Ready`, for a tunnel `Connected`; else what it is instead. */
function stateText({ kind, ready, reason }: PeerReport): string {
  if (ready !== 'True') return reason;
  return kind === 'static' ? 'Ready' : 'Connected';
}

/** `1` while one key is installed, `1+2` while 2 is waiting or retiring in the secondary slot. */
function keysText({ keys: { primary, secondary } }: PeerReport): string {
  if (primary === undefined && secondary === undefined) return '-';
  return `${primary ?? '-'}${secondary === undefined ? '' : `+${secondary}`}`;
}
