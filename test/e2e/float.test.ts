import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Host } from '../support/hosts.ts';
import { openvpn26, openvpn27, type OpenvpnProcess } from '../support/openvpn.ts';
import { agentTail, untilStatus } from '../support/peer-status.ts';
import { eventually, run } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from './scene.ts';

/** A client's packets come from another address or port, and the tunnel goes on: in the kernel and in the control channel. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('float');
});
afterAll(async () => {
  await scene.close();
});

const remoteOf = (vpn: VpnAddresses): { address: string; port: number } | undefined =>
  scene.kernel.peerAt(vpn.ipv4)?.remote;

/** Moves the client while it pings us; then what the control channel does must reach it where it is now. */
async function floats(
  name: string,
  vpn: VpnAddresses,
  client: OpenvpnProcess,
  move: () => Promise<void>,
): Promise<void> {
  const before = remoteOf(vpn);
  const stream = await PingStream.start(netnsOf(client.host), nodeVpn.ipv4);
  try {
    await move();
    await eventually('the kernel sends to the new place', () => {
      const now = remoteOf(vpn);
      return (
        (now !== undefined && `${now.address} ${now.port}` !== `${before?.address ?? ''} ${before?.port ?? ''}`) ||
        undefined
      );
    });
    const moved = remoteOf(vpn)!;
    await stream.answers(100);
    const { lost } = await stream.stop();
    // What was under way to the old place is lost; a new connection would have to wait for the keepalive.
    expect(lost).toBeLessThan(500);
    const shown = moved.address.includes(':') ? `[${moved.address}]:${moved.port}` : `${moved.address}:${moved.port}`;
    await untilStatus(scene.agent, name, `endpoint ${shown}`, ({ endpoint }) => endpoint === shown);
    // The client asks for new keys; the answers must find it.
    await scene.laterKey(client, () => scene.keyTo(vpn));
    await reaches(scene.kernel.path, [vpn.ipv4, vpn.ipv6]);
    expect(remoteOf(vpn)).toEqual(moved);
    expect(client.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
  } catch (error) {
    throw new Error(`${String(error)}\n${client.tail}\n${agentTail(scene.agent)}`, { cause: error });
  } finally {
    stream.kill();
  }
}

describe('a client moves under traffic', () => {
  test.each([4, 6] as const)('to another IPv%i address', async (family) => {
    const name = `roam${family}`;
    const vpn = scene.admit(name);
    const client = await scene.connectedClient(name, { build: openvpn26, family, config: ['reneg-sec 10'] });
    const { host } = client;
    expect(remoteOf(vpn)?.address).toBe(family === 4 ? host.ipv4 : host.ipv6);
    const [old, next] =
      family === 4 ? [`${host.ipv4}/24`, '203.0.113.104/24'] : [`${host.ipv6}/64`, '2001:db8:113::106/64'];
    await floats(name, vpn, client, async () => {
      if (family === 4) await host.exec('sysctl', '-qw', 'net.ipv4.conf.all.promote_secondaries=1');
      await host.exec('ip', 'addr', 'add', next, 'dev', 'eth0', ...(family === 6 ? ['nodad'] : []));
      await host.exec('ip', 'addr', 'del', old, 'dev', 'eth0');
    });
    expect(remoteOf(vpn)?.address).toBe(next.split('/')[0]);
  });

  test('to another port, as a NAT on the way forgets it; the client has offload', async () => {
    const nat = await scene.hosts.host('nat');
    const inside = 'float-inside';
    await scene.hosts.namespace(inside);
    await run(
      'ip',
      '-n',
      inside,
      'link',
      'add',
      'eth0',
      'type',
      'veth',
      'peer',
      'name',
      'lan0',
      'netns',
      nat.namespace,
    );
    await run('ip', '-n', inside, 'addr', 'add', '192.168.9.2/24', 'dev', 'eth0');
    await run('ip', '-n', inside, 'link', 'set', 'eth0', 'up');
    await nat.exec('ip', 'addr', 'add', '192.168.9.1/24', 'dev', 'lan0');
    await nat.exec('ip', 'link', 'set', 'lan0', 'up');
    await run('ip', '-n', inside, 'route', 'add', 'default', 'via', '192.168.9.1');
    await nat.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
    await nat.exec(
      'nft',
      'add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname eth0 masquerade fully-random',
    );

    const vpn = scene.admit('nomad');
    const host = new Host(scene.hosts, inside, 'nomad', '192.168.9.2', '');
    const client = await scene.connectedClient('nomad', { host, build: openvpn27, config: ['reneg-sec 10'] });
    expect(await client.offloads()).toBe(true);
    expect(remoteOf(vpn)?.address).toBe(nat.ipv4);
    await floats('nomad', vpn, client, async () => {
      await nat.exec('conntrack', '-F');
    });
    expect(remoteOf(vpn)?.address).toBe(nat.ipv4);
  });
});
