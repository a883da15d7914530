import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { agentFieldManager } from '../../operator/src/cluster/status-writer.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import { type Answer, KubeUser } from '../support/kube/kube-user.ts';
import { eventually } from '../support/run.ts';

const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';
type Kind = 'VpnNetwork' | 'VpnKey' | 'VpnPeer';

/** What the agent of a node may write, by a token that the API server bound to a pod of that node. */
describe("an agent's status writes", () => {
  let plane: ControlPlane;
  let agents: { readonly a: KubeUser; readonly b: KubeUser };

  const where = (kind: Kind) => (kind === 'VpnNetwork' ? { name: 'corp' } : { namespace, name: 'alice' });
  const object = (kind: Kind, fields: object) => ({ apiVersion, kind, metadata: where(kind), ...fields });

  const say = (node: 'a' | 'b', kind: Kind, status: object): Promise<Answer> =>
    agents[node].send(
      'PATCH',
      `${apiPath(kind, where(kind))}/status?fieldManager=${agentFieldManager(`node-${node}`)}&force=true`,
      object(kind, { status }),
      'application/apply-patch+yaml',
    );

  const patch = (node: 'a' | 'b', kind: Kind, change: object): Promise<Answer> =>
    agents[node].send('PATCH', `${apiPath(kind, where(kind))}/status`, change, 'application/merge-patch+json');

  const statusOf = async (kind: Kind): Promise<unknown> =>
    (await plane.admin.get(apiPath(kind, where(kind))))['status'];

  const refused = ({ status, body }: Answer, message: string): void => {
    expect([status, body['message']]).toEqual([422, expect.stringContaining(message)]);
  };

  const entry = (name: string) => ({ name, ready: true, addresses: [], podBlocks: [], peers: 0, attachments: 0 });
  const installed = (node: string) => ({ node, generation: 1, since: '2026-01-01T00:00:00Z', spent: true });
  const condition = (type: string) => ({
    type,
    status: 'True',
    reason: type,
    message: '',
    lastTransitionTime: '2026-01-01T00:00:00Z',
  });

  beforeAll(async () => {
    plane = await ControlPlane.start();
    await plane.namespace(namespace);
    agents = { a: await plane.agentOf('node-a'), b: await plane.agentOf('node-b') };
    const make = (kind: Kind, spec: object) => plane.admin.apply(apiPath(kind, where(kind)), object(kind, { spec }));
    await make('VpnNetwork', { pools: { peers: ['10.8.0.0/16'] }, listeners: [{ name: 'udp', port: 1194 }] });
    await make('VpnKey', { issued: { networkRef: { name: 'corp' } } });
    await make('VpnPeer', { networkRef: { name: 'corp' }, identity: { commonName: 'alice' } });
    const asController = (kind: Kind, status: object) =>
      plane.admin.apply(`${apiPath(kind, where(kind))}/status`, object(kind, { status }), { manager: 'controller' });
    await asController('VpnNetwork', { conditions: [condition('Ready')], peers: 1 });
    await asController('VpnKey', { secretName: 'alice' });
    await asController('VpnPeer', { allocation: { number: 7, addresses: ['10.8.0.7'] } });
    // A policy is in force some moments after it was made. What is tried must be something new each time.
    let attempt = 100;
    await eventually('all the policies are in force', async () => {
      attempt += 1;
      const tries = [
        patch('a', 'VpnNetwork', { status: { peers: attempt } }),
        patch('a', 'VpnKey', { status: { secretName: `x-${attempt}` } }),
        patch('a', 'VpnPeer', { status: { allocation: { number: attempt, addresses: ['10.8.0.8'] } } }),
        agents.a.send('POST', apiPath('Lease', { namespace: systemNamespace }), {
          ...{ apiVersion: 'coordination.k8s.io/v1', kind: 'Lease' },
          metadata: { name: `x-${attempt}`, namespace: systemNamespace },
        }),
      ];
      return (await Promise.all(tries)).every(({ status }) => status === 422) ? true : undefined;
    });
    await asController('VpnNetwork', { conditions: [condition('Ready')], peers: 1 });
    await asController('VpnKey', { secretName: 'alice' });
    await asController('VpnPeer', { allocation: { number: 7, addresses: ['10.8.0.7'] } });
  }, 300_000);
  afterAll(() => plane.stop(), 60_000);

  test("of a network, an agent writes its own node's entry, and nobody else's", async () => {
    for (const node of ['a', 'b'] as const) {
      expect((await say(node, 'VpnNetwork', { nodes: [entry(`node-${node}`)] })).status).toBe(200);
    }
    const before = await statusOf('VpnNetwork');
    expect(before).toMatchObject({ nodes: [{ name: 'node-a' }, { name: 'node-b' }] });
    const own = 'its own entry of status.nodes only';
    refused(await say('a', 'VpnNetwork', { nodes: [entry('node-a'), { ...entry('node-b'), ready: false }] }), own);
    refused(await say('a', 'VpnNetwork', { nodes: [entry('node-a'), entry('node-c')] }), own);
    refused(await patch('a', 'VpnNetwork', { status: { nodes: [entry('node-a')] } }), own);
    for (const field of [{ peers: 5 }, { conditions: [] }, { pki: null, peerNamespaces: ['x'] }]) {
      refused(await patch('a', 'VpnNetwork', { status: field }), 'status.nodes only');
    }
    expect(await statusOf('VpnNetwork')).toEqual(before);
    expect((await say('a', 'VpnNetwork', {})).status).toBe(200);
    expect(await statusOf('VpnNetwork')).toMatchObject({ nodes: [{ name: 'node-b' }] });
  });

  test('of a key, an agent lets no certificate in, and speaks of no other node', async () => {
    for (const node of ['a', 'b'] as const) {
      const status = { conditions: [condition('Ready')], installations: [installed(`node-${node}`)] };
      expect((await say(node, 'VpnKey', status)).status).toBe(200);
    }
    const certificates = [{ fingerprint: 'AB', serialNumber: '1', notAfter: '2036-01-01T00:00:00Z' }];
    refused(await say('a', 'VpnKey', { certificates }), "the controller's to write");
    refused(await patch('a', 'VpnKey', { status: { secretName: 'other' } }), "the controller's to write");
    const own = 'its own entry of status.installations only';
    refused(await say('a', 'VpnKey', { installations: [installed('node-b'), installed('node-c')] }), own);
    refused(await patch('b', 'VpnKey', { status: { installations: [] } }), own);
    expect(await statusOf('VpnKey')).toMatchObject({ installations: [{ node: 'node-a' }, { node: 'node-b' }] });
  });

  test('of a peer, an agent says that it is here, and not that it is elsewhere', async () => {
    const connected = (node: string) => ({ node, endpoint: '192.0.2.1:1194', conditions: [condition('Connected')] });
    expect((await say('a', 'VpnPeer', connected('node-a'))).status).toBe(200);
    refused(await say('b', 'VpnPeer', { endpoint: '198.51.100.1:1194' }), 'the peer is not on node node-b');
    refused(await patch('b', 'VpnPeer', { status: { node: 'node-c' } }), 'may not say that the peer is on another');
    refused(await patch('b', 'VpnPeer', { status: { node: null } }), 'may not say that the peer is on another');
    refused(await say('a', 'VpnPeer', connected('node-b')), 'may not say that the peer is on another');
    refused(await say('a', 'VpnPeer', { allocation: { number: 1, addresses: ['10.8.0.1'] } }), "the controller's to");
    // It moves; then the node where it was has nothing more to say of it.
    expect((await say('b', 'VpnPeer', connected('node-b'))).status).toBe(200);
    expect((await say('a', 'VpnPeer', {})).status).toBe(200);
    expect(await statusOf('VpnPeer')).toMatchObject({ node: 'node-b', endpoint: '192.0.2.1:1194' });
    expect((await say('b', 'VpnPeer', {})).status).toBe(200);
    expect(await statusOf('VpnPeer')).toMatchObject({ allocation: { number: 7 } });
  });

  test('of a peer, an agent claims it for its own node, and never by a version that is past', async () => {
    const claim = (node: string, epoch: number): object => ({ node, epoch, since: '2026-01-01T00:00:00Z' });
    const version = async (): Promise<unknown> =>
      ((await plane.admin.get(apiPath('VpnPeer', where('VpnPeer'))))['metadata'] as Record<string, unknown>)[
        'resourceVersion'
      ];
    const say = (node: 'a' | 'b', holder: object, resourceVersion: unknown): Promise<Answer> => {
      const whole = object('VpnPeer', { status: { holder } });
      const metadata = { ...(whole as { metadata: object }).metadata, resourceVersion };
      const path = `${apiPath('VpnPeer', where('VpnPeer'))}/status?fieldManager=ovpn-agent-claim&force=true`;
      return agents[node].send('PATCH', path, { ...whole, metadata }, 'application/apply-patch+yaml');
    };
    const first = await version();
    refused(await say('a', claim('node-b', 1), first), 'may claim a peer for its own node only');
    expect((await say('a', claim('node-a', 1), first)).status).toBe(200);
    expect((await say('b', claim('node-b', 1), first)).status).toBe(409);
    expect((await say('b', claim('node-b', 2), await version())).status).toBe(200);
    expect(await statusOf('VpnPeer')).toMatchObject({ holder: { node: 'node-b', epoch: 2 } });
    refused(await patch('a', 'VpnPeer', { status: { holder: null } }), 'may claim a peer for its own node only');
  });

  test('an agent renews the Lease of its own node, and no other: not that of the controller, either', async () => {
    const path = (name?: string): string =>
      apiPath('Lease', { namespace: systemNamespace, ...(name === undefined ? {} : { name }) });
    const lease = (name: string, holderIdentity: string): object => ({
      ...{ apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: { name, namespace: systemNamespace } },
      spec: { holderIdentity, leaseDurationSeconds: 6 },
    });
    const renew = (node: 'a' | 'b', name: string, holderIdentity: string): Promise<Answer> =>
      agents[node].send('PATCH', path(name), { spec: { holderIdentity } }, 'application/merge-patch+json');
    await plane.admin.apply(path('ovpn-controller'), lease('ovpn-controller', 'controller-0'));
    expect((await agents.b.send('POST', path(), lease('ovpn-node-node-b', 'node-b'))).status).toBe(201);
    refused(await renew('a', 'ovpn-node-node-b', 'node-b'), 'may write the Lease ovpn-node-node-a only');
    refused(await renew('a', 'ovpn-node-node-b', ''), 'may write the Lease ovpn-node-node-a only');
    refused(await renew('a', 'ovpn-controller', 'node-a'), 'may write the Lease ovpn-node-node-a only');
    const made = await agents.a.send('POST', path(), lease('ovpn-node-node-c', 'node-a'));
    refused(made, 'may write the Lease ovpn-node-node-a only');
    refused(await agents.a.send('POST', path(), lease('ovpn-node-node-a', 'node-b')), 'may name no other holder');
    expect((await agents.a.send('POST', path(), lease('ovpn-node-node-a', 'node-a'))).status).toBe(201);
    expect((await renew('a', 'ovpn-node-node-a', '')).status).toBe(200);
    expect((await agents.a.send('DELETE', path('ovpn-node-node-b'))).status).toBe(403);
    expect(await plane.admin.get(path('ovpn-node-node-b'))).toMatchObject({ spec: { holderIdentity: 'node-b' } });
  });

  test('a token that is bound to no node writes nothing', async () => {
    const account = '/api/v1/namespaces/ovpn-system/serviceaccounts/ovpn-agent/token';
    const answer = (await plane.admin.must('POST', account, {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenRequest',
      spec: {},
    })) as { status: { token: string } };
    const { server, ca } = plane.admin.credentials;
    const unbound = new KubeUser(plane.folder, 'kubectl', { name: 'unbound', server, ca, token: answer.status.token });
    try {
      const path = `${apiPath('VpnNetwork', { name: 'corp' })}/status`;
      refused(
        await unbound.send('PATCH', path, { status: { nodes: [entry('node-a')] } }, 'application/merge-patch+json'),
        'is not bound to a node',
      );
    } finally {
      unbound.close();
    }
  });
});
