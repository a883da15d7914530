import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, serverAddresses, type Transport } from '../support/openvpn.ts';
import { untilConnected, untilStatus } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { reaches, Scene } from './scene.ts';

/** Servers that we dialled end, and the tunnels come back by themselves. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('again', { spec: { keepalive: { intervalSeconds: 1, timeoutSeconds: 10 } } });
});
afterAll(async () => {
  await scene.close();
});

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
    await untilStatus(scene.agent, name, 'a later handshake', later);
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
    const status = await untilConnected(scene.agent, 'several', 180_000);
    expect(status.endpoint).toBe(`${first.ipv4}:1194`);
    // It says RESTART; for the next try it is not there any more.
    await servers.first.end('SIGTERM');
    const moved = ({ endpoint }: { endpoint?: string | undefined }): boolean => endpoint === `${second.ipv4}:1194`;
    await untilStatus(scene.agent, 'several', 'at the second server', moved, 180_000);
    await untilConnected(scene.agent, 'several');
    await reaches(scene.kernel.path, serverAddresses);
    scene.agent.unapply('peer-several.yaml');
    await servers.second.until(/CC-EEN exit message received/);
  });
});
