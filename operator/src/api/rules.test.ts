import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { parseResource } from './parse.ts';
import { allowsNamespace, NetworkIndex } from './rules.ts';
import { formatRef, refOf, type VpnNetwork, type VpnPeer } from './types.ts';

const old = '2026-01-01T00:00:00Z';
const young = '2026-01-02T00:00:00Z';
const namespaces = ['team-a', 'team-b', 'ovpn-system'];

function network(spec: Record<string, unknown> = {}): VpnNetwork {
  const result = parseResource(
    {
      apiVersion: 'ovpn-operator.io/v1alpha1',
      kind: 'VpnNetwork',
      metadata: { name: 'net' },
      spec: {
        pools: { peers: ['10.8.0.0/24', 'fd00:8::/64'], pods: ['10.9.0.0/16'] },
        nodes: [{ name: 'n', addresses: ['10.8.0.1'] }],
        listeners: [{ name: 'udp', port: 1194 }],
        allowedPeers: { namespaces: { from: 'All' }, routes: ['0.0.0.0/0', '::/0'] },
        ...spec,
      },
    },
    'test',
  );
  if (!result.ok || result.resource.kind !== 'VpnNetwork') throw new Error(JSON.stringify(result));
  return result.resource;
}

interface Wish {
  name: string;
  /** Of a peer that dials in. */
  identity?: Record<string, string>;
  /** Of a peer that is dialled. */
  dialled?: string;
  namespace?: string;
  created?: string;
  id?: number;
  addresses?: string[];
  routes?: string[];
  listener?: string;
  network?: string;
}

function peer({
  name,
  namespace = 'team-a',
  created,
  id = 1,
  addresses = ['10.8.0.7'],
  routes = [],
  ...wish
}: Wish): VpnPeer {
  const result = parseResource(
    {
      apiVersion: 'ovpn-operator.io/v1alpha1',
      kind: 'VpnPeer',
      metadata: { name, namespace, ...(created === undefined ? {} : { creationTimestamp: created }) },
      spec: {
        networkRef: { name: wish.network ?? 'net' },
        ...sortOf(wish, id),
        addresses: wish.identity === undefined && wish.dialled !== undefined ? [] : addresses,
        routes,
      },
    },
    'test',
  );
  if (!result.ok || result.resource.kind !== 'VpnPeer') throw new Error(JSON.stringify(result));
  return result.resource;
}

function sortOf({ identity, dialled, listener }: Omit<Wish, 'name'>, peerID: number): Record<string, unknown> {
  if (identity !== undefined) return { identity };
  const endpoint = { address: dialled ?? '192.0.2.1', port: 1194, ...(listener === undefined ? {} : { listener }) };
  return { endpoint, keyRef: { name: 'key' }, ...(dialled === undefined ? { static: { peerID } } : {}) };
}

const pki = { secretRef: { name: 'server' } };
const alice = { commonName: 'alice' };

/** An index with these peers, and for each of them its problems as `error field`. */
function problems(of: VpnNetwork, ...peers: VpnPeer[]): string[][] {
  const index = new NetworkIndex(of);
  for (const one of peers) index.set(one);
  return peers.map((one) => index.problemsOf(refOf(one)).map(({ name, where }) => `${name} ${where.field ?? ''}`));
}

describe('a peer and its network', () => {
  const refused = { allowedPeers: { namespaces: { names: ['team-b'] } } };
  const inside = { allowedPeers: { namespaces: { from: 'All' }, routes: ['10.20.0.0/16'] } };
  test.each([
    ['an address of the pool', network(), peer({ name: 'a' }), []],
    [
      'an address outside the pools',
      network(),
      peer({ name: 'a', addresses: ['10.8.1.1', 'fd00:8::1'] }),
      ['AddressOutsidePool spec.addresses[0]'],
    ],
    [
      "a node's address",
      network(),
      peer({ name: 'a', addresses: ['10.8.0.1'] }),
      ['AddressConflict spec.addresses[0]'],
    ],
    [
      'the network address',
      network(),
      peer({ name: 'a', addresses: ['10.8.0.0'] }),
      ['AddressConflict spec.addresses[0]'],
    ],
    [
      'the broadcast address',
      network(),
      peer({ name: 'a', addresses: ['10.8.0.255'] }),
      ['AddressConflict spec.addresses[0]'],
    ],
    [
      'a namespace that is not allowed',
      network(refused),
      peer({ name: 'a', addresses: ['10.1.1.1'] }),
      ['NotAllowed metadata.namespace'],
    ],
    ['a route that is allowed', network(inside), peer({ name: 'a', routes: ['10.20.4.0/24'] }), []],
    [
      'a route that is not allowed',
      network(inside),
      peer({ name: 'a', routes: ['10.0.0.0/8'] }),
      ['NotAllowed spec.routes[0]'],
    ],
    [
      'a route inside a pool',
      network(),
      peer({ name: 'a', routes: ['10.9.1.0/24'] }),
      ['RouteConflict spec.routes[0]'],
    ],
    [
      'a route around a pool',
      network(),
      peer({ name: 'a', routes: ['10.8.0.0/13'] }),
      ['RouteConflict spec.routes[0]'],
    ],
    [
      'a route inside of what peers reach of the cluster',
      network({ clusterAccess: { services: ['10.20.0.0/16'], allow: [{}] } }),
      peer({ name: 'a', routes: ['10.20.4.0/24'] }),
      ['RouteConflict spec.routes[0]'],
    ],
    [
      'a route inside of what they would reach, were it on',
      network({ clusterAccess: { enabled: false, services: ['10.20.0.0/16'], allow: [{}] } }),
      peer({ name: 'a', routes: ['10.20.4.0/24'] }),
      [],
    ],
    ['default routes', network(), peer({ name: 'a', routes: ['0.0.0.0/0', '::/0'] }), []],
    ['a listener that is there', network(), peer({ name: 'a', listener: 'udp' }), []],
    [
      'a listener that is not',
      network(),
      peer({ name: 'a', listener: 'tcp' }),
      ['ReferenceNotFound spec.endpoint.listener'],
    ],
    ['another network', network(), peer({ name: 'a', network: 'other' }), ['ReferenceNotFound spec.networkRef.name']],
  ])('%s', (_, of, one, expected) => {
    expect(problems(of, one)).toEqual([expected]);
  });

  test('the messages name the field of the network', () => {
    const index = new NetworkIndex(network());
    index.set(peer({ name: 'a', addresses: ['10.8.0.1'], routes: ['10.9.1.0/24'] }));
    const texts = index.problemsOf({ kind: 'VpnPeer', namespace: 'team-a', name: 'a' }).map(({ message }) => message);
    expect(texts[0]).toContain('spec.nodes[0].addresses[0] of VpnNetwork net');
    expect(texts[1]).toContain('spec.pools.pods[0] of VpnNetwork net');
  });

  test('a new version of the network is held against every peer', () => {
    const index = new NetworkIndex(network());
    const one = peer({ name: 'a', routes: ['10.20.0.0/16'] });
    index.set(one);
    expect(index.setNetwork(network(refused))).toEqual([refOf(one)]);
    expect(index.problemsOf(refOf(one)).map(({ name }) => name)).toEqual(['NotAllowed']);
    index.setNetwork(network());
    expect(index.problemsOf(refOf(one))).toEqual([]);
  });
});

describe('two peers', () => {
  test.each([
    [
      'equal addresses',
      { addresses: ['fd00:8::7'] },
      { addresses: ['fd00:8:0::7'] },
      ['AddressConflict spec.addresses[0]'],
    ],
    ['equal ids', { id: 5 }, { id: 5 }, ['PeerIdConflict spec.static.peerID']],
    ['equal routes', { routes: ['10.20.0.0/16'] }, { routes: ['10.20.0.0/16'] }, ['RouteConflict spec.routes[0]']],
    ['a wider route', { routes: ['10.20.0.0/16'] }, { routes: ['10.16.0.0/12'] }, ['RouteConflict spec.routes[0]']],
    ['a narrower route', { routes: ['10.20.0.0/16'] }, { routes: ['10.20.1.0/24'] }, ['RouteConflict spec.routes[0]']],
    ['a route beside', { routes: ['10.20.0.0/16'] }, { routes: ['10.21.0.0/16'] }, []],
    ['two default routes', { routes: ['0.0.0.0/0'] }, { routes: ['0.0.0.0/0'] }, ['RouteConflict spec.routes[0]']],
    ['a default route and another', { routes: ['10.20.0.0/16'] }, { routes: ['0.0.0.0/0'] }, []],
  ])('%s: the older keeps it', (_, first, second, expected) => {
    const winner = peer({ name: 'z', created: old, id: 1, addresses: ['10.8.0.8'], ...first });
    const loser = peer({ name: 'a', created: young, id: 2, addresses: ['10.8.0.9'], ...second });
    expect(problems(network(), winner, loser)).toEqual([[], expected]);
    expect(problems(network(), loser, winner)).toEqual([expected, []]);
  });

  test('the message names the other peer and the place in it', () => {
    const index = new NetworkIndex(network());
    index.set(peer({ name: 'a', routes: ['10.10.0.0/24', '10.20.0.0/16'], addresses: ['10.8.0.8'] }));
    index.set(peer({ name: 'b', routes: ['10.20.1.0/24'], addresses: ['10.8.0.9'], id: 2 }));
    const [error] = index.problemsOf({ kind: 'VpnPeer', namespace: 'team-a', name: 'b' });
    expect(error!.problem).toBe(
      '10.20.1.0/24 is taken by VpnPeer team-a/a (spec.routes[1]: 10.20.0.0/16), which was there first',
    );
  });

  test('without timestamps the first by namespace and name keeps it', () => {
    const one = peer({ name: 'z', namespace: 'team-a' });
    const other = peer({ name: 'a', namespace: 'team-b' });
    expect(problems(network(), other, one).map((list) => list.length)).toEqual([2, 0]);
  });

  test('a peer that is not let in keeps nobody from anything', () => {
    const of = network({ allowedPeers: { namespaces: { names: ['team-b'] } } });
    const squatter = peer({ name: 'a', created: old });
    const rightful = peer({ name: 'b', namespace: 'team-b', created: young });
    expect(problems(of, squatter, rightful)).toEqual([['NotAllowed metadata.namespace'], []]);
  });

  test('a deleted winner promotes the loser', () => {
    const index = new NetworkIndex(network());
    const [winner, loser] = [peer({ name: 'a' }), peer({ name: 'b' })];
    index.set(winner);
    index.set(loser);
    expect(index.problemsOf(refOf(loser))).toHaveLength(2);
    expect(index.delete(refOf(winner))).toEqual([refOf(loser)]);
    expect(index.problemsOf(refOf(loser))).toEqual([]);
    expect(index.delete(refOf(winner))).toEqual([]);
  });
});

test('who may attach', () => {
  expect(allowsNamespace({ from: 'All', names: [] }, 'shop')).toBe(true);
  expect(allowsNamespace({ from: 'Names', names: ['shop'] }, 'shop')).toBe(true);
  expect(allowsNamespace({ from: 'Names', names: ['shop'] }, 'other')).toBe(false);
});

describe('peers that dial in', () => {
  const of = network({ pki });
  const [hex, colons] = ['ab'.repeat(32), Array(32).fill('AB').join(':')];

  test.each([
    ['a common name', { commonName: 'alice' }, { commonName: 'alice' }, true],
    ['another common name', { commonName: 'alice' }, { commonName: 'Alice' }, false],
    ['a fingerprint in two spellings', { fingerprint: hex }, { fingerprint: colons }, true],
    ['a DNS name in two spellings', { subjectAltName: 'DNS:a.example' }, { subjectAltName: 'DNS:A.Example' }, true],
    ['an address in two spellings', { subjectAltName: 'IP:fd00::1' }, { subjectAltName: 'IP:FD00:0::01' }, true],
    ['an e-mail address', { subjectAltName: 'email:a@B.example' }, { subjectAltName: 'email:a@b.example' }, true],
    ['two mailboxes', { subjectAltName: 'email:a@b.example' }, { subjectAltName: 'email:A@b.example' }, false],
    ['a URI', { subjectAltName: 'URI:spiffe://a/b' }, { subjectAltName: 'URI:spiffe://a/B' }, false],
    ['one name in two fields', { commonName: 'a.example' }, { subjectAltName: 'DNS:a.example' }, false],
  ])('%s: the older keeps it', (_, first, second, same) => {
    const winner = peer({ name: 'z', created: old, identity: first, addresses: ['10.8.0.8'] });
    const loser = peer({ name: 'a', created: young, identity: second, addresses: ['10.8.0.9'] });
    const expected = same ? [`IdentityConflict spec.identity.${Object.keys(second)[0]!}`] : [];
    expect(problems(of, winner, loser)).toEqual([[], expected]);
    expect(problems(of, loser, winner)).toEqual([expected, []]);
  });

  test('the message shows the identity and names the other peer', () => {
    const index = new NetworkIndex(of);
    index.set(peer({ name: 'a', identity: alice, addresses: ['10.8.0.8'] }));
    index.set(peer({ name: 'b', identity: alice, addresses: ['10.8.0.9'] }));
    const [error] = index.problemsOf({ kind: 'VpnPeer', namespace: 'team-a', name: 'b' });
    expect(error!.problem).toBe(
      '"alice" is taken by VpnPeer team-a/a (spec.identity.commonName), which was there first',
    );
  });

  test('share addresses and routes with peers of no other sort', () => {
    const fixed = peer({ name: 'a', routes: ['10.20.0.0/16'] });
    const client = peer({ name: 'b', identity: alice, routes: ['10.20.1.0/24'] });
    const dialled = peer({ name: 'c', dialled: 'vpn.example', routes: ['10.20.0.0/15'] });
    expect(problems(of, fixed, client, dialled)).toEqual([
      [],
      ['AddressConflict spec.addresses[0]', 'RouteConflict spec.routes[0]'],
      ['RouteConflict spec.routes[0]'],
    ]);
  });

  test('need a network with a pki, and keep nobody from anything in another', () => {
    const client = peer({ name: 'a', created: old, identity: alice, routes: ['10.20.0.0/16'] });
    const fixed = peer({ name: 'b', created: young, routes: ['10.20.0.0/16'] });
    expect(problems(network(), client, fixed)).toEqual([['PkiMissing spec.identity'], []]);
    const index = new NetworkIndex(network());
    index.set(client);
    expect(index.problemsOf(refOf(client))[0]!.problem).toBe(
      'VpnNetwork net takes no peers that dial in, because it has no spec.pki',
    );
    expect(index.setNetwork(of)).toEqual([refOf(client)]);
    expect(index.problemsOf(refOf(client))).toEqual([]);
  });
});

test('a static key needs a listener of UDP', () => {
  const tcp = { name: 'tcp', port: 1194, protocol: 'TCP' };
  const udp = { name: 'udp', port: 1194 };
  const expected = ['ReferenceNotFound spec.endpoint.listener'];
  expect(problems(network({ listeners: [tcp] }), peer({ name: 'a' }))).toEqual([expected]);
  expect(problems(network({ listeners: [tcp, udp] }), peer({ name: 'a', listener: 'tcp' }))).toEqual([expected]);
  expect(problems(network({ listeners: [tcp, udp] }), peer({ name: 'a' }))).toEqual([[]]);
  expect(problems(network({ listeners: [tcp] }), peer({ name: 'a', dialled: 'vpn.example' }))).toEqual([[]]);
});

describe('against a model that compares every pair', () => {
  const v4Route = fc
    .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 12, max: 20 }))
    .map(([n, bits]) => canonical(`10.${16 + 2 * n}.${n * 16}.0/${bits}`));
  const v6Route = fc
    .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 28, max: 36 }))
    .map(([n, bits]) => canonical(`fd01:${(n * 0x2000).toString(16)}::/${bits}`));
  const wish = fc.record(
    {
      name: fc.constantFrom('a', 'b', 'c', 'd'),
      namespace: fc.constantFrom(...namespaces),
      created: fc.constantFrom('2026-01-01T00:00:00Z', '2026-01-02T00:00:00Z', '2026-01-03T00:00:00Z'),
      id: fc.integer({ min: 0, max: 4 }),
      addresses: fc.integer({ min: 2, max: 6 }).map((n) => [`10.8.0.${n}`]),
      routes: fc.uniqueArray(fc.oneof(v4Route, v6Route, fc.constantFrom('0.0.0.0/0', '::/0')), { maxLength: 3 }),
      identity: fc.constantFrom({ commonName: 'a' }, { commonName: 'b' }, { subjectAltName: 'DNS:a' }),
      dialled: fc.constant('vpn.example'),
    },
    { requiredKeys: ['name', 'namespace', 'id', 'addresses', 'routes'] },
  );
  const step = fc.oneof(
    { weight: 3, arbitrary: wish.map((value) => ({ set: peer(value as Wish) })) },
    { weight: 1, arbitrary: wish.map((value) => ({ delete: peer(value as Wish) })) },
  );

  test('problems and their winners are the same, and no change goes unannounced', () => {
    const of = network({ pki });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const index = new NetworkIndex(of);
        const peers = new Map<string, VpnPeer>();
        let before = new Map<string, string>();
        for (const next of steps) {
          const subject = 'set' in next ? next.set : next.delete;
          const changed = 'set' in next ? index.set(subject) : index.delete(refOf(subject));
          if ('set' in next) peers.set(formatRef(refOf(subject)), subject);
          else peers.delete(formatRef(refOf(subject)));
          const expected = model([...peers.values()]);
          const after = new Map<string, string>();
          for (const [name, one] of peers) {
            const found = index.problemsOf(refOf(one));
            expect(found.map(({ name: error, where }) => `${error} ${where.field ?? ''}`).sort()).toEqual(
              expected
                .get(name)!
                .map(([text]) => text)
                .sort(),
            );
            for (const [text, winner] of expected.get(name)!) {
              expect(
                found.some((e) => `${e.name} ${e.where.field ?? ''}` === text && e.problem.includes(`${winner} `)),
              ).toBe(true);
            }
            after.set(name, found.map(({ message }) => message).join('\n'));
          }
          const announced = changed.map(formatRef);
          expect(new Set(announced).size).toBe(announced.length);
          for (const [name, text] of after)
            if (before.get(name) !== text && before.has(name)) expect(announced).toContain(name);
          before = after;
        }
      }),
      { numRuns: 300 },
    );
  });

  function canonical(text: string): string {
    const [address, bits] = ipaddr.parseCIDR(text);
    return address.kind() === 'ipv4'
      ? ipaddr.IPv4.networkAddressFromCIDR(text).toString() + `/${bits}`
      : ipaddr.IPv6.networkAddressFromCIDR(text).toRFC5952String() + `/${bits}`;
  }

  function age(one: VpnPeer, other: VpnPeer): number {
    const key = (p: VpnPeer) => `${p.metadata.creationTimestamp ?? '9999'} ${p.metadata.namespace}/${p.metadata.name}`;
    return key(one) < key(other) ? -1 : 1;
  }

  function overlap(one: string, other: string): boolean {
    if (one.endsWith('/0') || other.endsWith('/0')) return one === other;
    const [a, b] = [ipaddr.parseCIDR(one), ipaddr.parseCIDR(other)];
    return a[0].kind() === b[0].kind() && a[0].match(b[0], Math.min(a[1], b[1]));
  }

  /** For every peer its problems and the name of who keeps the thing. */
  function model(peers: VpnPeer[]): Map<string, [string, string][]> {
    const sorted = [...peers].sort(age);
    return new Map(
      sorted.map((one, place) => {
        const olders = sorted.slice(0, place);
        const found: [string, string][] = [];
        const first = (text: string, same: (other: VpnPeer) => boolean) => {
          const winner = olders.find(same);
          if (winner !== undefined) found.push([text, formatRef(refOf(winner))]);
        };
        for (const [i, address] of one.spec.addresses.entries()) {
          first(`AddressConflict spec.addresses[${i}]`, (other) => other.spec.addresses.includes(address));
        }
        const id = one.spec.static?.peerID;
        if (id !== undefined) {
          first('PeerIdConflict spec.static.peerID', (other) => other.spec.static?.peerID === id);
        }
        for (const [field, value] of Object.entries(one.spec.identity ?? {})) {
          first(`IdentityConflict spec.identity.${field}`, (other) =>
            Object.entries(other.spec.identity ?? {}).some(([f, v]) => f === field && v === value),
          );
        }
        for (const [i, route] of one.spec.routes.entries()) {
          first(`RouteConflict spec.routes[${i}]`, (other) =>
            other.spec.routes.some((theirs) => overlap(route, theirs)),
          );
        }
        return [formatRef(refOf(one)), found];
      }),
    );
  }
});

test('a change of one peer costs the same among 100 peers and among 10000', () => {
  const of = network({ pools: { peers: ['fd00:8::/64'], pods: [] }, nodes: [] });
  const make = (n: number) =>
    peer({
      name: `p${n}`,
      id: n,
      addresses: [`fd00:8::${(n + 1).toString(16)}`],
      routes: [`10.${n >> 8}.${n & 255}.0/24`],
      created: '2026-01-01T00:00:00Z',
    });
  const timed = (count: number): number => {
    const index = new NetworkIndex(of);
    for (let n = 0; n < count; n++) index.set(make(n));
    // A peer that overlaps everything: the question must be answered from the top of the trie.
    const wide = peer({ name: 'wide', id: count, addresses: ['fd00:8::ffff:1'], routes: ['10.0.0.0/8'] });
    const again = make(count - 1);
    let best = Infinity;
    for (let round = 0; round < 20; round++) {
      const start = performance.now();
      for (let n = 0; n < 20; n++) {
        index.set(wide);
        index.problemsOf(refOf(wide));
        index.delete(refOf(wide));
        index.set(again);
        index.problemsOf(refOf(again));
      }
      best = Math.min(best, performance.now() - start);
    }
    return best;
  };
  const [few, many] = [timed(100), timed(10000)];
  // Linear cost would make it a hundred times as much.
  expect(many).toBeLessThan(Math.max(few * 10, 20));
});
