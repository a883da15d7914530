import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ping } from '../support/hosts.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, type Transport, serverAddresses } from '../support/openvpn.ts';
import { agentTail, untilConnected, untilStatus } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** Either side starts anew, and the tunnels come back by themselves. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('again', { spec: { keepalive: { intervalSeconds: 1, timeoutSeconds: 10 } } });
}, 60_000);
afterAll(async () => {
  await scene.close();
}, 30_000);

const deviceGone = (name: string): Promise<true> =>
  eventually('its device is gone', async () => (await scene.kernel.dialledTo(name)) === undefined || undefined);

const quick = ['keepalive 1 5'];

describe('a server that we dial', () => {
  test.each([
    ['UDP', openvpn26, 'SIGKILL'],
    ['UDP', openvpn27, 'SIGTERM'],
    ['TCP', openvpn27, 'SIGKILL'],
  ] as const)('comes back after it ended: %s, %s, %s', async (transport, build, signal) => {
    const name = `back${transport.toLowerCase()}${signal.slice(3).toLowerCase()}`;
    const host = await scene.hosts.host(name);
    const server = await scene.server(host, { transport, build, config: quick });
    scene.dial(name, { endpoints: [{ address: host.ipv4, port: 1194, protocol: transport }] });
    const before = await untilConnected(scene.agent, name);
    await server.end(signal);
    const again = await scene.server(host, { transport, build, config: quick });
    const later = ({ lastHandshake }: { lastHandshake?: string | undefined }): boolean =>
      lastHandshake !== undefined && lastHandshake > (before.lastHandshake ?? '');
    await untilStatus(scene.agent, name, 'a later handshake', later, 45_000);
    await untilConnected(scene.agent, name);
    await reaches(scene.kernel.path, serverAddresses);
    scene.agent.unapply(`peer-${name}.yaml`);
    await again.until(/CC-EEN exit message received|Connection reset/);
    await deviceGone(name);
  });

  test('is replaced by the next of its endpoints', async () => {
    const [silent, deaf, first, second] = await Promise.all([
      scene.hosts.host('silent'),
      scene.hosts.host('deaf'),
      scene.hosts.host('first'),
      scene.hosts.host('second'),
    ]);
    // One drops all, one refuses.
    await silent.exec(
      'nft',
      'add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }',
    );
    const servers = {
      first: await scene.server(first, { config: quick }),
      second: await scene.server(second, { config: quick }),
    };
    const at = (host: { readonly ipv4: string }, protocol: Transport = 'UDP') => ({
      address: host.ipv4,
      port: 1194,
      protocol,
    });
    scene.dial('several', { endpoints: [at(silent, 'TCP'), at(deaf, 'TCP'), at(first), at(second)] });
    const status = await untilConnected(scene.agent, 'several', 60_000);
    expect(status.endpoint).toBe(`${first.ipv4}:1194`);
    // It says RESTART; for the next try it is not there any more.
    await servers.first.end('SIGTERM');
    const moved = ({ endpoint }: { endpoint?: string | undefined }): boolean => endpoint === `${second.ipv4}:1194`;
    await untilStatus(scene.agent, 'several', 'at the second server', moved, 90_000);
    await untilConnected(scene.agent, 'several');
    await reaches(scene.kernel.path, serverAddresses);
    scene.agent.unapply('peer-several.yaml');
    await servers.second.until(/CC-EEN exit message received/);
  }, 180_000);
});

describe('our agent', () => {
  test.each(['SIGTERM', 'SIGKILL'] as const)(
    'comes back after %s: clients go on or come back',
    async (signal) => {
      const suffix = signal.slice(3).toLowerCase();
      const kinds: readonly (readonly [string, Transport, OpenvpnBuild])[] = [
        [`udp${suffix}`, 'UDP', openvpn26],
        [`dco${suffix}`, 'UDP', openvpn27],
        [`tcp${suffix}`, 'TCP', openvpn27],
      ];
      const clients = await Promise.all(
        kinds.map(async ([name, transport, build]) => {
          const vpn = scene.admit(name);
          return {
            name,
            vpn,
            client: await scene.connectedClient(name, { transport, build, config: ['reneg-sec 15'] }),
          };
        }),
      );
      const host = await scene.hosts.host(`far${suffix}`);
      await scene.server(host, { build: openvpn27, config: quick });
      scene.dial(`far${suffix}`, { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
      await untilConnected(scene.agent, `far${suffix}`);

      await scene.agent.stopAgent(signal);
      // Over UDP the holder has the socket, and the kernel goes on.
      for (const { client } of clients.filter(({ name }) => !name.startsWith('tcp')))
        expect(await ping(netnsOf(client.host), nodeVpn.ipv4, { count: 1, deadline: 3 })).toMatchObject({
          received: 1,
        });
      await scene.agent.startAgent();
      for (const { name, vpn, client } of clients) {
        try {
          await eventually(
            `${name} reaches us`,
            async () =>
              (await ping(netnsOf(client.host), nodeVpn.ipv4, { count: 1, deadline: 2 })).received === 1 || undefined,
            { timeoutMs: 45_000 },
          );
          await untilConnected(scene.agent, name);
          await reaches(scene.kernel.path, [vpn.ipv4, vpn.ipv6]);
        } catch (error) {
          throw new Error(`${String(error)}\n${client.tail}\n${agentTail(scene.agent)}`, { cause: error });
        }
      }
      await untilConnected(scene.agent, `far${suffix}`, 45_000);
      await reaches(scene.kernel.path, serverAddresses);
      // Past the time of a renegotiation, too.
      await new Promise((resolve) => setTimeout(resolve, 20_000));
      for (const { vpn, client } of clients) {
        await eventually(
          `${client.host.name} reaches us later, too`,
          async () => (await ping(scene.kernel.path, vpn.ipv4, { count: 1, deadline: 2 })).received === 1 || undefined,
          { timeoutMs: 30_000 },
        );
        await client.end('SIGKILL');
      }
      scene.agent.unapply(`peer-far${suffix}.yaml`);
      await deviceGone(`far${suffix}`);
    },
    180_000,
  );
});
