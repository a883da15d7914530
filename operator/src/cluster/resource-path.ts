import { group, version } from '../api/types.ts';
import type { ObjectRef, ResourceKind } from '../api/types.ts';

const plurals: Readonly<Record<Exclude<ResourceKind, 'Secret'>, string>> = {
  VpnNetwork: 'vpnnetworks',
  VpnPeer: 'vpnpeers',
  VpnKey: 'vpnkeys',
};

/** The API server's path of all objects of one of our kinds, in all namespaces. */
export function collectionPath(kind: Exclude<ResourceKind, 'Secret'>): string {
  return `/apis/${group}/${version}/${plurals[kind]}`;
}

/** The API server's path of one object of our kinds; undefined for Secrets, which are never written. */
export function objectPath({ kind, namespace, name }: ObjectRef): string | undefined {
  if (kind === 'Secret') return undefined;
  const scope = namespace === undefined ? '' : `namespaces/${encodeURIComponent(namespace)}/`;
  return `/apis/${group}/${version}/${scope}${plurals[kind]}/${encodeURIComponent(name)}`;
}
