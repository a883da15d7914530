import { canonicalAddress } from '../../operator/src/kernel/address.ts';
import { type Host } from './hosts.ts';
import { attempt, eventually, run, Service } from './run.ts';

/**
 * A cluster as a node has it, without our part: a pod on the node, one on another node, both over the node's routes, and
 * Services as kube-proxy makes them, by translation in the node's prerouting chains. The pods answer with the address
 * that a request came from.
 */
export const clusterRanges = {
  pods: ['10.244.0.0/16', 'fd44::/48'],
  services: ['10.96.0.0/16', 'fd96::/112'],
} as const;

export const near = { ipv4: '10.244.1.2', ipv6: 'fd44:0:0:1::2' } as const;
export const far = { ipv4: '10.244.2.2', ipv6: 'fd44:0:0:2::2' } as const;
/** Of the pod that is near: port 80, at its port 8080. */
export const webService = { ipv4: '10.96.0.5', ipv6: 'fd96::5' } as const;
/** Port 53 of UDP, at the same pod's port 5353. */
export const dnsService = { ipv4: '10.96.0.10', ipv6: 'fd96::a' } as const;
/** What the DNS says of every name that ends in cluster.local. */
export const dnsAnswer = '10.96.0.5';

interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface ClusterBehind {
  /** The namespace of the pod that is near, as a path. */
  readonly nearNetns: string;
  readonly node: Host;
  readonly other: Host;
}

/** Makes the cluster. The node does not forward yet. */
export async function clusterBehind(node: Host): Promise<ClusterBehind> {
  const { hosts } = node;
  const other = await hosts.host('node2');
  const nearNetns = await podOn(node, 'near', near);
  const farNetns = await podOn(other, 'far', far);
  await other.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  await node.exec('ip', 'route', 'add', '10.244.2.0/24', 'via', other.ipv4);
  await node.exec('ip', 'route', 'add', 'fd44:0:0:2::/64', 'via', other.ipv6);
  await node.exec('nft', kubeProxy);
  for (const netns of [nearNetns, farNetns]) {
    for (const port of [8080, 9090]) {
      serve(node, netns, 'socat', `TCP6-LISTEN:${port},fork,reuseaddr,ipv6only=0`, 'SYSTEM:echo from $SOCAT_PEERADDR');
      await listens(netns, port);
    }
  }
  serve(node, nearNetns, process.execPath, '-e', dnsResponder);
  await eventually(
    'the DNS listens',
    async () => (await run('nsenter', `--net=${nearNetns}`, 'ss', '-Hlun')).includes(':5353') || undefined,
  );
  return { nearNetns, node, other };
}

async function podOn(host: Host, name: string, { ipv4, ipv6 }: Addresses): Promise<string> {
  const full = `${host.hosts.prefix}-${name}`;
  const netns = await host.hosts.namespace(full);
  await run('ip', '-n', full, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'pod0', 'netns', host.namespace);
  const gateway = { ipv4: ipv4.replace(/2$/, '1'), ipv6: ipv6.replace(/2$/, '1') };
  for (const [namespace, device, addresses] of [
    [full, 'eth0', { ipv4, ipv6 }],
    [host.namespace, 'pod0', gateway],
  ] as const) {
    await run('ip', '-n', namespace, 'addr', 'add', `${addresses.ipv4}/24`, 'dev', device);
    await run('ip', '-n', namespace, 'addr', 'add', `${addresses.ipv6}/64`, 'dev', device, 'nodad');
    await run('ip', '-n', namespace, 'link', 'set', device, 'up');
  }
  await run('ip', '-n', full, 'route', 'add', 'default', 'via', gateway.ipv4);
  await run('ip', '-n', full, 'route', 'add', 'default', 'via', gateway.ipv6);
  return netns;
}

function serve(node: Host, netns: string, ...command: readonly string[]): void {
  const service = new Service('nsenter', [`--net=${netns}`, ...command]);
  node.hosts.onCleanup(() => service.end('SIGKILL'));
}

async function listens(netns: string, port: number): Promise<void> {
  await eventually(
    `port ${port} listens`,
    async () => (await run('nsenter', `--net=${netns}`, 'ss', '-Hltn')).includes(`:${port} `) || undefined,
  );
}

/** What kube-proxy does in its mode nftables, as far as it counts here. */
const kubeProxy = `
table ip kube-proxy {
  chain services {
    type nat hook prerouting priority dstnat;
    ip daddr ${webService.ipv4} tcp dport 80 dnat to ${near.ipv4}:8080
    ip daddr ${dnsService.ipv4} udp dport 53 dnat to ${near.ipv4}:5353
  }
}
table ip6 kube-proxy {
  chain services {
    type nat hook prerouting priority dstnat;
    ip6 daddr ${webService.ipv6} tcp dport 80 dnat to [${near.ipv6}]:8080
    ip6 daddr ${dnsService.ipv6} udp dport 53 dnat to [${near.ipv6}]:5353
  }
}`;

/** Answers every question with one A record (RFC 1035, 4.1). */
const dnsResponder = `
const socket = require('node:dgram').createSocket('udp6');
socket.on('message', (query, { address, port }) => {
  const question = query.subarray(12, query.indexOf(0, 12) + 5);
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180, 2);
  [1, 1, 0, 0].forEach((count, i) => header.writeUInt16BE(count, 4 + 2 * i));
  const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, ${dnsAnswer.split('.').join(', ')}]);
  socket.send(Buffer.concat([header, question, answer]), port, address);
});
socket.bind(5353, '::');`;

/** The address of an IPv4 host, as {@link ask} has it. */
export const asSeen = (ipv4: string): string => canonicalAddress(`::ffff:${ipv4}`);

const bracketed = (address: string): string => (address.includes(':') ? `[${address}]` : address);

/** The address by which a TCP server sees somebody in a namespace (a path); undefined when there is no connection in three seconds. */
export async function ask(netns: string, address: string, port: number): Promise<string | undefined> {
  const target = `TCP:${bracketed(address)}:${port},connect-timeout=3`;
  const { code, stdout } = await attempt('nsenter', [`--net=${netns}`, 'socat', '-T3', '-u', target, 'STDOUT']);
  // Servers of both families write IPv6 only, in full length and brackets.
  const [, seen] = /from \[?([0-9a-f:.]+)/.exec(stdout) ?? [];
  return code !== 0 || seen === undefined ? undefined : canonicalAddress(seen);
}

/** What a DNS server says of a name; undefined when it does not answer in three seconds. */
export async function resolve(netns: string, server: string, name: string): Promise<string | undefined> {
  const script = `
    const resolver = new (require('node:dns').promises.Resolver)({ timeout: 3000, tries: 1 });
    resolver.setServers(['${bracketed(server)}']);
    resolver.resolve4('${name}').then(([first]) => console.log(first), () => process.exit(1));`;
  const { code, stdout } = await attempt('nsenter', [`--net=${netns}`, process.execPath, '-e', script]);
  return code === 0 ? stdout.trim() : undefined;
}
