import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type ProfileSettings, renderProfile } from '../../operator/src/controller/profile/profile.ts';
import { newClientWrapKey } from '../../operator/src/controller/profile/wrap-keys.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, OpenvpnProcess } from '../support/openvpn.ts';
import { untilConnected } from '../support/peer-status.ts';
import { defaultPort, netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** Stock clients take the rendered profile as it is. */
let scene: Scene;

beforeAll(async () => {
  scene = await Scene.open('prof', { wrap: 'tls-crypt-v2' });
}, 120_000);
afterAll(async () => {
  await scene.close();
}, 120_000);

const remote = (protocol: 'UDP' | 'TCP', address = scene.node.ipv4) => ({ address, port: defaultPort, protocol });

function profile(name: string, settings: Partial<ProfileSettings>): string {
  const { cert: certificate, key } = scene.pki.client(name);
  return renderProfile({
    remotes: [remote('UDP')],
    ca: scene.pki.ca,
    identity: { certificate, key },
    serverName: 'server',
    wrap: { kind: 'TLSCryptV2', key: newClientWrapKey(scene.keys.v2Server, Date.now()) },
    dataCiphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
    minTLSVersion: '1.2',
    ...settings,
  });
}

/** What OpenVPN has against a configuration, or advises; that the kernel lacks the driver of 2.6 is none of it. */
const complaints = (log: string): string[] =>
  log
    .split('\n')
    .filter((line) => /WARNING|DEPRECATED|NOTE|Options error/i.test(line) && !line.includes('ovpn-dco missing'));

test.each<[string, OpenvpnBuild, () => Partial<ProfileSettings>]>([
  ['udp26', openvpn26, () => ({})],
  ['udp27', openvpn27, () => ({})],
  ['tcp26', openvpn26, () => ({ remotes: [remote('TCP', scene.node.ipv6)] })],
  ['tcp27', openvpn27, () => ({ remotes: [remote('TCP')], minTLSVersion: '1.3' })],
  // Nobody has the first address; UDP says nothing of it.
  ['other26', openvpn26, () => ({ remotes: [remote('UDP', '203.0.113.250'), remote('UDP', scene.node.ipv6)] })],
  ['other27', openvpn27, () => ({ remotes: [remote('UDP', '203.0.113.250'), remote('TCP')] })],
])('%s: %s connects by its profile', async (name, build, settings) => {
  scene.admit(name);
  const host = await scene.hosts.host(name);
  const client = OpenvpnProcess.startFile(host, build, profile(name, settings()));
  await client.connected(1, 60_000);
  await untilConnected(scene.agent, name);
  await reaches(netnsOf(host), [nodeVpn.ipv4, nodeVpn.ipv6]);
  expect(complaints(client.log)).toEqual([]);
  await client.end();
});

test('a server of another name is not the right one', async () => {
  const name = 'wary';
  scene.admit(name);
  const client = OpenvpnProcess.startFile(
    await scene.hosts.host(name),
    openvpn27,
    profile(name, { serverName: 'other' }),
  );
  await client.until(/VERIFY X509NAME ERROR: .*must be other/);
  await client.end('SIGKILL');
});
