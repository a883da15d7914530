import { randomBytes } from 'node:crypto';
import { stringify } from 'yaml';
import { formatStaticKey } from '../../operator/src/openvpn/static-key.ts';

/** Manifests for tests and the demo, as a user would write them. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const documents = (...objects: object[]): string => objects.map((object) => stringify(object)).join('---\n');

/** The text of a new static key. */
export const newStaticKey = (): string => formatStaticKey(randomBytes(256));

export interface NetworkSettings {
  readonly name?: string;
  readonly node: string;
  readonly addresses: readonly string[];
  readonly podBlocks: readonly string[];
  readonly peerPools?: readonly string[];
  readonly port?: number;
  readonly spec?: object;
}

export function network(settings: NetworkSettings): string {
  const {
    name = 'corp',
    node,
    addresses,
    podBlocks,
    peerPools = ['10.80.0.0/24', 'fd80::/112'],
    port = 1194,
  } = settings;
  return documents({
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name },
    spec: {
      pools: { peers: peerPools, pods: podBlocks },
      nodes: [{ name: node, addresses, podBlocks }],
      listeners: [{ name: 'udp', protocol: 'UDP', port }],
      allowedPeers: { namespaces: { from: 'All' }, routes: ['10.0.0.0/8', '192.168.0.0/16', 'fd00::/8'] },
      attach: { namespaces: { from: 'All' } },
      ...settings.spec,
    },
  });
}

export interface PeerSettings {
  readonly name: string;
  readonly networkName?: string;
  readonly namespace?: string;
  readonly peerID: number;
  readonly endpoint: { readonly address: string; readonly port: number };
  readonly addresses: readonly string[];
  readonly routes: readonly string[];
  readonly key?: string;
  readonly spec?: object;
}

export function peer(settings: PeerSettings): string {
  const {
    name,
    networkName = 'corp',
    namespace = 'default',
    peerID,
    endpoint,
    addresses,
    routes,
    key = name,
  } = settings;
  return documents({
    apiVersion,
    kind: 'VpnPeer',
    metadata: { name, namespace },
    spec: {
      networkRef: { name: networkName },
      endpoint,
      keyRef: { name: key },
      static: { peerID },
      addresses,
      routes,
      ...settings.spec,
    },
  });
}

export interface KeySettings {
  readonly name: string;
  readonly namespace?: string;
  readonly direction: 'Normal' | 'Inverse';
  readonly generation?: number;
  readonly cipher?: string;
  readonly spec?: object;
}

export function key(settings: KeySettings): string {
  const { name, namespace = 'default', direction, generation = 1, cipher = 'AES-256-GCM' } = settings;
  return documents({
    apiVersion,
    kind: 'VpnKey',
    metadata: { name, namespace },
    spec: { static: { secretRef: { name }, cipher, direction, generation, ...settings.spec } },
  });
}

export function secret(name: string, material: string, namespace = 'default'): string {
  return documents({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name, namespace },
    stringData: { 'static.key': material },
  });
}
