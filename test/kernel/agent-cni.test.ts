import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Capture } from '../support/capture.ts';
import { ping } from '../support/hosts.ts';
import { key, network, newStaticKey, peer, secret } from '../support/manifests.ts';
import {
  attachDirectly,
  attachPod,
  detachDirectly,
  Office,
  officePeer,
  type Pod,
  podAddress,
  sandboxWithEth0,
} from '../support/office.ts';
import { PlainRemote } from '../support/remote.ts';
import { attempt, eventually, run } from '../support/run.ts';

let office: Office;
beforeAll(async () => {
  office = await Office.open('cni', { options: ['--resync', '1'] });
}, 60_000);
afterAll(async () => {
  await office.close();
}, 120_000);

const routes = async (netns: string): Promise<string> =>
  run('nsenter', `--net=${netns}`, 'sh', '-c', 'ip route; ip -6 route');
const answered = (count: number) => ({ sent: count, received: count });

describe('ADD and DEL', () => {
  test('ADD again gives the same and changes nothing; DEL takes all away and may be repeated', async () => {
    const before = await office.kernel.picture();
    const pod = await attachPod(office.agent, 'a');
    const attached = await office.kernel.picture();
    const again = await office.agent.cni('ADD', pod.call);
    expect(JSON.parse(again.stdout)).toEqual(pod.result);
    expect(await office.kernel.picture()).toBe(attached);
    expect(await routes(pod.netns)).toContain('192.168.50.0/24 via 10.81.1.1 dev vpn0');
    expect(await office.agent.cni('DEL', pod.call)).toMatchObject({ code: 0, stdout: '' });
    expect(await office.agent.cni('DEL', pod.call)).toMatchObject({ code: 0, stdout: '' });
    expect(await office.kernel.picture()).toBe(before);
    expect(await routes(pod.netns)).toBe('');
    expect(await run('nsenter', `--net=${pod.netns}`, 'ip', '-br', 'link')).not.toContain('vpn0');
  }, 120_000);

  test('DEL after the namespace of the pod is gone gives its address free', async () => {
    const pod = await attachPod(office.agent, 'gone');
    await run('ip', 'netns', 'del', 'cni-gone');
    expect(await office.agent.cni('DEL', { ...pod.call, netns: '' })).toMatchObject({ code: 0 });
    const { attachments } = (await office.agent.report()).networks[0] ?? { attachments: [] };
    expect(attachments.map(({ containerId }) => containerId)).toEqual(['cni-p']);
    const next = await attachPod(office.agent, 'next');
    expect(podAddress(next, 4)).toBe(podAddress(pod, 4));
    await office.agent.cni('DEL', next.call);
  }, 120_000);

  test('twenty ADDs at once give twenty pods with addresses of their own', async () => {
    const names = Array.from({ length: 20 }, (_, i) => `cni-m${i}`);
    const spaces = await Promise.all(names.map((name) => office.hosts.namespace(name)));
    const attachments = await Promise.all(names.map((name, i) => attachDirectly(office.agent, name, spaces[i] ?? '')));
    const addresses = attachments.flatMap((each) => each.addresses.map(({ address }) => address));
    expect(new Set(addresses).size).toBe(40);
    const pings = spaces.map((netns) => ping(netns, office.lan.ipv4, { count: 1 }));
    for (const result of await Promise.all(pings)) expect(result).toMatchObject(answered(1));
    // As a runtime does it when a node is drained. The plugin's process takes a second to start.
    await Promise.all(names.map((name, i) => detachDirectly(office.agent, name, spaces[i] ?? '')));
    expect((await office.agent.report()).networks[0]?.attachments).toHaveLength(1);
  }, 60_000);
});

describe('packets of the size of the MTU', () => {
  test.each([
    [4, 1300],
    [4, 1416 - 28],
    [6, 1416 - 48],
  ] as const)('pass unfragmented: IPv%i, %i bytes', async (family, size) => {
    expect(await run('ip', '-n', 'cni-p', 'link', 'show', 'vpn0')).toContain('mtu 1416');
    const host = family === 4 ? office.lan.ipv4 : office.lan.ipv6;
    const ask = async (bytes: number): Promise<string> =>
      (
        await attempt('nsenter', [
          `--net=${office.pod.netns}`,
          'ping',
          '-n',
          '-M',
          'do',
          '-c',
          '2',
          '-i',
          '0.1',
          '-W',
          '2',
          '-s',
          `${bytes}`,
          host,
        ])
      ).stdout;
    expect(await ask(size)).toContain(' 2 received');
    if (size > 1300) expect(await ask(size + 1)).not.toContain(' 2 received');
  });
});

describe('a pod that has an eth0 and a default route', () => {
  let pod: Pod;
  beforeAll(async () => {
    pod = await attachPod(office.agent, 'e', { netns: await sandboxWithEth0(office.hosts, 'cni-e', 'cni-gw') });
  }, 120_000);

  test('keeps its default route and its other traffic', async () => {
    const table = await routes(pod.netns);
    expect(table).toContain('default via 10.244.0.1 dev eth0');
    expect(table).toContain('default via fd44::1 dev eth0');
    expect(await ping(pod.netns, '8.8.8.8', { count: 2 })).toMatchObject(answered(2));
    expect(await ping(pod.netns, office.lan.ipv4, { count: 2 })).toMatchObject(answered(2));
  });

  /**
   * Tries all of the VPN; nothing of it may appear on eth0. What lies behind a peer is refused at once; an
   * address of a peer that is not there is a neighbour on the device, whose driver drops it without a word.
   */
  async function leaksNothing(refused: readonly string[], dropped: readonly string[] = []): Promise<void> {
    const ours =
      'net 10.80.0.0/16 or net 10.81.0.0/16 or net 192.168.50.0/24 or ip6 net fd50::/16 or ip6 net fd80::/15';
    const capture = await Capture.start(pod.netns, 'eth0', `${ours} or host 8.8.8.8`);
    for (const host of refused) {
      const result = await ping(pod.netns, host, { count: 2, deadline: 3 });
      expect(result).toMatchObject({ received: 0 });
      expect(result.output).toMatch(/unreachable|No route to host/i);
    }
    for (const host of dropped)
      expect(await ping(pod.netns, host, { count: 1, deadline: 2 })).toMatchObject({ received: 0 });
    // The capture works: this one is seen.
    expect(await ping(pod.netns, '8.8.8.8', { count: 1 })).toMatchObject(answered(1));
    await eventually('the witness is captured', () => capture.packets.length >= 2 || undefined);
    expect((await capture.stop()).filter((packet) => !packet.includes('8.8.8.8'))).toEqual([]);
  }

  test('sends nothing of the VPN out of eth0 when the peer is suspended', async () => {
    office.agent.apply('peer.yaml', officePeer(office.remote.host, { suspend: true }));
    await eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
    await office.agent.until('the next round', ({ networks }) => networks[0]?.peers[0]?.reason === 'Suspended');
    await leaksNothing([office.lan.ipv4, office.lan.ipv6], [office.vpn.ipv4, office.vpn.ipv6]);
  }, 120_000);

  test('nor when an agent starts while it is suspended', async () => {
    await office.agent.stopAgent();
    await office.agent.startAgent();
    await leaksNothing([office.lan.ipv4, office.lan.ipv6]);
  }, 120_000);

  test('nor when the peer lost its key, and nothing of the network at all when the interface is deleted', async () => {
    office.agent.apply('peer.yaml', officePeer(office.remote.host));
    await eventually('the peer is back', () => office.kernel.peer(7));
    await office.agent.stopAgent();
    await run('ip', '-n', 'cni-e', 'link', 'del', 'vpn0');
    await leaksNothing([office.lan.ipv4, office.lan.ipv6, office.vpn.ipv4, office.vpn.ipv6]);
    await office.agent.startAgent();
    await eventually(
      'the interface is back',
      async () => (await run('ip', '-n', 'cni-e', 'link')).includes('vpn0') || undefined,
    );
  }, 120_000);

  test("follows the peers' routes", async () => {
    const others = ['10.97.0.0/16', '10.98.0.0/16'];
    const other = (list: readonly string[]): string =>
      peer({
        name: 'more',
        peerID: 9,
        endpoint: { address: '203.0.113.99', port: 1194 },
        addresses: ['10.80.0.9'],
        routes: list,
        key: 'none',
      });
    const until = async (wanted: readonly string[]): Promise<void> => {
      await eventually(`routes ${wanted.join(', ')}`, async () => {
        const table = await routes(pod.netns);
        return (
          (others.every((route) => table.includes(`${route} via 10.81.1.1 dev vpn0`) === wanted.includes(route)) &&
            others.every((route) => table.includes(`unreachable ${route}`) === wanted.includes(route))) ||
          undefined
        );
      });
    };
    office.agent.apply('more.yaml', other(others));
    await until(others);
    office.agent.apply('more.yaml', other(others.slice(1)));
    await until(others.slice(1));
    office.agent.unapply('more.yaml');
    await until([]);
  }, 120_000);
});

describe('a second network on the node with the same addresses', () => {
  const lan = '192.168.50.77';
  let pod: Pod;
  beforeAll(async () => {
    const host = await office.hosts.host('mirror');
    const node = office.agent.host;
    const material = newStaticKey();
    await run('ip', '-n', host.namespace, 'addr', 'add', `${lan}/32`, 'dev', 'lo');
    await PlainRemote.create(host, {
      peerId: 7,
      addresses: ['10.80.0.2/24'],
      routes: ['10.81.1.0/24'],
      endpoint: { address: node.ipv4, port: 1195 },
      material,
    });
    const spec = {
      name: 'mirror',
      node: node.name,
      addresses: ['10.80.0.1'],
      podBlocks: ['10.81.1.0/24'],
      peerPools: ['10.80.0.0/24'],
      port: 1195,
    };
    const settings = { name: 'mirror', networkName: 'mirror', peerID: 7, endpoint: { address: host.ipv4, port: 1194 } };
    const manifests = [
      network(spec),
      secret('mirror', material),
      key({ name: 'mirror', direction: 'Normal' }),
      peer({ ...settings, addresses: ['10.80.0.2'], routes: ['192.168.50.0/24'] }),
    ];
    office.agent.apply('mirror.yaml', manifests.join('---\n'));
    await office.agent.untilReady('mirror', 1);
    pod = await attachPod(office.agent, 's', { network: 'mirror' });
  }, 60_000);

  test('is another VPN: the same pod address, another remote', async () => {
    expect(podAddress(pod, 4)).toBe(podAddress(office.pod, 4));
    expect(await ping(pod.netns, lan, { count: 2 })).toMatchObject(answered(2));
    expect(await ping(office.pod.netns, lan, { count: 1, deadline: 2 })).toMatchObject({ received: 0 });
  }, 120_000);

  test('cannot be in the same pod: the call is refused by name and nothing changes', async () => {
    const before = await routes(pod.netns);
    const { code, stdout } = await office.agent.cni('ADD', { ...pod.call, network: 'corp', ifname: 'vpn1' });
    expect(code).toBe(1);
    expect(stdout).toContain('VpnNetwork mirror');
    expect(stdout).toContain('OVPN109');
    expect(await routes(pod.netns)).toBe(before);
    const { netlink } = await office.agent.report();
    await office.agent.until('two rounds', (report) => report.netlink.rounds > netlink.rounds + 4);
    expect((await office.agent.report()).netlink.writes).toBe(netlink.writes);
  }, 120_000);

  test('DEL succeeds after the network was deleted, and nothing of it is left in the pod', async () => {
    office.agent.unapply('mirror.yaml');
    await office.agent.until('the network is gone', ({ networks }) => networks.every(({ name }) => name !== 'mirror'));
    expect(await office.agent.cni('DEL', pod.call)).toMatchObject({ code: 0 });
    expect(await routes(pod.netns)).toBe('');
    expect((await attempt('ls', [office.agent.netns])).stdout.trim()).toBe('ovpn-corp');
    expect(office.kernel.peers()).toHaveLength(1);
  }, 120_000);
});
