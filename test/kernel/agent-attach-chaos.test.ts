import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  type AddResult,
  type AgentRequest,
  protocolVersion as version,
} from '../../operator/src/agent/attach-protocol.ts';
import { callAgent } from '../support/agent-socket.ts';
import { Capture } from '../support/capture.ts';
import { ping } from '../support/hosts.ts';
import { attachPod, Office, officeNetwork, officePeer, sandboxWithEth0 } from '../support/office.ts';
import { eventually, run, Service } from '../support/run.ts';

/** ADDs and DELs in all; 200 take some minutes more. */
const cycles = Number(process.env['OVPN_CHAOS_CYCLES'] ?? 60);
const workers = 8;

let office: Office;
beforeAll(async () => {
  office = await Office.open('chao');
}, 60_000);
afterAll(async () => {
  await office.close();
}, 120_000);

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The runtime's part: asks until the agent, which may be dead just now, has answered. */
async function persistently(request: AgentRequest): Promise<unknown> {
  return eventually(
    `${request.op} to be answered`,
    async () => {
      try {
        return { answer: await callAgent(office.agent.socket, request) };
      } catch (error) {
        // Not there, died meanwhile, or started and not ready: what a runtime tries again.
        if (/ECONN|EPIPE|ENOENT|OVPN40[12]|OVPN503/.test(String(error))) return undefined;
        throw error;
      }
    },
    { timeoutMs: 120_000, stepMs: 50 },
  ).then(({ answer }) => answer);
}

describe('an agent that is killed again and again', () => {
  test(`leaves nothing behind after ${cycles} ADDs and DELs, and never gives an address twice`, async () => {
    const corp = join(office.agent.netns, 'ovpn-corp');
    const records = (): number => readdirSync(join(office.agent.state, 'attachments')).length;
    const names = Array.from({ length: workers }, (_, i) => `chao-w${i}`);
    const spaces = await Promise.all(names.map((name) => office.hosts.namespace(name)));
    const picture = async (): Promise<string> => {
      const pods = spaces.map((netns) =>
        run('nsenter', `--net=${netns}`, 'sh', '-c', 'ip -br addr; ip route show table all; ip -6 route'),
      );
      const filter = run('nsenter', `--net=${corp}`, 'nft', 'list', 'ruleset');
      return [await office.kernel.picture(), await filter, ...(await Promise.all(pods))].join('\n');
    };
    const [before, recordsBefore] = [await picture(), records()];

    const held = new Map<string, string>();
    let done = 0;
    let killing = true;
    const work = async (name: string, netns: string): Promise<void> => {
      for (let round = 0; done < cycles; round++) {
        done++;
        const call = { config: 'ovpn', containerId: `${name}-${round}`, cniIfname: 'vpn0' };
        const add = { version, op: 'add', ...call, network: 'corp', ifname: 'vpn0', netns } as const;
        const { attachments } = (await persistently(add)) as AddResult;
        const addresses = attachments.flatMap((each) => each.addresses.map(({ address }) => address));
        expect(addresses).toHaveLength(2);
        for (const address of addresses) {
          expect([address, held.get(address)]).toEqual([address, undefined]);
          held.set(address, name);
        }
        // The interface has them, whatever died since.
        const shown = await run('nsenter', `--net=${netns}`, 'ip', '-o', 'addr', 'show', 'dev', 'vpn0');
        for (const address of addresses) expect(shown).toContain(address.split('/')[0]);
        for (const address of addresses) held.delete(address);
        await persistently({ version, op: 'del', ...call, netns });
      }
    };
    const kill = async (): Promise<number> => {
      let kills = 0;
      while (killing) {
        await pause(200 + Math.random() * 2_000);
        await office.agent.stopAgent('SIGKILL');
        kills++;
        await office.agent.startAgent();
      }
      return kills;
    };
    const killer = kill();
    try {
      await Promise.all(names.map((name, i) => work(name, spaces[i] ?? '')));
    } finally {
      killing = false;
    }
    expect(await killer).toBeGreaterThan(1);
    await office.agent.untilReady('corp', 1);
    expect(records()).toBe(recordsBefore);
    expect(await picture()).toBe(before);
    expect(await ping(office.pod.netns, office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
  }, 600_000);
});

describe('what is for the VPN', () => {
  test('never leaves by eth0, whatever happens to peers, agent, device and network', async () => {
    const netns = await sandboxWithEth0(office.hosts, 'chao-e', 'chao-gw');
    // From before the first ADD on: until it returns, no container runs.
    const pod = await attachPod(office.agent, 'e', { netns });
    const ours =
      'net 10.80.0.0/16 or net 10.81.0.0/16 or net 192.168.50.0/24 or ip6 net fd50::/16 or ip6 net fd80::/15';
    const capture = await Capture.start(netns, 'eth0', `${ours} or host 8.8.8.8`);
    const senders = [office.lan.ipv4, office.lan.ipv6, office.vpn.ipv4, office.vpn.ipv6].map(
      (host) => new Service('nsenter', [`--net=${netns}`, 'ping', '-n', '-i', '0.05', '-W', '1', host]),
    );
    const reaches = async (): Promise<unknown> =>
      eventually(
        'the remote is reached',
        async () => (await ping(netns, office.lan.ipv4, { count: 1 })).received === 1 || undefined,
        { timeoutMs: 120_000 },
      );
    try {
      await reaches();
      office.agent.apply('peer.yaml', officePeer(office.remote.host, { suspend: true }));
      await eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
      await office.agent.stopAgent('SIGKILL');
      await office.agent.startAgent();
      await pause(500);
      const corp = join(office.agent.netns, 'ovpn-corp');
      await run('nsenter', `--net=${corp}`, 'ip', 'link', 'del', 'ovpn0');
      await pause(500);
      await office.agent.stopAgent('SIGKILL');
      await office.agent.startAgent();
      await office.agent.until('the device is back', ({ networks }) => networks[0]?.device !== undefined);
      await run('ip', '-n', 'chao-e', 'link', 'set', 'vpn0', 'down');
      await pause(500);
      office.agent.apply('network.yaml', officeNetwork(office.agent.host, { attach: { namespaces: { from: 'All' } } }));
      office.agent.unapply('network.yaml');
      await office.agent.until('the network is gone', ({ networks }) => networks.length === 0);
      // The pod's interface is gone with it, and what it reached is refused still.
      await pause(500);
      const refused = await ping(netns, office.lan.ipv4, { count: 1, deadline: 2 });
      expect(refused.output).toMatch(/unreachable|No route to host/i);
      // The capture works, and eth0 is as it was.
      expect(await ping(netns, '8.8.8.8', { count: 2 })).toMatchObject({ received: 2 });
      await eventually('the witness is captured', () => capture.packets.length >= 4 || undefined);
    } finally {
      for (const sender of senders) await sender.end('SIGKILL');
    }
    expect((await capture.stop()).filter((packet) => !packet.includes('8.8.8.8'))).toEqual([]);
    expect(await office.agent.cni('DEL', pod.call)).toMatchObject({ code: 0 });
  }, 240_000);
});
