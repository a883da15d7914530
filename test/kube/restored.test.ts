import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import { loadKubeAccess } from '../../operator/src/cluster/kube-access.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { networkManifest } from '../../operator/src/cluster/testing/objects.ts';
import { recordingLog } from '../../operator/src/cluster/testing/log.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';

/**
 * The cluster's store is restored from a backup: versions go back, what was made since has never been, and what was
 * deleted since is there again. Watches that were open know versions that are still to come.
 */

const namespace = 'office';
const path = (name: string): string => apiPath('VpnPeer', { namespace, name });

let plane: ControlPlane;
let controller: ControllerProcess;
let source: ApiSource;
const { log, lines } = recordingLog();

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace(namespace);
  const agent = await plane.agentOf('node-a');
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await plane.admin.apply(
    apiPath('VpnNetwork', { name: 'corp' }),
    networkManifest('corp', { allowedPeers: { namespaces: { names: [namespace] }, routes: ['10.0.0.0/8'] } }),
  );
  await put('deleted-since');
  await put('changed-since', ['10.1.0.0/16']);
  await plane.backUp();
  await controller.start();
  source = new ApiSource({ access: await loadKubeAccess({ kubeconfig: agent.kubeconfig }), node: 'node-a', log });
  await source.start();
}, 300_000);
afterAll(async () => {
  await source.stop();
  await controller.stop();
  await plane.stop();
}, 60_000);

const put = (name: string, routes: readonly string[] = []): Promise<unknown> =>
  plane.admin.apply(path(name), {
    apiVersion: 'ovpn-operator.io/v1alpha1',
    kind: 'VpnPeer',
    metadata: { namespace, name },
    spec: { networkRef: { name: 'corp' }, identity: { commonName: name }, routes },
  });

interface Seen {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly routes?: readonly string[] };
}
const routesByName = (peers: Iterable<Seen>): Record<string, readonly string[]> =>
  Object.fromEntries([...peers].map(({ metadata, spec }) => [metadata.name, spec.routes ?? []]));

const untilSeen = (wanted: Record<string, readonly string[]>): Promise<true> =>
  eventually('the agent has what there is', () => {
    expect(routesByName(source.list('VpnPeer'))).toEqual(wanted);
    return true as const;
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${lines.map((line) => JSON.stringify(line)).join('\n')}`, { cause: error });
  });

const allocated = (name: string): Promise<true> =>
  eventually(`${name} has an address`, async () => {
    const { status } = await plane.admin.get<VpnPeer & Record<string, unknown>>(path(name));
    return status?.allocation !== undefined || undefined;
  });

test('agents and the controller go by what was restored, and by what comes after it', async () => {
  for (const name of ['deleted-since', 'changed-since']) await allocated(name);
  await plane.admin.delete(path('deleted-since'));
  await put('changed-since', ['10.2.0.0/16']);
  // Many versions, so that the restored store is far from the last one that was seen.
  for (let n = 0; n < 30; n++) await put('made-since', [`10.${n + 10}.0.0/16`]);
  await allocated('made-since');
  await untilSeen({ 'changed-since': ['10.2.0.0/16'], 'made-since': ['10.39.0.0/16'] });
  await plane.restore();
  await untilSeen({ 'deleted-since': [], 'changed-since': ['10.1.0.0/16'] });
  // Below the versions that were seen before.
  await put('made-after', ['10.100.0.0/16']);
  await put('changed-since', ['10.3.0.0/16']);
  await untilSeen({ 'deleted-since': [], 'changed-since': ['10.3.0.0/16'], 'made-after': ['10.100.0.0/16'] });
  for (const name of ['deleted-since', 'changed-since', 'made-after']) await allocated(name);
  expect(controller.running).toBe(true);
}, 400_000);
