/** The MTU of the VPN follows that of the way that its encrypted packets take. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { ping } from '../support/hosts.ts';
import { Office } from '../support/office.ts';
import { eventually, run } from '../support/run.ts';

let office: Office;
beforeAll(async () => {
  office = await Office.open('mtu', { options: ['--resync', '1'] });
}, 120_000);
afterAll(() => office.close(), 60_000);

const mtuOf = async (netns: string, device: string): Promise<number> => {
  const [link] = JSON.parse(await run('nsenter', `--net=${netns}`, 'ip', '-j', 'link', 'show', device)) as {
    mtu: number;
  }[];
  return link?.mtu ?? 0;
};
const setUnderlay = (mtu: number): Promise<string> =>
  run('ip', '-n', office.agent.host.namespace, 'link', 'set', 'eth0', 'mtu', String(mtu));
/** A packet that must not be cut to pieces, of this size with its header. */
const fits = async (size: number): Promise<boolean> => {
  const { netns } = office.pod;
  const args = ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', String(size - 28), office.lan.ipv4];
  return (await run('nsenter', `--net=${netns}`, 'sh', '-c', 'ping "$@" || true', 'sh', ...args)).includes(
    '1 received',
  );
};

test('a smaller underlay makes the device and the pods smaller, without a packet too large; and back', async () => {
  const wide = await mtuOf(office.kernel.path, 'ovpn0');
  expect(await mtuOf(office.pod.netns, 'vpn0')).toBe(wide);
  expect(await fits(wide)).toBe(true);

  const narrow = wide - 100;
  await setUnderlay(1400);
  await eventually('the pod follows', async () => (await mtuOf(office.pod.netns, 'vpn0')) === narrow || undefined);
  expect(await mtuOf(office.kernel.path, 'ovpn0')).toBe(narrow);
  expect(await fits(narrow)).toBe(true);
  expect(await fits(narrow + 1)).toBe(false);
  expect(await ping(office.pod.netns, office.lan.ipv6, { count: 2, size: narrow - 48 })).toMatchObject({ received: 2 });

  await setUnderlay(1500);
  await eventually('the pod follows back', async () => (await mtuOf(office.pod.netns, 'vpn0')) === wide || undefined);
  expect(await mtuOf(office.kernel.path, 'ovpn0')).toBe(wide);
  expect(await fits(wide)).toBe(true);
}, 120_000);
