import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serverAddresses } from '../support/openvpn.ts';
import { untilConnected } from '../support/peer-status.ts';
import { globalAddresses } from '../support/links.ts';
import { eventually } from '../support/run.ts';
import { cases, tlsOptions } from './matrix.ts';
import { netnsOf, reaches, Scene } from './scene.ts';

/** We are the client: our agent dials stock servers. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('mcli', { spec: { pki: undefined, controlChannel: undefined } });
});
afterAll(async () => {
  await scene.close();
});

describe('a stock server that we dial', () => {
  test.each(cases.map(([name, values], index) => [name, values, index] as const))('%s', async (_, values, index) => {
    const { transport, family, wrap, cipher, tls, build } = values;
    const name = `s${index}`;
    const host = await scene.hosts.host(name);
    const config = [`data-ciphers ${cipher}`, ...tlsOptions(tls)];
    const server = await scene.server(host, { build, transport, family, wrap, config });
    expect(await server.offloads()).toBe(build.offload);
    const address = family === 4 ? host.ipv4 : host.ipv6;
    scene.dial(name, {
      endpoints: [{ address, port: 1194, protocol: transport }],
      wrap,
      spec: { serverIdentity: { commonName: 'server' } },
    });
    try {
      const status = await untilConnected(scene.agent, name);
      await server.until(/Data Channel: cipher '.*'/);
      expect(server.log).toContain(`Control Channel: TLSv${tls},`);
      expect(server.log).toContain(`Data Channel: cipher '${cipher}'`);

      const { device = '', peer: before } = (await scene.kernel.dialledTo(name)) ?? {};
      const ours = await globalAddresses(scene.kernel.path, device);
      expect(ours).toHaveLength(2);
      await reaches(scene.kernel.path, serverAddresses);
      await reaches(netnsOf(host), ours);
      const { peer: after } = (await scene.kernel.dialledTo(name)) ?? {};
      // Twelve requests and as many answers, half of each in each direction.
      expect(Number(after?.vpn.rxPackets) - Number(before?.vpn.rxPackets)).toBeGreaterThanOrEqual(12);
      expect(Number(after?.vpn.txPackets) - Number(before?.vpn.txPackets)).toBeGreaterThanOrEqual(12);

      expect(status).toMatchObject({ cipher, addresses: ours });
      expect(status.tlsVersion).toMatch(new RegExp(`${tls}$`));
      expect(status.endpoint).toBe(family === 4 ? `${address}:1194` : `[${address}]:1194`);

      // The peer is deleted: we say goodbye.
      scene.agent.unapply(`peer-${name}.yaml`);
      await server.until(/CC-EEN exit message received|Connection reset/);
      const look = async (): Promise<true | undefined> =>
        (await scene.kernel.dialledTo(name)) === undefined || undefined;
      await eventually('our device is gone', look);
    } finally {
      for (const file of ['', '-key', '-tls', '-wrap']) scene.agent.unapply(`peer-${name}${file}.yaml`);
      await server.end('SIGKILL');
    }
  });
});

test('nothing of the dialled tunnels is left', async () => {
  expect(await scene.kernel.dialled()).toEqual([]);
  expect(scene.kernel.peers()).toEqual([]);
});
