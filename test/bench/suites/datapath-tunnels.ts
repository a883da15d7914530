import { join } from 'node:path';
import { namespaceName } from '../../../operator/src/agent/names.ts';
import { AgentProcess, type Host, type Hosts } from '../../support/hosts.ts';
import { key, network, newStaticKey, peer, secret } from '../../support/manifests.ts';
import { attachPod, podAddress } from '../../support/office.ts';
import { eventually, run, Service } from '../../support/run.ts';
import { type BenchPki, clientCert } from './handshake-pki.ts';

/** Two ends between which packets are sent. */
export interface Path {
  readonly name: string;
  /** Network namespaces, by their paths. */
  readonly from: string;
  readonly to: string;
  /** Of the far end, an IPv4 address. */
  readonly address: string;
}

/** What every tunnel carries: the same packets, however much a protocol puts around them. */
const mtu = 1400;

/**
 * The tunnel of two nodes with agents: between a pod of each, and between the network namespaces that have the ovpn
 * devices, without what attaches the pods.
 */
export async function ourPaths(hosts: Hosts, cipher: string): Promise<{ readonly pods: Path; readonly bare: Path }> {
  const [near, far] = [await hosts.host('near'), await hosts.host('far')];
  const material = newStaticKey();
  const start = async (host: Host, other: Host, number: number, direction: 'Normal' | 'Inverse') => {
    const opposite = 3 - number;
    const agent = new AgentProcess(host);
    const networkOf = { node: host.name, addresses: [`10.80.0.${number}`], podBlocks: [`10.8${number}.1.0/24`] };
    agent.apply('network.yaml', network({ ...networkOf, peerPools: ['10.80.0.0/24'], spec: { mtu } }));
    agent.apply('secret.yaml', secret('other', material));
    agent.apply('key.yaml', key({ name: 'other', direction, cipher }));
    const endpoint = { address: other.ipv4, port: 1194 };
    const addresses = [`10.80.0.${opposite}`];
    agent.apply(
      'peer.yaml',
      peer({ name: 'other', peerID: 7, endpoint, addresses, routes: [`10.8${opposite}.1.0/24`] }),
    );
    await agent.start();
    await agent.untilReady('corp', 1);
    return { agent, pod: await attachPod(agent, `pod${number}`) };
  };
  const one = await start(near, far, 1, 'Normal');
  const other = await start(far, near, 2, 'Inverse');
  const inside = (agent: AgentProcess): string => join(agent.netns, namespaceName('corp'));
  return {
    pods: { name: 'pods', from: one.pod.netns, to: other.pod.netns, address: podAddress(other.pod, 4) },
    bare: { name: 'the ovpn device alone', from: inside(one.agent), to: inside(other.agent), address: '10.80.0.2' },
  };
}

/** A pod on each of two hosts, behind a veth pair as ours, and the way to the other through the tunnel's device. */
async function podsBehind(
  hosts: Hosts,
  ends: readonly [Host, Host],
  device: string,
): Promise<Pick<Path, 'from' | 'to' | 'address'>> {
  const podOf = async (host: Host, number: number): Promise<string> => {
    const name = `${host.namespace}-pod`;
    const netns = await hosts.namespace(name);
    const ip = (namespace: string, ...words: string[]): Promise<string> => run('ip', '-n', namespace, ...words);
    const link = ['type', 'veth', 'peer', 'name', 'pod0', 'mtu', `${mtu}`, 'netns', host.namespace];
    await ip(name, 'link', 'add', 'vpn0', 'mtu', `${mtu}`, ...link);
    await ip(name, 'addr', 'add', `10.8${number}.1.2/32`, 'dev', 'vpn0');
    await ip(host.namespace, 'addr', 'add', `10.8${number}.1.1/32`, 'dev', 'pod0');
    await ip(name, 'link', 'set', 'vpn0', 'up');
    await ip(host.namespace, 'link', 'set', 'pod0', 'up');
    await ip(host.namespace, 'route', 'add', `10.8${number}.1.2/32`, 'dev', 'pod0');
    await ip(name, 'route', 'add', `10.8${number}.1.1/32`, 'dev', 'vpn0');
    await ip(name, 'route', 'add', '10.80.0.0/12', 'via', `10.8${number}.1.1`, 'dev', 'vpn0');
    await ip(host.namespace, 'route', 'replace', `10.8${3 - number}.1.0/24`, 'dev', device);
    await host.exec('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward');
    return netns;
  };
  const [from, to] = [await podOf(ends[0], 1), await podOf(ends[1], 2)];
  return { from, to, address: '10.82.1.2' };
}

/** WireGuard between two hosts, with a pod on each. */
export async function wireguardPath(hosts: Hosts): Promise<Path> {
  const ends = [await hosts.host('wg1'), await hosts.host('wg2')] as const;
  const keys = await Promise.all(
    ends.map(async () => {
      const secretKey = (await run('wg', 'genkey')).trim();
      return { secretKey, publicKey: (await run('sh', '-c', `echo ${secretKey} | wg pubkey`)).trim() };
    }),
  );
  for (const [index, host] of ends.entries()) {
    const [own, other] = [keys[index]?.secretKey ?? '', keys[1 - index]?.publicKey ?? ''];
    await run('ip', '-n', host.namespace, 'link', 'add', 'wg0', 'mtu', `${mtu}`, 'type', 'wireguard');
    const peerWords = `peer ${other} endpoint ${ends[1 - index]?.ipv4 ?? ''}:51820 allowed-ips 10.80.0.0/12`;
    const words = `listen-port 51820 private-key /dev/stdin ${peerWords}`;
    await host.exec('sh', '-c', `echo ${own} | wg set wg0 ${words}`);
    await run('ip', '-n', host.namespace, 'addr', 'add', `10.80.0.${index + 1}/24`, 'dev', 'wg0');
    await run('ip', '-n', host.namespace, 'link', 'set', 'wg0', 'up');
  }
  return { name: 'WireGuard', ...(await podsBehind(hosts, ends, 'wg0')) };
}

/** OpenVPN's own data channel in userspace between two hosts, with a pod on each. */
export async function openvpnPath(hosts: Hosts, pki: BenchPki, cipher: string): Promise<Path> {
  const ends = [await hosts.host('ov1'), await hosts.host('ov2')] as const;
  const common = [
    ...['dev tun0', 'dev-type tun', `tun-mtu ${mtu}`, 'disable-dco', `ca ${pki.ca}`, 'verb 3'],
    ...[`data-ciphers ${cipher}`, 'rcvbuf 2097152', 'sndbuf 2097152'],
  ];
  const config = [
    // Point to point by certificates: neither end looks up a client by its address.
    [
      ...common,
      ...['tls-server', 'dh none', 'proto udp4', 'port 1194', 'ifconfig 10.80.0.1 10.80.0.2'],
      ...[`cert ${pki.serverCert}`, `key ${pki.serverKey}`],
    ],
    [
      ...common,
      ...['tls-client', 'proto udp4', 'nobind', `remote ${ends[0].ipv4} 1194`, 'ifconfig 10.80.0.2 10.80.0.1'],
      ...[`cert ${clientCert(pki, 0)}`, `key ${pki.clientKey}`],
    ],
  ];
  const services: Service[] = [];
  for (const [index, host] of ends.entries()) {
    const words = (config[index] ?? []).flatMap((line) => {
      const [name = '', ...rest] = line.split(' ');
      return [`--${name}`, ...rest];
    });
    const service = new Service('nsenter', host.command('openvpn', ...words));
    hosts.onCleanup(() => service.end('SIGKILL'));
    services.push(service);
  }
  await eventually('OpenVPN connects', () => {
    const ended = services.find(({ running }) => !running);
    if (ended !== undefined) throw new Error(`OpenVPN ended:\n${ended.log}`);
    return services.every(({ log }) => log.includes('Initialization Sequence Completed')) || undefined;
  });
  return { name: 'OpenVPN, --disable-dco', ...(await podsBehind(hosts, ends, 'tun0')) };
}
