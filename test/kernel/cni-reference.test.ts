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
  for (const name of ['ptp', 'host-local'] as const) symlinkSync(programPath(name), join(plugins, name));
}, 120_000);
afterAll(async () => {
  await office.close();
}, 30_000);

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

const hostLocal = (subnet: string, more: object = {}): object => ({
  type: 'host-local',
  dataDir: join(office.hosts.folder, 'ipam'),
  ranges: [[{ subnet, ...more }]],
});
const inPod = (netns: string, ...command: string[]): Promise<string> => run('nsenter', `--net=${netns}`, ...command);

describe('in a chain after ptp', () => {
  // No CHECK: ptp takes all addresses of the chain's result for those of its own interface.
  test.each(['0.4.0', '1.0.0', '1.1.0'])('add and del by cnitool in version %s', async (cniVersion) => {
    const version = cniVersion.replaceAll('.', '');
    const before = await office.kernel.picture();
    const netns = await office.hosts.namespace(`cnir-c${version}`);
    const name = list(
      `chain${version}`,
      cniVersion,
      { type: 'ptp', ipam: { ...hostLocal('10.99.0.0/24'), routes: [{ dst: '0.0.0.0/0' }] } },
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

test('addresses of host-local are handed to the agent, checked, and free again after DEL', async () => {
  const netns = await office.hosts.namespace('cnir-ipam');
  const range = { rangeStart: '10.81.1.201', rangeEnd: '10.81.1.201' };
  const ipam = hostLocal('10.81.1.0/24', range);
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
