import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Capture } from '../support/capture.ts';
import { ping } from '../support/hosts.ts';
import { attachDirectly, type Branch, Office, openBranch, podAddress } from '../support/office.ts';
import { key, newStaticKey, peer, secret } from '../support/manifests.ts';
import { PlainRemote } from '../support/remote.ts';
import { attempt, eventually, run } from '../support/run.ts';
import { driverHere } from './support.ts';

/** Two nodes with agents, a remote that is not ours with a network behind it, and pods on both nodes. */
let office: Office;
let branch: Branch;
beforeAll(async () => {
  office = await Office.open('traf');
  branch = await openBranch(office);
});
afterAll(async () => {
  await office.close();
});

const all = (count: number) => ({ sent: count, received: count });

describe('pods of two nodes', () => {
  test.each([4, 6] as const)('reach each other over IPv%i', async (family) => {
    const before = office.kernel.peer(8);
    expect(await ping(office.pod.netns, podAddress(branch.pod, family), { count: 5 })).toMatchObject(all(5));
    expect(await ping(branch.pod.netns, podAddress(office.pod, family), { count: 5 })).toMatchObject(all(5));
    const after = office.kernel.peer(8);
    // Requests and answers of both, counted by the kernel on this end.
    expect(Number(after?.vpn.txPackets) - Number(before?.vpn.txPackets)).toBeGreaterThanOrEqual(10);
    expect(Number(after?.vpn.rxPackets) - Number(before?.vpn.rxPackets)).toBeGreaterThanOrEqual(10);
    expect(office.kernel.peer(7)).toMatchObject({ vpn: { txBytes: 0n } });
  });
});

describe('a remote that is not ours', () => {
  let lan: string;
  beforeAll(async () => {
    lan = await office.hosts.namespace('traf-lan');
    const remote = office.remote.host.namespace;
    const ip = (namespace: string, ...args: string[]): Promise<string> => run('ip', '-n', namespace, ...args);
    await ip(remote, 'addr', 'flush', 'dev', 'lo', 'scope', 'global');
    await ip(remote, 'link', 'add', 'lan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', 'traf-lan');
    for (const [namespace, device, host] of [
      [remote, 'lan0', 1],
      ['traf-lan', 'eth0', 10],
    ] as const) {
      await ip(namespace, 'addr', 'add', `192.168.50.${host}/24`, 'dev', device);
      await ip(namespace, 'addr', 'add', `fd50::${host}/64`, 'dev', device, 'nodad');
      await ip(namespace, 'link', 'set', device, 'up');
    }
    await ip('traf-lan', 'route', 'add', 'default', 'via', '192.168.50.1');
    await ip('traf-lan', 'route', 'add', 'default', 'via', 'fd50::1');
    const sysctl = 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding';
    await office.remote.host.exec('sh', '-c', sysctl);
  });

  test.each([
    [4, '192.168.50.10'],
    [6, 'fd50::10'],
  ] as const)('a host of the network behind it and a pod reach each other over IPv%i', async (family, host) => {
    const before = office.remote.peer?.vpn;
    expect(await ping(office.pod.netns, host, { count: 5 })).toMatchObject(all(5));
    expect(await ping(lan, podAddress(office.pod, family), { count: 5 })).toMatchObject(all(5));
    const after = office.remote.peer?.vpn;
    expect(Number(after?.rxPackets) - Number(before?.rxPackets)).toBeGreaterThanOrEqual(10);
  });

  test('the source of the packets is the pod, unchanged', async () => {
    const capture = await Capture.start(lan, 'eth0', 'icmp[0] == 8');
    await ping(office.pod.netns, '192.168.50.10', { count: 1 });
    await eventually('a packet', () => capture.packets.length > 0 || undefined);
    const [packet] = await capture.stop();
    expect(packet).toContain(`IP ${podAddress(office.pod, 4)} > 192.168.50.10: ICMP echo request`);
  });

  test('the host of the node has no route into the VPN', async () => {
    const { code } = await attempt('nsenter', office.agent.host.command('ip', 'route', 'get', '192.168.50.10'));
    expect(code).not.toBe(0);
    expect(await office.agent.host.exec('ip', 'route')).not.toContain('10.8');
  });
});

describe('a remote that knows us by another id than we know it', () => {
  const { transmitIds } = driverHere();
  const [ours, theirs] = [17, 19];

  test(transmitIds ? 'is reached, and reaches us' : 'is refused by name, and nothing else with it', async () => {
    const host = await office.hosts.host('other');
    const material = newStaticKey();
    const addresses = ['10.80.0.17', 'fd80::17'];
    const settings = {
      name: 'other',
      peerID: ours,
      endpoint: { address: host.ipv4, port: 1194 },
      addresses,
      routes: [],
    };
    office.agent.apply('other-secret.yaml', secret('other', material));
    office.agent.apply('other-key.yaml', key({ name: 'other', direction: 'Normal' }));
    const spec = { static: { peerID: ours, remotePeerID: theirs } };
    office.agent.apply('other.yaml', peer({ ...settings, spec }));
    if (transmitIds) {
      const endpoint = { address: office.agent.host.ipv4, port: 1194 };
      const ids = { peerId: theirs, transmitId: ours };
      await PlainRemote.create(host, {
        ...ids,
        addresses: ['10.80.0.17/24', 'fd80::17/112'],
        routes: [],
        endpoint,
        material,
      });
      await office.agent.untilReady('corp', 3);
      for (const address of addresses) expect(await ping(office.kernel.path, address)).toMatchObject(all(3));
    } else {
      const report = await office.agent.until(
        'the other peer is refused',
        ({ networks: [corp] }) =>
          corp?.peers.some(({ name, ready }) => name.endsWith('/other') && ready === 'False') === true,
      );
      const { peers = [] } = report.networks[0] ?? {};
      expect(peers.find(({ name }) => name.endsWith('/other'))).toMatchObject({
        message: expect.stringMatching(/remotePeerID: is 19, another id than peerID \(17\).*boot Linux 7\.1/),
      });
      expect(await ping(office.pod.netns, podAddress(branch.pod, 4))).toMatchObject(all(3));
    }
    office.agent.unapply('other.yaml');
    await office.agent.untilReady('corp', 2);
  });
});

describe('the first IPv6 packet to a pod that was just attached', () => {
  // The kernel delays news of a new carrier when both ends of a veth pair have the same index, as the first
  // pod of a network would have with the kernel's own numbers.
  test.each([2, 3, 4, 5])('is answered at once; the pod has interface index %i', async (index) => {
    const name = `traf-v${index}`;
    const netns = await office.hosts.namespace(name);
    for (let n = 2; n < index; n++) await run('ip', '-n', name, 'link', 'add', `other${n}`, 'type', 'bridge');
    const attachment = await attachDirectly(office.agent, `v${index}`, netns);
    const address = attachment.addresses.map((each) => each.address).find((each) => each.includes(':')) ?? '';
    // From outside: the far end has to find the pod by neighbour discovery, and the pod the far end.
    const { stdout } = await office.remote.host
      .exec('ping', '-n', '-c', '1', '-W', '5', address.split('/')[0] ?? '')
      .then((text) => ({ stdout: text }));
    // Neighbour discovery tries again after 1000 ms.
    expect(Number(/time=([\d.]+) ms/.exec(stdout)?.[1])).toBeLessThan(300);
    const { ifindex, link_index: far } = (
      JSON.parse(await run('ip', '-n', name, '-j', 'link', 'show', 'vpn0')) as { ifindex: number; link_index: number }[]
    )[0] ?? { ifindex: 0, link_index: 0 };
    expect(ifindex).toBe(index);
    expect(far).not.toBe(index);
  });
});
