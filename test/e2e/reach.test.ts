import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Host } from '../support/hosts.ts';
import { globalAddresses } from '../support/links.ts';
import { attachPod, type Pod, podAddress } from '../support/office.ts';
import { openvpn26, openvpn27, openvpn27Userspace, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { untilConnected } from '../support/peer-status.ts';
import { attempt, run } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from './scene.ts';

/** Who reaches whom: pods, clients, the networks behind clients and behind servers. */
let scene: Scene;
let pod: Pod;
let alice: OpenvpnProcess;
let bob: OpenvpnProcess;
let vpn: { readonly alice: VpnAddresses; readonly bob: VpnAddresses };
const lan = { ipv4: '192.168.7.10', ipv6: 'fd07::10' } as const;
beforeAll(async () => {
  scene = await Scene.open('reach', {
    spec: {
      push: {
        routes: ['10.81.1.0/24', 'fd81::/64'],
        dns: { servers: ['10.81.1.53'], searchDomains: ['cluster.local'] },
      },
    },
  });
  vpn = { alice: scene.admit('alice', { routes: ['192.168.7.0/24', 'fd07::/64'] }), bob: scene.admit('bob') };
  // No resolver is to be changed in the lab.
  const config = ['pull-filter ignore "dns "', 'pull-filter ignore "dhcp-option"'];
  const behindAlice = ['route 192.168.7.0 255.255.255.0', 'route-ipv6 fd07::/64'];
  [pod, alice, bob] = await Promise.all([
    attachPod(scene.agent, 'pod'),
    scene.connectedClient('alice', { build: openvpn26, config }),
    scene.connectedClient('bob', { build: openvpn27, transport: 'TCP', config: [...config, ...behindAlice] }),
  ]);
  await lanBehind(alice.host, 'reach-lan', lan, { ipv4: '192.168.7.1', ipv6: 'fd07::1' });
});
afterAll(async () => {
  await scene.close();
});

interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

/** A namespace that is one host of a LAN, with the host as its router. */
async function lanBehind(router: Host, name: string, address: Addresses, gateway: Addresses): Promise<void> {
  await scene.hosts.namespace(name);
  await run('ip', '-n', name, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'lan0', 'netns', router.namespace);
  for (const [namespace, device, { ipv4, ipv6 }] of [
    [name, 'eth0', address],
    [router.namespace, 'lan0', gateway],
  ] as const) {
    await run('ip', '-n', namespace, 'addr', 'add', `${ipv4}/24`, 'dev', device);
    await run('ip', '-n', namespace, 'addr', 'add', `${ipv6}/64`, 'dev', device, 'nodad');
    await run('ip', '-n', namespace, 'link', 'set', device, 'up');
  }
  await run('ip', '-n', name, 'route', 'add', 'default', 'via', gateway.ipv4);
  await run('ip', '-n', name, 'route', 'add', 'default', 'via', gateway.ipv6);
  await router.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
}

const both = ({ ipv4, ipv6 }: Addresses): string[] => [ipv4, ipv6];
const lanPath = '/run/netns/reach-lan';

describe('a client', () => {
  test('is told routes, its addresses and the DNS', async () => {
    const [reply = ''] = /PUSH_REPLY,.*/.exec(alice.log) ?? [];
    for (const option of [
      'route 10.81.1.0 255.255.255.0',
      'route-ipv6 fd81::/64',
      `ifconfig ${vpn.alice.ipv4} 255.255.255.0`,
      `ifconfig-ipv6 ${vpn.alice.ipv6}/112 ${nodeVpn.ipv6}`,
      'topology subnet',
      'ping 2',
    ])
      expect(reply).toContain(option);
    expect(alice.log).toMatch(/10\.81\.1\.53/);
    expect(alice.log).toMatch(/cluster\.local/);
    expect(await alice.host.exec('ip', 'route', 'show', 'dev', 'tun0')).toContain('10.81.1.0/24');
    expect(await alice.host.exec('ip', '-6', 'route', 'show', 'dev', 'tun0')).toContain('fd81::/64');
  });

  test('and a pod that the CNI binary attached reach each other', async () => {
    const addresses = [podAddress(pod, 4), podAddress(pod, 6)];
    await reaches(netnsOf(alice.host), addresses);
    await reaches(netnsOf(bob.host), addresses);
    await reaches(pod.netns, [...both(vpn.alice), ...both(vpn.bob)]);
  });

  test('and another client reach each other', async () => {
    const before = { alice: scene.kernel.peerAt(vpn.alice.ipv4), bob: scene.kernel.peerAt(vpn.bob.ipv4) };
    await reaches(netnsOf(alice.host), both(vpn.bob));
    await reaches(netnsOf(bob.host), both(vpn.alice));
    // By way of us: each packet came in from one and went out to the other.
    for (const name of ['alice', 'bob'] as const) {
      const after = scene.kernel.peerAt(vpn[name].ipv4);
      expect(Number(after?.vpn.rxPackets) - Number(before[name]?.vpn.rxPackets)).toBeGreaterThanOrEqual(12);
      expect(Number(after?.vpn.txPackets) - Number(before[name]?.vpn.txPackets)).toBeGreaterThanOrEqual(12);
    }
  });

  test('cannot send with an address that is not its own', async () => {
    await bob.host.exec('ip', 'addr', 'add', '10.80.0.99/32', 'dev', 'tun0');
    const { code } = await bob.host
      .exec('ping', '-c', '2', '-i', '0.2', '-W', '1', '-I', '10.80.0.99', nodeVpn.ipv4)
      .then(
        () => ({ code: 0 }),
        () => ({ code: 1 }),
      );
    expect(code).toBe(1);
    await bob.host.exec('ip', 'addr', 'del', '10.80.0.99/32', 'dev', 'tun0');
    await reaches(netnsOf(bob.host), both(nodeVpn));
  });
});

describe('packets of the size of the MTU', () => {
  test.each([
    [4, 1416 - 28],
    [6, 1416 - 48],
  ] as const)('pass between a pod and clients unfragmented: IPv%i, %i bytes', async (family, size) => {
    for (const { ipv4, ipv6 } of [vpn.alice, vpn.bob]) {
      const destination = family === 4 ? ipv4 : ipv6;
      const ask = (bytes: number): Promise<{ stdout: string }> =>
        attempt('nsenter', [
          `--net=${pod.netns}`,
          ...'ping -n -M do -c 2 -i 0.2 -W 2 -s'.split(' '),
          `${bytes}`,
          destination,
        ]);
      expect((await ask(size)).stdout).toContain(' 2 received');
      expect((await ask(size + 1)).stdout).not.toContain(' 2 received');
    }
  });
});

describe('a LAN behind a client', () => {
  test('and a pod reach each other', async () => {
    await reaches(pod.netns, both(lan));
    await reaches(lanPath, [podAddress(pod, 4), podAddress(pod, 6)]);
  });

  test('and another client reach each other', async () => {
    await reaches(netnsOf(bob.host), both(lan));
    await reaches(lanPath, both(vpn.bob));
  });
});

describe('a node with several addresses', () => {
  test.each([
    ['UDP', 4, openvpn26],
    ['UDP', 6, openvpn27],
    ['TCP', 4, openvpn27Userspace],
  ] as const)('answers from the one that was called: %s over IPv%i, %s', async (transport, family, build) => {
    const name = `second${transport.toLowerCase()}${family}`;
    const [address, length] = family === 4 ? ['203.0.113.222', 24] : ['2001:db8:113::222', 64];
    await scene.node.exec('sh', '-c', `ip addr replace ${address}/${length} dev eth0 ${family === 6 ? 'nodad' : ''}`);
    const addresses = scene.admit(name);
    const client = await scene.connectedClient(name, {
      ...{ build, transport, family },
      remotes: [{ address, port: 1194 }],
      config: ['pull-filter ignore "dns "', 'pull-filter ignore "dhcp-option"'],
    });
    await reaches(netnsOf(client.host), both(nodeVpn));
    await reaches(scene.kernel.path, both(addresses));
    if (transport === 'UDP') expect(scene.kernel.peerAt(addresses.ipv4)?.local).toBe(address);
  });
});

describe('a server that we dial', () => {
  test('and what is behind it reach our pods', async () => {
    const host = await scene.hosts.host('partner');
    await lanBehind(
      host,
      'reach-far',
      { ipv4: '192.168.8.10', ipv6: 'fd08::10' },
      { ipv4: '192.168.8.1', ipv6: 'fd08::1' },
    );
    const ccd = `${scene.hosts.folder}/ccd`;
    await run(
      'sh',
      '-c',
      `mkdir ${ccd} && printf 'iroute 10.81.1.0 255.255.255.0\\niroute-ipv6 fd81::/64\\n' > ${ccd}/gateway`,
    );
    const config = [`client-config-dir ${ccd}`, 'route 10.81.1.0 255.255.255.0', 'route-ipv6 fd81::/64'];
    await scene.server(host, { build: openvpn27, config });
    scene.dial('partner', {
      endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }],
      routes: ['192.168.8.0/24', 'fd08::/64'],
    });
    await untilConnected(scene.agent, 'partner');
    const tunnel = await scene.kernel.dialledTo('partner');
    await reaches(scene.kernel.path, serverAddresses);
    await reaches(netnsOf(host), await globalAddresses(scene.kernel.path, tunnel?.device ?? ''));
    await reaches(pod.netns, ['192.168.8.10', 'fd08::10']);
    await reaches('/run/netns/reach-far', [podAddress(pod, 4), podAddress(pod, 6)]);
  });
});
