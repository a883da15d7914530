import { readdirSync } from 'node:fs';
import type { Peer } from '../../../operator/src/kernel/ovpn/codec.ts';
import type { AgentProcess } from '../hosts.ts';
import { type DialledDevice, KernelView } from '../kernel-view.ts';
import { run } from '../run.ts';

/** What the kernel holds on one node, of a network and of the host: asked of the kernel itself, in terms that compare. */
export interface NodeKernel {
  readonly node: string;
  /** Network namespaces that the agent has mounted. */
  readonly namespaces: readonly string[];
  /** Interfaces of the network's namespace. */
  readonly links: readonly string[];
  /** Addresses of the device that others can send to, without length. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  readonly peers: readonly (Peer & { readonly keys: string })[];
  readonly dialled: readonly DialledDevice[];
  /** Our routes, a line each: `10.81.1.0/25 via 10.80.0.2 dev ovpn0`. */
  readonly routes: readonly string[];
  /** The packet filter in the network's namespace, without counters and handles. */
  readonly filter: string;
  /** Interfaces, our routes and the packet filter of the host. */
  readonly host: { readonly links: readonly string[]; readonly routes: readonly string[]; readonly filter: string };
}

interface LinkJson {
  readonly ifname: string;
  readonly mtu: number;
  readonly addr_info: readonly { readonly local: string; readonly scope: string }[];
}

interface RouteJson {
  readonly type?: string;
  readonly dst: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly metric?: number;
}

/** Routes carry our number in `rtm_protocol` (kernel/rtnetlink/routes.ts). Of all tables, `ip` shows both families unless told. */
const script = [
  'ip -j addr',
  'ip -4 -j -d route show table all proto 79',
  'ip -6 -j -d route show table all proto 79',
  'nft list ruleset',
].join('; echo; echo ---; ');

interface Namespace {
  readonly links: readonly LinkJson[];
  readonly routes: readonly string[];
  readonly filter: string;
}

async function namespaceOf(path: string): Promise<Namespace> {
  const text = await run('nsenter', `--net=${path}`, 'sh', '-ec', script);
  const [links = '', ipv4 = '', ipv6 = '', filter = ''] = text.split('---\n');
  // `ip -j` writes nothing at all for an empty list of IPv6 routes.
  const routes = [ipv4, ipv6].flatMap((part) => JSON.parse(part.trim() === '' ? '[]' : part) as RouteJson[]);
  return { links: JSON.parse(links) as LinkJson[], routes: routes.map(formatRoute).sort(), filter: filter.trim() };
}

function formatRoute({ type = 'unicast', dst, gateway, dev, metric = 0 }: RouteJson): string {
  const destination = dst.includes('/') ? dst : `${dst}/${dst.includes(':') ? 128 : 32}`;
  if (type === 'unreachable') return `unreachable ${destination}`;
  const words = [destination, ...(gateway === undefined ? [] : ['via', gateway]), 'dev', dev ?? '?'];
  // IPv6 routes have 1024 when none is given (net/ipv6/route.c, IP6_RT_PRIO_USER).
  return [...words, ...(metric === 0 || metric === 1024 ? [] : ['metric', String(metric)])].join(' ');
}

/** Reads a node's kernel. @throws while a namespace or device that is asked for comes or goes */
export async function readNodeKernel(agent: AgentProcess, network = 'corp'): Promise<NodeKernel> {
  const view = new KernelView(agent, network);
  const [inside, host, dialled] = await Promise.all([
    namespaceOf(view.path),
    namespaceOf(`/run/netns/${agent.host.namespace}`),
    view.dialled(),
  ]);
  const device = inside.links.find(({ ifname }) => ifname === 'ovpn0');
  return {
    node: agent.host.name,
    namespaces: readdirSync(agent.netns).sort(),
    links: inside.links.map(({ ifname }) => ifname).sort(),
    addresses: (device?.addr_info ?? [])
      .filter(({ scope }) => scope === 'global')
      .map(({ local }) => local)
      .sort(),
    mtu: device?.mtu ?? 0,
    peers: view.peers().map((peer) => ({ ...peer, keys: view.slots(peer.id) })),
    dialled,
    routes: inside.routes,
    filter: inside.filter,
    host: { links: host.links.map(({ ifname }) => ifname).sort(), routes: host.routes, filter: host.filter },
  };
}
