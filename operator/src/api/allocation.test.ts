import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  addressesOfNumber,
  blockCount,
  claimName,
  isFixedBlock,
  numberOfAddress,
  numberRange,
  parseClaimName,
  podBlocksOf,
  withAdmittedNamespaces,
  withAllocatedAddresses,
  withAllocatedNodes,
} from './allocation.ts';
import { contains, overlaps, parseAddress, parseCidr } from './ip.ts';
import { parseResource } from './parse.ts';
import { apiVersion, type Resource, type VpnAllocation, type VpnNetwork, type VpnPeer } from './types.ts';

function parsed(manifest: object): Resource {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0]!;
  return result.resource;
}

const network = (spec: object, status?: object): VpnNetwork =>
  parsed({
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name: 'corp' },
    spec: { pools: { peers: ['10.8.0.0/16'] }, listeners: [{ name: 'udp', port: 1194 }], ...spec },
    ...(status === undefined ? {} : { status }),
  }) as VpnNetwork;

describe('numbers', () => {
  test.each([
    [['10.8.0.0/24'], 1n, ['10.8.0.1']],
    [['10.8.0.0/24'], 254n, ['10.8.0.254']],
    [['10.8.0.0/24'], 255n, []],
    [['10.8.0.0/24'], 0n, []],
    [['10.8.0.0/31'], 0n, ['10.8.0.0']],
    [['10.8.0.4/32'], 0n, ['10.8.0.4']],
    [['10.8.255.0/20', 'fd00::/64'], 300n, ['10.8.241.44', 'fd00::12c']],
    [['10.8.0.0/30', 'fd00::/64'], 3n, ['fd00::3']],
    [['fd00::/64'], 0n, []],
    [['fd00::/127'], 0n, ['fd00::']],
    [['fd00::/64'], 2n ** 64n - 1n, ['fd00::ffff:ffff:ffff:ffff']],
  ])('in %j, %d stands for %j', (peers, number, addresses) => {
    expect(addressesOfNumber({ peers }, number)).toEqual(addresses);
  });

  test.each([
    [['10.8.0.0/24'], { first: 1, last: 254 }],
    [['10.8.0.0/31'], { first: 0, last: 1 }],
    [['10.8.0.0/24', 'fd00::/64'], { first: 1, last: 254 }],
    [['10.8.0.0/16', 'fd00::/120'], { first: 1, last: 255 }],
    [['fd00::/64'], { first: 1, last: 0x7fffff }],
  ])('of %j are given out %j', (peers, range) => expect(numberRange({ peers })).toEqual(range));

  test('an address stands for the number that stands for it', () => {
    const pool = fc
      .tuple(fc.nat(2 ** 32 - 1), fc.integer({ min: 8, max: 32 }))
      .map(
        ([base, length]) =>
          parseCidr(`${base >>> 24}.${(base >> 16) & 255}.${(base >> 8) & 255}.${base & 255}/${length}`)!.text,
      );
    fc.assert(
      fc.property(pool, fc.nat(2 ** 24), (text, number) => {
        const peers = [text];
        for (const address of addressesOfNumber({ peers }, BigInt(number))) {
          expect(contains(parseCidr(text)!, parseAddress(address)!)).toBe(true);
          expect(numberOfAddress({ peers }, address)).toBe(BigInt(number));
        }
      }),
    );
  });

  test('an address outside of the pools has none', () => {
    expect(numberOfAddress({ peers: ['10.8.0.0/24'] }, '10.8.1.0')).toBeUndefined();
    expect(numberOfAddress({ peers: ['10.8.0.0/24'] }, 'fd00::1')).toBeUndefined();
  });
});

describe('blocks of pod addresses', () => {
  const lengths = { ipv4: 25, ipv6: 120 };
  test.each([
    [['10.9.0.0/24'], 2],
    [['10.9.0.0/26'], 1],
    [['10.0.0.0/8', 'fd01::/64'], 65_536],
    [['10.9.0.0/24', 'fd01::/64'], 2],
    [['fd01::/119'], 2],
    [[], 0],
  ])('%j has %d', (pods, count) => expect(blockCount({ pods, podBlockLengths: lengths })).toBe(count));

  test('they are of the size that is asked for, do not overlap, and end with the pool', () => {
    const pools = { pods: ['10.9.0.0/22', 'fd01::/64'], podBlockLengths: lengths };
    const blocks = Array.from({ length: 8 }, (_, index) => podBlocksOf(pools, index));
    expect(blocks[0]).toEqual(['10.9.0.0/25', 'fd01::/120']);
    expect(blocks[7]).toEqual(['10.9.3.128/25', 'fd01::700/120']);
    expect(podBlocksOf(pools, 8)).toEqual([]);
    const all = blocks.flat().map((text) => parseCidr(text)!);
    expect(all.some((one, i) => all.some((other, j) => i < j && overlaps(one, other)))).toBe(false);
  });

  test('one that shares addresses with a fixed block is not given out', () => {
    const fixed = network({
      pools: { peers: ['10.8.0.0/16'], pods: ['10.9.0.0/22'] },
      nodes: [{ name: 'n1', addresses: ['10.8.0.1'], podBlocks: ['10.9.1.64/26'] }],
    });
    expect([0, 1, 2, 3].map((index) => isFixedBlock(fixed, index))).toEqual([false, false, true, false]);
  });
});

describe('names of claims', () => {
  test.each(['corp.7', 'corp.pods.3', 'a-b.18446744073709551615'])('%s is one', (name) => {
    expect(claimName(parseClaimName(name)!)).toBe(name);
  });
  test.each(['corp', 'corp.', 'corp.07', 'corp.pods', 'corp.pods.x', '.7', 'a.b.7', 'corp.-1', 'corp.7.'])(
    '%j is none',
    (name) => expect(parseClaimName(name)).toBeUndefined(),
  );
});

describe('what was decided becomes part of what is read', () => {
  const held = (name: string, node: string, released = false): VpnAllocation =>
    parsed({
      apiVersion,
      kind: 'VpnAllocation',
      metadata: { name },
      spec: { networkRef: { name: 'corp' }, holder: { kind: 'Node', name: node } },
      ...(released ? { status: { releasedAt: '2026-01-01T00:00:00Z' } } : {}),
    }) as VpnAllocation;
  const pools = { peers: ['10.8.0.0/16'], pods: ['10.9.0.0/22'] };

  test('a network gets the nodes that hold a number, and leaves fixed ones as they are', () => {
    const plain = network({ pools, nodes: [{ name: 'n1', addresses: ['10.8.0.1'] }] });
    const claims = [held('corp.5', 'n1'), held('corp.6', 'n2'), held('corp.pods.1', 'n2'), held('corp.9', 'n3', true)];
    expect(withAllocatedNodes(plain, claims).spec.nodes).toEqual([
      { name: 'n1', addresses: ['10.8.0.1'], podBlocks: [], underlayAddresses: [] },
      { name: 'n2', addresses: ['10.8.0.6'], podBlocks: ['10.9.0.128/25'], underlayAddresses: [] },
    ]);
    expect(withAllocatedNodes(plain, [held('corp.pods.1', 'n2')])).toBe(plain);
  });

  test('of two numbers of a node the lower counts, for everybody', () => {
    const plain = network({ pools, nodes: [] });
    for (const claims of [
      [held('corp.7', 'n2'), held('corp.30', 'n2')],
      [held('corp.30', 'n2'), held('corp.7', 'n2')],
    ]) {
      expect(withAllocatedNodes(plain, claims).spec.nodes).toEqual([
        { name: 'n2', addresses: ['10.8.0.7'], podBlocks: [], underlayAddresses: [] },
      ]);
    }
  });

  test('a peer gets its addresses unless its spec names some', () => {
    const peer = (addresses: string[]): VpnPeer =>
      parsed({
        apiVersion,
        kind: 'VpnPeer',
        metadata: { namespace: 'team-a', name: 'p' },
        spec: { networkRef: { name: 'corp' }, identity: { commonName: 'p' }, addresses },
        status: { allocation: { number: 9, addresses: ['10.8.0.9'] } },
      }) as VpnPeer;
    expect(withAllocatedAddresses(peer([])).spec.addresses).toEqual(['10.8.0.9']);
    expect(withAllocatedAddresses(peer(['10.8.0.7'])).spec.addresses).toEqual(['10.8.0.7']);
  });

  test('a selector of namespaces becomes the names that were found', () => {
    const allowedPeers = { namespaces: { from: 'Selector', selector: { matchLabels: { team: 'a' } } } };
    const namespacesOf = (one: VpnNetwork): object => withAdmittedNamespaces(one).spec.allowedPeers.namespaces;
    expect(namespacesOf(network({ allowedPeers }, { peerNamespaces: ['x', 'y'] }))).toEqual({
      from: 'Names',
      names: ['x', 'y'],
    });
    expect(namespacesOf(network({ allowedPeers }))).toEqual({ from: 'Names', names: [] });
    const plain = network({});
    expect(withAdmittedNamespaces(plain)).toBe(plain);
  });
});
