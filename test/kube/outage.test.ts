import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnKey, VpnPeer } from '../../operator/src/api/types.ts';
import { systemClock } from '../../operator/src/cluster/clock.ts';
import { loadKubeAccess } from '../../operator/src/cluster/kube-access.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { recordingLog } from '../../operator/src/cluster/testing/log.ts';
import { Controller } from '../../operator/src/controller/controller.ts';
import { reconcilers } from '../../operator/src/controller/reconcilers.ts';
import { noMeter } from '../../operator/src/telemetry/metrics.ts';
import type { AuditEvent } from '../support/kube/audit.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { eventually } from '../support/run.ts';

/** The controller is away for an hour, on clocks that are set, and renewal was due meanwhile. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';
const names = Array.from({ length: 10 }, (_, number) => `client-${number}`);
const hour = 3_600_000;
/** A certificate of a day is renewed after two thirds of it. */
const renewalAfter = 16 * hour;

let plane: ControlPlane;
let user: KubeUser;
let running: Controller | undefined;

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace(namespace);
  user = await plane.controller();
  const network = {
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name: 'corp' },
    spec: {
      pools: { peers: ['10.8.0.0/16'] },
      listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }] }],
      pki: { builtIn: {} },
      allowedPeers: { namespaces: { names: [namespace] } },
    },
  };
  const metadata = (name: string) => ({ namespace, name });
  const items = names.flatMap((name) => [
    {
      apiVersion,
      kind: 'VpnKey',
      metadata: metadata(name),
      spec: { issued: { networkRef: { name: 'corp' }, certificateDays: 1 } },
    },
    {
      apiVersion,
      kind: 'VpnPeer',
      metadata: metadata(name),
      spec: { networkRef: { name: 'corp' }, identity: { key: name } },
    },
  ]);
  await plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [network, ...items] }));
}, 240_000);
afterAll(async () => {
  await running?.stop();
  await plane.stop();
}, 60_000);

/** A controller whose clock shows the real time and this much more. */
async function startController(aheadMs: number): Promise<Controller> {
  const controller = new Controller({
    access: await loadKubeAccess({ kubeconfig: user.kubeconfig }),
    identity: `controller-at-${aheadMs}`,
    namespace: 'ovpn-system',
    reconcilers,
    clock: { ...systemClock, now: () => systemClock.now() + aheadMs },
    random: Math.random,
    log: recordingLog().log,
    meter: noMeter,
  });
  running = controller;
  void controller.run();
  await eventually('it leads', () => controller.leading || undefined);
  return controller;
}

const keyOf = (name: string) =>
  plane.admin.get<VpnKey & Record<string, unknown>>(apiPath('VpnKey', { namespace, name }));
const peerOf = (name: string) =>
  plane.admin.get<VpnPeer & Record<string, unknown>>(apiPath('VpnPeer', { namespace, name }));
const fingerprintsOf = async (name: string): Promise<readonly string[]> =>
  ((await keyOf(name)).status?.certificates ?? []).map(({ fingerprint }) => fingerprint);

function writesSince(from: number): AuditEvent[] {
  const isWrite = ({ verb, user: { username }, objectRef }: AuditEvent): boolean =>
    !['get', 'list', 'watch'].includes(verb) &&
    username.endsWith(':ovpn-controller') &&
    objectRef?.resource !== 'leases';
  return plane.audit().slice(from).filter(isWrite);
}
const inShort = ({ verb, objectRef }: AuditEvent): string =>
  `${verb} ${objectRef?.resource ?? ''}${objectRef?.subresource === undefined ? '' : `/${objectRef.subresource}`}`;

/** Until nothing was written for two seconds, which is longer than anything is put off here. */
async function untilQuiet(): Promise<void> {
  await eventually(
    'nothing is written any more',
    async () => {
      const from = plane.audit().length;
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      return writesSince(from).length === 0 || undefined;
    },
    { timeoutMs: 120_000 },
  );
}

test('an hour without a controller: it writes what has become due and nothing else', async () => {
  const issuedAt = -(renewalAfter + hour / 2);
  const first = await startController(issuedAt);
  for (const name of names) {
    await eventually(`${name} has all`, async () => {
      const { status } = await peerOf(name);
      return (await fingerprintsOf(name)).length > 0 && status?.allocation !== undefined ? true : undefined;
    });
  }
  await untilQuiet();
  await first.stop();
  const before = new Map(await Promise.all(names.map(async (name) => [name, await fingerprintsOf(name)] as const)));
  const peers = await Promise.all(names.map(async (name) => (await peerOf(name)).status));

  // Half an hour before they are due, another one finds nothing to do.
  let from = plane.audit().length;
  const second = await startController(-hour);
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  expect(writesSince(from).map(inShort)).toEqual([]);
  await second.stop();

  // An hour later.
  from = plane.audit().length;
  const third = await startController(0);
  for (const name of names) {
    await eventually(`${name} is renewed`, async () => {
      const [latest, ...others] = await fingerprintsOf(name);
      const [old] = before.get(name) ?? [];
      return latest !== old && others.includes(old ?? '') ? true : undefined;
    });
  }
  await untilQuiet();
  const writes = writesSince(from);
  const kinds = new Set(writes.map(({ objectRef }) => objectRef?.resource));
  expect([...kinds].filter((resource) => !['secrets', 'vpnkeys', 'events'].includes(resource ?? ''))).toEqual([]);
  for (const name of names) {
    const ofKey = writes.filter(({ objectRef }) => objectRef?.name === name).map(inShort);
    // The Secret, and the status before and after: the old certificate stays good until the new one is there.
    expect(ofKey.length).toBeGreaterThanOrEqual(2);
    expect(ofKey.length).toBeLessThanOrEqual(4);
  }
  expect(await Promise.all(names.map(async (name) => (await peerOf(name)).status))).toEqual(peers);
  await third.stop();
}, 240_000);
