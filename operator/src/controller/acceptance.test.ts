import { expect, test } from '@jest/globals';
import { asRecord } from '../cluster/json.ts';
import { apiPath } from '../cluster/resource-path.ts';
import { FakeClock } from '../cluster/testing/clock.ts';
import { recordingLog } from '../cluster/testing/log.ts';
import { networkManifest, peerManifest } from '../cluster/testing/objects.ts';
import { noMeter } from '../telemetry/metrics.ts';
import { Acceptance } from './acceptance.ts';
import { FakeCluster, fakeWriter, handView } from './testing/fake-cluster.ts';

const peers = apiPath('VpnPeer', { namespace: 'team-a' });
const networkPath = apiPath('VpnNetwork', { name: 'offices' });

function world(nodes: object[]) {
  const cluster = new FakeCluster();
  const clock = new FakeClock();
  const { view, take } = handView();
  cluster.onChange(take);
  const acceptance = new Acceptance({
    caches: view,
    writer: fakeWriter(cluster, (request) => Promise.resolve().then(request)),
    events: { record: () => undefined },
    clock,
    random: () => 0,
    log: recordingLog().log,
    meter: noMeter,
    namespace: 'ovpn-system',
  });
  acceptance.watch(() => undefined);
  cluster.create(apiPath('VpnNetwork'), networkManifest('offices'));
  cluster.applyStatus(networkPath, { status: { nodes } });
  const { apiVersion, kind, metadata, spec } = peerManifest('office');
  const add = (more: object = {}): void =>
    void cluster.create(peers, { apiVersion, kind, metadata, spec: { ...spec, ...more } });
  const allocate = (): void => {
    const allocated = { type: 'Allocated', status: 'True', reason: 'Allocated', message: '' };
    const lastTransitionTime = '2026-01-01T00:00:00Z';
    cluster.applyStatus(`${peers}/office`, { status: { conditions: [{ ...allocated, lastTransitionTime }] } });
  };
  const conditions = (): unknown => asRecord(cluster.get(`${peers}/office`)?.['status'])?.['conditions'];
  return { cluster, clock, acceptance, add, allocate, conditions, key: 'team-a/office' };
}
const ready = [{ name: 'n1', ready: true, peers: 0, attachments: 0 }];

test('where a node is ready, its agent has the first word on a peer that is in order', async () => {
  const { acceptance, add, allocate, clock, cluster, key, conditions } = world(ready);
  add();
  const before = cluster.writes;
  // Its time begins when the peer has its addresses.
  expect(await acceptance.reconcile(key)).toBe(10_000);
  clock.advance(60_000);
  expect(await acceptance.reconcile(key)).toBe(10_000);
  allocate();
  expect(await acceptance.reconcile(key)).toBe(10_000);
  clock.advance(4_000);
  // Looked at again for whatever reason: the time goes on.
  expect(await acceptance.reconcile(key)).toBe(6_000);
  expect(cluster.writes).toBe(before);
  clock.advance(6_000);
  expect(await acceptance.reconcile(key)).toBeUndefined();
  expect(conditions()).toMatchObject([{ type: 'Allocated' }, { type: 'Accepted', status: 'True' }]);
});

test('what an agent has said in time costs no write', async () => {
  const { acceptance, add, clock, cluster, key } = world(ready);
  add();
  await acceptance.reconcile(key);
  const said = { type: 'Accepted', status: 'True', reason: 'Accepted', message: '' };
  const lastTransitionTime = '2026-01-01T00:00:00Z';
  cluster.applyStatus(`${peers}/office`, { status: { conditions: [{ ...said, lastTransitionTime }] } });
  clock.advance(10_000);
  const before = cluster.writes;
  expect(await acceptance.reconcile(key)).toBeUndefined();
  expect(cluster.writes).toBe(before);
});

test.each([
  ['no node is ready', [{ name: 'n1', ready: false, peers: 0, attachments: 0 }], {}, 'True'],
  ['no agent has ever spoken', [], {}, 'True'],
  ['the peer is refused', ready, { routes: ['192.0.2.0/24'] }, 'False'],
] as const)('it is said at once when %s', async (_, nodes, spec, status) => {
  const { acceptance, add, key, conditions } = world([...nodes]);
  add(spec);
  expect(await acceptance.reconcile(key)).toBeUndefined();
  expect(conditions()).toMatchObject([{ type: 'Accepted', status }]);
});
