import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { peer } from '../support/manifests.ts';
import { Office, officeKey } from '../support/office.ts';
import { eventually, Service } from '../support/run.ts';

/** A node with attachments, IPv6, a suspended peer and a key that was rotated, looking at the kernel every second. */
let office: Office;
beforeAll(async () => {
  office = await Office.open('setl', { options: ['--resync', '1', '--status-interval', '1'] });
  office.agent.apply(
    'suspended.yaml',
    peer({
      name: 'suspended',
      peerID: 9,
      endpoint: { address: '203.0.113.99', port: 1194 },
      addresses: ['10.80.0.9'],
      routes: ['10.99.0.0/16'],
      key: 'office',
      spec: { suspend: true },
    }),
  );
  office.agent.apply('key.yaml', officeKey(2));
  await eventually('the key was rotated', () => office.kernel.slots(7) === '2/-' || undefined);
  await office.agent.until('the suspended peer is known', ({ networks }) => networks[0]?.peers.length === 2);
});
afterAll(async () => {
  await office.close();
});

test('a settled node writes nothing, however often it looks', async () => {
  const monitor = (netns: string): Service =>
    new Service('nsenter', [`--net=${netns}`, 'ip', '-ts', 'monitor', 'link', 'address', 'route', 'rule', 'nsid']);
  const before = await office.agent.report();
  const picture = await office.kernel.picture();
  const monitors = [office.kernel.path, office.pod.netns, `/run/netns/${office.agent.host.namespace}`].map(monitor);
  await office.agent.until('four more rounds', ({ netlink }) => netlink.rounds >= before.netlink.rounds + 4);
  const after = await office.agent.report();
  for (const { running } of monitors) expect(running).toBe(true);
  await Promise.all(monitors.map((each) => each.end()));
  expect(after.netlink.writes).toBe(before.netlink.writes);
  expect(monitors.map(({ log }) => log)).toEqual(['', '', '']);
  expect(await office.kernel.picture()).toBe(picture);
  expect(picture).toContain('keys of 7: 2/-');
  expect(after.networks[0]?.peers.map(({ name, ready, reason }) => ({ name, ready, reason }))).toEqual([
    { name: 'default/office', ready: 'True', reason: 'Ready' },
    { name: 'default/suspended', ready: 'False', reason: 'Suspended' },
  ]);
});

test('a change of one object writes what it needs and no more', async () => {
  const { netlink } = await office.agent.report();
  office.agent.apply(
    'more.yaml',
    peer({
      name: 'more',
      peerID: 10,
      endpoint: { address: '203.0.113.98', port: 1194 },
      addresses: ['10.80.0.10'],
      routes: ['10.98.0.0/16'],
      key: 'missing',
    }),
  );
  await eventually('the peer', () => office.kernel.peer(10));
  const { netlink: after } = await office.agent.until('the route is in the pod', () => true);
  // The peer, its route, and in the pod the route and the refusing one below it.
  expect(after.writes - netlink.writes).toBe(4);
  office.agent.unapply('more.yaml');
  await eventually('the peer is gone', () => office.kernel.peer(10) === undefined || undefined);
});
