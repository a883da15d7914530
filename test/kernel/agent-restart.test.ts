import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { HolderClient } from '../../operator/src/holder/client.ts';
import { ping } from '../support/hosts.ts';
import { Office, officeKey } from '../support/office.ts';
import { eventually } from '../support/run.ts';
import { whilePinging } from '../support/stream.ts';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

let office: Office;
beforeAll(async () => {
  office = await Office.open('rest', { options: ['--resync', '1'] });
});
afterAll(async () => {
  await office.close();
});

/** The agent's process starts anew; the tunnel must not notice. */
async function keepsAll(restart: () => Promise<void>): Promise<void> {
  const picture = await office.kernel.picture();
  const before = office.kernel.peer(7);
  const stream = await whilePinging(office.pod.netns, office.lan.ipv4, restart);
  expect(stream).toMatchObject({ lost: 0 });
  expect(await office.kernel.picture()).toBe(picture);
  const after = office.kernel.peer(7);
  // A peer that was made anew would count from nothing.
  expect(Number(after?.vpn.txPackets)).toBeGreaterThanOrEqual(Number(before?.vpn.txPackets) + stream.sent);
  expect(Number(after?.link.rxPackets)).toBeGreaterThanOrEqual(Number(before?.link.rxPackets) + stream.sent);
}

/** @param writes more than none only after a call that writes by itself */
const silent = async (writes = 0): Promise<void> => {
  const report = await office.agent.until('two rounds', ({ netlink }) => netlink.rounds >= 2);
  expect(report.netlink.writes).toBe(writes);
  expect(report.networks[0]?.peers).toMatchObject([{ ready: 'True', keyGeneration: expect.any(Number) as unknown }]);
};

describe('the agent starts anew under traffic', () => {
  test.each(['SIGTERM', 'SIGKILL'] as const)('after %s', async (signal) => {
    const holder = office.agent.holderPid;
    await keepsAll(async () => {
      await office.agent.stopAgent(signal);
      await office.agent.startAgent();
      await silent();
    });
    expect(office.agent.holderPid).toBe(holder);
  });

  test('with nobody there for a while, and pods are still attached and detached afterwards', async () => {
    await keepsAll(async () => {
      await office.agent.stopAgent('SIGKILL');
      expect(await ping(office.pod.netns, office.lan.ipv6, { count: 5 })).toMatchObject({ sent: 5, received: 5 });
      await office.agent.startAgent();
      const { code } = await office.agent.cni('ADD', office.pod.call);
      expect(code).toBe(0);
      // ADD makes the two routes to the pod again, as the kernel may have taken them since the last look.
      await silent(2);
    });
  });
});

describe('the socket holder starts anew', () => {
  test('and gets the sockets again from the agent, so that the next restart of the agent loses nothing', async () => {
    const names = (): readonly string[] => new HolderClient(office.agent.holderSocket).list();
    expect(names()).toEqual(['corp/udp']);
    await keepsAll(async () => {
      await office.agent.killHolder();
      office.agent.startHolder();
      await eventually('the socket is handed over again', () => names().includes('corp/udp') || undefined);
      await office.agent.stopAgent('SIGKILL');
      await office.agent.startAgent();
      await silent();
    });
  });
});

describe('the agent and the holder die together', () => {
  test('the kernel drops the peers; a new agent makes them, refuses the spent key and says what to do', async () => {
    await office.agent.stopAgent('SIGKILL');
    await office.agent.killHolder();
    await eventually('the kernel dropped the peers', () => office.kernel.peers().length === 0 || undefined);
    await office.agent.start();
    expect(office.kernel.slots(7)).toBe('-/-');
    const report = await office.agent.until(
      'the key is refused',
      ({ networks }) => networks[0]?.peers[0]?.reason === 'KeySpent',
    );
    expect(report.networks[0]?.peers[0]).toMatchObject({ ready: 'False', keys: {} });
    expect(report.networks[0]?.peers[0]?.message).toMatch(
      /VpnKey default\/office: spec\.static\.generation: generation 1 .*raise spec\.static\.generation .*\[OVPN203\]/,
    );
    const status = await eventually('status of the key', () => {
      const text = readFileSync(join(office.agent.state, 'status/VpnKey.default.office.json'), 'utf8');
      return text.includes('KeySpent') ? text : undefined;
    });
    expect(status).toContain('OVPN203');
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 1, deadline: 2 })).toMatchObject({ received: 0 });
    // On both ends.
    office.remote.install('secondary', 2);
    office.remote.swap();
    office.agent.apply('key.yaml', officeKey(2));
    await eventually('the new key', () => office.kernel.slots(7) === '2/-' || undefined);
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 3 })).toMatchObject({ received: 3 });
    await office.agent.untilReady('corp', 1);
  });
});
