import { isTrue } from '../../api/conditions.ts';
import { peerKind } from '../../api/peer-kind.ts';
import { formatRef, type VpnPeer } from '../../api/types.ts';
import { OvpnError } from '../../errors.ts';
import type { Cluster } from './connection.ts';
import { list, notFound, type Seen } from './read.ts';

/** What of a cluster the person who asks may see. */
export interface View {
  /** Undefined when they may not be seen: the rights in one namespace have no VpnNetworks. */
  readonly networks: readonly Seen<'VpnNetwork'>[] | undefined;
  readonly peers: readonly Seen<'VpnPeer'>[];
  readonly keys: readonly Seen<'VpnKey'>[];
  /** Whether these are the peers of all namespaces. */
  readonly whole: boolean;
  /** What is left out, and why, for people. */
  readonly notes: readonly string[];
}

type Looking = Pick<Cluster, 'client' | 'timeoutMs' | 'namespace' | 'scope' | 'narrowed'>;

/**
 * All there is, as far as it may be seen: with -n in that namespace, else in all, and for who may not look there in the
 * namespace of the context.
 *
 * @param wide whether -A was given: then what may not be seen is an error
 * @throws OvpnError NotInstalled, AccessDenied, ApiUnavailable
 */
export async function look(cluster: Looking, wide: boolean): Promise<View> {
  const notes: string[] = [];
  const networks = await allowed(list(cluster, 'VpnNetwork'), ({ problem }) =>
    notes.push(`${problem}: shown is what VpnPeers say of them`),
  );
  let namespace = cluster.narrowed ? cluster.namespace : undefined;
  let peers = namespace === undefined && !wide ? await allowed(list(cluster, 'VpnPeer')) : undefined;
  if (peers === undefined) {
    if (!cluster.narrowed && !wide) {
      namespace = cluster.namespace;
      notes.push(`you may not look into all namespaces: shown is namespace ${namespace}`);
    }
    peers = await list(cluster, 'VpnPeer', namespace);
  }
  const keys = await allowed(list(cluster, 'VpnKey', namespace), ({ problem }) =>
    notes.push(`${problem}: they are left out`),
  );
  return { networks, peers, keys: keys ?? [], whole: namespace === undefined, notes };
}

/** What comes of a request, or undefined where a right is lacking. */
export async function allowed<T>(
  request: Promise<T>,
  denied: (error: OvpnError) => unknown = () => undefined,
): Promise<T | undefined> {
  try {
    return await request;
  } catch (error) {
    if (!(error instanceof OvpnError) || error.name !== 'AccessDenied') throw error;
    denied(error);
    return undefined;
  }
}

/** The names of the networks that there are, or that peers name where networks may not be seen. */
export function networkNames({ networks, peers }: Pick<View, 'networks' | 'peers'>): readonly string[] {
  const named =
    networks?.map(({ ref }) => ref.name) ?? peers.flatMap(({ resource }) => resource?.spec.networkRef.name ?? []);
  return [...new Set(named)].sort();
}

/** What of a view belongs to one network. @throws OvpnError ObjectNotFound */
export function ofNetwork(view: View, name: string): View {
  const names = networkNames(view);
  if (!names.includes(name)) throw notFound({ kind: 'VpnNetwork', name }, names);
  const { networks, peers, keys } = view;
  const own = peers.filter(({ resource }) => resource?.spec.networkRef.name === name);
  const used = new Set(own.flatMap(({ resource }) => (resource === undefined ? [] : keysOf(resource))));
  return {
    ...view,
    networks: networks?.filter(({ ref }) => ref.name === name),
    peers: own,
    keys: keys.filter(
      ({ ref, resource }) => used.has(formatRef(ref)) || resource?.spec.issued?.networkRef.name === name,
    ),
  };
}

function keysOf({ metadata: { namespace }, spec }: VpnPeer): string[] {
  return [spec.keyRef?.name, spec.identity?.key].flatMap((name) =>
    name === undefined ? [] : [formatRef({ kind: 'VpnKey', namespace, name })],
  );
}

/** Whether a peer works now: one with a static key has no connection, but stands in the kernel with its key. */
export function isUp(peer: VpnPeer): boolean {
  return isTrue(peer.status?.conditions, peerKind(peer) === 'static' ? 'Ready' : 'Connected');
}
