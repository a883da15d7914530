import { stringify } from 'yaml';
import type { Wrap } from './openvpn.ts';
import type { Certificate } from './pki.ts';

/** Manifests for networks and peers with a control channel, as a user would write them. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const document = (object: object): string => stringify(object);

/** The Secret with the certificate and key of one end, as cert-manager writes it. */
export function tlsSecret(
  name: string,
  settings: { certificate: Certificate; ca: string; crl?: string | undefined; namespace?: string },
): string {
  const { certificate, ca, crl, namespace = 'default' } = settings;
  return document({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name, namespace },
    stringData: {
      'tls.crt': certificate.cert,
      'tls.key': certificate.key,
      'ca.crt': ca,
      ...(crl === undefined ? {} : { 'ca.crl': crl }),
    },
  });
}

/** Where a network's own Secrets are. */
export const systemNamespace = 'ovpn-system';

export function wrapSecret(name: string, key: string, namespace = 'default'): string {
  return document({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name, namespace },
    stringData: { 'wrap.key': key },
  });
}

const wrapNames = {
  none: 'None',
  'tls-auth': 'TLSAuth',
  'tls-crypt': 'TLSCrypt',
  'tls-crypt-v2': 'TLSCryptV2',
} as const;

/** spec.controlChannel for a wrap whose key is in the Secret; our end of tls-auth has the direction of its role. */
export function controlChannel(wrap: Wrap, secretName: string, role: 'server' | 'client'): object {
  if (wrap === 'none') return { wrap: 'None' };
  return {
    wrap: wrapNames[wrap],
    secretRef: { name: secretName },
    ...(wrap === 'tls-auth' ? { keyDirection: role === 'server' ? 'Normal' : 'Inverse' } : {}),
  };
}

const vpnPeer = (name: string, spec: object, labels: Readonly<Record<string, string>> = {}): string =>
  document({ apiVersion, kind: 'VpnPeer', metadata: { name, namespace: 'default', labels }, spec });

export interface DialInSettings {
  readonly name: string;
  readonly networkName?: string;
  /** Default: the name is the common name. */
  readonly identity?: object;
  readonly addresses: readonly string[];
  readonly routes?: readonly string[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly spec?: object;
}

/** A peer that dials in. */
export function dialInPeer(settings: DialInSettings): string {
  const {
    name,
    networkName = 'corp',
    identity = { commonName: name },
    addresses,
    routes = [],
    labels,
    spec = {},
  } = settings;
  return vpnPeer(name, { networkRef: { name: networkName }, identity, addresses, routes, ...spec }, labels);
}

export interface RemoteEndpoint {
  readonly address: string;
  readonly port: number;
  readonly protocol: 'UDP' | 'TCP';
}

export interface DialOutSettings {
  readonly name: string;
  readonly networkName?: string;
  readonly endpoints: readonly [RemoteEndpoint, ...RemoteEndpoint[]];
  readonly key?: string;
  readonly routes?: readonly string[];
  readonly spec?: object;
}

/** A peer that we dial. */
export function dialOutPeer(settings: DialOutSettings): string {
  const { name, networkName = 'corp', endpoints, key = name, routes = [], spec = {} } = settings;
  const [endpoint, ...fallbackEndpoints] = endpoints;
  return vpnPeer(name, {
    networkRef: { name: networkName },
    endpoint,
    ...(fallbackEndpoints.length === 0 ? {} : { fallbackEndpoints }),
    keyRef: { name: key },
    routes,
    ...spec,
  });
}

export function tlsKey(name: string, secretName = name): string {
  return document({
    apiVersion,
    kind: 'VpnKey',
    metadata: { name, namespace: 'default' },
    spec: { tls: { secretRef: { name: secretName } } },
  });
}
