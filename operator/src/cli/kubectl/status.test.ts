import { describe, expect, test } from '@jest/globals';
import type { Condition, CustomKind } from '../../api/types.ts';
import { keyManifest, networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { type Finding, keyFindings, networkFindings, peerFindings } from './health.ts';
import { seen, type Seen } from './read.ts';
import { statusOf, statusText } from './status.ts';
import { ofNetwork, type View } from './view.ts';

const began = '2026-01-02T03:04:05Z';
const now = Date.parse('2026-01-02T04:04:05Z');

const condition = (type: string, reason: string, more: Partial<Condition> = {}): Condition => ({
  ...{ type, status: reason === type ? 'True' : 'False', reason, message: '' },
  ...{ lastTransitionTime: began, observedGeneration: 2 },
  ...more,
});

function object<K extends CustomKind>(kind: K, manifest: { metadata: object }, status?: object): Seen<K> {
  return seen(kind, { ...manifest, metadata: { ...manifest.metadata, generation: 2 }, ...(status && { status }) });
}
const network = (name: string, status?: object, spec: object = {}) =>
  object('VpnNetwork', networkManifest(name, spec), status);
const dialIn = {
  endpoint: undefined,
  keyRef: undefined,
  static: undefined,
  addresses: [],
  identity: { commonName: 'a' },
};
const dialOut = { static: undefined, addresses: [] };
const peer = (name: string, spec: object, ...conditions: Condition[]) =>
  object('VpnPeer', peerManifest(name, { networkRef: { name: 'corp' }, ...spec }), { conditions });

const of = <T>({ resource, problem }: { resource?: T; problem?: string }): T => {
  if (resource === undefined) throw new Error(problem);
  return resource;
};
const short = (findings: readonly Finding[]): string[] =>
  findings.map(({ condition: type = '', reason, stale }) => `${type}:${reason}${stale === true ? ' stale' : ''}`);

const good = [condition('Accepted', 'Accepted'), condition('ResolvedRefs', 'ResolvedRefs')];
const away = (reason: string, message = ''): Condition[] => [
  ...good,
  condition('Connected', reason, { message }),
  condition('Programmed', 'Pending', { message: 'the kernel has the peer while it is connected' }),
  condition('Ready', reason, { message }),
];
const conflict = { message: 'asks for 10.8.0.7, which VpnPeer a/b has; to mend it: take another address [OVPN107]' };

describe('what is not well', () => {
  test.each<[string, object, Condition[], string[]]>([
    ['a client that has not dialled in is', dialIn, away('WaitingForClient'), []],
    ['a client that left is', dialIn, away('Disconnected', 'the client left'), []],
    ['a client that shakes hands is', dialIn, away('Connecting'), []],
    ['a peer that is suspended is', { ...dialIn, suspend: true }, away('Suspended'), []],
    ['a static peer that is suspended is', { suspend: true }, away('Suspended'), []],
    ['a server that does not answer is not', dialOut, away('Connecting', 'shaking hands'), ['Connected:Connecting']],
    ['a server that threw us out is not', dialOut, away('Disconnected', 'left'), ['Connected:Disconnected']],
    ['a peer that nobody spoke of is not', dialIn, [], [':Pending']],
    [
      'a peer that is refused is not, and says so once',
      dialIn,
      [
        condition('Accepted', 'Conflict', conflict),
        condition('ResolvedRefs', 'ResolvedRefs'),
        condition('Connected', 'Pending', { message: 'nothing is connected; see the other conditions' }),
        condition('Ready', 'Conflict', conflict),
      ],
      ['Accepted:Conflict'],
    ],
    [
      'one that the kernel refused is not',
      {},
      [
        ...good,
        condition('Programmed', 'KernelRefused', { message: 'EINVAL' }),
        condition('Ready', 'KernelRefused', { message: 'EINVAL' }),
      ],
      ['Programmed:KernelRefused'],
    ],
    [
      'one that keeps others out is not',
      {},
      [...good, condition('Contested', 'Conflict', { status: 'True' }), condition('Ready', 'Ready')],
      ['Contested:Conflict'],
    ],
    ['one that is ready is', {}, [...good, condition('Ready', 'Ready')], []],
    [
      'one that changed since is not',
      {},
      [condition('Ready', 'Ready', { observedGeneration: 1 })],
      ['Ready:Stale stale'],
    ],
    [
      'one that was bad before it changed is said to be stale',
      {},
      [condition('Ready', 'KeySpent', { observedGeneration: 1 })],
      ['Ready:KeySpent stale'],
    ],
  ])('%s', (_, spec, conditions, findings) => {
    expect(short(peerFindings(of(peer('p', spec, ...conditions))))).toEqual(findings);
  });

  test('the remedy comes from the message, or from the reason', () => {
    const [one] = peerFindings(
      of(peer('p', {}, condition('Accepted', 'Conflict', conflict), condition('Ready', 'Ready'))),
    );
    expect(one).toMatchObject({
      message: 'asks for 10.8.0.7, which VpnPeer a/b has [OVPN107]',
      remedy: 'take another address',
      since: began,
    });
    const dialled = of(peer('p', dialOut, ...away('Connecting', 'shaking hands with 192.0.2.1:1194')));
    const failed = { ...dialled, status: { ...dialled.status, lastError: 'no answer within 20 s' } };
    expect(peerFindings(failed)[0]).toMatchObject({
      message: 'shaking hands with 192.0.2.1:1194; last: no answer within 20 s',
      remedy: expect.stringContaining('the server runs'),
    });
  });

  test('a network speaks of its nodes, and of those that its mesh lacks', () => {
    const node = { ready: true, peers: 0, attachments: 0 };
    const status = {
      conditions: [condition('Ready', 'NodesNotReady', { message: '1 of 3 nodes are not ready; b: no driver' })],
      nodes: [
        { ...node, name: 'a', mesh: { neighbours: 2, connected: 1 } },
        { ...node, name: 'b', ready: false, message: 'no driver; to mend it: load it [OVPN301]' },
        { ...node, name: 'c', mesh: { neighbours: 2, connected: 2 } },
      ],
    };
    const spec = { mesh: {}, pki: { builtIn: {} }, nodes: [] };
    expect(networkFindings(of(network('corp', status, spec)))).toMatchObject([
      { condition: 'Ready', reason: 'NodesNotReady' },
      { node: 'b', reason: 'NotReady', message: 'no driver [OVPN301]', remedy: 'load it' },
      { node: 'a', reason: 'MeshIncomplete', message: 'is connected to 1 of the 2 other nodes of the mesh' },
    ]);
  });

  test('of a key that nobody uses nothing is said; what was revoked on purpose is well', () => {
    expect(keyFindings(of(object('VpnKey', keyManifest('k'))))).toEqual([]);
    const issued = (more: object) => ({
      ...keyManifest('k'),
      spec: { issued: { networkRef: { name: 'corp' }, ...more } },
    });
    expect(short(keyFindings(of(object('VpnKey', issued({})))))).toEqual([':Pending']);
    const revoked = { conditions: [condition('Ready', 'Revoked')] };
    expect(short(keyFindings(of(object('VpnKey', issued({ revoked: true }), revoked))))).toEqual([]);
    const soon = {
      conditions: [condition('Ready', 'Ready'), condition('Expiring', 'ExpiresSoon', { status: 'True' })],
    };
    expect(short(keyFindings(of(object('VpnKey', keyManifest('k'), soon))))).toEqual(['Expiring:ExpiresSoon']);
  });
});

describe('the report', () => {
  const corp = network('corp', {
    conditions: [condition('Ready', 'NodesNotReady', { message: '1 of 2 nodes are not ready; b: no driver' })],
    ...{ nodesWanted: 2, nodesReady: 1, peers: 7, peersConnected: 6 },
    pools: { numbers: { used: 3, total: 65_000 } },
    nodes: [
      { name: 'b', ready: false, peers: 0, attachments: 0, message: 'no driver' },
      { name: 'a', ready: true, peers: 1, attachments: 2, addresses: ['10.8.0.1'], device: 'ovpn0', mtu: 1420 },
    ],
  });
  const view: View = {
    networks: [corp, network('lab', { conditions: [condition('Ready', 'Ready')], nodesWanted: 1, nodesReady: 1 })],
    peers: [
      peer('alice', dialIn, ...good, condition('Connected', 'Connected'), condition('Ready', 'Ready')),
      peer('bob', dialIn, ...away('WaitingForClient')),
      peer('office', {}, ...good, condition('Ready', 'KeySpent', { message: 'is spent' })),
    ],
    keys: [],
    whole: true,
    notes: [],
  };

  test('shows networks, and what is not well with its remedy', () => {
    expect(statusText(statusOf(view), now, false, false)).toBe(`NETWORK   NODES   PEERS   STATE
corp      1/2     1/3     NodesNotReady
lab       1/1     0/0     Ready

Not well (3):

VpnNetwork corp: Ready: NodesNotReady (for 60m)
  1 of 2 nodes are not ready; b: no driver
  to mend it: see what its nodes say, and their logs: \`kubectl ovpn logs --node NODE\`

VpnNetwork corp on node b: NotReady
  no driver
  to mend it: see what its nodes say, and their logs: \`kubectl ovpn logs --node NODE\`

VpnPeer team-a/office: Ready: KeySpent (for 60m)
  is spent
  to mend it: read the message; docs/troubleshooting.md goes on from symptoms
`);
  });

  test('of one network shows its nodes', () => {
    const text = statusText(statusOf(ofNetwork(view, 'corp')), now, true, true);
    expect(text).toContain('corp      1/2     1/3     NodesNotReady   3/65000');
    expect(text).toContain('\na      True    1       2      10.8.0.1');
    expect(text).not.toContain('lab');
    expect(() => ofNetwork(view, 'crop')).toThrow('did you mean "corp"?');
  });

  test('counts by the controller where not all peers may be seen, and by peers where networks may not', () => {
    const part = { ...view, whole: false, notes: ['you may not look into all namespaces: shown is namespace team-a'] };
    expect(statusOf(part).networks[0]).toMatchObject({ peers: 7, peersConnected: 6 });
    expect(statusText(statusOf(part), now, false, false)).toContain('\n\nyou may not look');
    const { networks, findings } = statusOf({ ...part, networks: undefined });
    expect(networks).toMatchObject([{ name: 'corp', peers: 3, peersConnected: 1, state: '?' }]);
    expect(short(findings)).toEqual(['Ready:KeySpent']);
  });

  test('names what it does not understand', () => {
    const strange = seen('VpnNetwork', { ...networkManifest('odd'), spec: { pools: 'all' } });
    const { networks, findings } = statusOf({ ...view, networks: [strange], peers: [] });
    expect(networks).toMatchObject([{ name: 'odd', state: 'NotUnderstood' }]);
    expect(findings).toMatchObject([{ reason: 'NotUnderstood', object: { name: 'odd' } }]);
  });

  test('of nothing is short', () => {
    expect(statusText(statusOf({ ...view, networks: [], peers: [] }), now, false, false)).toBe(
      'There is no VpnNetwork.\n',
    );
  });
});
