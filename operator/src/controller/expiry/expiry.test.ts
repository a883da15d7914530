import { X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { asRecord } from '../../cluster/json.ts';
import { materialLabel, sourceAnnotation } from '../../cluster/material-secret.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { keyManifest, networkManifest } from '../../cluster/testing/objects.ts';
import { type TestPki, testPki } from '../../openvpn/tls/pki.fixture.ts';
import { seriesOf, testMetrics } from '../../telemetry/metrics.fixture.ts';
import { copyName } from '../material/material-copies.ts';
import { FakeCluster, fakeWriter, handView } from '../testing/fake-cluster.ts';
import { ExpiryWarnings } from './expiry.ts';

const system = 'ovpn-system';
const day = 86_400_000;
let pki: TestPki;
let crl: string;

beforeAll(() => {
  pki = testPki();
  crl = pki.crl();
});
afterAll(() => pki.remove());

function bed() {
  const cluster = new FakeCluster();
  const { view, take } = handView();
  cluster.onChange(take);
  const clock = new FakeClock();
  const metrics = testMetrics('controller');
  clock.advance(Date.now() - clock.now());
  const notes: { readonly reason: string; readonly note: string }[] = [];
  const dirty = new Set<string>();
  const warnings = new ExpiryWarnings({
    caches: view,
    writer: fakeWriter(cluster, (request) => Promise.resolve().then(request)),
    events: { record: (_, note) => notes.push(note) },
    clock,
    random: () => 0.5,
    log: recordingLog().log,
    meter: metrics,
    namespace: system,
  });
  warnings.watch((key) => dirty.add(key));
  /** Works until nothing is left; how long until time alone changes something. */
  const settle = async (): Promise<number | undefined> => {
    let wait: number | undefined;
    for (const key of dirty) {
      dirty.delete(key);
      wait = await warnings.reconcile(key);
    }
    return wait;
  };
  const condition = (path: string): unknown => {
    const conditions = asRecord(cluster.get(path)?.['status'])?.['conditions'];
    return Array.isArray(conditions) ? conditions[0] : undefined;
  };
  return { cluster, clock, dirty, notes, settle, condition, metrics };
}

const secretPath = apiPath('Secret', { namespace: system });
const secret = (name: string, source: string, data: Record<string, string>) => ({
  apiVersion: 'v1',
  kind: 'Secret',
  metadata: {
    ...{ namespace: system, name },
    labels: { [materialLabel]: 'true' },
    annotations: { [sourceAnnotation]: source },
  },
  stringData: data,
});

test('a network is told of its CRL in time, once, and again when it is too late', async () => {
  const { cluster, clock, dirty, notes, settle, condition, metrics } = bed();
  const path = apiPath('VpnNetwork', { name: 'corp' });
  cluster.create(apiPath('VpnNetwork'), networkManifest('corp', { pki: { secretRef: { name: 'corp-pki' } } }));
  await settle();
  expect(cluster.writes).toBe(0);
  const { cert } = pki.issue('server', { usage: 'serverAuth' });
  const material = { 'tls.crt': cert, 'ca.crt': pki.ca, 'ca.crl': crl };
  cluster.create(secretPath, secret('corp-pki', `${system}/corp-pki`, material));
  await settle();
  expect(condition(path)).toMatchObject({ type: 'Expiring', status: 'False', reason: 'Valid' });
  const labels = '{kind="VpnNetwork",namespace="",name="corp"}';
  const series = seriesOf(await metrics.text());
  const ends = new X509Certificate(cert).validToDate.getTime() / 1000;
  expect(series.get(`ovpn_certificate_expiry_timestamp_seconds${labels}`)).toBeLessThanOrEqual(ends);
  // The fixture's CRLs are good for a year.
  expect((series.get(`ovpn_crl_expiry_timestamp_seconds${labels}`) ?? 0) - clock.now() / 1000).toBeGreaterThan(
    364 * 86_400,
  );

  clock.advance(336 * day);
  dirty.add('VpnNetwork/corp');
  const wait = await settle();
  expect(wait).toBe(day);
  expect(condition(path)).toMatchObject({ status: 'True', reason: 'ExpiresSoon' });
  const { writes } = cluster;
  dirty.add('VpnNetwork/corp');
  await settle();
  expect(cluster.writes).toBe(writes);

  clock.advance(30 * day);
  dirty.add('VpnNetwork/corp');
  await settle();
  expect(condition(path)).toMatchObject({ status: 'True', reason: 'Expired' });
  expect(notes.map(({ reason }) => reason)).toEqual(['ExpiresSoon', 'Expired']);
  cluster.delete(path);
  expect(await metrics.text()).not.toContain('name="corp"');
  expect(notes[0]?.note).toMatch(/^the CRL in ca\.crl expires at \S+Z; renew it before$/);
});

test('a key is judged by the copy of its Secret, and is well again when that is renewed', async () => {
  const { cluster, notes, settle, condition } = bed();
  cluster.create(apiPath('VpnKey', { namespace: 'team-a' }), {
    ...keyManifest('office'),
    spec: { tls: { secretRef: { name: 'office' } } },
  });
  const path = apiPath('VpnKey', { namespace: 'team-a', name: 'office' });
  const name = copyName('team-a', 'office');
  const old = pki.issue('past', { expired: true });
  cluster.create(secretPath, secret(name, 'team-a/office', { 'tls.crt': old.cert, 'ca.crt': pki.ca }));
  await settle();
  expect(condition(path)).toMatchObject({ type: 'Expiring', status: 'True', reason: 'Expired' });
  cluster.delete(`${secretPath}/${name}`);
  const { cert } = pki.issue('present', { usage: 'clientAuth' });
  cluster.create(secretPath, secret(name, 'team-a/office', { 'tls.crt': cert, 'ca.crt': pki.ca }));
  await settle();
  expect(condition(path)).toMatchObject({ status: 'False', reason: 'Valid' });
  expect(notes).toHaveLength(1);
});
