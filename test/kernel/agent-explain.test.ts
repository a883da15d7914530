import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Explanation } from '../../operator/src/agent/explain/steps.ts';
import { agentProgram, ping } from '../support/hosts.ts';
import { attachPod, Office, officePeer, type Pod, podAddress, sandboxWithEth0 } from '../support/office.ts';
import type { Finding } from '../../operator/src/cli/doctor/findings.ts';
import { attempt, eventually, run } from '../support/run.ts';

let office: Office;
let pod: Pod;
beforeAll(async () => {
  office = await Office.open('expl');
  pod = await attachPod(office.agent, 'e', { netns: await sandboxWithEth0(office.hosts, 'expl-e', 'expl-gw') });
}, 120_000);
afterAll(async () => {
  await office.close();
}, 120_000);

const nobody = '192.168.51.1';

/** Runs the program as a person does, and holds its verdict against its exit code. */
async function explained(destination: string, ...from: string[]): Promise<Explanation> {
  const origin = from.length === 0 ? ['--pod', `default/${pod.call.containerId}`] : from;
  const argv = ['explain-route', destination, ...origin, '--socket', office.agent.socket, '-o', 'json'];
  const { code, stdout, stderr } = await attempt(
    'nsenter',
    office.agent.host.command(process.execPath, agentProgram, ...argv),
  );
  if (stdout === '') throw new Error(stderr);
  const explanation = JSON.parse(stdout) as Explanation;
  expect(code).toBe(explanation.reaches ? 0 : 1);
  return explanation;
}

const lastStep = ({ steps }: Explanation) => steps.at(-1);

describe('a destination that is reached', () => {
  test.each([4, 6] as const)(
    'behind a peer, as ping finds too: IPv%i',
    async (family) => {
      const destination = family === 4 ? office.lan.ipv4 : office.lan.ipv6;
      expect(await ping(pod.netns, destination, { count: 2 })).toMatchObject({ received: 2 });
      const { reaches, steps } = await explained(destination);
      expect(steps.filter(({ result }) => result !== 'ok')).toEqual([]);
      expect(reaches).toBe(true);
      const text = steps.map((step) => `${step.object} ${step.text}`).join('\n');
      expect(text).toContain(`sends from ${podAddress(pod, family)} out of vpn0`);
      expect(text).toContain(`via ${family === 4 ? office.vpn.ipv4 : office.vpn.ipv6} out of ovpn0`);
      expect(text).toContain('VpnPeer default/office gets it as peer 7 of ovpn0');
      expect(text).toMatch(/sends with key \d/);
      expect(text).toMatch(/routes the answer to \S+ out of veth/);
    },
    30_000,
  );

  test("a pod's namespace, or an address inside the network, is as good a beginning", async () => {
    expect((await explained(office.lan.ipv4, '--netns', pod.netns)).reaches).toBe(true);
    const inside = ['--network', 'corp', '--from', podAddress(pod, 4)];
    expect((await explained(office.lan.ipv4, ...inside)).reaches).toBe(true);
  }, 120_000);

  test('another pod of the node is reached without a peer', async () => {
    const { reaches, steps } = await explained(podAddress(office.pod, 4));
    expect(reaches).toBe(true);
    expect(steps.map(({ object }) => object)).toContain(`pod default/${office.pod.call.containerId}`);
  }, 120_000);
});

describe('the doctor', () => {
  async function examined(...options: string[]): Promise<Finding[]> {
    const { agent } = office;
    const argv = [
      'doctor',
      '--socket',
      agent.socket,
      '--holder',
      agent.holderSocket,
      '--state',
      agent.state,
      ...options,
    ];
    const command = agent.host.command(process.execPath, agentProgram, ...argv, '-o', 'json');
    const { code, stdout, stderr } = await attempt('nsenter', command);
    if (stdout === '') throw new Error(stderr);
    const found = JSON.parse(stdout) as Finding[];
    expect(code).toBe(found.some(({ severity }) => severity === 'error') ? 1 : 0);
    return found;
  }
  const errors = (found: readonly Finding[]): string[] =>
    found.flatMap(({ severity, check, text }) => (severity === 'error' ? [`${check}: ${text}`] : []));

  test('finds nothing wrong with a node that works, and says what it looked at', async () => {
    const found = await examined('--bin-dir', '/nowhere');
    expect(errors(found)).toEqual([]);
    const well = found.filter(({ severity }) => severity === 'ok').map(({ check }) => check);
    expect(well).toEqual(
      expect.arrayContaining(['privileges', 'packet-filter', 'state-folder', 'socket-holder', 'agent', 'network']),
    );
    expect(well).toEqual(expect.arrayContaining(['sysctls', 'filter', 'mtu', 'listener']));
    // The lab's kernel has transmit ids (peers.test.ts sets them).
    expect(found.find(({ check }) => check === 'ovpn-driver')).toMatchObject({ severity: 'ok' });
    expect(found.find(({ check }) => check === 'cni-plugin')).toMatchObject({ severity: 'unchecked' });
  }, 120_000);

  test('finds what was changed behind the back of the agent, and a holder that is not there', async () => {
    await office.kernel.exec('sysctl', '-qw', 'net.ipv4.ip_forward=0');
    await office.kernel.exec('nft', 'flush', 'ruleset');
    const found = await examined('--holder', '/nowhere/holder.sock');
    expect(errors(found)).toEqual([
      expect.stringMatching(/^socket-holder: no answer/),
      'sysctls: net.ipv4.ip_forward is 0, not 1',
      expect.stringMatching(/^filter: has another packet filter/),
    ]);
    expect(lastStep(await explained(office.lan.ipv4))?.text).toContain('does not forward');
    await office.kernel.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
  }, 120_000);
});

describe('a destination that is not reached', () => {
  test('outside of the VPN goes out of eth0', async () => {
    expect(lastStep(await explained('8.8.8.8'))?.text).toContain('out of eth0');
  }, 120_000);

  test('of a pool, without a peer that has the address', async () => {
    expect(lastStep(await explained('10.80.0.77'))?.text).toContain(
      'has no peer with the VPN address 10.80.0.77; no VpnPeer of this node has it',
    );
  }, 120_000);

  test('of nobody, asked from inside the network', async () => {
    const { steps } = await explained(nobody, '--network', 'corp', '--from', podAddress(pod, 4));
    expect(steps.at(-1)?.text).toContain(`has no way to ${nobody}`);
  }, 120_000);

  test('with the address of another pod', async () => {
    const own = podAddress(pod, 4);
    const stolen = podAddress(office.pod, 4);
    const sendFrom = (source: string): Promise<string> =>
      run(
        ...(['ip', '-n', 'expl-e', 'route', 'replace', '192.168.50.0/24', 'via', '10.81.1.1', 'dev', 'vpn0'] as const),
        ...['proto', '79', 'src', source],
      );
    await run('ip', '-n', 'expl-e', 'addr', 'add', `${stolen}/32`, 'dev', 'vpn0');
    await sendFrom(stolen);
    expect(lastStep(await explained(office.lan.ipv4))?.text).toMatch(/drops packets from \S+ that come in on veth/);
    await sendFrom(own);
    await run('ip', '-n', 'expl-e', 'addr', 'del', `${stolen}/32`, 'dev', 'vpn0');
    expect((await explained(office.lan.ipv4)).reaches).toBe(true);
  }, 120_000);

  test('of a peer that has no key to send with', async () => {
    office.kernel.deleteKey(7, 'primary');
    expect(lastStep(await explained(office.lan.ipv4))?.text).toContain('has no key to send with');
  }, 120_000);

  test('of a peer that is suspended', async () => {
    office.agent.apply('peer.yaml', officePeer(office.remote.host, { suspend: true }));
    await eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
    const step = await eventually('the route is gone', async () => {
      const last = lastStep(await explained(office.lan.ipv4));
      return last?.text.includes('spec.suspend is set') === true ? last : undefined;
    });
    expect(step).toMatchObject({ result: 'stop', remedy: 'take spec.suspend off VpnPeer default/office' });
  }, 120_000);
});
