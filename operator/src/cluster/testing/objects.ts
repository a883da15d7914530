import { apiVersion } from '../../api/types.ts';

/** Manifests for tests, as small as the schema allows. */
export function networkManifest(name: string, spec: object = {}) {
  return {
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name },
    spec: {
      pools: { peers: ['10.8.0.0/16'] },
      nodes: [{ name: 'n1', addresses: ['10.8.0.1'] }],
      listeners: [{ name: 'udp', port: 1194 }],
      allowedPeers: { namespaces: { names: ['team-a'] }, routes: ['10.20.0.0/14'] },
      ...spec,
    },
  };
}

export function peerManifest(name: string, spec: object = {}, metadata: object = { namespace: 'team-a' }) {
  return {
    apiVersion,
    kind: 'VpnPeer',
    metadata: { ...metadata, name },
    spec: {
      networkRef: { name: 'offices' },
      endpoint: { address: '198.51.100.7', port: 1194 },
      keyRef: { name: 'office' },
      static: { peerID: 7 },
      addresses: ['10.8.0.7'],
      ...spec,
    },
  };
}

export function keyManifest(name: string, generation = 1) {
  return {
    apiVersion,
    kind: 'VpnKey',
    metadata: { namespace: 'team-a', name },
    spec: { static: { secretRef: { name: 'office-key' }, direction: 'Normal', generation } },
  };
}

export function secretManifest(name: string, text = 'hush', metadata: object = { namespace: 'team-a' }) {
  return { apiVersion: 'v1', kind: 'Secret', metadata: { ...metadata, name }, stringData: { 'static.key': text } };
}
