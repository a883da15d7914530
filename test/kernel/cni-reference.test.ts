/** The CNI plugin between the reference programs: cnitool (libcni) as the runtime, ptp and host-local beside it. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { programPath } from '../programs/location.ts';
import { cniBinary, ping } from '../support/hosts.ts';
import { type CniResult, Office } from '../support/office.ts';
import { attempt, type Finished, run } from '../support/run.ts';

let office: Office;
let plugins: string;
let lists: string;

beforeAll(async () => {
  office = await Office.open('cnir');
  plugins = join(office.hosts.folder, 'plugins');
  lists = join(office.hosts.folder, 'net.d');
  for (const folder of [plugins, lists]) mkdirSync(folder);
  symlinkSync(cniBinary, join(plugins, 'ovpn-cni'));
  for (const name of ['ptp', 'bridge', 'host-local'] as const) symlinkSync(programPath(name), join(plugins, name));
}, 120_000);
afterAll(async () => {
  await office.close();
}, 120_000);

/** Writes a network configuration list. */
function list(name: string, cniVersion: string, ...chain: object[]): string {
  const ours = { agentSocket: office.agent.socket };
  const all = chain.map((plugin) => ('network' in plugin ? { ...plugin, ...ours } : plugin));
  writeFileSync(join(lists, `${name}.conflist`), JSON.stringify({ cniVersion, name, plugins: all }));
  return name;
}

async function cnitool(verb: string, name: string, netns: string, env: NodeJS.ProcessEnv = {}): Promise<Finished> {
  return attempt('nsenter', office.agent.host.command(programPath('cnitool'), verb, name, netns), {
    env: { NETCONFPATH: lists, CNI_PATH: plugins, ...env },
  });
}

/** host-local with a folder of its own for what is given away. */
const hostLocal = (folder: string, subnet: string, range: object = {}): object => ({
  type: 'host-local',
  dataDir: join(office.hosts.folder, `ipam-${folder}`),
  ranges: [[{ subnet, ...range }]],
});
/** The same with a default route, as a cluster's main plugin has it. */
const mainIpam = (folder: string, subnet: string): object => ({
  ...hostLocal(folder, subnet),
  routes: [{ dst: '0.0.0.0/0' }],
});
const inPod = (netns: string, ...command: string[]): Promise<string> => run('nsenter', `--net=${netns}`, ...command);

describe('in a chain after ptp', () => {
  // No CHECK: ptp takes all addresses of the chain's result for those of its own interface, and so does bridge.
  test.each(['0.4.0', '1.0.0', '1.1.0'])('add and del by cnitool in version %s', async (cniVersion) => {
    const version = cniVersion.replaceAll('.', '');
    const before = await office.kernel.picture();
    const netns = await office.hosts.namespace(`cnir-c${version}`);
    const name = list(
      `chain${version}`,
      cniVersion,
      { type: 'ptp', ipam: mainIpam('ptp', '10.99.0.0/24') },
      { type: 'ovpn-cni', network: 'corp', interface: 'vpn0', capabilities: { ips: true, mac: true } },
    );
    const env = { CAP_ARGS: '{"ips":["10.81.1.77/32"],"mac":"02:00:00:00:00:77"}' };
    const added = await cnitool('add', name, netns, env);
    expect(added).toMatchObject({ code: 0, stderr: '' });
    const result = JSON.parse(added.stdout) as CniResult;
    expect(result).toMatchObject({ cniVersion });
    const names = result.interfaces.flatMap((each) => (each.sandbox === netns ? [each.name] : []));
    expect(names).toEqual(['eth0', 'vpn0']);
    expect(result.ips.map(({ address }) => address)).toContain('10.81.1.77/32');
    expect(await inPod(netns, 'ip', 'link', 'show', 'vpn0')).toContain('02:00:00:00:00:77');
    expect(await inPod(netns, 'ip', 'route')).toMatch(/default via 10\.99\.0\.1 dev eth0/);
    expect(await ping(netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await cnitool('del', name, netns, env)).toMatchObject({ code: 0 });
    expect(await cnitool('del', name, netns, env)).toMatchObject({ code: 0 });
    expect(await office.kernel.picture()).toBe(before);
  });
});

describe('in a chain after bridge', () => {
  const bridge = (ipam: string): object => ({
    type: 'bridge',
    bridge: 'cnir-br0',
    isGateway: true,
    ipMasq: true,
    ipMasqBackend: 'nftables',
    ipam: mainIpam(ipam, '10.98.0.0/24'),
  });

  // No CHECK, as with ptp.
  test('add and del by cnitool; the part of bridge stays as bridge made it', async () => {
    const alone = await office.hosts.namespace('cnir-b0');
    const onlyBridge = list('bridge-alone', '1.0.0', bridge('alone'));
    const first = await cnitool('add', onlyBridge, alone);
    expect(first).toMatchObject({ code: 0, stderr: '' });
    const primary = JSON.parse(first.stdout) as CniResult;
    const routesBefore = await inPod(alone, 'ip', 'route');
    expect(await cnitool('del', onlyBridge, alone)).toMatchObject({ code: 0 });

    const before = await office.kernel.picture();
    const netns = await office.hosts.namespace('cnir-b1');
    const name = list('bridge-chain', '1.0.0', bridge('bridge'), {
      type: 'ovpn-cni',
      network: 'corp',
      interface: 'vpn0',
    });
    const added = await cnitool('add', name, netns);
    expect(added).toMatchObject({ code: 0, stderr: '' });
    const result = JSON.parse(added.stdout) as CniResult;
    expect(result.interfaces.slice(0, primary.interfaces.length).map((each) => each.name)).toEqual([
      'cnir-br0',
      expect.stringMatching(/^veth/),
      'eth0',
    ]);
    expect(result.ips.slice(0, primary.ips.length)).toEqual(primary.ips);
    expect(result.routes.slice(0, primary.routes.length)).toEqual(primary.routes);
    // What bridge routed is routed as before; ours is beside it.
    const routes = await inPod(netns, 'ip', 'route');
    for (const line of routesBefore.trim().split('\n')) expect(routes).toContain(line.trim());
    expect(await ping(netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await ping(netns, '10.98.0.1', { count: 1 })).toMatchObject({ received: 1 });
    expect(await cnitool('del', name, netns)).toMatchObject({ code: 0 });
    expect(await cnitool('del', name, netns)).toMatchObject({ code: 0 });
    expect(await office.kernel.picture()).toBe(before);
    expect(await inPod(netns, 'ip', '-br', 'link')).not.toMatch(/vpn0|eth0/);
  });
});

describe('without `network`, after ptp', () => {
  const ptp = (ipam: string): object => ({ type: 'ptp', ipam: mainIpam(ipam, '10.97.0.0/24') });
  const pod = (name: string, metadata: object = {}): NodeJS.ProcessEnv => {
    const manifest = { apiVersion: 'v1', kind: 'Pod', metadata: { namespace: 'default', name, ...metadata } };
    office.agent.apply(`pod-${name}.yaml`, JSON.stringify(manifest));
    return { CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${name}` };
  };
  const chain = (): string =>
    list('chosen', '1.0.0', ptp('chosen'), { type: 'ovpn-cni', agentSocket: office.agent.socket });

  test('a pod that names no network gets the result of ptp, byte for byte', async () => {
    const netns = await office.hosts.namespace('cnir-n0');
    const alone = list('ptp-alone', '1.0.0', ptp('ptp-alone'));
    const primary = await cnitool('add', alone, netns, pod('plain'));
    const shape = (text: string): string => text.replaceAll(/"(mac|name)": "[^"]*"/g, '"$1"');
    expect(await cnitool('del', alone, netns, pod('plain'))).toMatchObject({ code: 0 });
    const before = await office.kernel.picture();
    const added = await cnitool('add', chain(), netns, pod('plain'));
    expect(shape(added.stdout)).toBe(shape(primary.stdout));
    expect(await inPod(netns, 'ip', '-br', 'link')).not.toContain('vpn');
    expect(await office.kernel.picture()).toBe(before);
    expect(await cnitool('del', chain(), netns, pod('plain'))).toMatchObject({ code: 0 });
  });

  test('a pod with the annotation gets what it names', async () => {
    const before = await office.kernel.picture();
    const netns = await office.hosts.namespace('cnir-n1');
    const env = pod('named', { annotations: { 'ovpn-operator.io/networks': 'corp' } });
    expect(await cnitool('add', chain(), netns, env)).toMatchObject({ code: 0, stderr: '' });
    expect(await inPod(netns, 'ip', '-br', 'link')).toContain('vpn0');
    expect(await ping(netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await cnitool('del', chain(), netns, env)).toMatchObject({ code: 0 });
    expect(await cnitool('del', chain(), netns, env)).toMatchObject({ code: 0 });
    expect(await office.kernel.picture()).toBe(before);
  });
});

describe('what came with 1.1.0', () => {
  test('STATUS says whether an ADD would succeed', async () => {
    const name = list('status', '1.1.0', { type: 'ovpn-cni', network: 'corp' });
    expect(await cnitool('status', name, '')).toMatchObject({ code: 0 });
    const lost = list('status-lost', '1.1.0', { type: 'ovpn-cni', network: 'nowhere' });
    const refused = await cnitool('status', lost, '');
    expect([refused.code, refused.stdout + refused.stderr]).toEqual([1, expect.stringContaining('nowhere')]);
  });

  test('gc of cnitool takes away what it has on record, and nothing of another configuration', async () => {
    const before = await office.kernel.picture();
    const name = list('collect', '1.1.0', { type: 'ovpn-cni', network: 'corp' });
    const env = { CNI_IFNAME: 'vpn0' };
    const spaces = await Promise.all(['g1', 'g2'].map((pod) => office.hosts.namespace(`cnir-${pod}`)));
    for (const netns of spaces) expect(await cnitool('add', name, netns, env)).toMatchObject({ code: 0 });
    // cnitool calls DEL for what it has on record, and then GC without a list, which could as well mean "none is known".
    const collected = await cnitool('gc', name, spaces[0] ?? '', env);
    expect([collected.code, collected.stdout + collected.stderr]).toEqual([
      1,
      expect.stringMatching(/cni\.dev\/valid-attachments.*OVPN501/),
    ]);
    // The office's own pod is of another configuration.
    for (const netns of spaces) expect(await inPod(netns, 'ip', '-br', 'link')).not.toContain('vpn0');
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await office.kernel.picture()).toBe(before);
  });
});

test('addresses of host-local are handed to the agent, checked, and free again after DEL', async () => {
  const netns = await office.hosts.namespace('cnir-ipam');
  const range = { rangeStart: '10.81.1.201', rangeEnd: '10.81.1.201' };
  const ipam = hostLocal('delegated', '10.81.1.0/24', range);
  const name = list('delegated', '1.0.0', { type: 'ovpn-cni', network: 'corp', ipam });
  for (const round of [1, 2]) {
    const added = await cnitool('add', name, netns, { CNI_IFNAME: 'vpn0' });
    expect([round, added.code, added.stderr]).toEqual([round, 0, '']);
    const { ips } = JSON.parse(added.stdout) as CniResult;
    expect(ips.map(({ address }) => address.split('/')[0])).toEqual(['10.81.1.201']);
    expect(await ping(netns, office.lan.ipv4, { count: 1 })).toMatchObject({ received: 1 });
    expect(await cnitool('check', name, netns, { CNI_IFNAME: 'vpn0' })).toEqual({ code: 0, stdout: '', stderr: '' });
    await inPod(netns, 'ip', 'addr', 'del', '10.81.1.201/32', 'dev', 'vpn0');
    const deviates = await cnitool('check', name, netns, { CNI_IFNAME: 'vpn0' });
    expect([deviates.code, deviates.stderr]).toEqual([1, expect.stringContaining('10.81.1.201')]);
    expect(await cnitool('del', name, netns, { CNI_IFNAME: 'vpn0' })).toMatchObject({ code: 0 });
  }
});

test('DEL while the agent is away succeeds, and the next agent takes the interface away', async () => {
  const netns = await office.hosts.namespace('cnir-away');
  const name = list('away', '1.0.0', { type: 'ovpn-cni', network: 'corp' });
  const env = { CNI_IFNAME: 'vpn0' };
  expect(await cnitool('add', name, netns, env)).toMatchObject({ code: 0 });
  await office.agent.stopAgent('SIGKILL');
  expect(await cnitool('del', name, netns, env)).toMatchObject({ code: 0 });
  const refused = await cnitool('add', name, netns, env);
  expect(refused.code).not.toBe(0);
  expect(refused.stdout + refused.stderr).toContain('OVPN401');
  await office.agent.startAgent();
  await office.agent.untilReady('corp', 1);
  expect(await cnitool('add', name, netns, env)).toMatchObject({ code: 0 });
  expect(await cnitool('del', name, netns, env)).toMatchObject({ code: 0 });
  expect(await inPod(netns, 'ip', '-br', 'link')).not.toContain('vpn0');
});
