import { X509Certificate } from 'node:crypto';
import { normaliseFingerprint } from '../../api/certificate-names.ts';
import { claimantOf } from '../../api/claims.ts';
import { parseAddress, parseCidr, contains } from '../../api/ip.ts';
import {
  effectiveIdentity,
  hasIssuedWrapKey,
  identityKeyRef,
  issuedServerSecret,
  meshCommonName,
  networkWrap,
  secretEntries,
  serverSecretOf,
  validCertificates,
} from '../../api/issued.ts';
import { type DialInPeer, type DialOutPeer } from '../../api/peer-kind.ts';
import {
  formatRef,
  type ObjectRef,
  refOf,
  type Secret,
  type VpnKey,
  type VpnNetwork,
  type VpnPeer,
} from '../../api/types.ts';
import { shared } from '../../api/shared.ts';
import { isMesh } from '../../api/vpn-network.ts';
import { OvpnError } from '../../errors.ts';
import { crlNotAfter } from '../../openvpn/tls/crl.ts';
import type { TlsVersion } from '../../openvpn/tls/tls-endpoint.ts';
import { toldOfCluster } from '../access/plan-access.ts';
import type { DesiredNetwork, PeerRoute } from '../desired.ts';
import type { DesiredDialIn, DesiredDialOut, DesiredServer, PushedToAll, RekeyLimits } from './desired-session.ts';
import { type FoundSecret, notAfterOf, tlsCredentials, wrapConfig } from './materials.ts';

/** The plan of control channels: resources in, desired servers, clients and dialled remotes out. Pure. */

/** The operator's own namespace, unless it is told another one. */
export const systemNamespace = 'ovpn-system';

/** Looks a Secret up by namespace and name. */
export type SecretLookup = (namespace: string, name: string) => Secret | undefined;

/**
 * The network's server; undefined when it takes no dial-in peers.
 *
 * @param namespace the operator's own, where a network's Secrets are
 * @throws OvpnError SecretMissing, CertificateInvalid, KeyMaterialInvalid
 */
export function planServer(
  network: VpnNetwork,
  desired: Pick<DesiredNetwork, 'addresses' | 'mtu'>,
  namespace: string,
  lookup: SecretLookup,
): DesiredServer | undefined {
  const { spec } = network;
  if (spec.pki === undefined) return undefined;
  const object = formatRef(refOf(network));
  const remedy =
    spec.pki.secretRef === undefined
      ? { remedy: 'wait for the controller, which makes it; where there is none, give spec.pki.secretRef' }
      : {};
  const find = (name: string): FoundSecret => ({ ...findSecret(lookup, namespace, name), ...remedy });
  const { pki, crl, wrapKey } = serverSecrets(network);
  const credentials = tlsCredentials(
    find(pki ?? ''),
    { object, field: sourceField(spec.pki) },
    `TLSv${spec.pki.minTLSVersion}`,
    crl === undefined
      ? undefined
      : {
          found: findSecret(lookup, namespace, crl.name),
          key: crl.key,
          user: { object, field: 'spec.pki.crlSecretRef' },
        },
  );
  const channel = {
    ...spec.controlChannel,
    wrap: networkWrap(spec),
    ...(wrapKey === undefined ? {} : { secretRef: wrapKey }),
  };
  return {
    credentials,
    notAfter: notAfterOf(credentials),
    crlNotAfter: crlNotAfter(credentials.crl),
    wrap: wrapConfig(channel, 'server', wrapKey === undefined ? undefined : find(wrapKey.name), object),
    maxKeyAgeDays: spec.controlChannel.maxKeyAgeDays,
    ciphers: spec.dataCiphers,
    rekey: rekeyLimits(network),
    push: pushedToAll(network, desired),
    meshName: isMesh(spec) ? meshCommonName(network.metadata.name) : undefined,
    meshCertificate:
      isMesh(spec) && spec.pki.builtIn?.caSecretRef !== undefined ? meshFingerprint(find(pki ?? '')) : undefined,
  };
}

/** The fingerprint of the certificate of the nodes; '', which none has, while it is not there. */
function meshFingerprint({ secret }: FoundSecret): string {
  const pem = secret?.data[secretEntries.meshCertificate];
  if (pem === undefined) return '';
  try {
    return normaliseFingerprint(new X509Certificate(Buffer.from(pem)).fingerprint256);
  } catch {
    return '';
  }
}

/** The Secrets that a network itself refers to. */
export function secretsOfNetwork(network: VpnNetwork, namespace: string): ObjectRef[] {
  const { pki, crl, wrapKey } = serverSecrets(network);
  const names = new Set([pki, crl?.name, wrapKey?.name].filter((name) => name !== undefined));
  return [...names].map((name) => secretRefOf(namespace, name));
}

function sourceField({ builtIn, secretRef }: NonNullable<VpnNetwork['spec']['pki']>): string {
  if (secretRef !== undefined) return 'spec.pki.secretRef.name';
  return builtIn === undefined ? 'spec.pki.issuerRef' : 'spec.pki.builtIn';
}

/** Where the server's certificate, a CRL of its own and the key for wrapping are: Secrets that are named, or those that the controller makes. */
function serverSecrets(network: VpnNetwork): {
  readonly pki: string | undefined;
  readonly crl: { readonly name: string; readonly key: string } | undefined;
  readonly wrapKey: { readonly name: string; readonly key: string } | undefined;
} {
  const { metadata, spec } = network;
  return {
    pki: serverSecretOf(network),
    crl: spec.pki?.crlSecretRef,
    wrapKey: hasIssuedWrapKey(spec)
      ? { name: issuedServerSecret(metadata.name), key: secretEntries.serverWrapKey }
      : spec.controlChannel.secretRef,
  };
}

/**
 * A client of the network.
 *
 * @returns what keeps it out: it has no address yet, or its routes lack one of their family to go over
 */
export function planDialIn(network: VpnNetwork, peer: DialInPeer, key: VpnKey | undefined): DesiredDialIn | OvpnError {
  const { spec } = peer;
  const vpnIpv4 = spec.addresses.find((address) => !address.includes(':'));
  const vpnIpv6 = spec.addresses.find((address) => address.includes(':'));
  const object = formatRef(refOf(peer));
  if (spec.addresses.length === 0) {
    return new OvpnError('AddressPending', 'the peer has no VPN address yet', { object, field: 'spec.addresses' });
  }
  const routes = routesVia(spec.routes, vpnIpv4, vpnIpv6, object);
  if (routes instanceof OvpnError) return routes;
  const { intervalSeconds, timeoutSeconds } = spec.keepalive ?? network.spec.keepalive;
  return {
    kind: 'dial-in',
    ref: refOf(peer),
    claimant: claimantOf(peer),
    identity: effectiveIdentity(peer) ?? {},
    certificates: issuedTo(network, peer, key),
    vpnIpv4,
    vpnIpv6,
    keepalive: shared({ interval: intervalSeconds, timeout: timeoutSeconds }),
    routes: shared(routes),
    cluster: toldOfCluster(network, peer),
  };
}

/** The certificates by which a client is known where the network issues them; undefined where it does not. */
function issuedTo(network: VpnNetwork, peer: DialInPeer, key: VpnKey | undefined): readonly string[] | undefined {
  if (identityKeyRef(peer) === undefined) return undefined;
  return validCertificates(key, network.metadata.name).map(normaliseFingerprint);
}

/**
 * Why the certificates of a client's VpnKey are no good, whatever they are. The peer is in force all the same, with
 * none of them: a VpnKey that is deleted or revoked ends the client's session.
 */
export function issuedKeyProblem(network: VpnNetwork, peer: VpnPeer, key: VpnKey | undefined): OvpnError | undefined {
  const ref = identityKeyRef(peer);
  if (ref === undefined) return undefined;
  const where = { object: formatRef(refOf(peer)), field: 'spec.identity.key' };
  if (key === undefined) {
    return new OvpnError('ReferenceNotFound', `there is no VpnKey ${ref.namespace}/${ref.name}`, where);
  }
  if (key.spec.issued?.networkRef.name !== network.metadata.name) {
    const problem = `${formatRef(ref)} is not one that VpnNetwork ${network.metadata.name} issues`;
    const remedy = 'refer to a VpnKey with spec.issued.networkRef of the same network';
    return new OvpnError('KeyMaterialInvalid', problem, where, { remedy });
  }
  if (!key.spec.issued.revoked) return undefined;
  const remedy = 'create another VpnKey for the client, or set spec.issued.revoked to false';
  return new OvpnError('KeyMaterialInvalid', `${formatRef(ref)} is revoked`, where, { remedy });
}

/**
 * Routes by the peer's address of the same family.
 *
 * @returns the problem, when there is none of that family: the driver takes the next hop of a packet's own family
 *   (drivers/net/ovpn/peer.c, ovpn_peer_get_by_dst)
 */
export function routesVia(
  destinations: readonly string[],
  vpnIpv4: string | undefined,
  vpnIpv6: string | undefined,
  object: string,
): PeerRoute[] | OvpnError {
  const routes: PeerRoute[] = [];
  for (const [i, destination] of destinations.entries()) {
    const gateway = destination.includes(':') ? vpnIpv6 : vpnIpv4;
    if (gateway === undefined) {
      const family = destination.includes(':') ? 'IPv6' : 'IPv4';
      return new OvpnError(
        'InvalidField',
        `${destination} needs an ${family} address of the peer as next hop, and spec.addresses has none`,
        { object, field: `spec.routes[${i}]` },
        { remedy: `add an ${family} address to spec.addresses` },
      );
    }
    routes.push({ destination, gateway });
  }
  return routes;
}

/** What a dialled peer refers to, as far as it is there. */
export interface DialOutRefs {
  readonly key: VpnKey | undefined;
  readonly lookup: SecretLookup;
}

/**
 * A remote to dial.
 *
 * @throws OvpnError ReferenceNotFound, SecretMissing, CertificateInvalid, KeyMaterialInvalid
 */
export function planDialOut(network: VpnNetwork, peer: DialOutPeer, { key, lookup }: DialOutRefs): DesiredDialOut {
  const { spec, metadata } = peer;
  const object = formatRef(refOf(peer));
  if (key === undefined) {
    const missing = `there is no VpnKey ${metadata.namespace}/${spec.keyRef.name}`;
    throw new OvpnError('ReferenceNotFound', missing, { object, field: 'spec.keyRef.name' });
  }
  const keyObject = formatRef(refOf(key));
  if (key.spec.tls === undefined) {
    throw new OvpnError(
      'KeyMaterialInvalid',
      'is not a certificate, which a VpnPeer that is dialled needs',
      { object: keyObject, field: 'spec.tls' },
      { remedy: 'refer to a VpnKey with spec.tls' },
    );
  }
  const { secretRef } = key.spec.tls;
  const channel = spec.controlChannel ?? { wrap: 'None' as const };
  const wrapSecret =
    channel.secretRef === undefined ? undefined : findSecret(lookup, metadata.namespace, channel.secretRef.name);
  const { intervalSeconds, timeoutSeconds } = spec.keepalive ?? network.spec.keepalive;
  const { commonName, fingerprint } = spec.serverIdentity ?? {};
  const credentials = tlsCredentials(
    findSecret(lookup, key.metadata.namespace, secretRef.name),
    { object: keyObject, field: 'spec.tls.secretRef.name' },
    minimumTls(network),
  );
  return {
    kind: 'dial-out',
    ref: refOf(peer),
    remotes: [spec.endpoint, ...spec.fallbackEndpoints].map(({ address, port, protocol }) => ({
      host: address,
      port,
      transport: protocol === 'TCP' ? 'tcp' : 'udp',
    })),
    credentials,
    notAfter: notAfterOf(credentials),
    crlNotAfter: crlNotAfter(credentials.crl),
    checks: {
      // Without it every client of the same CA could play the server (openvpn(8), "--remote-cert-tls").
      remoteCertTls: 'server',
      name: commonName === undefined ? undefined : { type: 'name', value: commonName },
      fingerprints: fingerprint === undefined ? undefined : [fingerprint],
    },
    wrap: wrapConfig(channel, 'client', wrapSecret, object),
    ciphers: spec.dataCiphers ?? network.spec.dataCiphers,
    rekey: rekeyLimits(network),
    routes: spec.routes,
    ownRanges: [...network.spec.pools.peers, ...network.spec.pools.pods],
    keepalive: { interval: intervalSeconds, timeout: timeoutSeconds },
  };
}

/** The lowest version of TLS that a network takes. */
export function minimumTls(network: VpnNetwork): TlsVersion {
  return `TLSv${network.spec.pki?.minTLSVersion ?? '1.2'}`;
}

/** When the keys of sessions are replaced. */
export function rekeyLimits({ spec }: VpnNetwork): RekeyLimits {
  return { ...spec.rekey, transitionMs: spec.keyTransition.seconds * 1000 };
}

function pushedToAll({ spec }: VpnNetwork, { addresses, mtu }: Pick<DesiredNetwork, 'addresses' | 'mtu'>): PushedToAll {
  const own = addresses.map((text) => text.split('/'));
  const find = (v6: boolean): { address: string | undefined; length: number } => {
    const [address, length] = own.find(([text = '']) => text.includes(':') === v6) ?? [];
    const pool = spec.pools.peers.map((text) => parseCidr(text)).find((range) => (range?.family === 6) === v6);
    return { address, length: length === undefined ? (pool?.prefix ?? (v6 ? 128 : 32)) : Number(length) };
  };
  const [ipv4, ipv6] = [find(false), find(true)];
  // Attached pods are part of the network: what reaches it reaches them.
  const routes = [...new Set([...spec.pools.pods, ...spec.push.routes])];
  return {
    gatewayIpv4: ipv4.address,
    gatewayIpv6: ipv6.address,
    lengthIpv4: ipv4.length,
    lengthIpv6: ipv6.length,
    routes,
    dnsServers: spec.push.dns.servers,
    searchDomains: spec.push.dns.searchDomains,
    mtu,
  };
}

/** Whether an address is inside one of the ranges. */
export function isWithin(address: string, ranges: readonly string[]): boolean {
  const parsed = parseAddress(address);
  return (
    parsed !== undefined &&
    ranges.some((text) => {
      const range = parseCidr(text);
      return range !== undefined && contains(range, parsed);
    })
  );
}

export function secretRefOf(namespace: string, name: string): ObjectRef {
  return { kind: 'Secret', namespace, name };
}

/** A Secret, or the want of it. */
export function findSecret(lookup: SecretLookup, namespace: string, name: string): FoundSecret {
  return { ref: secretRefOf(namespace, name), secret: lookup(namespace, name) };
}
