import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnNetwork } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';
import { makeSigningCa } from '../support/signing-ca.ts';

const apiVersion = 'ovpn-operator.io/v1alpha1';
type Text = Record<string, string>;

const without = (data: Text, entry: string): Text =>
  Object.fromEntries(Object.entries(data).filter(([name]) => name !== entry));

describe('what a network signs with, when it is damaged, lost or from elsewhere', () => {
  let plane: ControlPlane;
  let controller: ControllerProcess;
  let folder: string;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ovpn-pki-edges-'));
    plane = await ControlPlane.start();
    await plane.namespace('team-a');
    controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
    await controller.start();
  }, 300_000);
  afterAll(async () => {
    await controller.stop();
    await plane.stop();
    rmSync(folder, { recursive: true, force: true });
  }, 60_000);

  const network = (name: string, builtIn: object = {}) =>
    plane.admin.apply(apiPath('VpnNetwork', { name }), {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name },
      spec: {
        pools: { peers: ['10.8.0.0/16'] },
        listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }] }],
        pki: { builtIn },
        allowedPeers: { namespaces: { names: ['team-a'] } },
      },
    });

  const key = (name: string, of: string) =>
    plane.admin.apply(apiPath('VpnKey', { namespace: 'team-a', name }), {
      apiVersion,
      kind: 'VpnKey',
      metadata: { namespace: 'team-a', name },
      spec: { issued: { networkRef: { name: of } } },
    });

  const path = (namespace: string, name: string) => apiPath('Secret', { namespace, name });

  async function secret(namespace: string, name: string): Promise<Text | undefined> {
    const { status, body } = await plane.admin.send('GET', path(namespace, name));
    if (status === 404) return undefined;
    return Object.fromEntries(
      Object.entries((body as { data?: Text }).data ?? {}).map(([entry, text]) => [
        entry,
        Buffer.from(text, 'base64').toString(),
      ]),
    );
  }

  const found = (namespace: string, name: string): Promise<Text> =>
    eventually(`Secret ${namespace}/${name}`, () => secret(namespace, name));

  /** Leaves all of a Secret but its entries as it is. */
  const put = (namespace: string, name: string, data: Text) =>
    plane.admin.must(
      'PATCH',
      path(namespace, name),
      [{ op: 'add', path: '/data', value: encoded(data) }],
      'application/json-patch+json',
    );

  const encoded = (data: Text): Text =>
    Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text).toString('base64')]));

  const conditionOf = async (kind: 'VpnNetwork' | 'VpnKey', name: string, type: string) => {
    const where = kind === 'VpnKey' ? { namespace: 'team-a', name } : { name };
    const { status } = await plane.admin.get<Pick<VpnNetwork, 'status'> & Record<string, unknown>>(
      apiPath(kind, where),
    );
    return status?.conditions?.find((condition) => condition.type === type);
  };

  const becomes = (kind: 'VpnNetwork' | 'VpnKey', name: string, type: string, reason: string) =>
    eventually(`${type} of ${name} is ${reason}`, async () => {
      const condition = await conditionOf(kind, name, type);
      return condition?.reason === reason ? condition : undefined;
    });

  const openssl = (...args: string[]): string =>
    execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

  const file = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    return name;
  };

  test.each([
    ['without its key', (data: Text): Text => without(data, 'ca-1.key'), 'has no ca-1.key'],
    ['with a key that is none', (data: Text): Text => ({ ...data, 'ca-1.key': 'x' }), 'no private key for ca-1.crt'],
    ['with a certificate that is none', (data: Text): Text => ({ ...data, 'ca-1.crt': 'x' }), 'has no certificate'],
    ['that is empty', (): Text => ({}), 'no longer has a CA that is in force'],
  ])('a CA %s is refused and never replaced; once restored, it signs again', async (_, damage, says) => {
    await network('damaged');
    const server = await found('ovpn-system', 'damaged.pki');
    const ca = await found('ovpn-system-ca', 'damaged');
    const broken = damage(ca);
    await put('ovpn-system-ca', 'damaged', broken);
    const refused = await eventually('the refusal', async () => {
      const condition = await conditionOf('VpnNetwork', 'damaged', 'PkiReady');
      return condition?.status === 'False' ? condition : undefined;
    });
    expect(refused.message).toContain(says);
    expect(refused.message).toContain('Secret ovpn-system-ca/damaged');
    expect(refused.message).toContain('restore it from a backup');
    await key('late', 'damaged');
    expect((await becomes('VpnKey', 'late', 'Ready', refused.reason)).message).toContain('PkiReady');
    await eventually('the Event', async () => {
      const { items } = await plane.admin.get<{ items: { note?: string }[] } & Record<string, unknown>>(
        '/apis/events.k8s.io/v1/namespaces/default/events',
      );
      return items.some(({ note = '' }) => note.includes(says)) ? true : undefined;
    });
    // What the agents have stands.
    expect(await secret('ovpn-system', 'damaged.pki')).toEqual(server);
    expect(await secret('ovpn-system-ca', 'damaged')).toEqual(broken);
    await put('ovpn-system-ca', 'damaged', ca);
    await becomes('VpnNetwork', 'damaged', 'PkiReady', 'Ready');
    await becomes('VpnKey', 'late', 'Ready', 'Ready');
    expect(await secret('ovpn-system', 'damaged.pki')).toEqual(server);
    await plane.admin.delete(apiPath('VpnKey', { namespace: 'team-a', name: 'late' }));
    await plane.admin.delete(path('team-a', 'late'));
  });

  test('a CA whose Secret is deleted is not made anew, unless what agents trust is deleted, too', async () => {
    const { metadata } = (await network('lost')) as { metadata: { uid: string } };
    const server = await found('ovpn-system', 'lost.pki');
    const ca = await found('ovpn-system-ca', 'lost');
    await becomes('VpnNetwork', 'lost', 'PkiReady', 'Ready');
    await plane.admin.delete(path('ovpn-system-ca', 'lost'));
    const refused = await becomes('VpnNetwork', 'lost', 'PkiReady', 'SecretNotFound');
    expect(refused.message).toContain('delete it and then Secret ovpn-system/lost.pki');
    // Restored by hand, from the entries alone.
    const restored = { apiVersion: 'v1', kind: 'Secret', metadata: { namespace: 'ovpn-system-ca', name: 'lost' } };
    await plane.admin.apply(path('ovpn-system-ca', 'lost'), { ...restored, data: encoded(ca) });
    const conflict = await becomes('VpnNetwork', 'lost', 'PkiReady', 'Conflict');
    const [, annotation = ''] = /annotate it with (\S+);/.exec(conflict.message) ?? [];
    expect(annotation).toBe(`ovpn-operator.io/owner-uid=${metadata.uid}`);
    await plane.admin.kubectl('-n', 'ovpn-system-ca', 'annotate', 'secret', 'lost', annotation);
    await becomes('VpnNetwork', 'lost', 'PkiReady', 'Ready');
    expect(await secret('ovpn-system', 'lost.pki')).toEqual(server);
    await plane.admin.delete(path('ovpn-system-ca', 'lost'));
    await becomes('VpnNetwork', 'lost', 'PkiReady', 'SecretNotFound');
    await plane.admin.delete(path('ovpn-system', 'lost.pki'));
    await becomes('VpnNetwork', 'lost', 'PkiReady', 'Ready');
    const next = await found('ovpn-system', 'lost.pki');
    expect(next['ca.crt']).not.toBe(server['ca.crt']);
    expect(next['ca.crt']).toBe((await found('ovpn-system-ca', 'lost'))['ca-1.crt']);
  });

  test("the server's Secret comes back with the same key for tls-crypt-v2, whether deleted or damaged", async () => {
    await network('wrapped');
    const before = await found('ovpn-system', 'wrapped.pki');
    await plane.admin.delete(path('ovpn-system', 'wrapped.pki'));
    const again = await found('ovpn-system', 'wrapped.pki');
    expect(again['tls-crypt-v2-server.key']).toBe(before['tls-crypt-v2-server.key']);
    expect(again['ca.crt']).toBe(before['ca.crt']);
    await put('ovpn-system', 'wrapped.pki', { ...again, 'tls-crypt-v2-server.key': 'x', 'tls.key': 'x' });
    const healed = await eventually('the key is back', async () => {
      const now = await secret('ovpn-system', 'wrapped.pki');
      return now?.['tls-crypt-v2-server.key'] === before['tls-crypt-v2-server.key'] ? now : undefined;
    });
    expect(healed['tls.key']).toMatch(/PRIVATE KEY/);
  });

  test.each([
    ['RSA, in PKCS#1', ['genrsa', '-traditional', '-out']],
    ['P-384, in SEC 1', ['ecparam', '-name', 'secp384r1', '-genkey', '-noout', '-out']],
  ])("signs with a person's CA below a root of theirs (%s), as OpenSSL has it", async (_, command) => {
    const own = makeSigningCa(command);
    const given = { 'tls.crt': own.certificate, 'tls.key': own.key, 'ca.crt': own.root };
    await plane.admin.apply(path('ovpn-system-ca', 'given'), {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { namespace: 'ovpn-system-ca', name: 'given' },
      data: encoded(without(given, 'ca.crt')),
    });
    await network('own-ca', { caSecretRef: { name: 'given' } });
    const rootIsMissing = await becomes('VpnNetwork', 'own-ca', 'PkiReady', 'KeyInvalid');
    expect(rootIsMissing.message).toContain('up to the root');
    await put('ovpn-system-ca', 'given', given);
    await becomes('VpnNetwork', 'own-ca', 'PkiReady', 'Ready');
    await key('carol', 'own-ca');
    await becomes('VpnKey', 'carol', 'Ready', 'Ready');
    const [server, client] = [await found('ovpn-system', 'own-ca.pki'), await found('team-a', 'carol')];
    // Only root and issuer; the user's private key stays where agents cannot read.
    expect(server['ca.crt']?.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(Object.values(server).join('')).not.toContain(given['tls.key']);
    for (const [purpose, { 'tls.crt': cert = '', 'ca.crt': ca = '' }] of [
      ['sslserver', server],
      ['sslclient', client],
    ] as const) {
      const args = ['verify', '-purpose', purpose, '-CAfile', file('trusted.pem', ca), file('leaf.pem', cert)];
      expect(openssl(...args)).toContain('leaf.pem: OK');
    }
    expect(new X509Certificate(client['tls.crt'] ?? '').subject).toBe('CN=carol.team-a');
    expect(client['client.ovpn']).toContain(`<ca>\n${client['ca.crt'] ?? ''}`.trimEnd());
    expect(controller.log).not.toMatch(/PRIVATE KEY/);
    // A key of something else: refused, and what is in force stays.
    await put('ovpn-system-ca', 'given', { ...given, 'tls.key': own.rootKey });
    expect((await becomes('VpnNetwork', 'own-ca', 'PkiReady', 'KeyInvalid')).message).toContain('tls.key');
    expect(await secret('ovpn-system', 'own-ca.pki')).toEqual(server);
    await plane.admin.delete(apiPath('VpnKey', { namespace: 'team-a', name: 'carol' }));
    await plane.admin.delete(path('team-a', 'carol'));
    await plane.admin.delete(apiPath('VpnNetwork', { name: 'own-ca' }));
    await plane.admin.delete(path('ovpn-system', 'own-ca.pki'));
    await plane.admin.delete(path('ovpn-system-ca', 'own-ca'));
  });
});
