import { describe, expect, test } from '@jest/globals';
import { vethName } from '../../../operator/src/agent/names.ts';
import type { NodeReport } from '../../../operator/src/agent/report.ts';
import type { VpnNetwork, VpnPeer } from '../../../operator/src/api/types.ts';
import { violations, type World } from './invariants.ts';
import type { NodeKernel } from './node-kernel.ts';

/** Two nodes: a has the remote `office`, b the client `ann`, and each a pod. */

interface Draft {
  network: { status: { nodes: Record<string, unknown>[]; peersConnected: number } };
  peers: { spec: { routes: string[] }; status: Record<string, unknown> }[];
  kernels: Record<keyof NodeKernel, never>[];
  reports: { networks: { peers: unknown[]; neighbours: unknown[]; attachments: unknown[] }[] }[];
  pods: { addresses: string[] }[];
  records: Map<string, string[]>;
  clients: Map<string, string[]>;
}

const yes = (type: string): object => ({ type, status: 'True' });
const far = (pod: string): string => vethName({ containerId: pod, ifname: 'vpn0' });
const device = 'dial-0123456789';

function node(name: 'a' | 'b', pod: string, others: object): object {
  return {
    ...{ node: name, namespaces: ['ovpn-corp'], mtu: 1400, filter: 'filter' },
    addresses: [name === 'a' ? '10.80.0.1' : '10.80.0.2'],
    host: { links: ['eth0', 'lo'], routes: [], filter: '' },
    links: ['lo', 'ovpn0', far(pod), ...(name === 'a' ? [device] : [])],
    ...others,
  };
}

const remoteOf = (port: number): object => ({ remote: { address: '203.0.113.9', port } });

function whole(): Draft & World {
  const nodes = ['a', 'b'].map((name, i) => ({
    ...{ name, ready: true, mtu: 1400, attachments: 1, mesh: { neighbours: 1, connected: 1 } },
    ...{ addresses: [`10.80.0.${i + 1}`], podBlocks: [`10.81.${i + 1}.0/24`] },
  }));
  const report = (name: string, peers: number[], neighbour: number, pod: string): object => ({
    ...{ node: name, rejections: [] },
    networks: [
      {
        peers: [...peers.map((peerId) => ({ peerId })), {}],
        neighbours: [{ node: name === 'a' ? 'b' : 'a', peerId: neighbour, connected: true }],
        attachments: [{ containerId: pod }],
      },
    ],
  });
  const world = {
    network: {
      metadata: { name: 'corp' },
      status: { nodes, peersConnected: 2, nodesReady: 2 },
    } as unknown as VpnNetwork,
    peers: [
      {
        ...{ metadata: { name: 'ann' }, spec: { identity: {}, routes: [] } },
        status: {
          ...{ allocation: { addresses: ['10.80.0.7'] }, addresses: ['10.80.0.7'], holder: { node: 'b' }, node: 'b' },
          ...{ conditions: [yes('Connected'), yes('Ready')], peerID: 7, endpoint: '203.0.113.9:1007' },
        },
      },
      {
        ...{ metadata: { name: 'office' }, spec: { endpoint: {}, routes: ['192.168.50.0/24'] } },
        status: {
          ...{ holder: { node: 'a' }, node: 'a', conditions: [yes('Connected'), yes('Ready')] },
          ...{ peerID: 3, endpoint: '203.0.113.9:1194' },
        },
      },
    ] as unknown as VpnPeer[],
    kernels: [
      node('a', 'pod-a', {
        peers: [{ id: 12, keys: '1/-', vpnIpv4: '10.80.0.2' }],
        dialled: [{ device, of: 'office', peer: { id: 3, ...remoteOf(1194) } }],
        routes: [
          `10.81.1.2/32 dev ${far('pod-a')}`,
          '10.81.2.0/24 via 10.80.0.2 dev ovpn0',
          '10.80.0.7/32 via 10.80.0.2 dev ovpn0',
          `10.90.0.1/32 dev ${device}`,
          `192.168.50.0/24 dev ${device}`,
          'unreachable 192.168.50.0/24',
        ],
      }),
      node('b', 'pod-b', {
        peers: [
          { id: 12, keys: '1/0', vpnIpv4: '10.80.0.1' },
          { id: 7, keys: '0/-', vpnIpv4: '10.80.0.7', ...remoteOf(1007) },
        ],
        dialled: [],
        routes: [
          `10.81.2.2/32 dev ${far('pod-b')}`,
          '10.81.1.0/24 via 10.80.0.1 dev ovpn0',
          '192.168.50.0/24 via 10.80.0.1 dev ovpn0',
          'unreachable 192.168.50.0/24',
        ],
      }),
    ] as unknown as NodeKernel[],
    reports: [report('a', [3], 12, 'pod-a'), report('b', [7], 12, 'pod-b')] as unknown as NodeReport[],
    pods: [
      { node: 'a', containerId: 'pod-a', addresses: ['10.81.1.2'] },
      { node: 'b', containerId: 'pod-b', addresses: ['10.81.2.2'] },
    ],
    records: new Map([
      ['a/pod-a', ['10.81.1.2']],
      ['b/pod-b', ['10.81.2.2']],
    ]),
    clients: new Map([['ann', ['10.80.0.7']]]),
    remotes: new Map([['office', ['10.90.0.1']]]),
    filters: { network: 'filter', host: '' },
  };
  return world as unknown as Draft & World;
}

/** Changes a field of what is read-only for everybody else. */
const put = (object: unknown, change: object): unknown => Object.assign(object as object, change);

describe('a cluster that is healed', () => {
  test('has nothing wrong when all is as it should be', () => {
    expect(violations(whole())).toEqual([]);
  });

  test.each<[string, (world: Draft) => unknown, RegExp]>([
    [
      'an address of two pods',
      ({ pods }) => put(pods[1], { addresses: ['10.81.1.2'] }),
      /10\.81\.1\.2 is owned by pod/,
    ],
    [
      'a record of a pod that is gone',
      ({ records }) => records.set('b/old', ['10.81.2.2']),
      /owned by pod b\/pod-b.*pod b\/old/,
    ],
    [
      'an address of a client that is a node, too',
      ({ clients }) => clients.set('ann', ['10.80.0.1']),
      /10\.80\.0\.1 is owned/,
    ],
    [
      'a namespace left over',
      ({ kernels }) => put(kernels[0], { namespaces: ['ovpn-corp', 'ovpn-old'] }),
      /namespace: ovpn-old is there/,
    ],
    [
      'a veth left over',
      ({ kernels }) => put(kernels[1], { links: ['lo', 'ovpn0', far('pod-b'), far('x')] }),
      /b: interface: veth\w+ is there/,
    ],
    [
      'a peer left over',
      ({ kernels }) =>
        put(kernels[0], {
          peers: [
            { id: 12, keys: '1/-', vpnIpv4: '10.80.0.2' },
            { id: 7, keys: '1/-', vpnIpv4: '10.80.0.7' },
          ],
        }),
      /a: peer in the kernel: 10\.80\.0\.7 is there/,
    ],
    ['a peer missing', ({ kernels }) => put(kernels[0], { peers: [] }), /10\.80\.0\.2 is missing/],
    [
      'a peer without a key',
      ({ kernels }) => put(kernels[0], { peers: [{ id: 12, keys: '-/1', vpnIpv4: '10.80.0.2' }] }),
      /peer 12 .* has no key/,
    ],
    [
      'a route left over',
      ({ kernels }) => put(kernels[1], { routes: ['10.80.0.7/32 via 10.80.0.1 dev ovpn0'] }),
      /route: 10\.80\.0\.7.* is there/,
    ],
    [
      'a refusing route missing',
      ({ kernels }) => put(kernels[1], { routes: [] }),
      /unreachable 192\.168\.50\.0\/24 is missing/,
    ],
    [
      'two nodes with the remote',
      ({ kernels }) => put(kernels[1], { dialled: [{ device, of: 'office', peer: { id: 1 } }] }),
      /b: remote with a tunnel: office is there/,
    ],
    ['another filter', ({ kernels }) => put(kernels[0], { filter: '' }), /a: the network's filter is another one/],
    [
      'an interface of the host',
      ({ kernels }) => put(kernels[0], { host: { links: ['eth0', 'lo', 'ovpn0'], routes: [], filter: '' } }),
      /interface of the host: ovpn0 is there/,
    ],
    [
      'a status with another peer id',
      ({ peers }) => put(peers[0]?.status, { peerID: 8 }),
      /VpnPeer ann: peerID is 8, and ought to be 7/,
    ],
    [
      'a status with another endpoint',
      ({ peers }) => put(peers[1]?.status, { endpoint: '203.0.113.9:1' }),
      /VpnPeer office: endpoint/,
    ],
    [
      'a status of a node that has it no more',
      ({ peers }) => put(peers[1]?.status, { node: 'b' }),
      /VpnPeer office: node is "b"/,
    ],
    [
      'a status of a client that has gone',
      ({ clients }) => clients.delete('ann'),
      /Connected is True, and its client is not/,
    ],
    [
      'a count of the network',
      ({ network }) => put(network.status, { peersConnected: 1 }),
      /peersConnected is 1, and ought to be 2/,
    ],
    [
      'a mesh that is not whole',
      ({ network }) => put(network.status.nodes[0], { mesh: { neighbours: 1, connected: 0 } }),
      /network, a: mesh/,
    ],
    [
      'an agent that says another peer',
      ({ reports }) => put(reports[1]?.networks[0], { peers: [] }),
      /report of b: peer id: 7 is missing/,
    ],
    [
      'an agent that has no neighbour',
      ({ reports }) =>
        put(reports[1]?.networks[0], { neighbours: [{ node: 'a', peerId: 12, connected: false, message: 'why' }] }),
      /not connected to a: why/,
    ],
    [
      'an agent that has another pod',
      ({ reports }) => put(reports[0]?.networks[0], { attachments: [] }),
      /attachment: pod-a is missing/,
    ],
  ])('is found out: %s', (_, breakIt, finding) => {
    const world = whole();
    breakIt(world);
    const found = violations(world);
    expect(found.length).toBeGreaterThan(0);
    expect(found.join('\n')).toMatch(finding);
  });
});
