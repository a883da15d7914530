import { expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { apiVersion } from '../../api/types.ts';
import { asRecord } from '../../cluster/json.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { networkManifest } from '../../cluster/testing/objects.ts';
import { noMeter } from '../../telemetry/metrics.ts';
import { tlsCryptKeyFile } from '../../openvpn/wrap/recorded.fixture.ts';
import type { Reconciler } from '../reconciler.ts';
import { FakeCluster, fakeWriter, handView, ownNamespace } from '../testing/fake-cluster.ts';
import { IssuedKeys } from './issued-keys.ts';
import { NetworkPki } from './network-pki.ts';

const day = 86_400_000;

/** A cluster with the two reconcilers that issue, and what people do to it. */
function bed() {
  const cluster = new FakeCluster();
  const { view, take } = handView();
  cluster.onChange(take);
  const clock = new FakeClock();
  clock.advance(Date.now() - clock.now());
  const context = {
    caches: view,
    writer: fakeWriter(cluster, (request) => Promise.resolve().then(request)),
    events: { record: () => undefined },
    clock,
    random: () => 0.5,
    log: recordingLog().log,
    meter: noMeter,
    namespace: ownNamespace,
  };
  const dirty = new Map<Reconciler, Set<string>>();
  for (const reconciler of [new NetworkPki(context), new IssuedKeys(context)]) {
    const keys = new Set<string>();
    dirty.set(reconciler, keys);
    reconciler.watch((key) => keys.add(key));
  }
  /** Works until nothing is left; how long until each key is looked at by itself. */
  const settle = async (): Promise<Record<string, number | undefined>> => {
    const waits: Record<string, number | undefined> = {};
    while ([...dirty.values()].some(({ size }) => size > 0)) {
      for (const [reconciler, keys] of dirty) {
        for (const key of [...keys]) {
          keys.delete(key);
          waits[key] = await reconciler.reconcile(key);
        }
      }
    }
    return waits;
  };
  const secret = (name: string): Record<string, string> | undefined => {
    const found = cluster.get(apiPath('Secret', { namespace: 'team-a', name }));
    if (found === undefined) return undefined;
    const data = Object.entries(asRecord(found['data']) ?? {});
    return Object.fromEntries(data.map(([entry, text]) => [entry, Buffer.from(String(text), 'base64').toString()]));
  };
  const ready = (name: string): unknown => {
    const status = asRecord(cluster.get(apiPath('VpnKey', { namespace: 'team-a', name }))?.['status']);
    return Array.isArray(status?.['conditions']) ? status['conditions'][0] : undefined;
  };
  const network = (spec: object = {}) =>
    cluster.create(
      apiPath('VpnNetwork'),
      networkManifest('corp', {
        pki: { builtIn: {} },
        listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }] }],
        ...spec,
      }),
    );
  const key = (name: string, issued: object = {}) =>
    cluster.create(apiPath('VpnKey', { namespace: 'team-a' }), {
      apiVersion,
      kind: 'VpnKey',
      metadata: { namespace: 'team-a', name },
      spec: { issued: { networkRef: { name: 'corp' }, ...issued } },
    });
  return { cluster, settle, secret, ready, network, key };
}

test('a namespace that is chosen by its labels is issued certificates from when it has them', async () => {
  const { cluster, settle, secret, ready, network, key } = bed();
  const namespaces = '/api/v1/namespaces';
  const namespace = (labels: object) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'team-a', labels } });
  cluster.create(namespaces, namespace({}));
  network({ allowedPeers: { namespaces: { from: 'Selector', selector: { matchLabels: { vpn: 'yes' } } } } });
  key('alice');
  await settle();
  expect(ready('alice')).toMatchObject({ status: 'False', reason: 'NotAllowed' });
  expect(secret('alice')).toBeUndefined();
  cluster.delete(`${namespaces}/team-a`);
  cluster.create(namespaces, namespace({ vpn: 'yes' }));
  await settle();
  expect(ready('alice')).toMatchObject({ status: 'True' });
  expect(secret('alice')?.['client.ovpn']).toContain('remote vpn.example.com 1194 udp');
});

test("the network's own key of its Secret is waited for, and followed when it changes", async () => {
  const { cluster, settle, secret, ready, network, key } = bed();
  network({ controlChannel: { wrap: 'TLSCrypt', secretRef: { name: 'wrap', key: 'wrap.key' } } });
  key('alice');
  await settle();
  expect(ready('alice')).toMatchObject({ status: 'False', reason: 'SecretNotFound' });
  const secrets = apiPath('Secret', { namespace: ownNamespace });
  const wrap = (text: string) => ({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace: ownNamespace, name: 'wrap' },
    stringData: { 'wrap.key': text },
  });
  cluster.create(secrets, wrap(tlsCryptKeyFile));
  await settle();
  expect(ready('alice')).toMatchObject({ status: 'True' });
  const before = secret('alice')?.['client.ovpn'];
  cluster.replace(`${secrets}/wrap`, wrap(tlsCryptKeyFile.replace(/^[0-9a-f]{32}$/m, '0'.repeat(32))));
  await settle();
  expect(secret('alice')?.['client.ovpn']).not.toBe(before);
});

test('two VpnKeys do not share a Secret: the one that came second says so, and looks again', async () => {
  const { settle, secret, ready, network, key } = bed();
  network();
  key('alice');
  await settle();
  const before = secret('alice');
  key('mallory', { secretName: 'alice' });
  const waits = await settle();
  expect(ready('mallory')).toMatchObject({ status: 'False', reason: 'Conflict' });
  expect(ready('mallory')).toHaveProperty('message', expect.stringContaining('that of VpnKey alice'));
  expect(waits).toEqual({ 'team-a/mallory': 60_000 });
  expect(secret('alice')).toEqual(before);
  expect(ready('alice')).toMatchObject({ status: 'True' });
});

test('a VpnKey that is made anew under its name gets other keys into the same Secret', async () => {
  const { cluster, settle, secret, network, key } = bed();
  network();
  key('alice');
  await settle();
  const before = secret('alice');
  cluster.delete(apiPath('VpnKey', { namespace: 'team-a', name: 'alice' }));
  key('alice');
  await settle();
  expect(secret('alice')?.['tls.key']).toMatch(/PRIVATE KEY/);
  expect(secret('alice')?.['tls.key']).not.toBe(before?.['tls.key']);
  expect(secret('alice')?.['tls-crypt-v2.key']).not.toBe(before?.['tls-crypt-v2.key']);
});

test("the certificate of another client in its Secret is not taken for the VpnKey's", async () => {
  const { cluster, settle, secret, network, key } = bed();
  network();
  key('alice');
  key('bob');
  await settle();
  const path = (name: string) => apiPath('Secret', { namespace: 'team-a', name });
  const bobs = asRecord(cluster.get(path('bob'))?.['data']);
  const alices = cluster.get(path('alice')) ?? {};
  cluster.replace(path('alice'), { ...alices, data: bobs });
  cluster.edit(apiPath('VpnKey', { namespace: 'team-a', name: 'alice' }), {
    issued: { networkRef: { name: 'corp' }, certificateDays: 30 },
  });
  await settle();
  expect(new X509Certificate(secret('alice')?.['tls.crt'] ?? '').subject).toBe('CN=alice.team-a');
});

test.each([
  ['shorter', 7, 7],
  ['no longer', 300, 30],
])('a certificate can live %s than those of its network', async (_, certificateDays, days) => {
  const { settle, secret, network, key } = bed();
  network({ pki: { builtIn: { certificateDays: 30 } } });
  key('alice', { certificateDays });
  await settle();
  const { validToDate } = new X509Certificate(secret('alice')?.['tls.crt'] ?? '');
  expect(Math.round((validToDate.getTime() - Date.now()) / day)).toBe(days);
});
