import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Host, Hosts } from '../support/hosts.ts';
import {
  clientConfig,
  credentials,
  openvpn26,
  openvpn27,
  openvpn27Userspace,
  OpenvpnProcess,
  serverAddresses,
  serverConfig,
  WrapKeys,
} from '../support/openvpn.ts';
import { Pki } from '../support/pki.ts';
import { netnsOf, reaches } from './scene.ts';

/** OpenVPN on both ends: when this fails, it is not our agent that is to blame for the other tests. */
let hosts: Hosts;
let server: Host;
let client: Host;
let wraps: WrapKeys;
const pki = new Pki();
beforeAll(async () => {
  hosts = await Hosts.create('harn');
  server = await hosts.host('server');
  client = await hosts.host('client');
  wraps = await WrapKeys.create(hosts.folder);
});
afterAll(async () => {
  await hosts.remove();
  pki.remove();
});

describe('stock OpenVPN with itself', () => {
  test.each([
    ['UDP', 4, 'none', openvpn26],
    ['TCP', 6, 'tls-auth', openvpn27Userspace],
    ['UDP', 6, 'tls-crypt-v2', openvpn27],
    ['TCP', 4, 'tls-crypt', openvpn27],
  ] as const)(
    '%s over IPv%i, %s: a client %s and a server 2.7.8 with offload',
    async (transport, family, wrap, build) => {
      const serverWrap = wraps.openvpn(wrap, 'server');
      const serving = OpenvpnProcess.start(server, {
        build: openvpn27,
        config: [...serverConfig({ transport, family, port: 1194 }), ...serverWrap.config],
        inline: { ...credentials(pki.ca, pki.server()), ...serverWrap.inline },
      });
      await serving.connected();
      const clientWrap = wraps.openvpn(wrap, 'client');
      const remote = { address: family === 4 ? server.ipv4 : server.ipv6, port: 1194 };
      const dialing = OpenvpnProcess.start(client, {
        build,
        config: [...clientConfig({ transport, family, remotes: [remote] }), ...clientWrap.config],
        inline: { ...credentials(pki.ca, pki.client('alice')), ...clientWrap.inline },
      });
      await dialing.connected();
      expect(await serving.offloads()).toBe(true);
      expect(await dialing.offloads()).toBe(build.offload);
      await reaches(netnsOf(client), serverAddresses);
      await reaches(netnsOf(server), await dialing.addresses());
      const gone = dialing.end();
      // By EXIT, or by the end of the connection, the server knows at once.
      await serving.until(/CC-EEN exit message received|Connection reset/);
      await gone;
      await serving.end('SIGKILL');
    },
  );
});
