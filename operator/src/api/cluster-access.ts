import Type, { type Static } from 'typebox';
import { contains, parseAddress, parseCidr } from './ip.ts';
import { labelSelector, matchesSelector } from './label-selector.ts';
import {
  address,
  cidr,
  closed,
  domain,
  integer,
  label,
  listOf,
  noRepetition,
  oneOf,
  setOf,
  withRules,
} from './schema-kit.ts';

/** `spec.clusterAccess` of a VpnNetwork: what its peers reach of the cluster, and who reaches what. */

const port = withRules(
  closed(
    {
      protocol: oneOf(['TCP', 'UDP', 'SCTP'], { description: 'The transport protocol.', default: 'TCP' }),
      port: integer('The port, as the peer calls it: for a Service its port, not its targetPort.', 1, 65535),
      endPort: Type.Optional(integer('The last port, when it is a range that begins with port.', 1, 65535)),
    },
    { description: 'A port, or a range of ports.' },
  ),
  [
    {
      cel: '!has(self.endPort) || self.endPort >= self.port',
      message: 'endPort must not be less than port',
      offenders: (self) => (self.endPort === undefined || self.endPort >= self.port ? [] : ['.endPort']),
    },
  ],
);

const destination = closed(
  {
    cidr: cidr('A range inside pods or services.'),
    ports: listOf(port, {
      description: 'The ports that are reached there; without any all of them, and all protocols.',
      default: [],
      maxItems: 16,
    }),
  },
  { description: 'What is reached.' },
);

const selectedPeers = closed(
  {
    namespaces: setOf(label('The name of a namespace.'), {
      description: 'The namespaces of the VpnPeers; without any all that may add peers.',
      default: [],
      maxItems: 64,
    }),
    selector: Type.Optional(
      labelSelector(
        'The labels of the VpnPeers. Who may create VpnPeers chooses these; namespaces are chosen by the owner of the network.',
      ),
    ),
  },
  {
    description:
      'The VpnPeers whose own VPN addresses may: clients, and peers with static keys. Without it everything behind the network may, networks behind peers and remotes that are dialled included.',
  },
);

const rule = closed(
  {
    peers: Type.Optional(selectedPeers),
    to: listOf(destination, {
      description: 'What they reach; without any all of pods and services.',
      default: [],
      maxItems: 16,
    }),
  },
  { description: 'Who reaches what. An empty rule lets everybody reach all of pods and services.' },
);

/** Whether an address or a range is inside one of the ranges; what cannot be read has an error of its own. */
export function isInside(text: string, ranges: readonly string[]): boolean {
  const inner = text.includes('/') ? parseCidr(text) : parseAddress(text);
  if (inner === undefined) return true;
  return ranges.some((range) => {
    const outer = parseCidr(range);
    return outer !== undefined && contains(outer, inner);
  });
}

/** The schema of `spec.clusterAccess`. */
export const clusterAccess = withRules(
  closed(
    {
      enabled: Type.Boolean({ description: 'Whether peers reach anything of the cluster.', default: true }),
      pods: setOf(cidr('A range of pod addresses.'), {
        description: "The cluster's ranges of pod addresses that peers may reach and are told routes to.",
        default: [],
        maxItems: 8,
      }),
      services: setOf(cidr('A range of Service addresses.'), {
        description: "The cluster's ranges of Service addresses that peers may reach and are told routes to.",
        default: [],
        maxItems: 4,
      }),
      dns: closed(
        {
          servers: withRules(
            listOf(address('The address of a DNS server inside pods or services.'), {
              description:
                'The DNS of the cluster, which everybody whom a rule lets in may ask (port 53). Clients are told these instead of push.dns.servers.',
              default: [],
              maxItems: 4,
            }),
            [noRepetition],
          ),
          domains: withRules(
            listOf(domain('A domain.'), {
              description:
                'The domains that clients look up there, such as cluster.local; without any all names. Only clients that know the option `dns` (OpenVPN 2.6) keep to that.',
              default: [],
              maxItems: 16,
            }),
            [noRepetition],
          ),
        },
        { description: 'How clients resolve names of the cluster.', default: {} },
      ),
      allow: listOf(rule, {
        description: 'Who reaches what. What no rule allows is dropped.',
        minItems: 1,
        maxItems: 16,
      }),
    },
    {
      description:
        'Lets peers reach pods, Services and the DNS of the cluster. The nodes masquerade: what is reached sees the address of a node. Without it peers reach nothing of the cluster but the pods that are attached to the network.',
    },
  ),
  [
    {
      cel: '!self.enabled || self.pods.size() + self.services.size() > 0',
      message: 'must name what is reached, in pods or services; or set enabled to false',
      offenders: (self) => (!self.enabled || self.pods.length + self.services.length > 0 ? [] : ['']),
    },
    {
      cel: 'self.dns.servers.all(a, !isIP(a) || (self.pods + self.services).exists(r, isCIDR(r) && cidr(r).containsIP(a)))',
      message: 'dns.servers must be inside pods or services; add the range that has the server',
      offenders: (self) =>
        self.dns.servers.flatMap((text, index) =>
          isInside(text, [...self.pods, ...self.services]) ? [] : [`.dns.servers[${index}]`],
        ),
    },
    {
      // Without CEL: comparing each destination of each rule with each range is beyond the cost budget.
      message: 'must be inside pods or services; extend these, or choose a smaller range',
      offenders: (self) =>
        self.allow.flatMap(({ to }, n) =>
          to.flatMap((each, t) =>
            isInside(each.cidr, [...self.pods, ...self.services]) ? [] : [`.allow[${n}].to[${t}].cidr`],
          ),
        ),
    },
  ],
);

export type ClusterAccess = Static<typeof clusterAccess>;
export type AccessRule = ClusterAccess['allow'][number];

/** Whether a rule names the peer, by its namespace and labels; also true of a rule that is for everybody. */
export function takesPeer(
  { peers }: AccessRule,
  { namespace, labels }: { readonly namespace: string; readonly labels: Readonly<Record<string, string>> },
): boolean {
  if (peers === undefined) return true;
  const { namespaces, selector } = peers;
  return (
    (namespaces.length === 0 || namespaces.includes(namespace)) &&
    (selector === undefined || matchesSelector(selector, labels))
  );
}
