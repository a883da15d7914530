import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { baseManifests } from '../../operator/src/api/rule-cases.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { eventually } from '../support/run.ts';

const networks = '/apis/ovpn-operator.io/v1alpha1/vpnnetworks';

interface Listed {
  readonly items: readonly { readonly metadata: { readonly name: string; readonly namespace?: string } }[];
}

async function names(user: KubeUser, path: string): Promise<string[]> {
  return (await user.get<Listed>(path)).items.map(({ metadata }) => metadata.name);
}

describe('the control plane of tests', () => {
  let plane: ControlPlane;
  beforeAll(async () => {
    plane = await ControlPlane.start({ controllers: true });
  }, 180_000);
  afterAll(() => plane.stop());

  test('serves our kinds', async () => {
    expect(await names(plane.admin, networks)).toEqual([]);
    await plane.admin.apply(`${networks}/offices`, baseManifests.VpnNetwork);
    expect(await names(plane.admin, networks)).toEqual(['offices']);
    expect(await plane.admin.kubectl('get', 'vpnnetworks', '-o', 'name')).toBe('vpnnetwork.ovpn-operator.io/offices\n');
  });

  test("gives our processes the rights of the chart's roles and no others", async () => {
    const agent = await plane.agentOf('node-a');
    expect((await agent.send('GET', networks)).status).toBe(200);
    expect((await agent.send('GET', '/api/v1/namespaces/ovpn-system/secrets')).status).toBe(200);
    expect((await agent.send('GET', '/api/v1/secrets')).status).toBe(403);
    expect((await agent.send('GET', '/api/v1/namespaces/default/secrets')).status).toBe(403);
    expect((await agent.send('DELETE', `${networks}/offices`)).status).toBe(403);
    expect((await agent.send('POST', networks, baseManifests.VpnNetwork)).status).toBe(403);
  });

  test('notes every request', async () => {
    const controller = await plane.controller();
    await controller.send('GET', '/api/v1/namespaces/default/configmaps');
    const seen = await eventually('the request is noted', () =>
      plane
        .audit()
        .find(
          ({ user, objectRef }) =>
            user.username === 'system:serviceaccount:ovpn-system:ovpn-controller' &&
            objectRef?.resource === 'configmaps',
        ),
    );
    expect(seen.responseStatus?.code).toBe(403);
  });

  test('deletes a namespace with what is in it', async () => {
    await plane.namespace('team-a');
    const path = '/apis/ovpn-operator.io/v1alpha1/namespaces/team-a/vpnkeys/k';
    const key = { ...baseManifests.tlsKey, metadata: { namespace: 'team-a', name: 'k' } };
    await plane.admin.apply(path, key);
    await plane.admin.delete('/api/v1/namespaces/team-a');
    await eventually('the namespace is gone', async () =>
      (await plane.admin.send('GET', '/api/v1/namespaces/team-a')).status === 404 ? true : undefined,
    );
    expect((await plane.admin.send('GET', path)).status).toBe(404);
  });

  test('keeps what it has when the API server is killed and starts again', async () => {
    await plane.admin.apply(`${networks}/offices`, baseManifests.VpnNetwork);
    await plane.killApiServer();
    await expect(plane.admin.get(networks)).rejects.toThrow();
    await plane.startApiServer();
    await eventually(
      'the kinds are served again',
      async () => (await names(plane.admin, networks)).includes('offices') || undefined,
    );
  });

  test('runs beside another one that knows nothing of it', async () => {
    const other = await ControlPlane.start();
    try {
      expect(other.server).not.toBe(plane.server);
      expect(await names(other.admin, networks)).toEqual([]);
    } finally {
      await other.stop();
    }
  });
});
