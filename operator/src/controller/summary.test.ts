import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import type { VpnNetwork } from '../api/types.ts';
import { networkManifest } from '../cluster/testing/objects.ts';
import { type NetworkFigures, summarise } from './summary.ts';

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
