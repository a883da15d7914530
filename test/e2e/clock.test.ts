import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ping } from '../support/hosts.ts';
import { openvpn27Userspace, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { untilConnected } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** Control packets carry times; the two ends need not agree on them. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('clock', { spec: { keepalive: { intervalSeconds: 1, timeoutSeconds: 10 } } });
});
afterAll(async () => {
  await scene.close();
});

describe('an agent whose clock is wrong', () => {
  const hour = 3_600_000;
  test.each([
    ['ahead', 2 * hour],
    ['behind', -2 * hour],
  ])('by two hours %s takes clients, dials, and keeps them when the clock is set right', async (name, milliseconds) => {
    await restartAgent(skewed(scene, milliseconds));
    const { time } = scene.agent.said('agent.ready').at(-1) ?? {};
    expect(Math.abs(new Date(String(time)).getTime() - Date.now() - milliseconds)).toBeLessThan(60_000);

    const vpn = scene.admit(name);
    const remoteName = `far${name}`;
    const host = await scene.hosts.host(remoteName);
    const config = ['reneg-sec 8'];
    const server = await scene.server(host, { config });
    scene.dial(remoteName, { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
    const client = await scene.connectedClient(name, { config, build: openvpn27Userspace });
    await untilConnected(scene.agent, remoteName);
    await Promise.all([
      scene.laterKey(client, () => scene.keyTo(vpn)),
      scene.laterKey(server, () => scene.keyToRemote(remoteName)),
    ]);
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
    await reaches(scene.kernel.path, [vpn.ipv4, ...serverAddresses]);

    await restartAgent({});
    await eventually('the client reaches us', async () => (await answers(client)) || undefined);
    await untilConnected(scene.agent, name);
    await untilConnected(scene.agent, remoteName);
    // Also what is agreed on later.
    await scene.laterKey(client, () => scene.keyTo(vpn));
    await reaches(scene.kernel.path, [vpn.ipv4, ...serverAddresses]);
    scene.agent.unapply(`peer-${remoteName}.yaml`);
    await client.end('SIGKILL');
  });
});

async function restartAgent(environment: Readonly<Record<string, string>>): Promise<void> {
  await scene.agent.stopAgent();
  scene.agent.environment = environment;
  await scene.agent.startAgent();
}

async function answers({ host }: OpenvpnProcess): Promise<boolean> {
  return (await ping(netnsOf(host), nodeVpn.ipv4, { count: 1, deadline: 2 })).received === 1;
}

/** Variables that put the clock of a Node.js program forward or back. */
function skewed({ hosts }: Scene, milliseconds: number): Record<string, string> {
  const module = join(hosts.folder, 'skew.mjs');
  const text = `
    const skew = Number(process.env.CLOCK_SKEW_MS);
    const Real = globalThis.Date;
    globalThis.Date = class Date extends Real {
      constructor(...args) { super(...(args.length === 0 ? [Real.now() + skew] : args)); }
      static now() { return Real.now() + skew; }
    };
  `;
  writeFileSync(module, text);
  return { CLOCK_SKEW_MS: String(milliseconds), NODE_OPTIONS: `--import=${module}` };
}
