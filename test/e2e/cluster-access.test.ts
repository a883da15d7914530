import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnNetworkStatus } from '../../operator/src/api/types.ts';
import {
  ask,
  asSeen,
  type ClusterBehind,
  clusterBehind,
  clusterRanges,
  dnsAnswer,
  dnsService,
  far,
  near,
  resolve,
  webService,
} from '../support/cluster-behind.ts';
import { ping } from '../support/hosts.ts';
import { attachPod, type Pod } from '../support/office.ts';
import { openvpn26, openvpn27, type OpenvpnProcess } from '../support/openvpn.ts';
import { attempt, eventually, run, Service } from '../support/run.ts';
import { PingStream, type StreamResult } from '../support/stream.ts';
import { netnsOf, Scene, type VpnAddresses } from './scene.ts';

/** Stock clients reach a cluster: its pods, Services and DNS, and only what is allowed. */
let scene: Scene;
let cluster: ClusterBehind;
let pod: Pod;
const clients = new Map<string, OpenvpnProcess>();
const vpn = new Map<string, VpnAddresses>();
// No resolver is to be changed in the lab.
const config = ['pull-filter ignore "dns "', 'pull-filter ignore "dhcp-option"'];
const labels = { team: 'dev' };

const clusterAccess = {
  ...clusterRanges,
  dns: { servers: [dnsService.ipv4, dnsService.ipv6], domains: ['cluster.local'] },
  allow: [
    { peers: { selector: { matchLabels: { team: 'dev' } } } },
    {
      to: [webService, near].flatMap(({ ipv4, ipv6 }) => [
        { cidr: `${ipv4}/32`, ports: [{ port: 80 }, { port: 8000, endPort: 8088 }] },
        { cidr: `${ipv6}/128`, ports: [{ port: 80 }, { port: 8000, endPort: 8088 }] },
      ]),
    },
  ],
};

beforeAll(async () => {
  scene = await Scene.open('clus', { options: ['--resync', '1', '--status-interval', '1'] });
  scene.applyNetwork({ name: 'other', port: 1195 });
  cluster = await clusterBehind(scene.node);
  await scene.listening('other');
  // The same address as alice, in a network with the same pools.
  vpn.set('alice', scene.admit('alice', { labels }));
  vpn.set('bob', scene.admit('bob'));
  scene.readmit('mallory', addressesOf('alice'), { networkName: 'other' });
  pod = await attachPod(scene.agent, 'attached');
  clients.set(
    'mallory',
    await scene.connectedClient('mallory', { config, remotes: [{ address: scene.node.ipv4, port: 1195 }] }),
  );
});
afterAll(async () => {
  await scene.close();
});

function addressesOf(name: string): VpnAddresses {
  const addresses = vpn.get(name);
  if (addresses === undefined) throw new Error(`${name} has no addresses`);
  return addresses;
}
function clientOf(name: string): OpenvpnProcess {
  const client = clients.get(name);
  if (client === undefined) throw new Error(`${name} is not connected`);
  return client;
}
const at = (name: string): string => netnsOf(clientOf(name).host);

async function connect(): Promise<void> {
  for (const [name, build] of [
    ['alice', openvpn26],
    ['bob', openvpn27],
  ] as const) {
    await clients.get(name)?.end();
    clients.set(
      name,
      await scene.connectedClient(name, {
        build,
        config,
        host: clients.get(name)?.host ?? (await scene.hosts.host(name)),
      }),
    );
  }
}

function networkStatus(): VpnNetworkStatus | undefined {
  const text = readFileSync(join(scene.agent.state, 'status', 'VpnNetwork.corp.json'), 'utf8');
  return (JSON.parse(text) as { readonly status: VpnNetworkStatus }).status;
}
const accessCondition = (): string | undefined => {
  const found = networkStatus()?.conditions?.find(({ type }) => type === 'ClusterAccessReady');
  return found === undefined ? undefined : `${found.status}/${found.reason}`;
};
const untilCondition = (wanted: string): Promise<true> =>
  eventually(`the condition is ${wanted}`, () => accessCondition() === wanted || undefined).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${JSON.stringify(networkStatus())}\n${scene.agent.log}`, { cause: error });
  });

/** Sends a client's packets for the cluster into the tunnel, whatever it was told. */
async function routeAll(netns: string, device: string): Promise<void> {
  for (const range of [...clusterRanges.pods, ...clusterRanges.services])
    await run('nsenter', `--net=${netns}`, 'ip', 'route', 'replace', range, 'dev', device);
}
async function unroute(netns: string): Promise<void> {
  for (const range of [...clusterRanges.pods, ...clusterRanges.services])
    await attempt('nsenter', [`--net=${netns}`, 'ip', 'route', 'del', range]);
}
/** `nft monitor` of a namespace, which has said that it listens. */
async function watchRules(netns: string): Promise<Service> {
  const monitor = new Service('nsenter', [`--net=${netns}`, 'nft', 'monitor']);
  await eventually('nft monitor listens', async () => {
    await run('nsenter', `--net=${netns}`, 'nft', 'add table inet marker; delete table inet marker');
    return monitor.log.includes('marker') || undefined;
  });
  return monitor;
}
const changes = ({ log }: Service): string =>
  log
    .split('\n')
    .filter((line) => !/marker|^# new generation/.test(line))
    .join('\n');

const nothing = { pod: undefined, podV6: undefined, service: undefined, serviceV6: undefined, dns: undefined };
/** What somebody sees of the cluster. */
async function sees(netns: string): Promise<object> {
  const [podAnswer, podV6, service, serviceV6, dns] = await Promise.all([
    ask(netns, near.ipv4, 8080),
    ask(netns, near.ipv6, 8080),
    ask(netns, webService.ipv4, 80),
    ask(netns, webService.ipv6, 80),
    resolve(netns, dnsService.ipv4, 'web.default.svc.cluster.local'),
  ]);
  return { pod: podAnswer, podV6, service, serviceV6, dns };
}
/** The pod sees the node: its address on the pod's own link. */
const everything = {
  pod: asSeen('10.244.1.1'),
  podV6: 'fd44:0:0:1::1',
  service: asSeen('10.244.1.1'),
  serviceV6: 'fd44:0:0:1::1',
  dns: dnsAnswer,
};

test('without clusterAccess a client is told nothing of the cluster and reaches nothing, though the node forwards', async () => {
  await scene.node.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  await connect();
  expect(clientOf('alice').log).not.toMatch(/10\.96\.|10\.244\.|fd44|fd96/);
  await routeAll(at('alice'), 'tun0');
  expect(await sees(at('alice'))).toEqual(nothing);
  await unroute(at('alice'));
  expect(accessCondition()).toBeUndefined();
  expect(await scene.node.exec('nft', 'list', 'tables')).not.toContain('ovpn');
});

test('where the node does not forward the status says so', async () => {
  await scene.node.exec('sysctl', '-qw', 'net.ipv4.ip_forward=0', 'net.ipv6.conf.all.forwarding=0');
  scene.applyNetwork({ spec: { clusterAccess } });
  await untilCondition('False/ForwardingDisabled');
  const { nodes } = networkStatus() ?? {};
  expect(nodes?.[0]).toMatchObject({ ready: true, clusterAccess: { ready: false, reason: 'ForwardingDisabled' } });
  expect(nodes?.[0]?.clusterAccess?.message).toContain(
    'sysctl -w net.ipv4.ip_forward=1; sysctl -w net.ipv6.conf.all.forwarding=1',
  );
  await scene.node.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  await untilCondition('True/ClusterAccessReady');
  await connect();
});

describe('a client', () => {
  test('is told routes to what it may reach, and the DNS', async () => {
    const told = (name: string): string => /PUSH_REPLY,.*/.exec(clientOf(name).log)?.[0] ?? '';
    for (const option of [
      'route 10.244.0.0 255.255.0.0',
      'route 10.96.0.0 255.255.0.0',
      'route-ipv6 fd44::/48',
      'route-ipv6 fd96::/112',
    ]) {
      expect(clientOf('alice').log).toContain(option);
      expect(told('bob')).not.toContain(option);
    }
    for (const name of ['alice', 'bob']) {
      expect(clientOf(name).log).toContain(`dns server 0 address ${dnsService.ipv4} ${dnsService.ipv6}`);
      expect(clientOf(name).log).toContain('dns server 0 resolve-domains cluster.local');
    }
    expect(clientOf('bob').log).toContain('route 10.96.0.5 255.255.255.255');
    expect(await clientOf('bob').host.exec('ip', 'route', 'show', 'dev', 'tun0')).toContain('10.96.0.10');
  });

  test.each(['alice', 'bob'])('%s reaches a pod, a Service and a name; they see the node', async (name) => {
    expect(await sees(at(name))).toEqual(everything);
    expect(await resolve(at(name), dnsService.ipv6, 'web.default.svc.cluster.local')).toBe(dnsAnswer);
  });

  test('reaches a pod of another node, by the way that the cluster has', async () => {
    expect(await ask(at('alice'), far.ipv4, 8080)).toBe(asSeen(scene.node.ipv4));
    expect(await ask(at('alice'), far.ipv6, 8080)).toBe(scene.node.ipv6);
    expect((await ping(at('alice'), far.ipv4)).received).toBe(3);
    expect((await ping(at('alice'), far.ipv6)).received).toBe(3);
  });

  test('reaches no port, protocol or address that no rule of its allows', async () => {
    await routeAll(at('bob'), 'tun0');
    expect(await ask(at('alice'), near.ipv4, 9090)).toBeDefined();
    for (const address of [near.ipv4, near.ipv6]) {
      expect(await ask(at('bob'), address, 9090)).toBeUndefined();
      expect((await ping(at('bob'), address, { count: 2, deadline: 4 })).received).toBe(0);
    }
    for (const address of [far.ipv4, far.ipv6]) expect(await ask(at('bob'), address, 8080)).toBeUndefined();
    await unroute(at('bob'));
  });

  test('does not reach the node itself, nor the link to it', async () => {
    const inside = await scene.kernel.exec('ip', '-4', '-o', 'addr', 'show', 'dev', 'cluster0');
    const [, own = ''] = /inet (169\.254\.\d+\.\d+)\//.exec(inside) ?? [];
    const host = own.replace(/\d+$/, (last) => String(Number(last) - 1));
    for (const address of [host, '10.244.1.1']) {
      await clientOf('bob').host.exec('ip', 'route', 'replace', `${address}/32`, 'dev', 'tun0');
      expect((await ping(at('bob'), address, { count: 2, deadline: 4 })).received).toBe(0);
    }
  });
});

describe('nothing leaks', () => {
  test('to a client of another network, which has the same address', async () => {
    await routeAll(at('mallory'), 'tun0');
    expect(await sees(at('mallory'))).toEqual(nothing);
    expect(await sees(at('alice'))).toEqual(everything);
  });

  test('to an attached pod', async () => {
    for (const { gateway } of pod.result.ips)
      for (const range of [...clusterRanges.pods, ...clusterRanges.services])
        if (range.includes(':') === gateway.includes(':'))
          await run('nsenter', `--net=${pod.netns}`, 'ip', 'route', 'replace', range, 'via', gateway, 'dev', 'vpn0');
    expect(await sees(pod.netns)).toEqual(nothing);
  });

  test('from the cluster: neither its pods nor the node reach clients, by whatever route', async () => {
    const { ipv4, ipv6 } = addressesOf('alice');
    const links = await scene.node.exec('ip', '-o', 'link', 'show', 'type', 'veth');
    const [, link = ''] = /(ovpn[0-9a-f]{11})@/.exec(links) ?? [];
    await scene.node.exec('ip', 'route', 'add', '10.80.0.0/24', 'dev', link);
    await scene.node.exec('ip', 'route', 'add', 'fd80::/112', 'via', 'fe80::2', 'dev', link);
    for (const netns of [cluster.nearNetns, netnsOf(scene.node)])
      for (const address of [ipv4, ipv6])
        expect((await ping(netns, address, { count: 2, deadline: 4 })).received).toBe(0);
    await scene.node.exec('ip', 'route', 'del', '10.80.0.0/24', 'dev', link);
    await scene.node.exec('ip', 'route', 'del', 'fd80::/112', 'via', 'fe80::2', 'dev', link);
  });
});

test('a peer that gets a label gets access, and loses it again, without a new connection or a new rule', async () => {
  await routeAll(at('bob'), 'tun0');
  const { ipv4 } = addressesOf('bob');
  const monitor = await watchRules(scene.kernel.path);
  scene.readmit('bob', addressesOf('bob'), { labels });
  await eventually('bob is in', async () => (await ask(at('bob'), near.ipv4, 9090)) !== undefined || undefined);
  scene.readmit('bob', addressesOf('bob'));
  await eventually('bob is out', async () => (await ask(at('bob'), near.ipv4, 9090)) === undefined || undefined);
  await monitor.end();
  expect(changes(monitor)).toContain(`add element inet ovpn-cluster-access peers-0-ipv4 { ${ipv4} }`);
  expect(changes(monitor)).not.toMatch(/rule|chain|table inet/);
  expect(clientOf('bob').log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
  await unroute(at('bob'));
});

test('an agent that starts again changes nothing, and nothing is lost', async () => {
  const places = [scene.kernel.path, netnsOf(scene.node)];
  const monitors = [
    ...(await Promise.all(places.map(watchRules))),
    ...places.map((netns) => new Service('nsenter', [`--net=${netns}`, 'ip', 'monitor', 'link', 'address', 'route'])),
  ];
  const streams = await Promise.all([near.ipv4, near.ipv6].map((address) => PingStream.start(at('alice'), address)));
  const results: StreamResult[] = [];
  try {
    await scene.agent.stopAgent('SIGKILL');
    await scene.agent.startAgent();
    const { netlink } = await scene.agent.report();
    await scene.agent.until('more rounds', (report) => report.netlink.rounds >= netlink.rounds + 4);
    await untilCondition('True/ClusterAccessReady');
    for (const stream of streams) results.push(await stream.stop());
  } finally {
    for (const stream of streams) stream.kill();
  }
  expect(results.map(({ lost }) => lost)).toEqual([0, 0]);
  for (const { running } of monitors) expect(running).toBe(true);
  await Promise.all(monitors.map((each) => each.end()));
  expect(monitors.map(changes)).toEqual(['', '', '', '']);
});

test('what is deleted behind its back comes again', async () => {
  await scene.node.exec('nft', 'delete', 'table', 'inet', 'ovpn-operator');
  await scene.kernel.exec('nft', 'delete', 'table', 'inet', 'ovpn-cluster-access');
  await scene.kernel.exec('ip', 'link', 'del', 'cluster0');
  await eventually(
    'access again',
    async () => (await ask(at('alice'), webService.ipv4, 80)) !== undefined || undefined,
  );
  expect(await sees(at('alice'))).toEqual(everything);
});

test('without clusterAccess again nothing of it is left', async () => {
  scene.applyNetwork();
  await eventually(
    'the link is gone',
    async () => !/ovpn[0-9a-f]{11}@/.test(await scene.node.exec('ip', '-o', 'link')) || undefined,
  );
  await eventually(
    'the tables are gone',
    async () => !(await scene.node.exec('nft', 'list', 'tables')).includes('ovpn') || undefined,
  );
  expect(await sees(at('alice'))).toEqual(nothing);
  expect(await scene.kernel.exec('nft', 'list', 'tables')).toBe('table inet ovpn-operator\n');
  expect(await scene.kernel.exec('ip', 'route', 'show', 'table', 'all')).not.toMatch(/10\.96|10\.244|169\.254/);
  expect(accessCondition()).toBeUndefined();
});
