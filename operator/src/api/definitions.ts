import type { TSchema } from 'typebox';
import type { Rule } from './schema-kit.ts';
import { labelPattern } from './schema-kit.ts';
import { vpnAllocationSpec, vpnAllocationStatus } from './vpn-allocation.ts';
import { vpnKeySpec, vpnKeyStatus } from './vpn-key.ts';
import { vpnNetworkSpec, vpnNetworkStatus } from './vpn-network.ts';
import { vpnPeerSpec, vpnPeerStatus } from './vpn-peer.ts';

/** A column of `kubectl get`; a priority above 0 shows it with `-o wide` only. */
export interface PrinterColumn {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'date' | 'boolean';
  readonly jsonPath: string;
  readonly description: string;
  readonly priority?: number;
}

/** A kind of ours: what the CRD and the parser are both made from. */
export interface Definition {
  readonly kind: 'VpnNetwork' | 'VpnPeer' | 'VpnKey' | 'VpnAllocation';
  readonly plural: string;
  readonly singular: string;
  readonly shortName: string;
  readonly scope: 'Cluster' | 'Namespaced';
  /** What `kubectl get CATEGORY` lists it under. */
  readonly category: 'ovpn' | 'ovpn-internal';
  readonly description: string;
  readonly spec: TSchema;
  readonly status: TSchema;
  readonly nameRules: readonly Rule<{ metadata: { name: string } }>[];
  readonly columns: readonly PrinterColumn[];
}

/** A network's name becomes part of namespace and device names, so it is a short label. */
const maxNetworkName = 40;

const ready: PrinterColumn = {
  name: 'Ready',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].status',
  description: 'Whether the object works as specified.',
};
const reason: PrinterColumn = {
  name: 'Reason',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
  description: 'Why it does or does not.',
  priority: 1,
};
const age: PrinterColumn = {
  name: 'Age',
  type: 'date',
  jsonPath: '.metadata.creationTimestamp',
  description: 'When the object was created.',
};

const column = (
  name: string,
  type: PrinterColumn['type'],
  jsonPath: string,
  description: string,
  priority?: number,
): PrinterColumn => ({ name, type, jsonPath, description, ...(priority === undefined ? {} : { priority }) });

export const definitions: readonly Definition[] = [
  {
    kind: 'VpnNetwork',
    plural: 'vpnnetworks',
    singular: 'vpnnetwork',
    shortName: 'vpnnet',
    scope: 'Cluster',
    category: 'ovpn',
    description: 'One isolated VPN: its nodes, address ranges and sockets, and who may use it.',
    spec: vpnNetworkSpec,
    status: vpnNetworkStatus,
    nameRules: [
      {
        cel: `self.metadata.name.size() <= ${maxNetworkName} && self.metadata.name.matches('${labelPattern}')`,
        message: `metadata.name must be at most ${maxNetworkName} characters: lower case letters, digits and hyphens, beginning and ending with a letter or digit`,
        offenders: ({ metadata: { name } }) =>
          name.length <= maxNetworkName && new RegExp(labelPattern).test(name) ? [] : ['.metadata.name'],
      },
    ],
    columns: [
      column('Pools', 'string', '.spec.pools.peers', 'The ranges of VPN addresses.'),
      ready,
      reason,
      column('Nodes', 'integer', '.status.nodesReady', 'How many nodes carry the VPN as specified.'),
      column('Wanted', 'integer', '.status.nodesWanted', 'How many nodes should.', 1),
      column('Connected', 'integer', '.status.peersConnected', 'How many peers are connected.'),
      column('Peers', 'integer', '.status.peers', 'How many peers there are.', 1),
      column('Used', 'integer', '.status.pools.numbers.used', 'How many numbers of the pools are in use.', 1),
      column('Total', 'integer', '.status.pools.numbers.total', 'How many numbers the pools have.', 1),
      age,
    ],
  },
  {
    kind: 'VpnPeer',
    plural: 'vpnpeers',
    singular: 'vpnpeer',
    shortName: 'vpnp',
    scope: 'Namespaced',
    category: 'ovpn',
    description: 'One remote of a VpnNetwork.',
    spec: vpnPeerSpec,
    status: vpnPeerStatus,
    nameRules: [],
    columns: [
      column('Network', 'string', '.spec.networkRef.name', 'The VpnNetwork.'),
      column('Address', 'string', '.status.addresses[0]', 'The first VPN address of the tunnel.'),
      column('Allocated', 'string', '.status.allocation.addresses', 'The VPN addresses that the peer holds.', 1),
      column('Endpoint', 'string', '.status.endpoint', 'Where packets are sent to now.'),
      column(
        'Connection',
        'string',
        '.status.conditions[?(@.type=="Connected")].reason',
        'Whether the tunnel is up, in one word.',
      ),
      column('Cipher', 'string', '.status.cipher', 'The cipher of the data channel.'),
      ready,
      reason,
      column('Key', 'integer', '.status.keyGeneration', 'The generation of the static key in use.', 1),
      column('Handshake', 'date', '.status.lastHandshake', 'When keys were last agreed on.', 1),
      column('Rx', 'integer', '.status.traffic.rxBytes', 'Bytes received.', 1),
      column('Tx', 'integer', '.status.traffic.txBytes', 'Bytes sent.', 1),
      column('Node', 'string', '.status.node', 'The Node that holds the peer.', 1),
      age,
    ],
  },
  {
    kind: 'VpnKey',
    plural: 'vpnkeys',
    singular: 'vpnkey',
    shortName: 'vpnk',
    scope: 'Namespaced',
    category: 'ovpn',
    description: 'Key material by reference, never inline.',
    spec: vpnKeySpec,
    status: vpnKeyStatus,
    nameRules: [],
    columns: [
      column('Cipher', 'string', '.spec.static.cipher', 'The cipher of the data channel, of a static key.'),
      column('Wanted', 'integer', '.spec.static.generation', 'The generation that is specified.'),
      column('Generation', 'integer', '.status.generation', 'The generation in use.'),
      ready,
      reason,
      column('Fingerprint', 'string', '.status.fingerprint', 'A digest to compare with the other end.', 1),
      age,
    ],
  },
  {
    kind: 'VpnAllocation',
    plural: 'vpnallocations',
    singular: 'vpnallocation',
    shortName: 'vpnalloc',
    scope: 'Cluster',
    category: 'ovpn-internal',
    description:
      'A number or a block of pod addresses of a VpnNetwork that somebody holds. The controller makes and removes them; its name is what is claimed, so that nothing is given out twice.',
    spec: vpnAllocationSpec,
    status: vpnAllocationStatus,
    nameRules: [],
    columns: [
      column('Network', 'string', '.spec.networkRef.name', 'The VpnNetwork.'),
      column('Holder', 'string', '.spec.holder.kind', 'What sort of object holds it.'),
      column('Namespace', 'string', '.spec.holder.namespace', 'The namespace of the holder.'),
      column('Name', 'string', '.spec.holder.name', 'The name of the holder.'),
      column('Released', 'date', '.status.releasedAt', 'When the holder gave it up; it is kept for a while.'),
      age,
    ],
  },
];

/** The definition of a kind of ours. */
export function definitionOf(kind: string): Definition | undefined {
  return definitions.find((definition) => definition.kind === kind);
}
