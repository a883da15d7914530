import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { baseManifests } from '../../operator/src/api/rule-cases.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import { loadKubeAccess } from '../../operator/src/cluster/kube-access.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { recordingLog } from '../../operator/src/cluster/testing/log.ts';
import type { AuditEvent } from '../support/kube/audit.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { placesOf } from '../support/kube/paths.ts';
import { grantedRights, usedRights } from '../support/kube/rights.ts';
import { eventually } from '../support/run.ts';

/** The roles of the chart grant what our processes ask for: all of it, and to the agent nothing else. */
let plane: ControlPlane;
beforeAll(async () => {
  plane = await ControlPlane.start();
}, 180_000);
afterAll(() => plane.stop());

const requestsOf = (account: string): AuditEvent[] =>
  plane.audit().filter(({ user }) => user.username === `system:serviceaccount:${systemNamespace}:${account}`);

const refusedOf = (account: string): string[] =>
  requestsOf(account)
    .filter(({ responseStatus }) => responseStatus?.code === 403)
    .map(({ verb, requestURI }) => `${verb} ${requestURI}`);

describe('the agent', () => {
  test('asks for what it may, and may what it asks for', async () => {
    for (const manifest of [baseManifests.VpnNetwork, baseManifests.VpnPeer, baseManifests.VpnKey]) {
      await plane.admin.apply(placesOf(manifest).path, manifest);
    }
    const { kubeconfig, credentials } = await plane.agentOf('node-a');
    const access = await loadKubeAccess({ kubeconfig });
    const source = new ApiSource({ access, node: 'node-a', log: recordingLog().log });
    await source.start();
    expect(source.complete).toBe(true);
    for (const kind of ['VpnNetwork', 'VpnPeer', 'VpnKey'] as const) {
      for (const resource of source.list(kind)) source.publishStatus(resource, { conditions: [] });
    }
    // Any pod will do: that of the agent itself is there.
    await source.findPod({ namespace: systemNamespace, name: credentials.name });
    const [peer] = source.list('VpnPeer');
    if (peer === undefined) throw new Error('there is a peer');
    expect(await source.holderNow({ kind: 'VpnPeer', ...peer.metadata }, 5_000)).toBeUndefined();
    const leases: string[] = [];
    source.leases.follow(({ node, durationMs }) => leases.push(`${node} ${durationMs}`));
    expect(await source.leases.read('node-a', 5_000)).toBeUndefined();
    // The first time it is made, and goes with its Node.
    for (const durationMs of [6_000, 60_000]) await source.leases.write({ durationMs, released: false }, 5_000);
    const path = apiPath('Lease', { namespace: systemNamespace, name: 'ovpn-node-node-a' });
    expect(await plane.admin.get(path)).toMatchObject({
      metadata: { ownerReferences: [{ kind: 'Node', name: 'node-a' }] },
      spec: { holderIdentity: 'node-a', leaseDurationSeconds: 60 },
    });
    await eventually('the lease is seen', () => leases.at(-1) === 'node-a 60000' || undefined);
    await source.leases.write({ durationMs: 1_000, released: true }, 5_000);
    expect(await source.leases.read('node-a', 5_000)).toMatchObject({ node: 'node-a', released: true });
    const granted = await grantedRights(plane.admin, 'ovpn-agent', systemNamespace);
    await eventually('all rights are used', () => {
      expect([...usedRights(requestsOf('ovpn-agent'), granted)].sort()).toEqual([...granted].sort());
      return true;
    });
    await source.stop();
    expect(refusedOf('ovpn-agent')).toEqual([]);
  });
});

describe('the controller', () => {
  test('is refused nothing that it asks for', async () => {
    await plane.namespace('team-a');
    const controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
    await controller.start();
    try {
      const network = structuredClone(baseManifests.VpnNetwork) as { spec: object };
      await plane.admin.apply(apiPath('VpnNetwork', { name: 'offices' }), {
        ...network,
        spec: { ...network.spec, pki: { secretRef: { name: 'pki' } }, allowedPeers: { namespaces: { from: 'All' } } },
      });
      for (const [name, stringData] of Object.entries({
        'office-key': { 'static.key': 'k' },
        pki: { 'ca.crt': 'c' },
      })) {
        const metadata = { namespace: systemNamespace, name };
        await plane.admin.apply(apiPath('Secret', metadata), {
          apiVersion: 'v1',
          kind: 'Secret',
          metadata,
          stringData,
        });
      }
      const { spec } = baseManifests.dialIn as { spec?: object };
      const dialIn = { ...baseManifests.dialIn, metadata: { namespace: 'team-a', name: 'alice' } };
      await plane.admin.apply(placesOf(dialIn).path, { ...dialIn, spec: { ...spec, addresses: [] } });
      const copies = `${apiPath('Secret', { namespace: systemNamespace })}?labelSelector=ovpn-operator.io/material`;
      await eventually('it has done its work', async () => {
        const claims = await plane.admin.get<{ items: unknown[] }>(apiPath('VpnAllocation'));
        const secrets = await plane.admin.get<{ items: unknown[] }>(copies);
        return claims.items.length > 0 && secrets.items.length > 0 ? true : undefined;
      });
      await plane.admin.delete(placesOf(dialIn).path);
      await plane.admin.delete(apiPath('VpnNetwork', { name: 'offices' }));
      await eventually('it has tidied up', async () =>
        (await plane.admin.get<{ items: unknown[] }>(copies)).items.length === 0 ? true : undefined,
      );
    } finally {
      await controller.stop();
    }
    const granted = await grantedRights(plane.admin, 'ovpn-controller', systemNamespace);
    const used = usedRights(requestsOf('ovpn-controller'), granted);
    expect(refusedOf('ovpn-controller')).toEqual([]);
    expect([...used].filter((right) => !granted.has(right))).toEqual([]);
  }, 120_000);
});
