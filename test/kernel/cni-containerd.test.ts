/** The CNI plugin as a node has it: containerd makes the sandboxes, and `install-cni` keeps the plugin in its chain. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Containerd, type Sandbox } from '../support/containerd.ts';
import { agentProgram, cniBinary, ping } from '../support/hosts.ts';
import { Office } from '../support/office.ts';
import { eventually, run, Service } from '../support/run.ts';

let office: Office;
let containerd: Containerd;
let installer: Service;

const mainList = {
  cniVersion: '1.1.0',
  name: 'cluster',
  plugins: [
    {
      type: 'ptp',
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]], routes: [{ dst: '0.0.0.0/0' }] },
    },
  ],
};
/** What the cluster's main plugin writes when it starts. */
const writeMainList = (): void => {
  const [ptp] = mainList.plugins;
  const ipam = { ...ptp?.ipam, dataDir: join(office.hosts.folder, 'ipam') };
  writeFileSync(
    join(containerd.lists, '10-main.conflist'),
    JSON.stringify({ ...mainList, plugins: [{ ...ptp, ipam }] }),
  );
};
const chained = (): string[] =>
  (JSON.parse(readFileSync(join(containerd.lists, '10-main.conflist'), 'utf8')) as typeof mainList).plugins.map(
    ({ type }) => type,
  );
const install = (...more: string[]): readonly string[] => [
  ...[agentProgram, 'install-cni', '--plugin', cniBinary, '--socket', office.agent.socket],
  ...['--bin-dir', containerd.plugins, '--conf-dir', containerd.lists, '--chain', ...more],
];
const declarePod = (name: string, annotations: object): void => {
  const metadata = { namespace: 'default', name, annotations };
  office.agent.apply(`pod-${name}.yaml`, JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata }));
};
const inPod = ({ netns }: Sandbox, ...command: string[]): Promise<string> =>
  run('nsenter', `--net=${netns}`, ...command);
const linksOf = async (sandbox: Sandbox): Promise<string[]> =>
  (JSON.parse(await inPod(sandbox, 'ip', '-j', 'link')) as { ifname: string }[]).map(({ ifname }) => ifname);
const untilChained = (): Promise<true> =>
  eventually('the plugin is in the list', () => (chained().includes('ovpn-cni') ? true : undefined));
/** The runtime follows its folder of configurations, and takes a moment for it. */
const untilReady = (): Promise<true> =>
  eventually('the runtime says that its network is ready', async () => {
    const ready = await containerd.networkReady();
    if (ready !== true) throw new Error(ready);
    return ready;
  });

beforeAll(async () => {
  office = await Office.open('cnict');
  containerd = await Containerd.start(office.agent.host);
  installer = new Service(process.execPath, install('--watch'));
  office.hosts.onCleanup(() => installer.end());
  declarePod('shop', { 'ovpn-operator.io/networks': 'corp' });
}, 180_000);
afterAll(() => office.close(), 60_000);

test('before the main plugin is there the plugin waits, and then it goes behind it', async () => {
  expect(await containerd.networkReady()).toMatch(/cni plugin not initialized/);
  writeMainList();
  await untilChained();
  await untilReady();
});

describe('pods', () => {
  test('one that names a network gets it beside its eth0, which stays the way to the rest of the world', async () => {
    const before = await office.kernel.picture();
    const shop = await containerd.runSandbox({ name: 'shop', dnsServers: ['10.96.0.10'] });
    expect(await linksOf(shop)).toEqual(['lo', 'eth0', 'vpn0']);
    expect(shop.ip).toMatch(/^10\.99\.0\./);
    expect(await ping(shop.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
    expect(await ping(shop.netns, office.lan.ipv6, { count: 2 })).toMatchObject({ received: 2 });
    const exec = await containerd.container(shop);
    expect(await exec('cat', '/etc/resolv.conf')).toBe('search default.svc.cluster.local\nnameserver 10.96.0.10');
    expect(await exec('ip', 'route')).toMatch(/^default via 10\.99\.0\.1 dev eth0/);
    expect(await exec('ip', 'route', 'get', '10.96.0.10')).toContain('dev eth0');
    expect(await exec('ping', '-c', '1', office.lan.ipv4)).toContain('1 packets received');
    await containerd.endSandbox(shop);
    expect(await office.kernel.picture()).toBe(before);
  });

  test('one that names none has only what the main plugin gives it', async () => {
    const plain = await containerd.runSandbox({ name: 'plain' });
    expect(await linksOf(plain)).toEqual(['lo', 'eth0']);
    await containerd.endSandbox(plain);
  });

  test('one whose network is not there does not start, and says why', async () => {
    declarePod('lost', { 'ovpn-operator.io/networks': 'nowhere' });
    const { code, stderr } = await containerd.tryRun({ name: 'lost' });
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/VpnNetwork nowhere.*OVPN503/);
  });

  test('end after the runtime was killed and the agent started anew, and leave nothing', async () => {
    const before = await office.kernel.picture();
    const shop = await containerd.runSandbox({ name: 'shop' });
    await containerd.stopService('SIGKILL');
    await office.agent.stopAgent('SIGKILL');
    expect(await ping(shop.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
    await office.agent.startAgent();
    await office.agent.untilReady('corp', 1);
    await containerd.startService();
    expect(await ping(shop.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
    await containerd.endSandbox(shop);
    expect(await office.kernel.picture()).toBe(before);
  });
});

test('while the agent is away the runtime knows it, no pod starts around the tunnel, and the next try succeeds', async () => {
  await office.agent.stopAgent();
  // The runtime asks by STATUS, which came with version 1.1.0 of the specification.
  expect(await containerd.networkReady()).toMatch(/OVPN401/);
  const refused = await containerd.tryRun({ name: 'shop' });
  expect([refused.code !== 0, refused.stderr]).toEqual([true, expect.stringContaining('OVPN401')]);
  await office.agent.startAgent();
  await office.agent.untilReady('corp', 1);
  expect(await containerd.networkReady()).toBe(true);
  await containerd.endSandbox(await containerd.runSandbox({ name: 'shop' }));
});

test('the main plugin may write its list anew: the plugin comes back', async () => {
  writeMainList();
  expect(chained()).toEqual(['ptp']);
  await untilChained();
  await untilReady();
  const shop = await eventually('a pod starts with the list in force', async () => {
    const sandbox = await containerd.runSandbox({ name: 'shop' });
    if ((await linksOf(sandbox)).includes('vpn0')) return sandbox;
    // The runtime had not read the list yet.
    await containerd.endSandbox(sandbox);
    return undefined;
  });
  await containerd.endSandbox(shop);
});

test('removed, it leaves the list as the main plugin wrote it, and pods start without it', async () => {
  await installer.end();
  await run(process.execPath, ...install('--remove'));
  expect(chained()).toEqual(['ptp']);
  const plain = await eventually('a pod starts without the plugin', async () => {
    const { code, stderr } = await containerd.tryRun({ name: 'after' });
    if (code !== 0) throw new Error(stderr);
    return true;
  });
  expect(plain).toBe(true);
});
