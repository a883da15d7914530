import { createHash, X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, openvpn27Userspace, type OpenvpnProcess } from '../support/openvpn.ts';
import { untilConnected } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** By what a certificate is known, and how much can be told to a client. */
let scene: Scene;
const routes = Array.from({ length: 60 }, (_, n) => `10.200.${n}.0/24`);
const routes6 = ['fd20:1::/64', 'fd20:2::/64', 'fd20:3::/64', 'fd20:4::/64'];
beforeAll(async () => {
  scene = await Scene.open('ident', { wrap: 'tls-crypt-v2', spec: { push: { routes: [...routes, ...routes6] } } });
});
afterAll(async () => {
  await scene.close();
});

describe('a client is known by', () => {
  const fingerprint = (pem: string): string =>
    createHash('sha256').update(new X509Certificate(pem).raw).digest('hex').toUpperCase();

  test.each([
    ['a DNS name', 'dns', { altNames: 'DNS:Laptop.Example' }, () => ({ subjectAltName: 'DNS:laptop.example' })],
    [
      'a mail address',
      'mail',
      { altNames: 'email:ann@example.org' },
      () => ({ subjectAltName: 'email:ann@example.org' }),
    ],
    ['an address', 'ip', { altNames: 'IP:192.0.2.7' }, () => ({ subjectAltName: 'IP:192.0.2.7' })],
    ['a URI', 'uri', { altNames: 'URI:spiffe://x/ns/a' }, () => ({ subjectAltName: 'URI:spiffe://x/ns/a' })],
    ['its fingerprint', 'print', {}, (pem: string) => ({ fingerprint: fingerprint(pem) })],
  ] as const)('%s', async (_, name, options, identity) => {
    const certificate = scene.pki.client(name, { subject: `/O=Example/CN=Nobody ${name}`, ...options });
    const vpn = scene.admit(name, { identity: identity(certificate.cert) });
    const client = await scene.connectedClient(name, { certificate, build: openvpn27Userspace });
    await reaches(netnsOf(client.host), [nodeVpn.ipv4, nodeVpn.ipv6], 1);
    expect(scene.kernel.peerAt(vpn.ipv4)).toBeDefined();
    await client.end('SIGKILL');
  });
});

describe('more options than one message holds', () => {
  test.each([openvpn26, openvpn27])('reach a client: %s', async (build) => {
    const name = `long${build.program.replaceAll(/\W/g, '')}`;
    scene.admit(name);
    const client = await scene.connectedClient(name, { build });
    await has(client, [...routes, ...routes6]);
    expect(client.log).toContain('push-continuation 2');
  });

  test('reach us from a server', async () => {
    const host = await scene.hosts.host('wordy');
    const config = routes.map((route) => `push "route ${route.replace('/24', '')} 255.255.255.0"`);
    const server = await scene.server(host, { build: openvpn27Userspace, config });
    scene.dial('wordy', { endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }] });
    const { addresses = [] } = await untilConnected(scene.agent, 'wordy');
    await server.until(/push-continuation 2/);
    await reaches(netnsOf(host), addresses);
    // What is behind a remote is said by its VpnPeer, not by the remote.
    expect(await scene.kernel.exec('ip', 'route')).not.toContain('10.200.');
  });
});

async function has({ host, tail }: OpenvpnProcess, wanted: readonly string[]): Promise<void> {
  await eventually('all routes', async () => {
    const table = await host.exec('sh', '-c', 'ip route show dev tun0; ip -6 route show dev tun0');
    const missing = wanted.filter((route) => !table.includes(`${route} `));
    if (missing.length > 0) throw new Error(`without ${missing.join(', ')}\n${tail}`);
    return true;
  });
}
