import { Command } from 'commander';
import { stringify } from 'yaml';
import { systemClock } from '../../cluster/clock.ts';
import { canonical } from '../../cluster/json.ts';
import { aligned } from '../table.ts';
import { connect, connectionOptions } from './connection.ts';
import { follow, nameOf } from './follow.ts';
import { outputOption, type OutputFormat, render } from './output.ts';
import { forTerminal } from '../terminal.ts';
import { peerHeader, peerRow, type PeerState, peerState } from './peer-state.ts';
import { list, notFound, type Seen } from './read.ts';
import { allowed, networkNames } from './view.ts';

interface PeersOptions {
  readonly output: OutputFormat;
  readonly watch?: true;
}

/** `kubectl ovpn peers`: who is connected, where and since when. */
export function peersCommand(): Command {
  return new Command('peers')
    .description('List peers: kind, node, addresses, traffic, and why one is not connected.')
    .argument('[network]', 'only those of this VpnNetwork')
    .option('-w, --watch', 'go on, with a line for each change')
    .addOption(outputOption())
    .action(async (network: string | undefined, { output, watch }: PeersOptions, command: Command) => {
      const cluster = await connect(connectionOptions(command));
      const { scope } = cluster;
      const seen = await list(cluster, 'VpnPeer', scope);
      if (network !== undefined) {
        const names = networkNames({ networks: await allowed(list(cluster, 'VpnNetwork')), peers: seen });
        if (!names.includes(network)) throw notFound({ kind: 'VpnNetwork', name: network }, names);
      }
      const statesOf = (all: readonly Seen<'VpnPeer'>[]): PeerState[] =>
        all.map(peerState).filter((peer) => network === undefined || peer.network === network);
      const print = printer(output, scope === undefined, () => systemClock.now());
      const first = statesOf(seen);
      process.stdout.write(watch === true ? print(first) : render({ peers: first }, output, () => print(first)));
      if (first.length === 0 && (output === 'text' || output === 'wide')) {
        const where = scope === undefined ? '' : ` in namespace ${scope}; -A looks at all`;
        process.stderr.write(`there is no VpnPeer${network === undefined ? '' : ` of network ${network}`}${where}\n`);
      }
      if (watch !== true) return;
      const changes = changesSince(first);
      await follow(
        cluster,
        'VpnPeer',
        scope,
        (present, gone) => process.stdout.write(print(changes(statesOf(present), gone))),
        {
          signal: new AbortController().signal,
          troubled: (message) => process.stderr.write(`kubectl ovpn: ${forTerminal(message)}\n`),
        },
      );
    });
}

/**
 * Says of what is reported which of it is news. What is gone comes with the state `Deleted`.
 *
 * @param first what was shown already
 */
export function changesSince(
  first: readonly PeerState[],
): (present: readonly PeerState[], gone: readonly string[]) => PeerState[] {
  const keyOf = ({ namespace, name }: PeerState): string => nameOf({ kind: 'VpnPeer', namespace, name });
  const shown = new Map(first.map((peer) => [keyOf(peer), peer]));
  return (present, gone) => {
    const left = gone.flatMap((key) => shown.get(key) ?? []).map((peer) => ({ ...peer, state: 'Deleted' }));
    for (const key of gone) shown.delete(key);
    const news = present.filter((peer) => canonical(shown.get(keyOf(peer))) !== canonical(peer));
    for (const peer of news) shown.set(keyOf(peer), peer);
    return [...left, ...news];
  };
}

/** Makes text of peers; of a table that goes on, the columns stay where they were as long as there is room. */
export function printer(
  output: OutputFormat,
  namespaced: boolean,
  now: () => number,
): (peers: readonly PeerState[]) => string {
  if (output === 'json') return (peers) => peers.map((peer) => `${JSON.stringify(peer, undefined, 2)}\n`).join('');
  if (output === 'yaml') return (peers) => peers.map((peer) => `---\n${stringify(peer)}`).join('');
  const wide = output === 'wide';
  const widths: number[] = [];
  let header = [peerHeader(namespaced, wide)];
  return (peers) => {
    if (peers.length === 0) return '';
    const rows = [...header, ...peers.map((peer) => peerRow(peer, namespaced, wide, now()))];
    header = [];
    return forTerminal(`${aligned(rows, widths).join('\n')}\n`);
  };
}
