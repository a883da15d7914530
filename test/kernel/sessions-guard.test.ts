import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { peer } from '../support/manifests.ts';
import { Office, officeNetwork, officePeer } from '../support/office.ts';
import { attempt, eventually } from '../support/run.ts';

const everything = { allowedPeers: { namespaces: { from: 'All' }, routes: ['0.0.0.0/0', '::/0'] } };

/** A network whose one remote has the default routes, beside one that is not there and has a part of the world. */
let office: Office;
beforeAll(async () => {
  office = await Office.open('guar', { spec: everything, options: ['--resync', '1'] });
  office.agent.apply('peer.yaml', officePeer(office.remote.host, {}, ['0.0.0.0/0', '::/0']));
  await eventually('the default routes', async () => (await wayTo('192.168.60.9'))?.includes('10.80.0.2') || undefined);
});
afterAll(async () => {
  await office.close();
});

/** Which way the network's namespace has for a packet that goes on; undefined when it has none. */
async function wayTo(address: string): Promise<string | undefined> {
  const { code, stdout } = await attempt('nsenter', [`--net=${office.kernel.path}`, 'ip', 'route', 'get', address]);
  return code === 0 && !stdout.includes('unreachable') ? stdout : undefined;
}

const absent = (spec: object): string =>
  peer({
    name: 'absent',
    peerID: 9,
    endpoint: { address: '203.0.113.99', port: 1194 },
    addresses: ['10.80.0.9', 'fd80::9'],
    routes: ['192.168.60.0/24', 'fd60::/64'],
    key: 'office',
    spec,
  });

test('what is behind a peer that is away goes nowhere, and above all not to whoever has the default route', async () => {
  office.agent.apply('absent.yaml', absent({ suspend: true }));
  await eventually('its networks are refused', async () => (await wayTo('192.168.60.9')) === undefined || undefined);
  expect(await wayTo('fd60::9')).toBeUndefined();
  expect(await wayTo('192.168.61.9')).toContain('via 10.80.0.2');
  expect(await wayTo('fd61::9')).toContain('via fd80::2');
});

test('the guard stays below the route of the peer when it comes, and goes with the peer', async () => {
  office.agent.apply('absent.yaml', absent({}));
  await eventually('its own route', async () => (await wayTo('192.168.60.9'))?.includes('10.80.0.9') || undefined);
  office.agent.unapply('absent.yaml');
  await eventually('the default route', async () => (await wayTo('192.168.60.9'))?.includes('10.80.0.2') || undefined);
  expect(await wayTo('fd60::9')).toContain('via fd80::2');
});

test('a peer that is deleted in one moment with a change of its network is deleted', async () => {
  office.agent.apply('absent.yaml', absent({}));
  await eventually('the peer', () => office.kernel.peer(9));
  office.agent.apply('network.yaml', officeNetwork(office.agent.host, { ...everything, mtu: 1300 }));
  office.agent.unapply('absent.yaml');
  await eventually('it is gone', () => office.kernel.peer(9) === undefined || undefined);
  expect(office.kernel.peer(7)).toBeDefined();
});
