import { X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnKey, VpnNetwork } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { parseClientKey, parseServerKey } from '../../operator/src/openvpn/wrap/key-file.ts';
import { unwrapClientKey } from '../../operator/src/openvpn/wrap/client-key.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';

const apiVersion = 'ovpn-operator.io/v1alpha1';

const network = (spec: object = {}) => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name: 'corp' },
  spec: {
    pools: { peers: ['10.8.0.0/16'] },
    listeners: [
      { name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }, { address: '2001:db8::1', port: 443 }] },
      { name: 'tcp', protocol: 'TCP', port: 1194, endpoints: [{ address: 'vpn.example.com', port: 443 }] },
    ],
    pki: { builtIn: {} },
    allowedPeers: { namespaces: { names: ['team-a'] } },
    ...spec,
  },
});

const key = (namespace: string, name: string, issued: object = {}) => ({
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace, name },
  spec: { issued: { networkRef: { name: 'corp' }, ...issued } },
});

describe('a network that issues certificates, on a real API server', () => {
  let plane: ControlPlane;
  let controllers: ControllerProcess[];

  beforeAll(async () => {
    plane = await ControlPlane.start();
    for (const name of ['team-a', 'team-b']) await plane.namespace(name);
    controllers = [
      new ControllerProcess('ovpn-controller-0', await plane.controller()),
      new ControllerProcess('ovpn-controller-1', await plane.controller()),
    ];
    await Promise.all(controllers.map((controller) => controller.start()));
    await apply(network(), key('team-a', 'alice'), key('team-b', 'mallory'));
  }, 300_000);
  afterAll(async () => {
    await Promise.all(controllers.map((controller) => controller.stop()));
    await plane.stop();
  }, 60_000);

  const apply = (...items: object[]): Promise<void> =>
    plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));

  async function secret(namespace: string, name: string): Promise<Record<string, string> | undefined> {
    const response = await plane.admin.send('GET', apiPath('Secret', { namespace, name }));
    if (response.status === 404) return undefined;
    const { data = {} } = response.body as { data?: Record<string, string> };
    return Object.fromEntries(
      Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, 'base64').toString()]),
    );
  }

  const keyOf = (namespace: string, name: string) =>
    plane.admin.get<VpnKey & Record<string, unknown>>(apiPath('VpnKey', { namespace, name }));

  const readyOf = async (namespace: string, name: string) =>
    (await keyOf(namespace, name)).status?.conditions?.find(({ type }) => type === 'Ready');

  const issued = (name: string): Promise<Record<string, string>> =>
    eventually(`the Secret of ${name}`, async () => {
      const ready = await readyOf('team-a', name);
      return ready?.status === 'True' ? secret('team-a', name) : undefined;
    });

  test('has a CA that agents cannot read, and a server certificate that they can', async () => {
    const server = await eventually("the server's Secret", () => secret('ovpn-system', 'corp.pki'));
    const ca = await secret('ovpn-system-ca', 'corp');
    expect(Object.keys(ca ?? {}).sort()).toEqual(['ca-1.crt', 'ca-1.key', 'tls-crypt-v2-server.key']);
    expect(server['ca.crt']).toBe(ca?.['ca-1.crt']);
    const certificate = new X509Certificate(server['tls.crt'] ?? '');
    expect(certificate.subject).toBe('CN=corp');
    expect(certificate.checkIssued(new X509Certificate(server['ca.crt'] ?? ''))).toBe(true);
    const agent = await plane.agentOf('node-a');
    expect((await agent.send('GET', apiPath('Secret', { namespace: 'ovpn-system' }))).status).toBe(200);
    expect((await agent.send('GET', apiPath('Secret', { namespace: 'ovpn-system-ca' }))).status).toBe(403);
    const { status } = await eventually('the status tells of it', async () => {
      const found = await plane.admin.get<VpnNetwork & Record<string, unknown>>(
        apiPath('VpnNetwork', { name: 'corp' }),
      );
      return found.status?.pki === undefined ? undefined : found;
    });
    expect(Date.parse(status?.pki?.certificateNotAfter ?? '')).toBe(certificate.validToDate.getTime());
  });

  test('issues a certificate, a key for tls-crypt-v2 and a profile, beside the VpnKey', async () => {
    const [client, server] = [await issued('alice'), await secret('ovpn-system', 'corp.pki')];
    const certificate = new X509Certificate(client['tls.crt'] ?? '');
    expect(certificate.subject).toBe('CN=alice.team-a');
    expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
    const { wrapped } = parseClientKey(client['tls-crypt-v2.key'] ?? '', {});
    const serverKey = parseServerKey(server?.['tls-crypt-v2-server.key'] ?? '', {});
    expect(unwrapClientKey(serverKey, wrapped).metadata?.kind).toBe('timestamp');
    const { status } = await keyOf('team-a', 'alice');
    expect(status).toMatchObject({
      secretName: 'alice',
      certificates: [{ fingerprint: certificate.fingerprint256.replaceAll(':', '') }],
    });
    expect(client['client.ovpn']?.match(/^remote .*$/gm)).toEqual([
      'remote vpn.example.com 1194 udp',
      'remote 2001:db8::1 443 udp',
      'remote vpn.example.com 443 tcp',
    ]);
    expect(client['client.ovpn']).toContain('verify-x509-name "corp" name\n');
    // What is secret is in Secrets alone.
    for (const controller of controllers) expect(controller.log).not.toMatch(/PRIVATE KEY|OpenVPN tls-crypt/);
    expect(JSON.stringify(status)).not.toMatch(/PRIVATE KEY|BEGIN/);
  });

  test('issues nothing to a namespace that it does not let in, and says why', async () => {
    const ready = await eventually('the refusal', () => readyOf('team-b', 'mallory'));
    expect(ready).toMatchObject({ status: 'False', reason: 'NotAllowed' });
    expect(ready.message).toContain('spec.allowedPeers.namespaces');
    expect(await secret('team-b', 'mallory')).toBeUndefined();
  });

  test("leaves somebody else's Secret alone, and goes on when that is out of the way", async () => {
    const path = apiPath('Secret', { namespace: 'team-a', name: 'bob' });
    await plane.admin.apply(path, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { namespace: 'team-a', name: 'bob' },
      stringData: { password: 'his own' },
    });
    await apply(key('team-a', 'bob'));
    const ready = await eventually('the conflict', () => readyOf('team-a', 'bob'));
    expect(ready).toMatchObject({ status: 'False', reason: 'Conflict' });
    expect(await secret('team-a', 'bob')).toEqual({ password: 'his own' });
    await apply(key('team-a', 'bob', { secretName: 'bob-vpn' }));
    const client = await eventually('the Secret under another name', () => secret('team-a', 'bob-vpn'));
    expect(client['client.ovpn']).toContain('<key>');
  });

  test('makes a new profile when the network has other endpoints, and keeps the certificate', async () => {
    const before = await issued('alice');
    await apply(network({ listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: 'new.example.com' }] }] }));
    const after = await eventually('the new profile', async () => {
      const client = await secret('team-a', 'alice');
      return client?.['client.ovpn']?.includes('new.example.com') === true ? client : undefined;
    });
    expect(after['tls.crt']).toBe(before['tls.crt']);
    expect(after['tls-crypt-v2.key']).toBe(before['tls-crypt-v2.key']);
  });

  test('renews what was lost; the certificate before it stays good', async () => {
    const before = await issued('alice');
    const old = new X509Certificate(before['tls.crt'] ?? '').fingerprint256.replaceAll(':', '');
    await plane.admin.delete(apiPath('Secret', { namespace: 'team-a', name: 'alice' }));
    // Secrets of users are not watched: a change of the VpnKey has it looked at.
    await apply(key('team-a', 'alice', { certificateDays: 30 }));
    const { status } = await eventually('a second certificate', async () => {
      const found = await keyOf('team-a', 'alice');
      return found.status?.certificates?.length === 2 ? found : undefined;
    });
    const client = (await secret('team-a', 'alice')) ?? {};
    const certificate = new X509Certificate(client['tls.crt'] ?? '');
    expect(status?.certificates?.map(({ fingerprint }) => fingerprint)).toEqual([
      certificate.fingerprint256.replaceAll(':', ''),
      old,
    ]);
    expect(certificate.validToDate.getTime() - Date.now()).toBeLessThan(31 * 86_400_000);
  });

  test('makes one CA though controllers come and go', async () => {
    const before = await secret('ovpn-system-ca', 'corp');
    for (const controller of controllers) {
      await controller.stop('SIGKILL');
      await controller.start();
    }
    await apply(key('team-a', 'carol'));
    await eventually('the Secret of carol', () => secret('team-a', 'carol'), { timeoutMs: 60_000 });
    expect(await secret('ovpn-system-ca', 'corp')).toEqual(before);
  });

  test('says that a VpnKey is revoked', async () => {
    await apply(key('team-a', 'carol', { revoked: true }));
    await eventually('the condition', async () =>
      (await readyOf('team-a', 'carol'))?.reason === 'Revoked' ? true : undefined,
    );
  });
});
