import { type CustomKind, group, isCustomKind, type ObjectRef, version } from '../api/types.ts';

const own = `/apis/${group}/${version}`;

/** Where the API server keeps the objects of each kind that is read or written here. */
const collections = {
  VpnNetwork: { base: own, plural: 'vpnnetworks' },
  VpnPeer: { base: own, plural: 'vpnpeers' },
  VpnKey: { base: own, plural: 'vpnkeys' },
  VpnAllocation: { base: own, plural: 'vpnallocations' },
  Secret: { base: '/api/v1', plural: 'secrets' },
  Node: { base: '/api/v1', plural: 'nodes' },
  Namespace: { base: '/api/v1', plural: 'namespaces' },
  Pod: { base: '/api/v1', plural: 'pods' },
  Service: { base: '/api/v1', plural: 'services' },
  ConfigMap: { base: '/api/v1', plural: 'configmaps' },
  CustomResourceDefinition: { base: '/apis/apiextensions.k8s.io/v1', plural: 'customresourcedefinitions' },
  Lease: { base: '/apis/coordination.k8s.io/v1', plural: 'leases' },
  Certificate: { base: '/apis/cert-manager.io/v1', plural: 'certificates' },
  Deployment: { base: '/apis/apps/v1', plural: 'deployments' },
  DaemonSet: { base: '/apis/apps/v1', plural: 'daemonsets' },
  Event: { base: '/apis/events.k8s.io/v1', plural: 'events' },
} as const;

/** A kind whose path is known. */
export type ApiKind = keyof typeof collections;

/**
 * The API server's path of one object, of all objects of a kind in a namespace, or of all there are; already
 * escaped. Cluster-scoped kinds take no namespace.
 */
export function apiPath(kind: ApiKind, { namespace, name }: { namespace?: string; name?: string } = {}): string {
  const { base, plural } = collections[kind];
  const scope = namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${base}${scope}/${plural}${name === undefined ? '' : `/${encodeURIComponent(name)}`}`;
}

/** A kind as rights are given for it: `vpnpeers.ovpn-operator.io`, `secrets`. */
export function resourceName(kind: ApiKind): string {
  const { base, plural } = collections[kind];
  const [, root, apiGroup] = base.split('/');
  return root === 'api' || apiGroup === undefined ? plural : `${plural}.${apiGroup}`;
}

/** The API server's path of all objects of one of our kinds, in all namespaces. */
export function collectionPath(kind: CustomKind): string {
  return apiPath(kind);
}

/** The API server's path of one object of our kinds; undefined for those of Kubernetes, whose status is not ours. */
export function objectPath({ kind, namespace, name }: ObjectRef): string | undefined {
  return !isCustomKind(kind) ? undefined : apiPath(kind, { name, ...(namespace === undefined ? {} : { namespace }) });
}
