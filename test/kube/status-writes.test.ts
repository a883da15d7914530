import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import { loadKubeAccess } from '../../operator/src/cluster/kube-access.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { recordingLog } from '../../operator/src/cluster/testing/log.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { eventually } from '../support/run.ts';

/** What the status of many peers with ever-changing counters costs the API server, by its own account. */
const namespace = 'clients';
const count = 300;
let plane: ControlPlane;
let source: ApiSource;

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace(namespace);
  const collection = apiPath('VpnPeer', { namespace });
  for (let number = 0; number < count; number += 1) {
    const name = `client-${number}`;
    await plane.admin.must('POST', collection, {
      apiVersion: 'ovpn-operator.io/v1alpha1',
      kind: 'VpnPeer',
      metadata: { namespace, name },
      spec: { networkRef: { name: 'corp' }, identity: { commonName: name }, addresses: ['10.80.0.5'] },
    });
  }
  const { kubeconfig } = await plane.agentOf('node-a');
  source = new ApiSource({ access: await loadKubeAccess({ kubeconfig }), node: 'node-a', log: recordingLog().log });
  await source.start();
}, 240_000);
afterAll(async () => {
  await source.stop();
  await plane.stop();
});

const writes = (): number =>
  plane
    .audit()
    .filter(({ verb, user }) => verb === 'patch' && user.username === 'system:serviceaccount:ovpn-system:ovpn-agent')
    .length;

const publish = (peers: readonly VpnPeer[], rxBytes: number): void => {
  for (const peer of peers) {
    const traffic = { rxBytes, txBytes: rxBytes, rxPackets: 1, txPackets: 1 };
    source.publishStatus(peer, { node: 'node-a', traffic });
  }
};

test('counters that change all the time are written a few times per second, however many there are', async () => {
  const peers = [...source.list('VpnPeer')];
  expect(peers).toHaveLength(count);
  // What is new is told at a rate of its own.
  publish(peers, 0);
  await eventually('all are told of', () => (writes() >= count ? true : undefined));
  const told = writes();
  expect(told).toBe(count);
  const begin = performance.now();
  for (let round = 1; round <= 40; round += 1) {
    publish(peers, round);
    await sleep(250);
  }
  const seconds = (performance.now() - begin) / 1000;
  // Five per second, and twenty at once in the beginning.
  expect(writes() - told).toBeLessThanOrEqual(20 + 5 * seconds + 1);
  expect(writes() - told).toBeGreaterThan(20);
});

test('what is written is the latest, and once it is, nothing more', async () => {
  const [peer] = source.list('VpnPeer');
  const quiet = new ApiSource({
    access: await loadKubeAccess({ kubeconfig: (await plane.agentOf('node-b')).kubeconfig }),
    node: 'node-b',
    log: recordingLog().log,
  });
  await quiet.start();
  await source.stop();
  const before = writes();
  // An agent says this of peers of its own node only.
  const status = (rxBytes: number) => ({
    node: 'node-b',
    traffic: { rxBytes, txBytes: 0, rxPackets: 0, txPackets: 0 },
  });
  for (let value = 1; value <= 1000; value += 1) quiet.publishStatus(peer!, status(value));
  const path = apiPath('VpnPeer', { namespace, name: peer!.metadata.name });
  await eventually('the latest is there', async () => {
    const { status } = await plane.admin.get<{ status: { traffic: { rxBytes: number } } }>(path);
    return status.traffic.rxBytes === 1000 ? true : undefined;
  });
  expect(writes() - before).toBeLessThanOrEqual(3);
  const settled = writes();
  for (let round = 0; round < 20; round += 1) {
    quiet.publishStatus(peer!, status(1000));
    await sleep(250);
  }
  expect(writes()).toBe(settled);
  await quiet.stop();
});

test('counters that two nodes have told of in part alike go as a whole with the one that has the peer', async () => {
  const path = apiPath('VpnPeer', { namespace, name: 'client-0' });
  const tell = (manager: string, traffic?: object): Promise<unknown> =>
    plane.admin.apply(
      `${path}/status`,
      {
        apiVersion: 'ovpn-operator.io/v1alpha1',
        kind: 'VpnPeer',
        metadata: { namespace, name: 'client-0' },
        status: { node: manager, ...(traffic === undefined ? {} : { traffic }) },
      },
      { manager },
    );
  await tell('node-b', { rxBytes: 5, txBytes: 0, rxPackets: 1, txPackets: 0 });
  await tell('node-c', { rxBytes: 7, txBytes: 0, rxPackets: 2, txPackets: 0 });
  // With an owner for each number, those that were alike would stay by themselves, and be no counters any more.
  await tell('node-c');
  expect((await plane.admin.get<VpnPeer & Record<string, unknown>>(path)).status?.traffic).toBeUndefined();
});
