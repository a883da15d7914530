import { parseAddress } from '../../api/ip.ts';
import { asRecord } from '../../cluster/json.ts';
import { OvpnError } from '../../errors.ts';
import type { Cluster } from './connection.ts';
import { getRaw, namesOf, notFound } from './read.ts';

/** Where a packet goes, as a person says it. */
export type Destination =
  | { readonly address: string }
  | { readonly kind: 'Service' | 'VpnPeer'; readonly namespace: string | undefined; readonly name: string };

const kinds: Readonly<Record<string, 'Service' | 'VpnPeer'>> = {
  service: 'Service',
  services: 'Service',
  svc: 'Service',
  vpnpeer: 'VpnPeer',
  vpnpeers: 'VpnPeer',
};

const remedy =
  "give an IP address, svc/NAME or vpnpeer/NAME (of another namespace: svc/NAME.NAMESPACE); what another name stands for in the pod, the pod's own resolver says: kubectl exec POD -- nslookup NAME";

/**
 * An address in canonical form; or, as kubectl names objects, `svc/NAME`, `vpnpeer/NAME`, of another namespace than the
 * pod's by `svc/NAME.NAMESPACE`.
 *
 * @throws OvpnError ConfigInvalid
 */
export function parseDestination(text: string): Destination {
  const address = parseAddress(text);
  if (address !== undefined) return { address: address.text };
  const [type = '', rest = '', ...more] = text.split('/');
  const kind = kinds[type.toLowerCase()];
  // Names of VpnPeers may have dots, namespaces none.
  const dot = kind === 'Service' ? rest.indexOf('.') : rest.lastIndexOf('.');
  const [name, namespace] = dot === -1 ? [rest, undefined] : [rest.slice(0, dot), rest.slice(dot + 1)];
  if (kind !== undefined && name !== '' && namespace !== '' && more.length === 0) return { kind, namespace, name };
  const problem = `the destination is no IP address, Service or VpnPeer: ${JSON.stringify(text)}`;
  throw new OvpnError('ConfigInvalid', problem, {}, { remedy });
}

type Reading = Pick<Cluster, 'client' | 'timeoutMs' | 'namespace'>;

/**
 * The address that a destination has at the moment: a Service's cluster IP, a peer's address in its network.
 *
 * @throws OvpnError ObjectNotFound, ConfigInvalid when it has none, AccessDenied, ApiUnavailable
 */
export async function addressOf(cluster: Reading, destination: Destination): Promise<string> {
  if ('address' in destination) return destination.address;
  const { kind, name, namespace = cluster.namespace } = destination;
  const found = await getRaw(cluster, kind, { namespace, name });
  if (found === undefined) throw notFound({ kind, namespace, name }, await namesOf(cluster, kind, namespace));
  const address = kind === 'Service' ? addressOfService(found) : addressOfPeer(found);
  if (typeof address === 'string') return address;
  const object = `${kind} ${namespace}/${name}`;
  throw new OvpnError('ConfigInvalid', address.problem, { object }, { remedy: address.remedy });
}

interface NoAddress {
  readonly problem: string;
  readonly remedy: string;
}

/** The cluster IP of a Service. */
export function addressOfService(service: unknown): string | NoAddress {
  const { type, clusterIP, externalName } = asRecord(asRecord(service)?.['spec']) ?? {};
  if (type === 'ExternalName')
    return {
      problem: `stands for the name ${JSON.stringify(externalName)}`,
      remedy: 'give an IP address of what that name stands for',
    };
  const address = typeof clusterIP === 'string' ? parseAddress(clusterIP) : undefined;
  if (address !== undefined) return address.text;
  return {
    problem: 'is headless: it has no address of its own',
    remedy: 'give the IP address of one of its pods; `kubectl get endpointslices -l kubernetes.io/service-name=NAME`',
  };
}

/** The address of a peer in its network. */
export function addressOfPeer(peer: unknown): string | NoAddress {
  const { addresses } = asRecord(asRecord(peer)?.['status']) ?? {};
  const [first] = Array.isArray(addresses) ? (addresses as unknown[]) : [];
  const address = typeof first === 'string' ? parseAddress(first.replace(/\/\d+$/, '')) : undefined;
  if (address !== undefined) return address.text;
  return {
    problem: 'has no address in its network',
    remedy: 'see by `kubectl ovpn peers` what it lacks, or give an IP address behind it',
  };
}
