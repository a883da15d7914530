import Type, { type Static } from 'typebox';
import { conditionsSchema, observedGeneration, timestamp } from './condition.ts';
import { networkControlChannel } from './control-channel.ts';
import { cipherList } from './data-ciphers.ts';
import { labelSelector } from './label-selector.ts';
import { clusterAccess } from './cluster-access.ts';
import { compareRanges, contains, overlaps, parseAddress, parseCidr, reservedIn, type Cidr } from './ip.ts';
import {
  address,
  cidr,
  closed,
  domain,
  exactlyOneOf,
  host,
  hostAddress,
  integer,
  label,
  listOf,
  mapOf,
  labels,
  noRepetition,
  objectName,
  oneAddressPerFamily,
  oneCidrPerFamily,
  oneOf,
  secretKey,
  setOf,
  withRules,
  type Rule,
} from './schema-kit.ts';

const pools = withRules(
  closed(
    {
      peers: withRules(
        setOf(cidr('A range of VPN addresses.'), {
          description: 'Where VPN addresses of peers and nodes come from: at most one range per IP family.',
          minItems: 1,
          maxItems: 2,
        }),
        [oneCidrPerFamily],
      ),
      pods: withRules(
        setOf(cidr('A range of pod addresses.'), {
          description: "Where the nodes' blocks of pod addresses are cut from: at most one range per IP family.",
          default: [],
          maxItems: 2,
        }),
        [oneCidrPerFamily],
      ),
      podBlockLengths: withRules(
        closed(
          {
            ipv4: integer('The prefix length of IPv4 blocks; a /25 has an address for each of 110 pods.', 16, 30, 25),
            ipv6: integer('The prefix length of IPv6 blocks.', 64, 126, 120),
          },
          {
            description: "How large the nodes' blocks of pod addresses are that are cut from pods. Immutable.",
            default: {},
          },
        ),
        [
          {
            cel: 'self == oldSelf',
            message: 'is immutable, because blocks of two sizes would overlap; make a new VpnNetwork',
            transition: true,
            offenders: (self, old) => (self.ipv4 === old.ipv4 && self.ipv6 === old.ipv6 ? [] : ['']),
          },
        ],
      ),
    },
    { description: 'The address ranges of this VPN. Two networks may use the same ranges.' },
  ),
  [
    {
      cel: 'self.peers.all(a, self.pods.all(b, !isCIDR(a) || !isCIDR(b) || !(cidr(a).containsIP(cidr(b).ip()) || cidr(b).containsIP(cidr(a).ip()))))',
      message: 'must not share addresses between peers and pods; choose ranges that do not overlap',
      offenders: (self) =>
        cidrs(self.pods).flatMap(([pod, index]) =>
          cidrs(self.peers).some(([peer]) => overlaps(pod, peer)) ? [`.pods[${index}]`] : [],
        ),
    },
  ],
);

const node = closed(
  {
    name: objectName('The name of the Node.'),
    addresses: withRules(
      setOf(address('A VPN address.'), {
        description: "The node's own VPN addresses, inside spec.pools.peers: at most one per IP family.",
        minItems: 1,
        maxItems: 2,
      }),
      [oneAddressPerFamily],
    ),
    podBlocks: withRules(
      setOf(cidr('A range of pod addresses.'), {
        description:
          'The ranges that pods on this node get addresses of, inside spec.pools.pods: at most one per IP family.',
        default: [],
        maxItems: 2,
      }),
      [oneCidrPerFamily],
    ),
    underlayAddresses: setOf(
      address(
        'An address of the node outside of the VPN.',
        hostAddress('must be an address of one host that other nodes can reach'),
      ),
      {
        description:
          'Where the other nodes of a mesh reach this node, in the order to try; without them at the InternalIP addresses of the Node.',
        default: [],
        maxItems: 4,
      },
    ),
  },
  { description: 'The addresses of one node.' },
);

const mesh = closed(
  {
    enabled: Type.Boolean({ description: 'Whether the nodes of the network connect to each other.', default: true }),
    listener: Type.Optional(
      label('The UDP listener at which nodes reach each other; without it the first that listens on all addresses.'),
    ),
  },
  {
    description:
      'Joins the nodes of the network: a pod on any of them reaches the pods of the others, and every peer, whichever node has it.',
  },
);

const listener = closed(
  {
    name: label('The name that spec.endpoint.listener of a VpnPeer refers to.'),
    protocol: oneOf(['UDP', 'TCP'], { description: 'The transport protocol.', default: 'UDP' }),
    port: integer('The local port.', 1, 65535),
    address: Type.Optional(
      address(
        'The local address to bind; without it all addresses of the node.',
        hostAddress('must be an address of one host; leave the field out to listen on all addresses'),
      ),
    ),
    endpoints: listOf(
      closed(
        {
          address: host('The address or host name that clients connect to.'),
          port: Type.Optional(integer('The port that clients connect to; without it that of the listener.', 1, 65535)),
        },
        { description: 'Where the listener is reached from outside.' },
      ),
      {
        description:
          'Where clients reach the listener, in the order in which they try. Profiles of clients name these.',
        default: [],
        maxItems: 8,
      },
    ),
  },
  { description: 'A local socket of the VPN on every node.' },
);

const listeners = withRules(
  mapOf(listener, 'name', {
    description: 'The local sockets of the VPN. A VpnPeer that names none uses the first.',
    minItems: 1,
    maxItems: 8,
  }),
  [
    {
      // The CEL rule compares texts, because comparing addresses is beyond the cost budget; ours sees through spellings.
      cel: 'self.all(a, self.all(b, a.name == b.name || a.port != b.port || a.protocol != b.protocol || (has(a.address) && has(b.address) && a.address != b.address)))',
      message:
        'must not listen twice on the same address and port with one protocol; give one of the listeners another port',
      offenders: (self) =>
        self.flatMap((one, index) =>
          self.slice(0, index).some((other) => sameSocket(one, other)) ? [`[${index}].port`] : [],
        ),
    },
  ],
);

/** The rule that keepalive times keep; a VpnPeer's override has it too. */
export const timeoutAfterInterval: Rule<{ intervalSeconds: number; timeoutSeconds: number }> = {
  cel: 'self.timeoutSeconds > self.intervalSeconds',
  message: 'timeoutSeconds must be greater than intervalSeconds, or every peer is given up before its first ping',
  offenders: (self) => (self.timeoutSeconds > self.intervalSeconds ? [] : ['.timeoutSeconds']),
};

const keepalive = withRules(
  closed(
    {
      intervalSeconds: integer('Seconds without traffic after which a ping is sent.', 1, 86400, 10),
      timeoutSeconds: integer('Seconds without a packet after which a peer counts as lost.', 1, 86400, 60),
    },
    { description: 'How a lost peer is noticed.', default: {} },
  ),
  [timeoutAfterInterval],
);

const namespaces = (whose: string, names: string[]) =>
  withRules(
    closed(
      {
        from: oneOf(['All', 'Names', 'Selector'], {
          description: 'All namespaces, those listed in names, or those with labels that selector takes.',
          default: 'Names',
        }),
        names: setOf(label('The name of a namespace.'), {
          description: 'The namespaces when from is Names.',
          default: names,
          maxItems: 256,
        }),
        selector: Type.Optional(labelSelector('The labels of the namespaces when from is Selector.')),
      },
      { description: whose, default: {} },
    ),
    [
      {
        cel: "has(self.selector) == (self.from == 'Selector')",
        message: 'must have a selector when from is Selector, and only then',
        offenders: (self) => ((self.selector !== undefined) === (self.from === 'Selector') ? [] : ['.selector']),
      },
    ],
  );

const builtInPki = withRules(
  closed(
    {
      caSecretRef: Type.Optional(
        closed(
          { name: objectName('The name of the Secret.') },
          {
            description:
              'The Secret in the namespace ovpn-system-ca with a CA to sign with, instead of one that the controller makes: tls.crt and tls.key, and in ca.crt its issuers up to the root and former CAs that are still trusted.',
          },
        ),
      ),
      caDays: integer('Days for which a CA certificate is valid; a new one follows in good time.', 30, 36500, 3650),
      certificateDays: integer(
        "Days for which the server's certificate, and each that a VpnKey gets, is valid. It is renewed after two thirds of them.",
        1,
        3650,
        365,
      ),
    },
    {
      description:
        'The controller makes a CA for this network alone (or takes that of caSecretRef), the server certificate, and the certificates of clients (VpnKey issued). Clients are then named by spec.identity.key.',
    },
  ),
  [
    {
      cel: 'self.caDays >= 3 * self.certificateDays',
      message:
        'caDays must be at least three times certificateDays, so that all certificates are renewed while the old and the new CA overlap',
      offenders: (self) => (self.caDays >= 3 * self.certificateDays ? [] : ['.caDays']),
    },
  ],
);

const issuer = closed(
  {
    name: objectName('The name of the issuer.'),
    kind: Type.String({
      description: 'Its kind: Issuer (in the namespace ovpn-system), ClusterIssuer, or that of an external issuer.',
      maxLength: 63,
      pattern: '^[A-Z][A-Za-z0-9]*$',
      default: 'Issuer',
    }),
    group: Type.String({
      description: 'Its API group.',
      maxLength: 253,
      pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$',
      default: 'cert-manager.io',
    }),
  },
  {
    description:
      "The issuer of cert-manager that signs the server's certificate. It has to give its CA (ca.crt), which is also that of the clients.",
  },
);

const pki = withRules(
  closed(
    {
      builtIn: Type.Optional(builtInPki),
      secretRef: Type.Optional(
        closed(
          { name: objectName('The name of the Secret.') },
          {
            description:
              'The Secret in the namespace ovpn-system that holds tls.crt, tls.key and ca.crt, and optionally ca.crl, all in PEM.',
          },
        ),
      ),
      issuerRef: Type.Optional(issuer),
      crlSecretRef: Type.Optional(
        closed(
          { name: objectName('The name of the Secret.'), key: secretKey('The key inside the Secret.', 'ca.crl') },
          {
            description:
              'The Secret in the namespace ovpn-system that holds the CRLs of the CA in PEM, apart from the certificates; it goes before ca.crl of secretRef.',
          },
        ),
      ),
      minTLSVersion: oneOf(['1.2', '1.3'], {
        description: 'The lowest version of TLS that is accepted.',
        default: '1.2',
      }),
    },
    {
      description:
        "The server's certificate and the CA of clients: exactly one of builtIn, secretRef and issuerRef. Without it the network takes no dial-in peers.",
    },
  ),
  [
    exactlyOneOf('builtIn', 'secretRef', 'issuerRef'),
    {
      cel: '!has(self.crlSecretRef) || !has(self.builtIn)',
      message: 'crlSecretRef is not for builtIn, where deleting or revoking a VpnKey refuses its certificates',
      offenders: (self) => (self.crlSecretRef === undefined || self.builtIn === undefined ? [] : ['.crlSecretRef']),
    },
  ],
);

const rekey = closed(
  {
    seconds: integer('Seconds after which new keys are agreed on; 0 leaves that to the other side.', 0, 86400, 3600),
    bytes: integer(
      'Bytes after which new keys are agreed on; 0 for the safety limit of the cipher.',
      0,
      9007199254740991,
      0,
    ),
    packets: integer(
      'Packets after which new keys are agreed on; 0 for the safety limit of the cipher.',
      0,
      4294967295,
      0,
    ),
  },
  { description: 'When the keys of peers with a control channel are replaced.', default: {} },
);

const push = closed(
  {
    routes: setOf(cidr('A range.'), {
      description: 'Further ranges that clients route into the VPN, besides pools.pods.',
      default: [],
      maxItems: 64,
    }),
    dns: closed(
      {
        servers: withRules(
          listOf(address('The address of a DNS server.'), {
            description: 'The DNS servers, in order.',
            default: [],
            maxItems: 8,
          }),
          [noRepetition],
        ),
        searchDomains: withRules(
          listOf(domain('A domain.'), {
            description: 'The domains that short names are looked up in, in order.',
            default: [],
            maxItems: 16,
          }),
          [noRepetition],
        ),
      },
      { description: 'How clients resolve names.', default: {} },
    ),
  },
  { description: 'What clients that dial in are told.', default: {} },
);

const networkFields = closed(
  {
    nodeSelector: labels('The nodes that take part in this VPN; empty selects all.'),
    pools,
    nodes: mapOf(node, 'name', {
      description:
        'Fixed addresses of nodes. All others get theirs from the controller; without one, every node needs an entry.',
      default: [],
      maxItems: 512,
    }),
    listeners,
    keepalive,
    keyTransition: closed(
      {
        seconds: integer(
          'Seconds for which the old and the new key of a rotation are both accepted, before and again after the switch.',
          1,
          3600,
          60,
        ),
      },
      { description: 'How keys are replaced without losing packets.', default: {} },
    ),
    mtu: Type.Optional(
      integer(
        'The MTU inside the VPN; without it that of the underlay less 84 bytes. At least 1280 with IPv6.',
        576,
        65451,
      ),
    ),
    pki: Type.Optional(pki),
    controlChannel: networkControlChannel,
    dataCiphers: cipherList({
      description: 'The ciphers of the data channel; the first that a client knows is taken.',
      default: ['AES-256-GCM', 'AES-128-GCM', 'CHACHA20-POLY1305'],
    }),
    rekey,
    push,
    mesh: Type.Optional(mesh),
    clusterAccess: Type.Optional(clusterAccess),
    allowedPeers: closed(
      {
        namespaces: namespaces('The namespaces whose VpnPeers may join.', ['ovpn-system']),
        routes: setOf(cidr('A range that may be routed.'), {
          description: 'The ranges inside which a VpnPeer may claim routes; none by default.',
          default: [],
          maxItems: 256,
        }),
      },
      { description: 'Who may add VpnPeers to this network, and what they may route.', default: {} },
    ),
    attach: closed(
      {
        namespaces: namespaces('The namespaces whose pods may join; none by default.', []),
        podSelector: Type.Optional(
          labelSelector(
            'The pods that may join, of those namespaces. Where the plugin stands in a chain without a network of its own, they join without asking; empty, that is every pod. Without it all pods of the namespaces may join, and those do that ask for it by the annotation ovpn-operator.io/networks or a network attachment.',
          ),
        ),
      },
      { description: 'Which pods may join this network.', default: {} },
    ),
  },
  { description: 'The VPN that is wanted.' },
);

/** The spec of a VpnNetwork. */
export const vpnNetworkSpec = withRules(networkFields, [
  {
    cel: 'self.nodes.all(n, n.addresses.all(a, !isIP(a) || self.pools.peers.exists(p, isCIDR(p) && cidr(p).containsIP(a))))',
    message: 'nodes must have their addresses inside pools.peers; choose addresses of the pool or extend it',
    offenders: (self) => {
      const peers = cidrs(self.pools.peers);
      return self.nodes.flatMap((entry, n) =>
        entry.addresses.flatMap((text, a) => {
          const parsed = parseAddress(text);
          return parsed === undefined || peers.some(([pool]) => contains(pool, parsed))
            ? []
            : [`.nodes[${n}].addresses[${a}]`];
        }),
      );
    },
  },
  {
    // Not by containsCIDR, which is wrong in Kubernetes 1.31.
    cel: 'self.nodes.all(n, n.podBlocks.all(b, !isCIDR(b) || self.pools.pods.exists(p, isCIDR(p) && cidr(p).containsIP(cidr(b).ip()) && cidr(p).prefixLength() <= cidr(b).prefixLength())))',
    message: 'nodes must have their podBlocks inside pools.pods; choose a range of the pool or extend it',
    offenders: (self) => {
      const pods = cidrs(self.pools.pods);
      return self.nodes.flatMap((entry, n) =>
        cidrs(entry.podBlocks).flatMap(([block, b]) =>
          pods.some(([pool]) => contains(pool, block)) ? [] : [`.nodes[${n}].podBlocks[${b}]`],
        ),
      );
    },
  },
  {
    cel: '!has(self.mtu) || self.mtu >= 1280 || !(self.pools.peers + self.pools.pods).exists(p, isCIDR(p) && cidr(p).ip().family() == 6)',
    message: 'mtu must be at least 1280 because a pool is IPv6; raise it or leave it out',
    offenders: (self) =>
      self.mtu === undefined ||
      self.mtu >= 1280 ||
      !cidrs([...self.pools.peers, ...self.pools.pods]).some(([pool]) => pool.family === 6)
        ? []
        : ['.mtu'],
  },
  {
    cel: "has(self.controlChannel.secretRef) || !has(self.controlChannel.wrap) || self.controlChannel.wrap != 'TLSCryptV2' || (has(self.pki) && has(self.pki.builtIn))",
    message: 'controlChannel.secretRef is needed for TLSCryptV2, unless pki.builtIn makes the key',
    offenders: (self) =>
      self.controlChannel.secretRef === undefined &&
      self.controlChannel.wrap === 'TLSCryptV2' &&
      self.pki?.builtIn === undefined
        ? ['.controlChannel.secretRef']
        : [],
  },
  {
    cel: '!has(self.mesh) || !self.mesh.enabled || (has(self.pki) && has(self.pki.builtIn))',
    message: 'mesh needs pki.builtIn, which makes the certificate that nodes know each other by',
    offenders: (self) => (isMesh(self) && self.pki?.builtIn === undefined ? ['.mesh'] : []),
  },
  {
    cel: "!has(self.mesh) || !self.mesh.enabled || self.listeners.exists(l, l.protocol == 'UDP' && (has(self.mesh.listener) ? l.name == self.mesh.listener : !has(l.address)))",
    message:
      'mesh needs a UDP listener: the one that mesh.listener names or, without it, one that has no address of its own',
    offenders: (self) => (isMesh(self) && meshListenerOf(self) === undefined ? ['.mesh'] : []),
  },
  {
    cel: '!has(self.clusterAccess) || (self.clusterAccess.pods + self.clusterAccess.services).all(r, !isCIDR(r) || (self.pools.peers + self.pools.pods).all(p, !isCIDR(p) || !(cidr(p).containsIP(cidr(r).ip()) || cidr(r).containsIP(cidr(p).ip()))))',
    message:
      'clusterAccess must not share addresses with the pools of the VPN; choose pools that the cluster does not use',
    offenders: (self) => {
      const taken = cidrs([...self.pools.peers, ...self.pools.pods]);
      return (['pods', 'services'] as const).flatMap((field) =>
        cidrs(self.clusterAccess?.[field] ?? []).flatMap(([range, index]) =>
          taken.some(([pool]) => overlaps(pool, range)) ? [`.clusterAccess.${field}[${index}]`] : [],
        ),
      );
    },
  },
  {
    // Without CEL: comparing 512 nodes with each other is beyond the cost budget of a rule.
    message: 'must not give the same address to two nodes; change one of them',
    offenders: (self) => {
      const seen = new Set<string>();
      return self.nodes.flatMap((entry, n) =>
        entry.addresses.flatMap((text, a) => {
          const canonical = parseAddress(text)?.text ?? text;
          const taken = seen.has(canonical);
          seen.add(canonical);
          return taken ? [`.nodes[${n}].addresses[${a}]`] : [];
        }),
      );
    },
  },
  {
    // Without CEL, for the same reason.
    message: 'must not share pod addresses with the podBlocks of another node; cut disjoint blocks',
    offenders: (self) => overlappingBlocks(self.nodes),
  },
  {
    message: 'must not be the network or broadcast address of the pool; choose another address for the node',
    offenders: (self) => {
      const peers = cidrs(self.pools.peers);
      return self.nodes.flatMap((entry, n) =>
        entry.addresses.flatMap((text, a) => {
          const parsed = parseAddress(text);
          const reserved = parsed !== undefined && peers.some(([pool]) => reservedIn(pool, parsed) !== undefined);
          return reserved ? [`.nodes[${n}].addresses[${a}]`] : [];
        }),
      );
    },
  },
]);

type MeshFields = Pick<Static<typeof networkFields>, 'mesh' | 'listeners'>;

/** Whether the nodes of a network connect to each other. */
export function isMesh({ mesh: wanted }: Pick<MeshFields, 'mesh'>): boolean {
  return wanted?.enabled === true;
}

/** The listener at which the nodes of a mesh reach each other. */
export function meshListenerOf({ mesh: wanted, listeners: all }: MeshFields): Static<typeof listener> | undefined {
  return all.find(
    ({ name, protocol, address: bound }) =>
      protocol === 'UDP' && (wanted?.listener === undefined ? bound === undefined : name === wanted.listener),
  );
}

const listenerStatus = Type.Object(
  {
    name: Type.String({ description: 'The name of the listener.', maxLength: 63 }),
    address: Type.String({ description: 'The local address that is bound.', maxLength: 64 }),
    port: Type.Integer({ description: 'The local port.', minimum: 0, maximum: 65535 }),
    protocol: Type.Optional(Type.String({ description: 'The transport protocol.', maxLength: 8 })),
  },
  { description: 'A socket that is open.' },
);

const nodeStatus = Type.Object(
  {
    name: Type.String({ description: 'The name of the Node.', maxLength: 253 }),
    ready: Type.Boolean({ description: 'Whether the node carries the VPN as specified.' }),
    namespace: Type.Optional(
      Type.String({ description: 'The network namespace of the VPN on the node.', maxLength: 253 }),
    ),
    device: Type.Optional(Type.String({ description: 'The ovpn device in that namespace.', maxLength: 15 })),
    mtu: Type.Optional(Type.Integer({ description: 'The MTU of the device.', minimum: 0 })),
    addresses: Type.Optional(
      Type.Array(Type.String({ description: 'A VPN address.', maxLength: 43 }), {
        description: 'The VPN addresses of the node.',
        maxItems: 2,
        'x-kubernetes-list-type': 'atomic',
      }),
    ),
    podBlocks: Type.Optional(
      Type.Array(Type.String({ description: 'A range of pod addresses.', maxLength: 43 }), {
        description: 'The ranges that pods on the node get addresses of.',
        maxItems: 2,
        'x-kubernetes-list-type': 'atomic',
      }),
    ),
    listeners: Type.Optional(mapOf(listenerStatus, 'name', { description: 'The sockets that are open.', maxItems: 8 })),
    underlayAddresses: Type.Optional(
      Type.Array(Type.String({ description: 'An address.', maxLength: 43 }), {
        description: 'Where the other nodes of a mesh reach the node.',
        maxItems: 4,
        'x-kubernetes-list-type': 'atomic',
      }),
    ),
    mesh: Type.Optional(
      Type.Object(
        {
          neighbours: Type.Integer({ description: 'How many other nodes the mesh has.', minimum: 0 }),
          connected: Type.Integer({ description: 'How many of these the node is connected to.', minimum: 0 }),
        },
        { description: 'The connections to the other nodes of a mesh, as of when the node last said something.' },
      ),
    ),
    clusterAccess: Type.Optional(
      Type.Object(
        {
          ready: Type.Boolean({ description: 'Whether peers reach the cluster by the node as specified.' }),
          reason: Type.String({ description: 'Why not, in one CamelCase word, or Ready.', maxLength: 63 }),
          message: Type.Optional(Type.String({ description: 'Why not, for a person to read.', maxLength: 4096 })),
        },
        { description: 'The way of peers into the cluster.' },
      ),
    ),
    peers: Type.Integer({
      description: 'How many peers are in the kernel; other nodes of a mesh are not among them.',
      minimum: 0,
    }),
    attachments: Type.Integer({ description: 'How many pods are attached.', minimum: 0 }),
    message: Type.Optional(Type.String({ description: 'Why the node is not ready.', maxLength: 4096 })),
  },
  { description: 'The VPN on one node.' },
);

const figure = (description: string) => Type.Optional(Type.Integer({ description, minimum: 0 }));

const poolUse = (what: string) =>
  Type.Optional(
    Type.Object(
      {
        used: Type.Integer({ description: 'How many somebody holds.', minimum: 0 }),
        total: Type.Integer({ description: 'How many there are.', minimum: 0 }),
      },
      { description: what },
    ),
  );

/** The status of a VpnNetwork. */
export const vpnNetworkStatus = Type.Object(
  {
    observedGeneration: observedGeneration(),
    conditions: conditionsSchema(),
    pki: Type.Optional(
      Type.Object(
        {
          caNotAfter: timestamp('When the newest CA expires.'),
          certificateNotAfter: timestamp("When the server's certificate expires."),
        },
        { description: 'What the controller made for pki.builtIn.' },
      ),
    ),
    peerNamespaces: Type.Optional(
      Type.Array(Type.String({ description: 'The name of a namespace.', maxLength: 63 }), {
        description: 'The namespaces that spec.allowedPeers.namespaces.selector takes, by name.',
        maxItems: 10000,
        'x-kubernetes-list-type': 'atomic',
      }),
    ),
    nodesWanted: figure('How many Nodes spec.nodeSelector selects.'),
    nodesReady: figure('How many of these carry the VPN as specified.'),
    peers: figure('How many VpnPeers name the network.'),
    peersConnected: figure('How many of these are connected now.'),
    pools: Type.Optional(
      Type.Object(
        {
          numbers: poolUse('The numbers that VPN addresses are made of.'),
          podBlocks: poolUse("The nodes' blocks of pod addresses."),
        },
        { description: 'How much of the pools is in use.' },
      ),
    ),
    nodes: Type.Optional(mapOf(nodeStatus, 'name', { description: 'The VPN on each node.', maxItems: 5000 })),
  },
  { description: 'The VPN as it is.' },
);

/** The readable ranges of a list, each with its place in it: what does not parse has an error of its own. */
function cidrs(texts: readonly string[]): [Cidr, number][] {
  return texts.flatMap((text, index) => {
    const parsed = parseCidr(text);
    return parsed === undefined ? [] : [[parsed, index] as [Cidr, number]];
  });
}

/** Disjoint ranges stay disjoint when sorted, so each block need only be compared with the widest one before it. */
function overlappingBlocks(nodes: readonly { podBlocks: readonly string[] }[]): string[] {
  const blocks = nodes.flatMap((entry, n) =>
    cidrs(entry.podBlocks).map(([block, b]) => ({ block, path: `.nodes[${n}].podBlocks[${b}]` })),
  );
  blocks.sort((one, other) => compareRanges(one.block, other.block));
  let widest: Cidr | undefined;
  return blocks.flatMap(({ block, path }) => {
    if (widest !== undefined && contains(widest, block)) return [path];
    widest = block;
    return [];
  });
}

type Listener = Static<typeof listener>;

function sameSocket(one: Listener, other: Listener): boolean {
  if (one.port !== other.port || one.protocol !== other.protocol) return false;
  if (one.address === undefined || other.address === undefined) return true;
  const [a, b] = [parseAddress(one.address), parseAddress(other.address)];
  return a === undefined || b === undefined || a.text === b.text;
}
