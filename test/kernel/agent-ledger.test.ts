import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { ping } from '../support/hosts.ts';
import { peer } from '../support/manifests.ts';
import { Office, officeKey, officePeer } from '../support/office.ts';
import { eventually, run } from '../support/run.ts';

/** One node whose periodic look at the kernel never comes: what is mended here is mended by notifications. */
let office: Office;
let generation = 1;
beforeAll(async () => {
  office = await Office.open('ledg', { options: ['--resync', '3600'] });
});
afterAll(async () => {
  await office.close();
});

async function untilSpent(): Promise<string> {
  const report = await office.agent.until(
    'the key is refused',
    ({ networks }) => networks[0]?.peers[0]?.reason === 'KeySpent',
  );
  expect(office.kernel.slots(7)).toBe('-/-');
  return report.networks[0]?.peers[0]?.message ?? '';
}

/** Raises the generation on both ends. */
async function raise(): Promise<void> {
  generation++;
  office.remote.install('secondary', generation);
  office.remote.swap();
  office.agent.apply('key.yaml', officeKey(generation));
  await eventually('the new key', () => office.kernel.slots(7) === `${generation % 8}/-` || undefined);
  expect(await ping(office.pod.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
}

const spentMessage = (): RegExp =>
  new RegExp(
    `VpnKey default/office: spec\\.static\\.generation: generation ${generation} .* raise spec\\.static\\.generation .*\\[OVPN203\\]`,
  );

test('a peer that someone deletes in the kernel is made again at once, without its key', async () => {
  office.kernel.deletePeer(7);
  await eventually('the peer is back', () => office.kernel.peer(7), { stepMs: 10 });
  expect(await untilSpent()).toMatch(spentMessage());
  expect(office.agent.log).toContain('"kernel.peer-deleted"');
  await raise();
});

test('a peer that leaves the manifests and comes again does not get its old key', async () => {
  office.agent.unapply('peer.yaml');
  await eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
  office.agent.apply('peer.yaml', officePeer(office.remote.host));
  expect(await untilSpent()).toMatch(spentMessage());
  await raise();
});

test('a suspended peer that is resumed does not get its old key', async () => {
  office.agent.apply('peer.yaml', officePeer(office.remote.host, { suspend: true }));
  await eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
  office.agent.apply('peer.yaml', officePeer(office.remote.host));
  expect(await untilSpent()).toMatch(spentMessage());
  await raise();
});

test('neither does a network that is made anew, nor an agent that starts anew', async () => {
  // As `ip netns del` does it.
  await run('umount', '-l', office.kernel.path);
  await run('rm', office.kernel.path);
  await office.agent.stopAgent('SIGKILL');
  await office.agent.startAgent();
  expect(await untilSpent()).toMatch(spentMessage());
  await office.agent.stopAgent();
  await office.agent.startAgent();
  expect(await untilSpent()).toMatch(spentMessage());
  await raise();
});

test('a second peer with the same key is refused and told which peer has it', async () => {
  office.agent.apply(
    'second.yaml',
    peer({
      name: 'second',
      peerID: 9,
      endpoint: { address: '203.0.113.99', port: 1194 },
      addresses: ['10.80.0.9'],
      routes: [],
      key: 'office',
    }),
  );
  const second = await eventually('the second peer', async () =>
    (await office.agent.report()).networks[0]?.peers.find(
      ({ peerId, reason }) => peerId === 9 && reason === 'KeySpent',
    ),
  );
  expect(second.message).toMatch(
    /VpnKey default\/office: spec\.static\.generation: .* for peer id 7 of VpnNetwork corp/,
  );
  expect(office.kernel.slots(9)).toBe('-/-');
  expect(office.kernel.slots(7)).toBe(`${generation % 8}/-`);
  expect(await ping(office.pod.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
  office.agent.unapply('second.yaml');
});

test('a generation that goes back is refused; the key in use stays in use', async () => {
  office.agent.apply('key.yaml', officeKey(1));
  const report = await office.agent.until('the manifest is refused', ({ rejections }) => rejections.length > 0);
  expect(report.rejections).toMatchObject([
    { origin: expect.stringContaining('key.yaml') as unknown, object: 'VpnKey default/office' },
  ]);
  expect(report.rejections[0]?.errors[0]).toContain('spec.static.generation');
  expect(office.kernel.slots(7)).toBe(`${generation % 8}/-`);
  expect(await ping(office.pod.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
  office.agent.apply('key.yaml', officeKey(generation));
  await office.agent.until('the manifest is good again', ({ rejections }) => rejections.length === 0);
});

test('the ledger names fingerprints and no key', async () => {
  const ledger = await run('cat', `${office.agent.state}/spent-keys.jsonl`);
  expect(ledger).toContain('"fingerprint"');
  const hex = office.material
    .replaceAll(/[^0-9a-f\n]/g, '')
    .split('\n')
    .filter((line) => line.length === 32);
  expect(hex).toHaveLength(16);
  for (const line of hex) expect(ledger).not.toContain(line);
  expect((await run('stat', '-c', '%a', `${office.agent.state}/spent-keys.jsonl`)).trim()).toBe('600');
});
