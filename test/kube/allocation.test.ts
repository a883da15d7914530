import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import type { VpnAllocation, VpnPeer } from '../../operator/src/api/types.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';

const apiVersion = 'ovpn-operator.io/v1alpha1';

const networkNamed = (name: string, spec: object = {}) => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name },
  spec: {
    pools: { peers: ['10.8.0.0/16', 'fd00:8::/64'], pods: ['10.9.0.0/16'] },
    listeners: [{ name: 'udp', port: 1194 }],
    pki: { secretRef: { name: 'pki' } },
    allowedPeers: { namespaces: { names: ['team-a'] } },
    ...spec,
  },
});

const client = (network: string, name: string, addresses: readonly string[] = []) => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'team-a', name },
  spec: { networkRef: { name: network }, identity: { commonName: name }, addresses },
});

const list = (...items: object[]): string => JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

describe('allocation by controllers on a real API server', () => {
  let plane: ControlPlane;
  let one: ControllerProcess;
  let other: ControllerProcess;

  beforeAll(async () => {
    plane = await ControlPlane.start({ controllers: true });
    await plane.namespace('team-a');
    await plane.agentOf('n1');
    await plane.agentOf('n2');
    one = new ControllerProcess('ovpn-controller-0', await plane.controller('ovpn-controller-0'));
    other = new ControllerProcess('ovpn-controller-1', await plane.controller('ovpn-controller-1'));
    await one.start();
    await other.start();
  }, 300_000);
  afterAll(async () => {
    await one.stop();
    await other.stop();
    await plane.stop();
  }, 60_000);

  const peers = async (network: string): Promise<VpnPeer[]> => {
    const { items } = await plane.admin.get<{ items: VpnPeer[] }>(apiPath('VpnPeer'));
    return items.filter(({ spec }) => spec.networkRef.name === network);
  };
  const claims = async (network: string): Promise<VpnAllocation[]> => {
    const { items } = await plane.admin.get<{ items: VpnAllocation[] }>(apiPath('VpnAllocation'));
    return items.filter(({ spec }) => spec.networkRef.name === network);
  };
  /** The addresses of all peers, once each has some. */
  const allocated = async (network: string): Promise<Map<string, readonly string[]>> =>
    eventually(
      'every peer has its addresses',
      async () => {
        const all = await peers(network);
        const has = all.filter(({ status }) => status?.allocation !== undefined);
        if (has.length < all.length) return undefined;
        return new Map(has.map(({ metadata, status }) => [metadata.name, status?.allocation?.addresses ?? []]));
      },
      { timeoutMs: 60_000 },
    );

  test('a network and peers without addresses: peers and nodes get theirs, and nobody the same', async () => {
    const names = Array.from({ length: 50 }, (_, n) => `p${n}`);
    await plane.admin.applyYaml(list(networkNamed('one'), ...names.map((name) => client('one', name))));
    const addresses = await allocated('one');
    expect(addresses.size).toBe(50);
    expect([...addresses.values()].every((held) => held.length === 2)).toBe(true);
    expect(new Set([...addresses.values()].flat()).size).toBe(100);
    const held = await eventually('nodes have numbers and blocks', async () => {
      const all = await claims('one');
      return all.filter(({ spec }) => spec.holder.kind === 'Node').length === 4 ? all : undefined;
    });
    expect(held).toHaveLength(54);
    const columns = await plane.admin.kubectl('get', 'vpnalloc', '-l', 'ovpn-operator.io/holder=Node');
    expect(columns).toMatch(/one\.pods\.0\s+one\s+Node\s+n[12]/);
    await plane.admin.kubectl('wait', '-n', 'team-a', 'vpnpeer/p0', '--for=condition=Allocated', '--timeout=10s');
  }, 120_000);

  test('a settled cluster costs no writes', async () => {
    const count = (): number => plane.audit().filter(isWriteOfController).length;
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const before = count();
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    expect(count()).toBe(before);
  }, 60_000);

  test('the leader dies while it works: the other one goes on, and nothing is given out twice', async () => {
    const before = await allocated('one');
    const names = Array.from({ length: 150 }, (_, n) => `q${n}`);
    const applying = plane.admin.applyYaml(list(...names.map((name) => client('one', name))));
    await eventually('some have theirs', async () =>
      (await peers('one')).filter(({ status }) => status?.allocation !== undefined).length > 60 ? true : undefined,
    );
    const leader = await leaderOf(plane);
    await (leader.startsWith(one.name) ? one : other).stop('SIGKILL');
    await applying;
    const addresses = await allocated('one');
    expect(addresses.size).toBe(200);
    expect(new Set([...addresses.values()].flat()).size).toBe(400);
    for (const [name, held] of before) expect(addresses.get(name)).toEqual(held);
    const dead = one.running ? other : one;
    await dead.start();
  }, 180_000);

  test('a stop gives the lead away at once', async () => {
    const leader = (await leaderOf(plane)).startsWith(one.name) ? one : other;
    const began = Date.now();
    await leader.stop();
    await eventually('another one leads', async () => {
      const holder = await leaderOf(plane);
      return holder !== '' && !holder.startsWith(leader.name) ? true : undefined;
    });
    expect(Date.now() - began).toBeLessThan(14_000);
    await leader.start();
  }, 60_000);

  test('a peer that is refused an address is told who has it', async () => {
    const [, held] = [...(await allocated('one'))][0]!;
    await plane.admin.applyYaml(list(client('one', 'late', [held[0]!])));
    const condition = await eventually('it is told', async () => {
      const { status } = await plane.admin.get<{ status?: VpnPeer['status'] }>(
        apiPath('VpnPeer', { namespace: 'team-a', name: 'late' }),
      );
      return status?.conditions?.find(({ type }) => type === 'Allocated');
    });
    expect(condition).toMatchObject({ status: 'False', reason: 'Conflict' });
    expect(condition.message).toContain(`${held[0]!} and ${held[1]!} is held by VpnPeer team-a/`);
    const events = await eventually('there is an Event', async () => {
      const { items } = await plane.admin.get<{
        items: { regarding: { name: string }; reason: string; action: string }[];
      }>(apiPath('Event', { namespace: 'team-a' }));
      const found = items.filter(
        ({ regarding, reason, action }) => regarding.name === 'late' && reason === 'Conflict' && action === 'Allocate',
      );
      return found.length > 0 ? found : undefined;
    });
    expect(events).toHaveLength(1);
  }, 60_000);

  test('everything is deleted, in an unlucky order and without a controller: no namespace hangs', async () => {
    await one.stop();
    await other.stop();
    await plane.admin.delete(apiPath('VpnNetwork', { name: 'one' }));
    await plane.admin.delete('/api/v1/namespaces/team-a');
    await eventually(
      'the namespace is gone',
      async () => ((await plane.admin.send('GET', '/api/v1/namespaces/team-a')).status === 404 ? true : undefined),
      { timeoutMs: 60_000 },
    );
    await one.start();
    await eventually(
      'all claims are given up',
      async () => ((await claims('one')).every(({ status }) => status?.releasedAt !== undefined) ? true : undefined),
      { timeoutMs: 60_000 },
    );
  }, 180_000);

  test('made no request that its role refuses', () => {
    const refused = plane
      .audit()
      .filter(({ user }) => user.username.endsWith(':ovpn-controller'))
      .filter(({ responseStatus }) => responseStatus?.code === 403);
    expect(refused.map(({ verb, requestURI }) => `${verb} ${requestURI}`)).toEqual([]);
  });
});

function isWriteOfController({ user, verb, objectRef }: ReturnType<ControlPlane['audit']>[number]): boolean {
  return (
    user.username.endsWith(':ovpn-controller') &&
    !['get', 'list', 'watch'].includes(verb) &&
    objectRef?.resource !== 'leases'
  );
}

async function leaderOf(plane: ControlPlane): Promise<string> {
  const lease = await plane.admin.get<{ spec: { holderIdentity?: string } }>(
    apiPath('Lease', { namespace: 'ovpn-system', name: 'ovpn-controller' }),
  );
  return lease.spec.holderIdentity ?? '';
}
