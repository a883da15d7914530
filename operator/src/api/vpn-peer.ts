import Type, { type Static } from 'typebox';
import { conditionsSchema, counter, observedGeneration, timestamp } from './condition.ts';
import { peerControlChannel } from './control-channel.ts';
import { cipherList } from './data-ciphers.ts';
import { clientIdentity, serverIdentity } from './identity.ts';
import {
  address,
  cidr,
  closed,
  host,
  hostAddress,
  integer,
  label,
  listOf,
  labels,
  objectName,
  oneOf,
  oneAddressPerFamily,
  setOf,
  withRules,
} from './schema-kit.ts';
import { isHostName } from './host-name.ts';
import { timeoutAfterInterval } from './vpn-network.ts';

/** The highest peer id: the protocol has 24 bits for it, and all of them set mean "none". */
export const maxPeerId = 0xfffffe;
/** The agent gives the upper half to peers with a control channel, so that neither takes the other's. */
export const maxStaticPeerId = 0x7fffff;
/** Of that half, the upper half again is for the nodes of a mesh. */
export const firstMeshPeerId = 0xc00000;

const networkRef = withRules(
  closed(
    { name: label('The name of the VpnNetwork.') },
    { description: 'The VpnNetwork that the peer belongs to. Immutable.' },
  ),
  [
    {
      cel: 'self == oldSelf',
      message: 'is immutable; delete the VpnPeer and create it in the other network',
      transition: true,
      offenders: (self, old) => (self.name === old.name ? [] : ['.name']),
    },
  ],
);

const remoteFields = {
  address: host(
    'The IPv4 or IPv6 address of the remote; of one that is dialled also its host name.',
    hostAddress(
      'must be the address of one host that can be routed to, so not unspecified, multicast, broadcast or fe80::/10',
    ),
  ),
  port: integer('The port of the remote.', 1, 65535),
  protocol: oneOf(['UDP', 'TCP'], { description: 'The transport protocol.', default: 'UDP' }),
};

const endpoint = closed(
  {
    ...remoteFields,
    listener: Type.Optional(
      label('For a static key: the listener of the VpnNetwork to send from; without it the first of UDP.'),
    ),
  },
  { description: 'Where the remote is. With static, packets go there; without, the peer is dialled there.' },
);

const peerFields = closed(
  {
    networkRef,
    identity: Type.Optional(clientIdentity),
    endpoint: Type.Optional(endpoint),
    fallbackEndpoints: listOf(closed(remoteFields, { description: 'Where the remote is, too.' }), {
      description: 'Further endpoints, tried in order after endpoint.',
      default: [],
      maxItems: 8,
    }),
    keyRef: Type.Optional(
      closed(
        { name: objectName('The name of the VpnKey.') },
        { description: 'The VpnKey in the same namespace that the peer uses.' },
      ),
    ),
    serverIdentity: Type.Optional(serverIdentity),
    controlChannel: Type.Optional(peerControlChannel),
    dataCiphers: Type.Optional(
      cipherList({ description: "The ciphers that the remote may choose from; without them the network's." }),
    ),
    static: Type.Optional(
      closed(
        {
          peerID: integer('The id by which the remote addresses this end. Unique in the network.', 0, maxStaticPeerId),
          remotePeerID: Type.Optional(
            integer(
              'The id by which this end addresses the remote, when it differs from peerID; that needs Linux 7.1.',
              0,
              maxPeerId,
            ),
          ),
        },
        {
          description:
            'What both ends must agree on, because a peer with a static key has no control channel to settle it.',
        },
      ),
    ),
    addresses: withRules(
      setOf(address('A VPN address.'), {
        description:
          "The VPN addresses of the remote, inside the network's spec.pools.peers: at most one per IP family. A peer that dials in and names none gets some from the controller; to one that is dialled, the remote assigns ours.",
        default: [],
        maxItems: 2,
      }),
      [oneAddressPerFamily],
    ),
    routes: setOf(cidr('A range behind the remote.'), {
      description: "The ranges behind the remote. Each must lie in the network's spec.allowedPeers.routes.",
      default: [],
      maxItems: 256,
    }),
    keepalive: Type.Optional(
      withRules(
        closed(
          {
            intervalSeconds: integer('Seconds without traffic after which a ping is sent.', 1, 86400),
            timeoutSeconds: integer('Seconds without a packet after which the peer counts as lost.', 1, 86400),
          },
          { description: "Replaces the network's keepalive for this peer." },
        ),
        [timeoutAfterInterval],
      ),
    ),
    placement: closed(
      {
        nodeSelector: labels("Further labels that the peer's node must carry; empty allows all nodes of the network."),
      },
      {
        description:
          'Which nodes may hold the peer. In a mesh, a peer that is dialled is held by one of them, and by another when that one is lost.',
        default: {},
      },
    ),
    suspend: Type.Boolean({ description: 'Take the peer out of the kernel and keep the object.', default: false }),
  },
  { description: 'The remote that is wanted.' },
);

type Fields = Static<typeof peerFields>;

/** Those of the fields that are there, as paths. */
function given(self: Fields, ...fields: (keyof Fields)[]): string[] {
  return fields
    .filter((field) => {
      const value = self[field];
      return Array.isArray(value) ? value.length > 0 : value !== undefined;
    })
    .map((field) => `.${field}`);
}

/** The spec of a VpnPeer: with identity one that dials in, with static one with a static key, else one that is dialled. */
export const vpnPeerSpec = withRules(peerFields, [
  {
    cel: 'has(self.identity) || has(self.endpoint) || has(self.static)',
    message:
      'must have identity (a client that dials in), endpoint and keyRef (a server that is dialled), or endpoint, keyRef and static (a static key)',
    offenders: (self) => (given(self, 'identity', 'endpoint', 'static').length > 0 ? [] : ['']),
  },
  {
    cel: '!has(self.identity) || !(has(self.endpoint) || has(self.keyRef) || has(self.static))',
    message:
      'endpoint, keyRef and static must be left out next to identity, because a client dials in from anywhere and needs no key of ours',
    offenders: (self) => (self.identity === undefined ? [] : given(self, 'endpoint', 'keyRef', 'static')),
  },
  {
    cel: 'has(self.identity) || !has(self.static) || has(self.endpoint)',
    message: 'endpoint is needed next to static: where the remote is',
    offenders: (self) =>
      self.identity !== undefined || self.static === undefined || self.endpoint !== undefined ? [] : ['.endpoint'],
  },
  {
    cel: 'has(self.identity) || !(has(self.endpoint) || has(self.static)) || has(self.keyRef)',
    message: 'keyRef is needed next to endpoint: the VpnKey in the same namespace',
    offenders: (self) =>
      self.identity !== undefined || given(self, 'endpoint', 'static').length === 0 || self.keyRef !== undefined
        ? []
        : ['.keyRef'],
  },
  {
    cel: '!has(self.static) || self.addresses.size() > 0',
    message:
      "addresses must hold a VPN address of the peer, out of the network's spec.pools.peers, because both ends of a static key must know it",
    offenders: (self) => (self.static === undefined || self.addresses.length > 0 ? [] : ['.addresses']),
  },
  {
    cel: 'has(self.identity) || has(self.static) || !has(self.endpoint) || self.addresses.size() == 0',
    message:
      'addresses must be left out for a peer that is dialled, because the remote assigns them; or give static, if it has a static key',
    offenders: (self) => (isDialled(self) ? given(self, 'addresses') : []),
  },
  {
    cel: '!(has(self.identity) || has(self.static)) || !(has(self.serverIdentity) || has(self.controlChannel) || has(self.dataCiphers) || self.fallbackEndpoints.size() > 0)',
    message: 'serverIdentity, controlChannel, dataCiphers and fallbackEndpoints are only for a peer that is dialled',
    offenders: (self) =>
      given(self, 'identity', 'static').length === 0
        ? []
        : given(self, 'serverIdentity', 'controlChannel', 'dataCiphers', 'fallbackEndpoints'),
  },
  {
    cel: '!has(self.static) || !has(self.endpoint) || isIP(self.endpoint.address)',
    message:
      'endpoint.address must be an IPv4 or IPv6 address next to static, because such a remote is not looked up by name',
    offenders: (self) =>
      self.static !== undefined && self.endpoint !== undefined && isHostName(self.endpoint.address)
        ? ['.endpoint.address']
        : [],
  },
  {
    cel: "!has(self.static) || !has(self.endpoint) || self.endpoint.protocol == 'UDP'",
    message: 'endpoint.protocol must be UDP next to static, because TCP needs a control channel',
    offenders: (self) => (self.static !== undefined && self.endpoint?.protocol === 'TCP' ? ['.endpoint.protocol'] : []),
  },
  {
    cel: 'has(self.static) || !has(self.endpoint) || !has(self.endpoint.listener)',
    message: 'endpoint.listener is only for a static key; a peer that is dialled has a socket of its own',
    offenders: (self) =>
      self.static === undefined && self.endpoint?.listener !== undefined ? ['.endpoint.listener'] : [],
  },
]);

function isDialled(self: Fields): boolean {
  return self.endpoint !== undefined && given(self, 'identity', 'static').length === 0;
}

/** The status of a VpnPeer. */
export const vpnPeerStatus = Type.Object(
  {
    observedGeneration: observedGeneration(),
    conditions: conditionsSchema(),
    peerID: Type.Optional(
      Type.Integer({ description: 'The id of the peer in the kernel.', minimum: 0, maximum: maxPeerId }),
    ),
    addresses: Type.Optional(
      Type.Array(Type.String({ description: 'A VPN address.', maxLength: 43 }), {
        description: 'The VPN addresses of the tunnel: those of the remote, or those that it assigned to us.',
        maxItems: 2,
        'x-kubernetes-list-type': 'atomic',
      }),
    ),
    allocation: Type.Optional(
      Type.Object(
        {
          number: Type.Optional(
            Type.Integer({ description: 'The number that the addresses were made of.', minimum: 0 }),
          ),
          addresses: Type.Array(Type.String({ description: 'A VPN address.', maxLength: 39 }), {
            description: 'The VPN addresses that nobody else has.',
            maxItems: 2,
            'x-kubernetes-list-type': 'atomic',
          }),
        },
        { description: 'What the controller gave to the peer, or confirmed of spec.addresses.' },
      ),
    ),
    node: Type.Optional(Type.String({ description: 'The Node that holds the peer.', maxLength: 253 })),
    holder: Type.Optional(
      Type.Object(
        {
          node: Type.String({ description: 'The name of the Node.', maxLength: 253 }),
          epoch: Type.Integer({ description: 'Higher with every node that takes the peer over.', minimum: 1 }),
          since: timestamp('When the node and the peer connected; of a peer that is placed, when the node took it.'),
          reason: Type.Optional(
            Type.String({
              description:
                'Of a peer that is placed: why the node has it. Placed (nobody had it), NodeLost (the node before did not renew its lease), NodeReleased (that node gave it up), GivenUp (this node gave it up, and no other has it yet).',
              maxLength: 64,
            }),
          ),
          previousNode: Type.Optional(
            Type.String({ description: 'Of a peer that was taken over: the Node that had it before.', maxLength: 253 }),
          ),
        },
        { description: 'In a mesh: the Node that has the peer, which all others send its packets to.' },
      ),
    ),
    endpoint: Type.Optional(
      Type.String({ description: 'Address and port that packets are sent to now.', maxLength: 64 }),
    ),
    cipher: Type.Optional(Type.String({ description: 'The cipher of the data channel.', maxLength: 64 })),
    tlsVersion: Type.Optional(
      Type.String({ description: 'The version of TLS on the control channel.', maxLength: 16 }),
    ),
    lastHandshake: Type.Optional(timestamp('When keys were last agreed on.')),
    keyGeneration: Type.Optional(Type.Integer({ description: 'The generation of the key in use.', minimum: 0 })),
    keyID: Type.Optional(Type.Integer({ description: 'The id of the key in use, 0 to 7.', minimum: 0, maximum: 7 })),
    traffic: Type.Optional(
      Type.Object(
        {
          rxBytes: counter('Bytes received inside the VPN.'),
          txBytes: counter('Bytes sent inside the VPN.'),
          rxPackets: counter('Packets received inside the VPN.'),
          txPackets: counter('Packets sent inside the VPN.'),
        },
        {
          description: 'What the kernel counted since the peer was programmed.',
          // Nodes that told of a peer one after the other would each own the numbers that are alike, and leave them alone.
          'x-kubernetes-map-type': 'atomic',
        },
      ),
    ),
    lastError: Type.Optional(Type.String({ description: 'The last thing that went wrong.', maxLength: 4096 })),
    since: Type.Optional(timestamp('When the peer was programmed.')),
  },
  { description: 'The remote as it is.' },
);
