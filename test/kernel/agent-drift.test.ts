import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdirSync } from 'node:fs';
import { ping } from '../support/hosts.ts';
import { Office, officeKey } from '../support/office.ts';
import { eventually, run } from '../support/run.ts';

/** A node that looks at the kernel every second, and a person who meddles with it. */
let office: Office;
let settled: string;
beforeAll(async () => {
  office = await Office.open('drif', { options: ['--resync', '1'] });
  settled = await picture();
});
afterAll(async () => {
  await office.close();
});

const inNetwork = async (...command: string[]): Promise<void> => {
  await office.kernel.exec('sh', '-c', command.join(' '));
};
const inPod = async (...command: string[]): Promise<void> => {
  await run('nsenter', `--net=${office.pod.netns}`, 'sh', '-c', command.join(' '));
};

/** Everything that was made for the network and its pod. */
async function picture(): Promise<string> {
  const sysctls = [
    'net/ipv4/ip_forward',
    'net/ipv4/conf/all/send_redirects',
    'net/ipv4/conf/all/rp_filter',
    'net/ipv6/conf/all/forwarding',
  ].map((name) => `/proc/sys/${name}`);
  const network = office.kernel.exec('grep', '', ...sysctls);
  const pod = run('nsenter', `--net=${office.pod.netns}`, 'sh', '-ec', 'ip -d addr show vpn0; ip route; ip -6 route');
  const parts = await Promise.all([office.kernel.picture(), network, pod]);
  return parts
    .flatMap((text) => text.split('\n'))
    .sort()
    .join('\n');
}

/** Lines that only one of two pictures has. */
function difference(before: string, after: string): string[] {
  const [one, other] = [before.split('\n'), after.split('\n')];
  return [
    ...one.filter((line) => !other.includes(line)).map((line) => `missing: ${line}`),
    ...other.filter((line) => !one.includes(line)).map((line) => `added: ${line}`),
  ];
}

const farEnd = async (): Promise<string> => {
  const links = JSON.parse(await office.kernel.exec('ip', '-j', 'link', 'show', 'type', 'veth')) as {
    ifname: string;
  }[];
  return links[0]?.ifname ?? '';
};

describe('is mended at the next look', () => {
  test.each<[string, () => Promise<void>]>([
    ["a peer's route is deleted", () => inNetwork('ip route del 192.168.50.0/24')],
    ["a peer's IPv6 route is deleted", () => inNetwork('ip route del fd50::/64')],
    [
      "a peer's route is sent elsewhere",
      () => inNetwork('ip route replace 192.168.50.0/24 via 10.80.0.77 dev ovpn0 proto 79'),
    ],
    ['an address is deleted', () => inNetwork('ip addr del 10.80.0.1/24 dev ovpn0')],
    ['an IPv6 address is deleted', () => inNetwork('ip addr del fd80::1/112 dev ovpn0')],
    ['an address is added', () => inNetwork('ip addr add 10.80.0.77/24 dev ovpn0')],
    ['the device is set down', () => inNetwork('ip link set ovpn0 down')],
    ['the MTU is changed', () => inNetwork('ip link set ovpn0 mtu 1300')],
    ['the mark is taken off', () => inNetwork('ip link set ovpn0 alias mine')],
    ['loopback is set down', () => inNetwork('ip link set lo down')],
    ['forwarding is switched off', () => inNetwork('echo 0 > /proc/sys/net/ipv4/ip_forward')],
    ['IPv6 forwarding is switched off', () => inNetwork('echo 0 > /proc/sys/net/ipv6/conf/all/forwarding')],
    ['redirects are switched on', () => inNetwork('echo 1 > /proc/sys/net/ipv4/conf/all/send_redirects')],
    ['a route with our number is added', () => inNetwork('ip route add 10.66.0.0/16 via 10.80.0.2 dev ovpn0 proto 79')],
    ['the route to the pod is deleted', () => inNetwork('ip route del 10.81.1.2')],
    ["the far end's address is deleted", async () => inNetwork('ip addr del 10.81.1.1/32 dev', await farEnd())],
    ['the far end is set down', async () => inNetwork('ip link set', await farEnd(), 'down')],
    ["the pod's route is deleted", () => inPod('ip route del 192.168.50.0/24 dev vpn0')],
    ["the pod's refusing route is deleted", () => inPod('ip route del unreachable 192.168.50.0/24 metric 4294967294')],
    ["the pod's IPv6 routes are deleted", () => inPod('ip -6 route flush dev vpn0 proto 79')],
    ["the pod's address is deleted", () => inPod('ip addr del 10.81.1.2/32 dev vpn0')],
    ["the pod's IPv6 address is deleted", () => inPod('ip addr del fd81::2/128 dev vpn0')],
    ["the pod's interface is set down", () => inPod('ip link set vpn0 down')],
    ["the pod's MTU is changed", () => inPod('ip link set vpn0 mtu 1000')],
  ])('%s', async (_what, meddle) => {
    await meddle();
    let wrong: string[] = [];
    const look = async (): Promise<true | undefined> => {
      wrong = difference(settled, await picture());
      return wrong.length === 0 || undefined;
    };
    await eventually('all is as before', look, { timeoutMs: 30_000 }).catch(() => undefined);
    expect(wrong).toEqual([]);
  });

  test('and traffic flows', async () => {
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await ping(office.pod.netns, office.lan.ipv6, { count: 1 })).toMatchObject({ received: 1 });
  });

  test("the pod's interface is deleted", async () => {
    await inPod('ip link del vpn0');
    await eventually(
      'the interface',
      async () => (await run('ip', '-n', 'drif-p', 'link')).includes('vpn0') || undefined,
    );
    await eventually(
      'its routes',
      async () => (await run('ip', '-n', 'drif-p', 'route')).includes('dev vpn0') || undefined,
    );
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await run('ip', '-n', 'drif-p', '-4', '-br', 'addr', 'show', 'vpn0')).toContain('10.81.1.2/32');
  });

  test('a stranger among the peers is removed', async () => {
    office.kernel.addPeer(99, office.agent);
    await eventually('the stranger is gone', () => office.kernel.peers().length === 1 || undefined);
    expect(office.kernel.peers().map(({ id }) => id)).toEqual([7]);
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
  });

  test('the key is deleted: it is not installed again', async () => {
    office.kernel.deleteKey(7, 'primary');
    const report = await office.agent.until(
      'the key is refused',
      ({ networks }) => networks[0]?.peers[0]?.reason === 'KeySpent',
    );
    expect(report.networks[0]?.peers[0]?.ready).toBe('False');
    expect(office.kernel.slots(7)).toBe('-/-');
    office.remote.install('secondary', 2);
    office.remote.swap();
    office.agent.apply('key.yaml', officeKey(2));
    await eventually('the new key', () => office.kernel.slots(7) === '2/-' || undefined);
    await office.agent.untilReady('corp', 1);
  });
});

describe('is left alone', () => {
  test('a namespace of another name, or without our mark', async () => {
    mkdirSync(office.agent.netns, { recursive: true });
    const foreign = `${office.agent.netns}/ovpn-foreign`;
    const other = `${office.agent.netns}/other`;
    for (const path of [foreign, other]) {
      await run('touch', path);
      await run('unshare', `--net=${path}`, 'true');
    }
    await run('nsenter', `--net=${foreign}`, 'ip', 'link', 'add', 'ovpn0', 'type', 'ovpn', 'mode', 'mp');
    const { netlink } = await office.agent.report();
    await office.agent.until('three rounds', (report) => report.netlink.rounds > netlink.rounds + 3);
    expect(await run('nsenter', `--net=${foreign}`, 'ip', 'link')).toContain('ovpn0');
    expect(await run('nsenter', `--net=${other}`, 'ip', 'link')).toContain('lo:');
    expect((await office.agent.report()).netlink.writes).toBe(netlink.writes);
  });

  test('a route of somebody else in the network and in the pod', async () => {
    await inNetwork('ip route add 10.67.0.0/16 via 10.80.0.2 dev ovpn0');
    await inPod('ip route add unreachable 10.68.0.0/16');
    const { netlink } = await office.agent.report();
    await office.agent.until('two rounds', (report) => report.netlink.rounds > netlink.rounds + 2);
    expect(await office.kernel.exec('ip', 'route')).toContain('10.67.0.0/16');
    expect(await run('ip', '-n', 'drif-p', 'route')).toContain('unreachable 10.68.0.0/16');
  });
});
