import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { seriesOf } from '../../operator/src/telemetry/metrics.fixture.ts';
import { openvpn26, openvpn27, openvpn27Userspace } from '../support/openvpn.ts';
import { connection, peerStatus, untilStatus } from '../support/peer-status.ts';
import { run } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** How clients go: by themselves, killed, sent away, or replaced. */
let scene: Scene;
const keepalive = { intervalSeconds: 1, timeoutSeconds: 12 } as const;
/** Before the keepalive notices: a server's takes twice its time. */
const atOnceMs = 20_000;
beforeAll(async () => {
  scene = await Scene.open('leave', { spec: { keepalive } });
});
afterAll(async () => {
  await scene.close();
});

const untilAway = (name: string): Promise<unknown> =>
  untilStatus(scene.agent, name, 'away', (status) => connection(status).startsWith('False/'));

describe('a client that ends', () => {
  test.each([
    ['UDP', openvpn26],
    ['UDP', openvpn27],
    ['TCP', openvpn27Userspace],
    ['TCP', openvpn27],
  ] as const)('says so, and is gone at once: %s, %s', async (transport, build) => {
    const name = `polite${transport.toLowerCase()}${build.offload ? 'dco' : ''}`;
    const vpn = scene.admit(name);
    const client = await scene.connectedClient(name, { transport, build });
    const ended = client.end('SIGTERM');
    await scene.gone(vpn.ipv4, atOnceMs);
    await untilAway(name);
    await ended;
  });

  test.each([
    ['UDP', openvpn26, keepalive.timeoutSeconds * 1000 - 2_000, 90_000],
    // The end of the connection tells.
    ['TCP', openvpn27Userspace, 0, atOnceMs],
  ] as const)('is missed when it is killed: %s', async (transport, build, atLeastMs, atMostMs) => {
    const name = `killed${transport.toLowerCase()}`;
    const vpn = scene.admit(name);
    const client = await scene.connectedClient(name, { transport, build });
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
    await client.end('SIGKILL');
    expect(await scene.gone(vpn.ipv4, atMostMs)).toBeGreaterThanOrEqual(atLeastMs);
    await untilAway(name);
    // And it may come again.
    await scene.connectedClient(name, { transport, build, host: client.host });
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
  });
});

describe('a client that is sent away', () => {
  test.each([
    ['UDP', openvpn26],
    ['TCP', openvpn27],
  ] as const)('when its VpnPeer is deleted: %s, %s', async (transport, build) => {
    const name = `deleted${transport.toLowerCase()}`;
    const vpn = scene.admit(name);
    const client = await scene.connectedClient(name, { transport, build });
    scene.agent.unapply(`peer-${name}.yaml`);
    await scene.gone(vpn.ipv4);
    // It is told, tries again, and is refused for good.
    await client.until(new RegExp(`AUTH_FAILED,.*${name}`));
    await client.ended();
    expect(scene.kernel.peerAt(vpn.ipv4)).toBeUndefined();
  });

  test('when its VpnPeer is suspended, and let in again after that', async () => {
    const vpn = scene.admit('paused');
    const client = await scene.connectedClient('paused', { config: ['auth-retry nointeract'] });
    scene.readmit('paused', vpn, { spec: { suspend: true } });
    await scene.gone(vpn.ipv4);
    await client.until(/AUTH_FAILED/);
    scene.readmit('paused', vpn);
    await client.connected(2);
    await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
  });

  test('when its certificate is revoked; the others stay', async () => {
    const [caught, innocent] = [scene.admit('caught'), scene.admit('innocent')];
    const [thief, citizen] = await Promise.all([scene.connectedClient('caught'), scene.connectedClient('innocent')]);
    const crl = scene.pki.revoke('caught');
    scene.applyNetwork({ crl, spec: { keepalive } });
    await scene.gone(caught.ipv4);
    await thief.until(/AUTH_FAILED,.*certificate is revoked/);
    expect(scene.kernel.peerAt(caught.ipv4)).toBeUndefined();
    await thief.end('SIGKILL');
    expect(scene.kernel.peerAt(innocent.ipv4)).toBeDefined();
    await reaches(netnsOf(citizen.host), [nodeVpn.ipv4]);
    expect(citizen.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
    // The metric says until when this CRL holds.
    const file = join(scene.hosts.folder, 'caught.crl');
    writeFileSync(file, crl);
    const [, nextUpdate = ''] = (await run('openssl', 'crl', '-in', file, '-noout', '-nextupdate')).split('=');
    const series = seriesOf(await scene.agent.metrics());
    expect(series.get('ovpn_network_crl_expiry_timestamp_seconds{network="corp"}')).toBe(Date.parse(nextUpdate) / 1000);
  });
});

describe('two clients with one identity', () => {
  test('the second takes the place of the first', async () => {
    const vpn = scene.admit('twin');
    // The first is not to come back.
    const first = await scene.connectedClient('twin', { config: ['ping-exit 10', 'connect-retry 60'] });
    const host = await scene.hosts.host('twin-two');
    const second = await scene.connectedClient('twin', { host, build: openvpn27 });
    const peers = scene.kernel.peers().filter(({ vpnIpv4 }) => vpnIpv4 === vpn.ipv4);
    expect(peers.map(({ remote }) => remote?.address)).toEqual([host.ipv4]);
    const there = ({ endpoint }: { endpoint?: string | undefined }): boolean =>
      endpoint?.startsWith(`${host.ipv4}:`) === true;
    await untilStatus(scene.agent, 'twin', 'at the second', there);
    await reaches(netnsOf(second.host), [nodeVpn.ipv4, nodeVpn.ipv6]);
    await reaches(scene.kernel.path, [vpn.ipv4, vpn.ipv6]);
    expect(peerStatus(scene.agent, 'twin')?.lastError).toContain(first.host.ipv4);
  });
});
