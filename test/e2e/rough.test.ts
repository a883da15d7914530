import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Host, ping } from '../support/hosts.ts';
import { openvpn26, openvpn27, openvpn27Userspace, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { agentTail, peerStatus, untilConnected } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from './scene.ts';

/** Lines that lose and reorder, and clocks that are wrong. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('rough', { spec: { keepalive: { intervalSeconds: 2, timeoutSeconds: 40 } } });
}, 60_000);
afterAll(async () => {
  await scene.close();
}, 30_000);

/** 300 ms there and back; a fifth of the packets is lost each way, and a quarter overtakes others. */
async function spoil(host: Host): Promise<void> {
  await scene.hosts.shape(host, 'root', 'netem', 'delay', '150ms', '30ms', 'loss', '20%', 'reorder', '25%', '50%');
}

/** Most of the pings are answered: two thirds of them at such a loss. */
async function mostlyReaches(netns: string, destination: string): Promise<void> {
  const { sent, received } = await ping(netns, destination, { count: 1000, interval: 0.1, deadline: 8 });
  expect(sent).toBeGreaterThan(40);
  expect(received / sent).toBeGreaterThan(0.4);
}

async function laterKey(name: string, stock: OpenvpnProcess): Promise<void> {
  const what = `new keys for ${name}`;
  const renewed = (): true | undefined => (peerStatus(scene.agent, name)?.keyID ?? 0) >= 1 || undefined;
  await eventually(what, renewed, { timeoutMs: 90_000 }).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${stock.tail}\n${agentTail(scene.agent)}`, { cause: error });
  });
}

describe('a line with 20 % loss, reordering and 300 ms', () => {
  test.each([
    ['UDP', openvpn26],
    ['TCP', openvpn27],
  ] as const)(
    'carries a client, its pings and its new keys: %s, %s',
    async (transport, build) => {
      const name = `lossy${transport.toLowerCase()}`;
      const host = await scene.hosts.host(name);
      await spoil(host);
      const vpn = scene.admit(name);
      const stock = await scene.client(name, { host, build, transport, config: ['reneg-sec 20'] });
      await stock.connected(1, 120_000);
      await untilConnected(scene.agent, name);
      if (transport === 'UDP') await mostlyReaches(netnsOf(host), nodeVpn.ipv4);
      await laterKey(name, stock);
      if (transport === 'UDP') await mostlyReaches(scene.kernel.path, vpn.ipv4);
      else expect((await ping(scene.kernel.path, vpn.ipv4, { count: 3, interval: 1, deadline: 30 })).received).toBe(3);
      await stock.end('SIGKILL');
    },
    240_000,
  );

  test('carries a tunnel that we dialled', async () => {
    const host = await scene.hosts.host('lossyfar');
    await spoil(host);
    const server = await scene.server(host, { build: openvpn27Userspace, config: ['reneg-sec 20', 'keepalive 2 40'] });
    scene.dial('lossyfar', { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
    await untilConnected(scene.agent, 'lossyfar', 120_000);
    await mostlyReaches(scene.kernel.path, serverAddresses[0]);
    await laterKey('lossyfar', server);
    await mostlyReaches(scene.kernel.path, serverAddresses[0]);
    scene.agent.unapply('peer-lossyfar.yaml');
    await server.end('SIGKILL');
  }, 240_000);
});

describe('an agent whose clock is wrong', () => {
  /** Both wrappings that carry times, and TLS with its random numbers. */
  async function works(name: string, vpn: VpnAddresses, client: OpenvpnProcess): Promise<void> {
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
    await laterKey(name, client);
    await reaches(scene.kernel.path, [vpn.ipv4, vpn.ipv6]);
  }

  const hour = 3_600_000;
  test.each([
    ['two hours ahead', 2 * hour],
    ['two hours behind', -2 * hour],
  ])(
    'by %s takes clients, and dials',
    async (title, milliseconds) => {
      const suffix = milliseconds > 0 ? 'ahead' : 'behind';
      await scene.agent.stopAgent();
      scene.agent.environment = skewed(scene, milliseconds);
      await scene.agent.startAgent();
      const entry = scene.agent.said('agent.ready').at(-1);
      const now = Date.now();
      expect(Math.abs(Number(new Date(String(entry?.['time']))) - now - milliseconds)).toBeLessThan(60_000);

      const vpn = scene.admit(suffix);
      const client = await scene.connectedClient(suffix, { config: ['reneg-sec 8'], build: openvpn27Userspace });
      const host = await scene.hosts.host(`far${suffix}`);
      const server = await scene.server(host, { config: ['reneg-sec 8'] });
      scene.dial(`far${suffix}`, { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
      await untilConnected(scene.agent, `far${suffix}`);
      await works(suffix, vpn, client);
      await laterKey(`far${suffix}`, server);
      await reaches(scene.kernel.path, serverAddresses);
      scene.agent.unapply(`peer-far${suffix}.yaml`);
      await eventually('no device is left', async () => (await scene.kernel.dialled()).length === 0 || undefined);
      expect(title).toContain(suffix);
      // The clock is put back while the client is there: it goes on or comes back.
      await scene.agent.stopAgent();
      scene.agent.environment = {};
      await scene.agent.startAgent();
      const reached = async (): Promise<true | undefined> =>
        (await ping(netnsOf(client.host), nodeVpn.ipv4, { count: 1, deadline: 2 })).received === 1 || undefined;
      await eventually('the client reaches us', reached, { timeoutMs: 60_000 });
      await untilConnected(scene.agent, suffix, 60_000);
      await client.end('SIGKILL');
    },
    240_000,
  );
});

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
