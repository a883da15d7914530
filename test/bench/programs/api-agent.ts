import { hostnameLabel } from '../../../operator/src/api/placement.ts';
import { PeerBook } from '../../../operator/src/agent/peer-book.ts';
import { idleFacts } from '../../../operator/src/agent/sessions/tunnel-facts.ts';
import { networkStatus, peerStatus } from '../../../operator/src/agent/status.ts';
import { formatRef, type ObjectRef, type VpnPeer } from '../../../operator/src/api/types.ts';
import { ApiSource } from '../../../operator/src/cluster/api-source.ts';
import { loadKubeAccess } from '../../../operator/src/cluster/kube-access.ts';
import { createLog } from '../../../operator/src/telemetry/log.ts';

/**
 * The agent without a kernel, for machines without the driver: its source, its plans and its statuses of peers that
 * dial in, as NodeAgent puts them together. Tells its parent how many peers are planned.
 */
const [node = '', kubeconfig = ''] = process.argv.slice(2);
const log = createLog({ level: 'warn', to: 'stderr' });
const source = new ApiSource({ access: await loadKubeAccess({ kubeconfig }), node, log });
const facts = { name: node, labels: { [hostnameLabel]: node }, underlayMtu: 1500 };
const lookup = (namespace: string, name: string) => source.get('Secret', namespace, name);
let book: PeerBook | undefined;
const planned = new Set<string>();
const statuses = new Map<string, VpnPeer['status']>();

function plan(ref: ObjectRef): void {
  const name = formatRef(ref);
  book?.plan(ref, () => ({ key: undefined, secret: undefined, lookup }), facts);
  const entry = book?.entry(ref);
  if (entry === undefined) return;
  if (entry.session === undefined) planned.delete(name);
  else planned.add(name);
  const tunnel = entry.session === undefined ? undefined : idleFacts('WaitingForClient', Date.now(), 'no client yet');
  const before = statuses.get(name) ?? entry.peer.status;
  const unknown = { networkProblem: undefined, state: undefined, observed: undefined, primaryKeyId: undefined };
  const status = peerStatus(
    { ...unknown, peer: entry.peer, entry, node, now: Date.now(), since: undefined, tunnel },
    before,
  );
  const said = tunnel === undefined ? status : { ...status, since: statuses.get(name)?.since ?? status.since };
  // Of one that the controller has yet to give its addresses the agent says nothing at first.
  if (entry.plan.problems.some((problem) => problem.name === 'AddressPending') && !statuses.has(name)) return;
  if (JSON.stringify(said) === JSON.stringify(statuses.get(name))) return;
  statuses.set(name, said as VpnPeer['status']);
  source.publishStatus(entry.peer, said);
}

function networkChanged(name: string): void {
  const network = source.get('VpnNetwork', undefined, name);
  if (network === undefined) return;
  if (book === undefined) {
    book = new PeerBook(network);
    for (const peer of source.list('VpnPeer')) book.set(peer);
  } else book.setNetwork(network);
  for (const ref of book.refs()) plan(ref);
  const own = network.spec.nodes.find((one) => one.name === node);
  const unknown = { problem: undefined, namespace: 'none', device: undefined, listeners: [], peers: 0, attachments: 0 };
  const placed = { addresses: own?.addresses ?? [], podBlocks: own?.podBlocks ?? [] };
  const now = Date.now();
  const status = networkStatus(
    { ...unknown, ...placed, network, node, selected: true, now, shared: true },
    network.status,
  );
  const nodes = status.nodes?.map((one) => ({ ...one, ready: own !== undefined, message: '' }));
  source.publishStatus(network, { ...status, ...(nodes === undefined ? {} : { nodes }) });
}

source.on('change', (refs) => {
  for (const ref of refs) {
    if (ref.kind === 'VpnNetwork') networkChanged(ref.name);
    if (ref.kind !== 'VpnPeer' || book === undefined) continue;
    const peer = source.get('VpnPeer', ref.namespace, ref.name);
    if (peer === undefined) {
      planned.delete(formatRef(ref));
      statuses.delete(formatRef(ref));
    }
    for (const other of peer === undefined ? book.delete(ref) : book.set(peer)) plan(other);
  }
  process.send?.(planned.size);
});
await source.start();
process.send?.(0);
