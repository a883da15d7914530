import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Host, ping } from '../support/hosts.ts';
import { NameServer } from '../support/name-server.ts';
import { attachPod, type Pod } from '../support/office.ts';
import { openvpn26, openvpn27, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { agentTail, peerStatus, untilConnected, untilStatus } from '../support/peer-status.ts';
import { attempt, eventually, run } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from '../e2e/scene.ts';

/** What changes below the tunnels: addresses, MTU, links and names. (About two and a half minutes.) */
const keepalive = { intervalSeconds: 1, timeoutSeconds: 8 };
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('under', { spec: { keepalive }, options: ['--resync', '1'] });
  // All servers have the same addresses inside.
  for (const [n, name] of ['second', 'third', 'fourth'].entries())
    scene.applyNetwork({ name, port: 1195 + n, spec: { keepalive } });
  await Promise.all(['second', 'third', 'fourth'].map((name) => scene.listening(name)));
});
afterAll(async () => {
  await scene.close();
});

const quick = ['keepalive 1 8'];

async function dialled(
  name: string,
  networkName: string,
  settings: Parameters<Scene['server']>[1] = {},
  address?: string,
): Promise<{ host: Host; server: OpenvpnProcess }> {
  const host = await scene.hosts.host(name);
  const server = await scene.server(host, { config: quick, ...settings });
  const { transport = 'UDP', family = 4 } = settings;
  const at = address ?? (family === 4 ? host.ipv4 : host.ipv6);
  scene.dial(name, { networkName, endpoints: [{ address: at, port: 1194, protocol: transport }] });
  return { host, server };
}

const beginnings = ({ log }: OpenvpnProcess): number => log.match(/Initialization Sequence Completed/g)?.length ?? 0;

/** Waits for an answer through a tunnel; the seconds that it took. */
async function seconds(what: string, netns: string, destination: string): Promise<number> {
  const began = performance.now();
  await eventually(
    what,
    async () => (await ping(netns, destination, { count: 1, deadline: 1 })).received === 1 || undefined,
    { stepMs: 100 },
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${agentTail(scene.agent)}`, { cause: error });
  });
  return (performance.now() - began) / 1000;
}

/** Rules, and routes without those that the kernel keeps for addresses by itself. */
async function routing(host: Host): Promise<string[]> {
  const text = await host.exec('sh', '-c', 'ip rule; ip -6 rule; ip route show table all; ip -6 route show table all');
  return text
    .split('\n')
    .filter((line) => !line.includes('proto kernel'))
    .sort();
}

test('a node gets another address: tunnels go on or come back, and nothing of the old one is left', async () => {
  const { node } = scene;
  const next = '203.0.113.200';
  const remotes = [node.ipv4, next].map((address) => ({ address, port: 1194 }));
  const config = ['server-poll-timeout 5'];
  const client = async (name: string, settings: Parameters<Scene['client']>[1]) => {
    const vpn = scene.admit(name);
    return { name, vpn, stock: await scene.connectedClient(name, { remotes, config, ...settings }) };
  };
  const [udp, offload, tcp, far, farTcp] = await Promise.all([
    client('udp', { build: openvpn26 }),
    client('offload', { build: openvpn27 }),
    client('tcp', { build: openvpn27, transport: 'TCP' }),
    dialled('far', 'corp'),
    dialled('fartcp', 'second', { build: openvpn27, transport: 'TCP' }),
  ]);
  await Promise.all(['far', 'fartcp'].map((name) => untilConnected(scene.agent, name)));
  const before = await routing(node);

  await node.exec('sysctl', '-qw', 'net.ipv4.conf.all.promote_secondaries=1');
  await node.exec('ip', 'addr', 'add', `${next}/24`, 'dev', 'eth0');
  await node.exec('ip', 'addr', 'del', `${node.ipv4}/24`, 'dev', 'eth0');
  const second = scene.kernelOf('second');
  const began = performance.now();
  const took = await Promise.all([
    seconds('the client over UDP', netnsOf(udp.stock.host), nodeVpn.ipv4),
    seconds('the client with offload', netnsOf(offload.stock.host), nodeVpn.ipv4),
    seconds('the client over TCP', netnsOf(tcp.stock.host), nodeVpn.ipv4),
    seconds('the server over UDP', scene.kernel.path, serverAddresses[0]),
    seconds('the server over TCP', second.path, serverAddresses[0]),
  ]);
  const connections = ({ log }: OpenvpnProcess): number => log.match(/Peer Connection Initiated/g)?.length ?? 0;
  const anew = [udp.stock, offload.stock, tcp.stock].map(beginnings);
  const served = [far.server, farTcp.server].map(connections);
  process.stdout.write(`${JSON.stringify({ took, anew, served, all: performance.now() - began })}\n`);
  // The server over UDP follows us; the connection over TCP is of an address that nobody has any more.
  expect(served).toEqual([1, 2]);
  expect(await routing(node)).toEqual(before);
  await node.exec('ip', 'addr', 'add', `${node.ipv4}/24`, 'dev', 'eth0');
  await node.exec('ip', 'addr', 'del', `${next}/24`, 'dev', 'eth0');
});

test('a node gets another address while it dials: the next packet, or the next try, comes from there', async () => {
  const { node } = scene;
  const next = '203.0.113.201';
  const [udp, tcp] = await Promise.all([scene.hosts.host('deafudp'), scene.hosts.host('deaftcp')]);
  const deaf = 'add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }';
  await Promise.all([udp.exec('nft', deaf), tcp.exec('nft', deaf)]);
  await Promise.all([
    scene.server(udp, { config: quick }),
    scene.server(tcp, { config: quick, transport: 'TCP', build: openvpn27 }),
  ]);
  scene.dial('deafudp', { networkName: 'third', endpoints: [{ address: udp.ipv4, port: 1194, protocol: 'UDP' }] });
  scene.dial('deaftcp', { networkName: 'fourth', endpoints: [{ address: tcp.ipv4, port: 1194, protocol: 'TCP' }] });
  const dials = ({ conditions }: { conditions?: readonly { reason: string }[] | undefined }): boolean =>
    conditions?.some(({ reason }) => reason === 'Connecting') === true;
  await Promise.all(['deafudp', 'deaftcp'].map((name) => untilStatus(scene.agent, name, 'it dials', dials)));

  await node.exec('ip', 'addr', 'add', `${next}/24`, 'dev', 'eth0');
  await node.exec('ip', 'addr', 'del', `${node.ipv4}/24`, 'dev', 'eth0');
  const began = performance.now();
  await Promise.all([udp.exec('nft', 'delete', 'table', 'inet', 't'), tcp.exec('nft', 'delete', 'table', 'inet', 't')]);
  await Promise.all(
    ['deafudp', 'deaftcp'].map(async (name) => {
      await untilConnected(scene.agent, name);
      process.stdout.write(`${name}: ${((performance.now() - began) / 1000).toFixed(1)} s\n`);
    }),
  );
  for (const networkName of ['third', 'fourth']) await reaches(scene.kernelOf(networkName).path, serverAddresses);
  await node.exec('ip', 'addr', 'add', `${node.ipv4}/24`, 'dev', 'eth0');
  await node.exec('ip', 'addr', 'del', `${next}/24`, 'dev', 'eth0');
  for (const name of ['deafudp', 'deaftcp']) scene.agent.unapply(`peer-${name}.yaml`);
});

test('a link that goes down and comes up again, within the keepalive, ends no tunnel', async () => {
  const { node } = scene;
  const vpn = scene.admit('flap');
  const client = await scene.connectedClient('flap', { build: openvpn26, family: 6 });
  const { server } = await dialled('flapfar', 'third', { build: openvpn27, transport: 'TCP' });
  await untilConnected(scene.agent, 'flapfar');
  const far = scene.kernelOf('third').path;
  for (let flap = 0; flap < 3; flap++) {
    await node.exec('ip', 'link', 'set', 'eth0', 'down');
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    await node.exec('ip', 'link', 'set', 'eth0', 'up');
    // Linux takes the IPv6 addresses of a link that goes down, and who set them sets them again.
    await node.exec('ip', 'addr', 'replace', `${node.ipv6}/64`, 'dev', 'eth0', 'nodad');
    await Promise.all([
      seconds('the client', netnsOf(client.host), nodeVpn.ipv4),
      seconds('the server', far, serverAddresses[0]),
    ]);
  }
  await reaches(scene.kernel.path, [vpn.ipv4, vpn.ipv6]);
  expect([beginnings(client), server.log.match(/Peer Connection Initiated/g)?.length]).toEqual([1, 1]);
  scene.agent.unapply('peer-flapfar.yaml');
  await server.until(/Connection reset|CC-EEN exit/);
});

describe('the way to clients gets a smaller MTU', () => {
  const up = '198.51.100.2';
  let router: Host;
  let pod: Pod;
  let vpn: VpnAddresses;
  let client: OpenvpnProcess;
  beforeAll(async () => {
    const { node, hosts } = scene;
    router = await hosts.host('router');
    await router.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
    await run(
      'ip',
      '-n',
      node.namespace,
      'link',
      'add',
      'up0',
      'type',
      'veth',
      'peer',
      'name',
      'down0',
      'netns',
      router.namespace,
    );
    await node.exec('ip', 'addr', 'add', `${up}/24`, 'dev', 'up0');
    await node.exec('ip', 'link', 'set', 'up0', 'up');
    await router.exec('ip', 'addr', 'add', '198.51.100.1/24', 'dev', 'down0');
    await router.exec('ip', 'link', 'set', 'down0', 'up');
    const host = await hosts.host('remote');
    // Both ways over the router only.
    await host.exec('ip', 'route', 'add', '198.51.100.0/24', 'via', router.ipv4);
    await node.exec('ip', 'route', 'add', `${host.ipv4}/32`, 'via', '198.51.100.1');
    vpn = scene.admit('remote');
    client = await scene.connectedClient('remote', { host, build: openvpn27, remotes: [{ address: up, port: 1194 }] });
    pod = await attachPod(scene.agent, 'p');
  });

  const mtuOf = async (netns: string, device: string): Promise<number> => {
    const text = await run('nsenter', `--net=${netns}`, 'ip', '-j', 'link', 'show', device);
    return (JSON.parse(text) as { mtu: number }[])[0]?.mtu ?? 0;
  };
  /** Whether a packet of this size, with its header, is answered; in one piece inside of the VPN. */
  const passes = async (netns: string, to: string, size: number): Promise<boolean> => {
    const args = ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', String(size - 28), to];
    return (await attempt('nsenter', [`--net=${netns}`, 'ping', ...args])).stdout.includes(' 1 received');
  };
  const setMtu = async (mtu: number): Promise<void> => {
    await scene.node.exec('ip', 'link', 'set', 'up0', 'mtu', String(mtu));
    await router.exec('ip', 'link', 'set', 'down0', 'mtu', String(mtu));
  };

  test('at the node: the network and its pods follow, tunnels stay up, dialled ones connect anew; and back', async () => {
    const { server } = await dialled('mtufar', 'corp');
    const { lastHandshake = '' } = await untilConnected(scene.agent, 'mtufar');
    const wide = await mtuOf(scene.kernel.path, 'ovpn0');
    expect(await passes(netnsOf(client.host), nodeVpn.ipv4, wide)).toBe(true);

    await setMtu(1400);
    const narrow = wide - 100;
    await eventually('the pod follows', async () => (await mtuOf(pod.netns, 'vpn0')) === narrow || undefined);
    expect(await mtuOf(scene.kernel.path, 'ovpn0')).toBe(narrow);
    expect(await passes(pod.netns, vpn.ipv4, narrow)).toBe(true);
    expect(await passes(pod.netns, vpn.ipv4, narrow + 1)).toBe(false);
    // The client was told the MTU of before: the router cuts its packets, and they arrive.
    expect(await mtuOf(netnsOf(client.host), 'tun0')).toBe(wide);
    expect((await ping(netnsOf(client.host), nodeVpn.ipv4, { size: wide - 28 })).received).toBe(3);
    await untilStatus(
      scene.agent,
      'mtufar',
      'another handshake',
      ({ lastHandshake: last = '' }) => last > lastHandshake,
    );
    const { device = '' } = (await scene.kernel.dialledTo('mtufar')) ?? {};
    expect(await mtuOf(scene.kernel.path, device)).toBe(narrow);
    expect(await passes(scene.kernel.path, serverAddresses[0], narrow)).toBe(true);

    await setMtu(1500);
    await eventually('the pod follows back', async () => (await mtuOf(pod.netns, 'vpn0')) === wide || undefined);
    expect(await passes(pod.netns, vpn.ipv4, wide)).toBe(true);
    await eventually('the dialled device, too', async () => {
      const { device: again = '' } = (await scene.kernel.dialledTo('mtufar')) ?? {};
      return (await mtuOf(scene.kernel.path, again)) === wide || undefined;
    });
    expect(beginnings(client)).toBe(1);
    scene.agent.unapply('peer-mtufar.yaml');
    await server.until(/CC-EEN exit message received/, { times: 1 });
  });

  test('in the middle: nothing changes at the node, packets are cut on the way and arrive', async () => {
    const wide = await mtuOf(scene.kernel.path, 'ovpn0');
    const { host } = client;
    await router.exec('ip', 'link', 'set', 'eth0', 'mtu', '1300');
    await host.exec('ip', 'link', 'set', 'eth0', 'mtu', '1300');
    const stream = await PingStream.start(pod.netns, vpn.ipv4);
    expect(await passes(pod.netns, vpn.ipv4, wide)).toBe(true);
    expect(await passes(netnsOf(host), nodeVpn.ipv4, wide)).toBe(true);
    expect((await stream.stop()).lost).toBe(0);
    expect(await mtuOf(pod.netns, 'vpn0')).toBe(wide);
    expect(beginnings(client)).toBe(1);
  });
});

describe('a remote that is dialled by its name', () => {
  const name = 'gate.example';
  const ttlSeconds = 20;
  let names: NameServer;
  let host: Host;
  let server: OpenvpnProcess;
  beforeAll(async () => {
    [host] = await Promise.all([scene.hosts.host('gate')]);
    const at = await scene.hosts.host('names');
    names = await NameServer.start(at, { [name]: { addresses: [host.ipv6, host.ipv4], ttlSeconds } });
  });

  const endpointOf = (peer: string): string => peerStatus(scene.agent, peer)?.endpoint ?? '';

  test.each([
    ['UDP', 'IPv6 is silent', 'third'],
    ['TCP', 'IPv6 is refused', 'fourth'],
  ] as const)('over %s, and %s: IPv4 is used, after half a minute at most', async (transport, what, networkName) => {
    const peer = `name${transport.toLowerCase()}`;
    const verdict = what.endsWith('silent') ? 'drop' : 'reject';
    await host.exec(
      'nft',
      `add table ip6 t; add chain ip6 t c { type filter hook input priority 0; }; add rule ip6 t c meta l4proto { tcp, udp } ${verdict}`,
    );
    server = await scene.server(host, { transport, build: openvpn27, config: quick });
    const began = performance.now();
    scene.dial(peer, { networkName, endpoints: [{ address: name, port: 1194, protocol: transport }] });
    await untilConnected(scene.agent, peer);
    process.stdout.write(`${peer}: ${((performance.now() - began) / 1000).toFixed(1)} s\n`);
    expect(endpointOf(peer)).toBe(`${host.ipv4}:1194`);
    await reaches(scene.kernelOf(networkName).path, serverAddresses);
    scene.agent.unapply(`peer-${peer}.yaml`);
    await server.until(/CC-EEN exit message received|Connection reset/);
    await server.end('SIGKILL');
    await host.exec('nft', 'delete', 'table', 'ip6', 't');
  });

  test('its record changes: the new address is dialled when the time to live is over, and nobody asks before; without a name server the last one counts', async () => {
    const peer = 'moves';
    const next = await scene.hosts.host('gate2');
    const record = (address: string) => ({ [name]: { addresses: [address], ttlSeconds } });
    names.change(record(host.ipv4));
    server = await scene.server(host, { config: quick });
    const gate2 = await scene.server(next, { config: quick });
    const asked = names.questions(name);
    const began = performance.now();
    scene.dial(peer, { networkName: 'third', endpoints: [{ address: name, port: 1194, protocol: 'UDP' }] });
    await untilConnected(scene.agent, peer);
    expect(endpointOf(peer)).toBe(`${host.ipv4}:1194`);
    names.change(record(next.ipv4));
    await server.end('SIGKILL');
    const moved = ({ endpoint }: { endpoint?: string | undefined }): boolean => endpoint === `${next.ipv4}:1194`;
    await untilStatus(scene.agent, peer, 'at the new address', moved);
    const elapsed = (performance.now() - began) / 1000;
    const now = names.questions(name);
    process.stdout.write(`${elapsed.toFixed(1)} s, ${JSON.stringify([asked, now])}\n`);
    // The resolver asks for addresses, and we beside it for their times to live.
    const most = 2 * (Math.floor(elapsed / ttlSeconds) + 1);
    expect(now.A - asked.A).toBeLessThanOrEqual(most);
    expect(now.AAAA - asked.AAAA).toBeLessThanOrEqual(most);

    await names.stop();
    await gate2.end('SIGKILL');
    const { lastHandshake = '' } = peerStatus(scene.agent, peer) ?? {};
    // Longer than the time to live is what it takes until the loss is noticed and a try is made.
    await new Promise((resolve) => setTimeout(resolve, ttlSeconds * 1000));
    await scene.server(next, { config: quick });
    await untilStatus(scene.agent, peer, 'a later handshake', ({ lastHandshake: last = '' }) => last > lastHandshake);
    await untilConnected(scene.agent, peer);
    expect(endpointOf(peer)).toBe(`${next.ipv4}:1194`);
  });
});
