import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, serverAddresses, WrapKeys } from '../support/openvpn.ts';
import { untilConnected, untilStatus } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { tlsSecret } from '../support/session-manifests.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** Resources change while tunnels stand: those that can go on do, the others come anew by themselves. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('change', { spec: { rekey: { seconds: 0 } } });
});
afterAll(async () => {
  await scene.close();
});

const routesOf = async (destination: string): Promise<string> => scene.kernel.exec('ip', 'route', 'show', destination);

describe('a client that is connected', () => {
  test('keeps its session when its routes change', async () => {
    const vpn = scene.admit('routed', { routes: ['192.168.11.0/24'] });
    const client = await scene.connectedClient('routed', { build: openvpn27 });
    expect(await routesOf('192.168.11.0/24')).toContain(`via ${vpn.ipv4}`);
    const id = scene.kernel.peerAt(vpn.ipv4)?.id;
    const stream = await PingStream.start(netnsOf(client.host), nodeVpn.ipv4, 20);
    try {
      scene.readmit('routed', vpn, { routes: ['192.168.12.0/24'] });
      const follows = async (): Promise<true | undefined> =>
        (await routesOf('192.168.12.0/24')).includes(`via ${vpn.ipv4}`) || undefined;
      await eventually('the new route', follows);
      expect(await routesOf('192.168.11.0/24')).not.toContain('via');
      expect((await stream.stop()).missing).toEqual([]);
    } finally {
      stream.kill();
    }
    expect(scene.kernel.peerAt(vpn.ipv4)?.id).toBe(id);
    await client.end('SIGKILL');
  });

  test('comes anew when its addresses change', async () => {
    const vpn = scene.admit('moved');
    const client = await scene.connectedClient('moved', { build: openvpn26 });
    const next = { ipv4: '10.80.0.150', ipv6: 'fd80::150' };
    scene.readmit('moved', next);
    await scene.gone(vpn.ipv4);
    await client.connected(2);
    expect(await client.addresses()).toEqual([next.ipv4, next.ipv6]);
    await reaches(scene.kernel.path, [next.ipv4, next.ipv6]);
    await client.end('SIGKILL');
  });

  test("stays when the network's wrapping key changes, and its next connection needs the new one", async () => {
    const vpn = scene.admit('wrapped');
    const client = await scene.connectedClient('wrapped', { config: ['reneg-sec 8'] });
    const keys = await WrapKeys.create(scene.hosts.folder);
    scene.applyNetwork({ keys, spec: { rekey: { seconds: 0 } } });
    // Its session has a wrapping key of its own by now, also for what it agrees on later.
    await scene.laterKey(client, () => scene.keyTo(vpn));
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
    expect(client.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
    await client.end();
    await scene.gone(vpn.ipv4);
    const again = await scene.connectedClient('wrapped', { host: client.host, keys });
    await again.end('SIGKILL');
    scene.applyNetwork({ spec: { rekey: { seconds: 0 } } });
  });
});

describe('a tunnel that we dialled', () => {
  test('comes anew at once with a renewed certificate, which servers refuse in a renegotiation', async () => {
    const host = await scene.hosts.host('partner');
    const server = await scene.server(host, { build: openvpn27, config: ['reneg-sec 0'] });
    scene.dial('partner', { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
    await untilConnected(scene.agent, 'partner');
    // The server is done a moment after us; a change before that would leave this line out.
    await server.until(/Data Channel: cipher/);
    const stream = await PingStream.start(scene.kernel.path, serverAddresses[0], 20);
    try {
      const certificate = scene.pki.client('gateway-renewed', { subject: '/CN=gateway' });
      scene.agent.apply('peer-partner-tls.yaml', tlsSecret('partner', { certificate, ca: scene.pki.ca }));
      await server.until(/CC-EEN exit message received/);
      await server.until(/Data Channel: cipher/, { times: 2 });
      await stream.answers(50);
      // A handshake's time, also of a busy machine; waiting for the keepalive would be longer.
      expect((await stream.stop()).lost).toBeLessThan(400);
    } finally {
      stream.kill();
    }
    await untilConnected(scene.agent, 'partner');
    scene.agent.unapply('peer-partner.yaml');
    await server.until(/CC-EEN exit message received/, { times: 2 });
  });

  test('goes to another server when its endpoint changes', async () => {
    const [one, two] = await Promise.all([scene.hosts.host('one'), scene.hosts.host('two')]);
    const [first] = await Promise.all([scene.server(one), scene.server(two, { transport: 'TCP', build: openvpn27 })]);
    scene.dial('changing', { endpoints: [{ address: one.ipv4, port: 1194, protocol: 'UDP' }] });
    await untilConnected(scene.agent, 'changing');
    scene.dial('changing', { endpoints: [{ address: two.ipv4, port: 1194, protocol: 'TCP' }] });
    await first.until(/CC-EEN exit message received/);
    const there = ({ endpoint }: { endpoint?: string | undefined }): boolean => endpoint === `${two.ipv4}:1194`;
    await untilStatus(scene.agent, 'changing', 'at the other server', there);
    await untilConnected(scene.agent, 'changing');
    await reaches(scene.kernel.path, serverAddresses);
  });
});
