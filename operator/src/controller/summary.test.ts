import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import type { Holder, VpnNetwork, VpnPeer } from '../api/types.ts';
import { networkManifest } from '../cluster/testing/objects.ts';
import { ObjectCache } from '../cluster/informer.ts';
import { type NetworkFigures, NetworkSummary, summarise } from './summary.ts';

const now = Date.parse('2026-05-06T07:08:09Z');

function figures(nodes: object[], more: Partial<NetworkFigures> = {}): NetworkFigures {
  const manifest = networkManifest('corp', { pools: { peers: ['10.8.0.0/24'], pods: ['10.9.0.0/22'] }, nodes: [] });
  const metadata = { ...manifest.metadata, generation: 3 };
  const result = parseResource({ ...manifest, metadata, status: { nodes } }, 'test');
  if (!result.ok) throw result.errors[0]!;
  return {
    network: result.resource as VpnNetwork,
    nodesWanted: ['n1', 'n2'],
    peers: 5,
    peersConnected: 2,
    numbersUsed: 7,
    blocksUsed: 2,
    peerNamespaces: undefined,
    now,
    ...more,
  };
}

const node = (name: string, ready: boolean, message?: string) => ({
  ...{ name, ready, peers: 0, attachments: 0 },
  ...(message === undefined ? {} : { message }),
});

const readyOf = (given: NetworkFigures): string => {
  const [ready] = summarise(given).conditions ?? [];
  return `${ready?.status ?? ''} ${ready?.reason ?? ''} ${ready?.message ?? ''}`.trim();
};

describe('the summary of a network', () => {
  test('counts nodes, peers, numbers and blocks', () => {
    expect(summarise(figures([node('n1', true), node('n2', true)]))).toEqual({
      observedGeneration: 3,
      conditions: [
        {
          type: 'Ready',
          status: 'True',
          observedGeneration: 3,
          lastTransitionTime: '2026-05-06T07:08:09Z',
          reason: 'Ready',
          message: '',
        },
      ],
      nodesWanted: 2,
      nodesReady: 2,
      peers: 5,
      peersConnected: 2,
      pools: { numbers: { used: 7, total: 254 }, podBlocks: { used: 2, total: 8 } },
    });
  });

  test.each([
    [
      [node('n1', true), node('n2', false, 'no port')],
      {},
      'False NodesNotReady 1 of 2 nodes are not ready; n2: no port',
    ],
    [[node('n1', true)], {}, 'False NodesNotReady 1 of 2 nodes are not ready; n2: its agent has not said that it is'],
    // What a node says that no longer takes part counts for nothing.
    [[node('n1', true), node('n3', false, 'old')], { nodesWanted: ['n1'] }, 'True Ready'],
    [[], { nodesWanted: [] }, 'False NoNodes spec.nodeSelector selects no Node'],
  ])('of %j with %j is %s', (nodes, more, wanted) => expect(readyOf(figures(nodes, more))).toBe(wanted));
});

describe('the summary of cluster access', () => {
  const accessOf = (nodes: object[], more: Partial<NetworkFigures> = {}, on = true): string => {
    const given = figures(nodes, more);
    const clusterAccess = {
      ...{ enabled: true, pods: ['10.244.0.0/16'], services: [], dns: { servers: [], domains: [] } },
      allow: [{ to: [] }],
    };
    const network = on ? { ...given.network, spec: { ...given.network.spec, clusterAccess } } : given.network;
    const found = summarise({ ...given, network }).conditions?.find(({ type }) => type === 'ClusterAccessReady');
    return found === undefined ? 'none' : `${found.status} ${found.reason} ${found.message}`.trim();
  };
  const forwards = { ready: true, reason: 'Ready' };
  const withAccess = (name: string, clusterAccess: object) => ({ ...node(name, true), clusterAccess });

  test.each<[string, object[], Partial<NetworkFigures>, string]>([
    ['all nodes', [withAccess('n1', forwards), withAccess('n2', forwards)], {}, 'True ClusterAccessReady'],
    [
      'one that does not forward',
      [withAccess('n1', forwards), withAccess('n2', { ready: false, reason: 'ForwardingDisabled', message: 'off' })],
      {},
      'False ForwardingDisabled 1 of 2 nodes do not give access to the cluster; n2: off',
    ],
    [
      'one that says nothing, and one with a reason of a later version',
      [withAccess('n2', { ready: false, reason: 'Moonshine', message: 'new' })],
      { nodesWanted: ['n2', 'n1'] },
      'False NodesNotReady 2 of 2 nodes do not give access to the cluster; n2: new',
    ],
    ['no node', [], { nodesWanted: [] }, 'False NoNodes spec.nodeSelector selects no Node'],
  ])('by %s', (_name, nodes, more, wanted) => expect(accessOf(nodes, more)).toBe(wanted));

  test('is not made where there is to be no access', () => {
    expect(accessOf([withAccess('n1', forwards)], {}, false)).toBe('none');
  });
});

/** As a watch fills it. */
class PeerCache extends ObjectCache<VpnPeer> {
  bring(object: object): void {
    this.put(this.decode(object));
  }
}

describe('a peer that another node takes over', () => {
  const holder = (node: string, epoch: number, reason?: string): Holder => ({
    ...{ node, epoch, since: '2026-01-01T00:00:00Z' },
    ...(reason === undefined ? {} : { reason, previousNode: 'a' }),
  });

  test.each<[string, Holder | undefined, Holder, string | undefined]>([
    [
      'from one that is lost',
      holder('a', 1),
      holder('b', 2, 'NodeLost'),
      'Warning NodeLost: node b took it over from node a, which did not renew its lease',
    ],
    [
      'from one that gave it up',
      holder('a', 1),
      holder('b', 2, 'NodeReleased'),
      'Normal NodeReleased: node b took it over from node a, which gave it up',
    ],
    ['that nobody had', undefined, holder('b', 1, 'Placed'), undefined],
    ['as is known already', holder('b', 2, 'NodeLost'), holder('b', 2, 'NodeLost'), undefined],
    ['as a client that moves', holder('a', 1), holder('b', 2), undefined],
  ])('%s', (_, before, now, expected) => {
    const caches = Object.fromEntries(
      ['networks', 'peers', 'allocations', 'nodes', 'namespaces'].map((name) => [
        name,
        new ObjectCache(() => undefined),
      ]),
    );
    const peers = new PeerCache((object) => object as VpnPeer);
    const told: string[] = [];
    const summary = new NetworkSummary({
      caches: { ...caches, peers },
      events: {
        record: (about: object, { type, reason, note }: Record<'type' | 'reason' | 'note', string>) => {
          expect(about).toMatchObject({ kind: 'VpnPeer', namespace: 'team', name: 'office', uid: 'u' });
          told.push(`${type} ${reason}: ${note}`);
        },
      },
    } as never);
    summary.watch(() => undefined);
    const put = (version: string, said: Holder | undefined): void =>
      peers.bring({
        metadata: { namespace: 'team', name: 'office', uid: 'u', resourceVersion: version },
        spec: { networkRef: { name: 'corp' } },
        status: said === undefined ? {} : { holder: said },
      });
    put('1', before);
    put('2', now);
    expect(told).toEqual(expected === undefined ? [] : [expected]);
  });
});
