import { Command } from 'commander';
import { findCondition } from '../../api/conditions.ts';
import { formatRef, type ObjectRef, type VpnNetwork, type VpnPeer } from '../../api/types.ts';
import { systemClock } from '../../cluster/clock.ts';
import { table } from '../table.ts';
import { age } from '../units.ts';
import { connect, connectionOptions } from './connection.ts';
import { type Finding, keyFindings, networkFindings, peerFindings } from './health.ts';
import { outputOption, type OutputFormat, render } from './output.ts';
import type { Seen } from './read.ts';
import { isUp, look, networkNames, ofNetwork, type View } from './view.ts';

/** `kubectl ovpn status`: the networks, and what of them, their peers and keys is not well. */
export function statusCommand(): Command {
  return new Command('status')
    .description('Show networks, nodes and peers, and what is not well. Exits with 1 if something is not.')
    .argument('[network]', 'only this VpnNetwork, with its nodes')
    .addOption(outputOption())
    .action(async (network: string | undefined, { output }: { readonly output: OutputFormat }, command: Command) => {
      const options = connectionOptions(command);
      const view = await look(await connect(options), options.allNamespaces === true);
      const report = statusOf(network === undefined ? view : ofNetwork(view, network));
      const text = (wide: boolean): string => statusText(report, systemClock.now(), wide, network !== undefined);
      process.stdout.write(render(report, output, text));
      if (output === 'json' || output === 'yaml') for (const note of report.notes) process.stderr.write(`${note}\n`);
      process.exitCode = report.findings.length === 0 ? 0 : 1;
    });
}

/** One network as a whole. */
export interface NetworkState {
  readonly name: string;
  /** Undefined where VpnNetworks may not be read. */
  readonly nodesReady?: number;
  readonly nodesWanted?: number;
  readonly peersConnected: number;
  readonly peers: number;
  /** `Ready`, or the reason why it is not. */
  readonly state: string;
  readonly numbers?: { readonly used: number; readonly total: number };
  readonly podBlocks?: { readonly used: number; readonly total: number };
  readonly createdAt?: string;
  readonly nodes: readonly NodeState[];
}

/** One network on one node. */
export interface NodeState {
  readonly name: string;
  readonly ready: boolean;
  readonly device?: string;
  readonly mtu?: number;
  readonly addresses: readonly string[];
  readonly podBlocks: readonly string[];
  readonly peers: number;
  readonly attachments: number;
  readonly mesh?: { readonly neighbours: number; readonly connected: number };
}

export interface StatusReport {
  readonly networks: readonly NetworkState[];
  readonly findings: readonly Finding[];
  /** What is left out for lack of a right. */
  readonly notes: readonly string[];
}

/** What is said of a view. Pure. */
export function statusOf(view: View): StatusReport {
  const peersOf = Map.groupBy(
    view.peers.flatMap(({ resource }) => resource ?? []),
    ({ spec }) => spec.networkRef.name,
  );
  const networks = new Map((view.networks ?? []).map((seen) => [seen.ref.name, seen]));
  return {
    networks: networkNames(view).map((name) => networkState(name, networks.get(name), peersOf.get(name) ?? [], view)),
    findings: [
      ...found(view.networks ?? [], networkFindings),
      ...found(view.keys, keyFindings),
      ...found(view.peers, peerFindings),
    ],
    notes: view.notes,
  };
}

function found<T>(
  all: readonly { readonly ref: ObjectRef; readonly resource?: T; readonly problem?: string }[],
  findings: (one: T) => Finding[],
): Finding[] {
  return all.flatMap(({ ref, resource, problem }) => {
    if (resource !== undefined) return findings(resource);
    const message = `is not understood: ${problem ?? 'of another form'}`;
    const remedy = 'use the kubectl-ovpn of the version that the cluster has';
    return [{ object: ref, reason: 'NotUnderstood', message, remedy }];
  });
}

function networkState(
  name: string,
  seen: Seen<'VpnNetwork'> | undefined,
  peers: readonly VpnPeer[],
  { whole, networks }: View,
): NetworkState {
  const network = seen?.resource;
  const { status } = network ?? {};
  // Whoever sees all peers need not wait for the controller to count them.
  const isCounted = whole || status?.peers === undefined || status.peersConnected === undefined;
  return {
    name,
    ...(status?.nodesWanted === undefined ? {} : { nodesWanted: status.nodesWanted }),
    ...(status?.nodesReady === undefined ? {} : { nodesReady: status.nodesReady }),
    peers: isCounted ? peers.length : (status.peers ?? 0),
    peersConnected: isCounted ? peers.filter(isUp).length : (status.peersConnected ?? 0),
    state: networks === undefined ? '?' : stateOf(network),
    ...(status?.pools?.numbers === undefined ? {} : { numbers: status.pools.numbers }),
    ...(status?.pools?.podBlocks === undefined ? {} : { podBlocks: status.pools.podBlocks }),
    ...(network?.metadata.creationTimestamp === undefined ? {} : { createdAt: network.metadata.creationTimestamp }),
    nodes: (status?.nodes ?? [])
      .map(({ name: node, ready, device, mtu, addresses, podBlocks, peers: own, attachments, mesh }) => ({
        ...{ name: node, ready, addresses: addresses ?? [], podBlocks: podBlocks ?? [], peers: own, attachments },
        ...(device === undefined ? {} : { device }),
        ...(mtu === undefined ? {} : { mtu }),
        ...(mesh === undefined ? {} : { mesh }),
      }))
      .sort((one, other) => (one.name < other.name ? -1 : 1)),
  };
}

function stateOf(network: VpnNetwork | undefined): string {
  if (network === undefined) return 'NotUnderstood';
  const ready = findCondition(network.status?.conditions, 'Ready');
  return ready === undefined ? 'Pending' : ready.status === 'True' ? 'Ready' : ready.reason;
}

/**
 * The report for people.
 *
 * @param now milliseconds since 1970
 * @param nodes whether the nodes are shown, too
 */
export function statusText(
  { networks, findings, notes }: StatusReport,
  now: number,
  wide: boolean,
  nodes: boolean,
): string {
  const lines = networks.length === 0 ? ['There is no VpnNetwork.'] : table(networkRows(networks, now, wide));
  if (nodes || wide) {
    for (const network of networks) {
      if (network.nodes.length > 0) lines.push('', ...table(nodeRows(network, wide)));
    }
  }
  for (const note of notes) lines.push('', note);
  if (findings.length === 0) return `${lines.join('\n')}\n`;
  lines.push('', `Not well (${findings.length}):`);
  for (const finding of findings) lines.push('', ...findingLines(finding, now));
  return `${lines.join('\n')}\n`;
}

function networkRows(networks: readonly NetworkState[], now: number, wide: boolean): string[][] {
  const header = ['NETWORK', 'NODES', 'PEERS', 'STATE'];
  const rows = networks.map(({ name, nodesReady, nodesWanted, peersConnected, peers, state, ...more }) => [
    ...[name, `${nodesReady ?? '?'}/${nodesWanted ?? '?'}`, `${peersConnected}/${peers}`, state],
    ...(wide ? [use(more.numbers), use(more.podBlocks), since(more.createdAt, now)] : []),
  ]);
  return [wide ? [...header, 'NUMBERS', 'POD BLOCKS', 'AGE'] : header, ...rows];
}

function nodeRows({ nodes }: NetworkState, wide: boolean): string[][] {
  const hasMesh = nodes.some(({ mesh }) => mesh !== undefined);
  const header = ['NODE', 'READY', 'PEERS', 'PODS', ...(hasMesh ? ['MESH'] : []), 'ADDRESSES'];
  const rows = nodes.map(({ name, ready, peers, attachments, mesh, addresses, podBlocks, device, mtu }) => [
    ...[name, ready ? 'True' : 'False', String(peers), String(attachments)],
    ...(hasMesh ? [mesh === undefined ? '-' : `${mesh.connected}/${mesh.neighbours}`] : []),
    addresses.join(',') || '-',
    ...(wide ? [podBlocks.join(',') || '-', device ?? '-', String(mtu ?? '-')] : []),
  ]);
  return [wide ? [...header, 'POD BLOCKS', 'DEVICE', 'MTU'] : header, ...rows];
}

function findingLines(
  { object, node, condition, reason, message, remedy, since: from, stale }: Finding,
  now: number,
): string[] {
  const where = node === undefined ? formatRef(object) : `${formatRef(object)} on node ${node}`;
  const said = condition === undefined || reason === 'Stale' ? reason : `${condition}: ${reason}`;
  const old = stale === true && reason !== 'Stale' ? '; stale: said of an older generation' : '';
  const long = from === undefined || reason === 'Stale' ? '' : ` (for ${since(from, now)}${old})`;
  return [`${where}: ${said}${long}`, `  ${message.replaceAll('\n', '\n  ')}`, `  to mend it: ${remedy}`];
}

const since = (time: string | undefined, now: number): string =>
  time === undefined ? '-' : age(now - Date.parse(time));
const use = (pool: { readonly used: number; readonly total: number } | undefined): string =>
  pool === undefined ? '-' : `${pool.used}/${pool.total}`;
