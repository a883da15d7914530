import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { untilConnected } from '../support/peer-status.ts';
import { cases, tlsOptions } from './matrix.ts';
import { netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/** We are the server: stock clients connect to our listeners. */
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('mserv', { network: false });
});
afterAll(async () => {
  await scene.close();
});

describe('a stock client of ours', () => {
  test.each(cases.map(([name, values], index) => [name, values, index] as const))('%s', async (_, values, index) => {
    const { transport, family, wrap, cipher, tls, build } = values;
    const [network, name, port] = [`n${index}`, `c${index}`, 1200 + index];
    scene.applyNetwork({
      ...{ name: network, port, wrap },
      spec: {
        dataCiphers: [cipher],
        pki: { secretRef: { name: `${network}-server` }, minTLSVersion: tls },
      },
    });
    const vpn = scene.admit(name, { networkName: network });
    await scene.listening(network);
    const remotes = [{ address: family === 4 ? scene.node.ipv4 : scene.node.ipv6, port }];
    const config = tlsOptions(tls);
    const client = await scene.connectedClient(name, { build, transport, family, wrap, remotes, config });
    try {
      expect(await client.offloads()).toBe(build.offload);
      expect(client.log).toContain(`Control Channel: TLSv${tls},`);
      expect(client.log).toContain(`Data Channel: cipher '${cipher}'`);
      expect(await client.addresses()).toEqual([vpn.ipv4, vpn.ipv6]);

      const kernel = scene.kernelOf(network);
      const before = kernel.peerAt(vpn.ipv4);
      await reaches(netnsOf(client.host), [nodeVpn.ipv4, nodeVpn.ipv6]);
      await reaches(kernel.path, [vpn.ipv4, vpn.ipv6]);
      const after = kernel.peerAt(vpn.ipv4);
      // Twelve requests and as many answers, half of each in each direction.
      expect(Number(after?.vpn.rxPackets) - Number(before?.vpn.rxPackets)).toBeGreaterThanOrEqual(12);
      expect(Number(after?.vpn.txPackets) - Number(before?.vpn.txPackets)).toBeGreaterThanOrEqual(12);

      const status = await untilConnected(scene.agent, name);
      expect(status).toMatchObject({ cipher, peerID: after?.id, addresses: [vpn.ipv4, vpn.ipv6] });
      expect(status.tlsVersion).toMatch(new RegExp(`${tls}$`));
      const source = family === 4 ? `${client.host.ipv4}:` : `[${client.host.ipv6}]:`;
      expect(status.endpoint).toContain(source);

      // It says goodbye, and is not waited for; the process itself takes two seconds more.
      const ended = client.end();
      await scene.gone(vpn.ipv4, 30_000, kernel);
      await ended;
    } finally {
      await client.end('SIGKILL');
      for (const file of [`${network}-network`, `${network}-server`, `peer-${name}`])
        scene.agent.unapply(`${file}.yaml`);
    }
  });
});
