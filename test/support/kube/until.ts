import type { VpnKey, VpnNetwork } from '../../../operator/src/api/types.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import { eventually } from '../run.ts';
import type { KubeUser } from './kube-user.ts';

/** What tests of a cluster wait for. */

type Nodes = NonNullable<NonNullable<VpnNetwork['status']>['nodes']>;

/** Waits until as many nodes of the network `corp` are connected with each other; answers what they say. */
export async function untilMesh(admin: KubeUser, nodes: number): Promise<Nodes> {
  let said: Nodes = [];
  return eventually(
    'the nodes are connected with each other',
    async () => {
      const { status } = await admin.get<VpnNetwork & Record<string, unknown>>(apiPath('VpnNetwork', { name: 'corp' }));
      said = status?.nodes ?? [];
      return said.length === nodes && said.every(({ mesh }) => mesh?.connected === nodes - 1) ? said : undefined;
    },
    { timeoutMs: 180_000 },
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}; at last: ${JSON.stringify(said)}`, { cause: error });
  });
}

/** The profile of a client whose VpnKey is issued, as a person takes it out of the Secret. */
export async function profileOf(admin: KubeUser, namespace: string, name: string): Promise<string> {
  await eventually(
    `the certificate of ${name}`,
    async () => {
      const { status } = await admin.get<VpnKey & Record<string, unknown>>(apiPath('VpnKey', { namespace, name }));
      return status?.certificates?.[0];
    },
    { timeoutMs: 120_000 },
  );
  const encoded = await admin.kubectl(
    ...['get', 'secret', name, '-n', namespace, '-o', 'jsonpath={.data.client\\.ovpn}'],
  );
  return Buffer.from(encoded, 'base64').toString();
}
