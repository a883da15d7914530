import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseResource } from '../api/parse.ts';
import { refOf, type Resource, type VpnNetwork, type VpnPeer } from '../api/types.ts';
import { networkManifest, peerManifest } from '../cluster/testing/objects.ts';
import type { DesiredPeer } from './desired.ts';
import { PeerBook } from './peer-book.ts';
import type { NodeFacts } from './plan.ts';

function parse(manifest: object): Resource {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}

const node: NodeFacts = { name: 'n1', labels: { zone: 'a' }, underlayMtu: 1500 };
const network = (spec: object = {}): VpnNetwork => parse(networkManifest('offices', spec)) as VpnNetwork;

/** Peers are older the smaller their number is. */
function peer(number: number, spec: object = {}, namespace = 'team-a'): VpnPeer {
  const own = { static: { peerID: number }, addresses: [`10.8.0.${number}`] };
  const creationTimestamp = `2026-01-01T00:00:${String(number % 60).padStart(2, '0')}Z`;
  return parse(peerManifest(`peer-${number}`, { ...own, ...spec }, { namespace, creationTimestamp })) as VpnPeer;
}

/** A book whose changes are carried out in a kernel that is a map. */
class Desk {
  readonly book: PeerBook;
  readonly kernel = new Map<number, DesiredPeer>();
  node = node;

  constructor(spec: object = {}) {
    this.book = new PeerBook(network(spec));
  }

  set(given: VpnPeer): void {
    this.#replan(this.book.set(given));
  }

  delete(given: VpnPeer): void {
    this.#replan(this.book.delete(refOf(given)));
  }

  all(): void {
    this.#replan(this.book.refs());
  }

  /** As the node agent does it. */
  #replan(refs: ReturnType<PeerBook['refs']>): void {
    const changes = new Map<number, DesiredPeer | undefined>();
    for (const ref of refs) {
      for (const [id, desired] of this.book.plan(
        ref,
        () => ({ key: undefined, secret: undefined, lookup: () => undefined }),
        this.node,
      )) {
        changes.set(id, desired);
      }
    }
    for (const [id, desired] of changes) {
      if (desired === undefined) this.kernel.delete(id);
      else this.kernel.set(id, desired);
    }
  }

  /** What is in force by peer id: the name and the routes. */
  get held(): Record<number, string> {
    return Object.fromEntries(
      [...this.kernel].map(([id, { ref, routes }]) => [id, [ref.name, ...routes.map((r) => r.destination)].join(' ')]),
    );
  }

  entry(given: VpnPeer) {
    return this.book.entry(refOf(given));
  }
}

describe('the peer book', () => {
  test('puts a good peer in force, and takes it out with its object', () => {
    const desk = new Desk();
    const seven = peer(7, { routes: ['10.20.0.0/16'] });
    desk.set(seven);
    expect(desk.held).toEqual({ 7: 'peer-7 10.20.0.0/16' });
    expect(desk.book.has(refOf(seven))).toBe(true);
    desk.delete(seven);
    expect(desk.held).toEqual({});
    expect(desk.entry(seven)).toBeUndefined();
    expect(desk.book.has(refOf(seven))).toBe(false);
    expect(desk.book.refs()).toEqual([]);
  });

  test('knows a peer that was never planned, so that it can be deleted', () => {
    const book = new PeerBook(network());
    const seven = peer(7);
    book.set(seven);
    expect(book.entry(refOf(seven))).toBeUndefined();
    expect(book.has(refOf(seven))).toBe(true);
    book.delete(refOf(seven));
    expect(book.refs()).toEqual([]);
  });

  test('keeps the last good version while the new one conflicts', () => {
    const desk = new Desk();
    desk.set(peer(7, { routes: ['10.20.0.0/16'] }));
    desk.set(peer(8, { routes: ['10.21.0.0/16'] }));
    const bad = peer(8, { routes: ['10.20.5.0/24'], addresses: ['10.8.0.99'] });
    desk.set(bad);
    expect(desk.held).toEqual({ 7: 'peer-7 10.20.0.0/16', 8: 'peer-8 10.21.0.0/16' });
    expect(desk.entry(bad)?.plan.problems.map(({ name }) => name)).toEqual(['RouteConflict']);
    expect(desk.book.inForce().peers.map(({ vpnIpv4 }) => vpnIpv4)).toEqual(['10.8.0.7', '10.8.0.8']);
    desk.set(peer(8, { routes: ['10.22.0.0/16'] }));
    expect(desk.held[8]).toBe('peer-8 10.22.0.0/16');
  });

  test('takes the refused version when what it conflicted with goes', () => {
    const desk = new Desk();
    const seven = peer(7, { routes: ['10.20.0.0/16'] });
    desk.set(seven);
    desk.set(peer(8));
    desk.set(peer(8, { routes: ['10.20.0.0/16'] }));
    expect(desk.held[8]).toBe('peer-8');
    desk.delete(seven);
    expect(desk.held).toEqual({ 8: 'peer-8 10.20.0.0/16' });
  });

  test('has nothing to keep of a peer that never was good', () => {
    const desk = new Desk();
    desk.set(peer(7, { routes: ['10.20.0.0/16'] }));
    desk.set(peer(8, { routes: ['10.20.0.0/16'] }));
    expect(desk.held).toEqual({ 7: 'peer-7 10.20.0.0/16' });
    expect(desk.book.inForce().leaveAlone).toEqual(new Set([8]));
  });

  test.each<[string, object]>([
    ['namespace', { allowedPeers: { namespaces: { names: ['team-b'] }, routes: ['10.20.0.0/14'] } }],
    ['routes', { allowedPeers: { namespaces: { names: ['team-a'] }, routes: [] } }],
  ])('takes a peer out when its %s is no longer allowed', (_name, spec) => {
    const desk = new Desk();
    desk.set(peer(7, { routes: ['10.20.0.0/16'] }));
    desk.book.setNetwork(network(spec));
    desk.all();
    expect(desk.held).toEqual({});
    expect(desk.book.inForce()).toEqual({ peers: [], leaveAlone: new Set(), out: new Set([7]) });
  });

  test('takes a peer out for what is no longer allowed also when it conflicts besides', () => {
    const desk = new Desk();
    desk.set(peer(6));
    desk.set(peer(7));
    desk.set(peer(7, { static: { peerID: 6 }, routes: ['172.16.0.0/12'] }));
    expect(desk.held).toEqual({ 6: 'peer-6' });
  });

  test.each<[string, object]>([
    ['suspended', { suspend: true }],
    ['placed elsewhere', { placement: { nodeSelector: { zone: 'b' } } }],
  ])('takes a %s peer out, also when something is wrong with it', (_name, spec) => {
    const desk = new Desk();
    desk.set(peer(6));
    desk.set(peer(7));
    desk.set(peer(7, { static: { peerID: 6 }, ...spec }));
    expect(desk.held).toEqual({ 6: 'peer-6' });
    expect(desk.entry(peer(7))?.plan.problems).toMatchObject([{ name: 'PeerIdConflict' }]);
    // And after a restart it is not left alone either.
    const restarted = new Desk();
    restarted.set(peer(6));
    restarted.set(peer(7, { addresses: ['10.8.0.6'], ...spec }));
    expect(restarted.book.inForce().leaveAlone).toEqual(new Set());
  });

  test('a label of the node that goes takes the peer out', () => {
    const desk = new Desk();
    desk.set(peer(7, { placement: { nodeSelector: { zone: 'a' } } }));
    expect(desk.held).toEqual({ 7: 'peer-7' });
    desk.node = { ...node, labels: {} };
    desk.all();
    expect(desk.held).toEqual({});
  });

  test.each<[string, object, object]>([
    ['peer id', { static: { peerID: 7 } }, { static: { peerID: 7 } }],
    ['IPv4 address', { addresses: ['10.8.0.77'] }, { addresses: ['10.8.0.77'] }],
    ['route', { routes: ['10.21.0.0/16'] }, { routes: ['10.21.0.0/16'] }],
    ['part of a route', { routes: ['10.21.0.0/16'] }, { routes: ['10.21.5.0/24'] }],
    ['wider route', { routes: ['10.21.5.0/24'] }, { routes: ['10.21.0.0/16'] }],
  ])('lets an accepted peer go before an old version that has its %s', (_name, old, taken) => {
    const desk = new Desk();
    desk.set(peer(2, { routes: ['10.20.0.0/16'] }));
    desk.set(peer(7, old));
    // The new version is refused and no longer claims what the old one has.
    desk.set(peer(7, { static: { peerID: 70 }, addresses: ['10.8.0.70'], routes: ['10.20.0.0/16'] }));
    const before = desk.held;
    expect(Object.keys(before)).toHaveLength(2);
    desk.set(peer(9, taken));
    expect(Object.values(desk.held).map((text) => text.split(' ')[0])).toEqual(
      expect.arrayContaining(['peer-2', 'peer-9']),
    );
    expect(Object.values(desk.held)).toHaveLength(2);
    // The displaced one does not come back by being planned again.
    desk.all();
    expect(Object.values(desk.held)).toHaveLength(2);
    expect(
      desk.book
        .inForce()
        .peers.map(({ ref }) => ref.name)
        .sort(),
    ).toEqual(['peer-2', 'peer-9']);
  });

  test('a default route leaves others alone', () => {
    const desk = new Desk({
      allowedPeers: { namespaces: { names: ['team-a'] }, routes: ['0.0.0.0/0', '10.20.0.0/15'] },
    });
    desk.set(peer(2, { routes: ['10.20.0.0/16'] }));
    desk.set(peer(7, { routes: ['0.0.0.0/0'] }));
    desk.set(peer(7, { routes: ['10.20.0.0/16'] }));
    desk.set(peer(9, { routes: ['10.21.0.0/16'] }));
    expect(desk.held).toEqual({ 2: 'peer-2 10.20.0.0/16', 7: 'peer-7 0.0.0.0/0', 9: 'peer-9 10.21.0.0/16' });
  });

  test('moves a peer to another id, and two peers to each other’s', () => {
    const desk = new Desk();
    desk.set(peer(7));
    desk.set(peer(7, { static: { peerID: 17 } }));
    expect(desk.held).toEqual({ 17: 'peer-7' });
    desk.set(peer(8));
    desk.set(peer(7, { static: { peerID: 18 } }));
    desk.set(peer(8, { static: { peerID: 17 } }));
    desk.set(peer(7, { static: { peerID: 8 } }));
    expect(desk.held).toEqual({ 17: 'peer-8', 8: 'peer-7' });
  });

  test('hands an id on when its peer goes and another one comes in the same moment', () => {
    const desk = new Desk();
    const seven = peer(7);
    desk.set(seven);
    desk.set(peer(8, { static: { peerID: 7 } }));
    expect(desk.held).toEqual({ 7: 'peer-7' });
    desk.delete(seven);
    expect(desk.held).toEqual({ 7: 'peer-8' });
  });

  test('a restarted agent leaves refused peers alone in the kernel, but not an id that somebody has', () => {
    const desk = new Desk();
    desk.set(peer(7));
    desk.set(peer(8, { addresses: ['10.8.0.7'] }));
    desk.set(peer(9, { static: { peerID: 7 } }));
    desk.set(peer(10, {}, 'team-b'));
    expect(desk.book.inForce().leaveAlone).toEqual(new Set([8]));
  });

  test('a peer that names another network is refused', () => {
    const desk = new Desk();
    const other = peer(7, { networkRef: { name: 'lab' } });
    desk.set(other);
    expect(desk.entry(other)?.plan.problems).toMatchObject([{ name: 'ReferenceNotFound' }]);
    expect(desk.held).toEqual({});
  });

  test('a problem of the key leaves the peer in force', () => {
    const desk = new Desk();
    desk.set(peer(7));
    expect(desk.entry(peer(7))?.plan.keyProblem?.name).toBe('ReferenceNotFound');
    expect(desk.entry(peer(7))?.inForce?.id).toBe(7);
  });

  test('planning a peer costs no more for many old versions that are kept', () => {
    /** Milliseconds to plan a peer again, with as many old versions that are kept as peers that are accepted. */
    const costAmong = (kept: number): number => {
      const desk = new Desk({ pools: { peers: ['10.8.0.0/16'] } });
      for (let i = 1; i <= kept; i++) {
        const [high, low] = [i >> 7, (i & 0x7f) + 1];
        desk.set(peer(i, { addresses: [`10.8.${high}.${low}`], routes: [`10.20.${high}.${low}/32`] }));
        const other = { addresses: [`10.8.${128 + high}.${low}`], routes: [`10.21.${high}.${low}/32`] };
        desk.set(peer(kept + i, other));
      }
      desk.book.setNetwork(network({ pools: { peers: ['10.8.0.0/17'] } }));
      const times = Array.from({ length: 3 }, () => {
        const start = performance.now();
        desk.all();
        return performance.now() - start;
      });
      expect(desk.kernel.size).toBe(2 * kept);
      const refused = [...desk.book.entries.values()].filter(({ plan }) => plan.problems.length > 0);
      expect(refused).toHaveLength(kept);
      return Math.min(...times) / kept;
    };
    costAmong(100);
    const [few, many] = [costAmong(100), costAmong(5_000)];
    // 50 times as many: what looks at each of them costs 50 times as much.
    expect(many / few).toBeLessThan(8);
  }, 60_000);

  test('whatever comes, the changes add up to what is in force, and no two peers in force collide', () => {
    const spec = fc.record({
      static: fc.record({ peerID: fc.integer({ min: 1, max: 4 }) }),
      addresses: fc.integer({ min: 2, max: 5 }).map((i) => [`10.8.0.${i}`]),
      routes: fc.constantFrom([], ['10.20.0.0/16'], ['10.20.1.0/24'], ['10.21.0.0/16'], ['172.16.0.0/12']),
      suspend: fc.constantFrom(false, false, false, true),
    });
    const act = fc.record({ number: fc.integer({ min: 1, max: 4 }), spec: fc.option(spec) });
    fc.assert(
      fc.property(fc.array(act, { maxLength: 25 }), (acts) => {
        const desk = new Desk();
        for (const { number, spec: given } of acts) {
          if (given === null) desk.delete(peer(number));
          else desk.set(peer(number, given));
          const { peers, leaveAlone } = desk.book.inForce();
          expect(new Map(peers.map((one) => [one.id, one]))).toEqual(desk.kernel);
          expect(peers).toHaveLength(desk.kernel.size);
          expect(new Set(peers.map(({ vpnIpv4 }) => vpnIpv4)).size).toBe(peers.length);
          const destinations = peers.flatMap(({ routes }) => routes.map(({ destination }) => destination));
          expect(new Set(destinations).size).toBe(destinations.length);
          if (destinations.includes('10.20.0.0/16')) expect(destinations).not.toContain('10.20.1.0/24');
          expect(destinations).not.toContain('172.16.0.0/12');
          for (const id of desk.kernel.keys()) expect(leaveAlone).not.toContain(id);
          for (const { peer: object, inForce } of desk.book.entries.values()) {
            if (object.spec.suspend) expect(inForce).toBeUndefined();
          }
        }
      }),
      { numRuns: 1500 },
    );
  });
});

const pki = { pki: { secretRef: { name: 'server' } } };

/** A client that dials in. */
function client(number: number, spec: object = {}): VpnPeer {
  return peer(number, {
    ...{ endpoint: undefined, keyRef: undefined, static: undefined },
    identity: { commonName: `client-${number}` },
    ...spec,
  });
}

/** A remote that is dialled; its key is never there. */
const remote = (number: number, spec: object = {}): VpnPeer =>
  peer(number, { static: undefined, addresses: undefined, ...spec });

describe('peers with a control channel', () => {
  test('a client may connect from its acceptance to its deletion', () => {
    const desk = new Desk(pki);
    desk.set(client(11, { routes: ['10.20.1.0/24'] }));
    expect(desk.entry(client(11))?.session).toMatchObject({ kind: 'dial-in', vpnIpv4: '10.8.0.11' });
    expect(desk.kernel.size).toBe(0);
    expect(desk.book.claimed()).toEqual(['10.20.1.0/24']);
    desk.delete(client(11));
    expect(desk.entry(client(11))).toBeUndefined();
    expect(desk.book.claimed()).toEqual([]);
  });

  test('the last good version stays while the new one is refused, and ends when the permission does', () => {
    const desk = new Desk(pki);
    desk.set(client(11));
    desk.set(client(11, { addresses: ['10.9.0.11'] }));
    expect(desk.entry(client(11))?.plan.problems[0]?.name).toBe('AddressOutsidePool');
    expect(desk.entry(client(11))?.session).toMatchObject({ vpnIpv4: '10.8.0.11' });
    desk.book.setNetwork(network({ ...pki, allowedPeers: { namespaces: { names: ['team-b'] } } }));
    desk.all();
    expect(desk.entry(client(11))?.session).toBeUndefined();
  });

  test('a network without a PKI takes nobody in, whoever was connected before', () => {
    const desk = new Desk(pki);
    desk.set(client(11));
    desk.book.setNetwork(network());
    desk.all();
    expect(desk.entry(client(11))).toMatchObject({ session: undefined, plan: { problems: [{ name: 'PkiMissing' }] } });
  });

  test('a client that is suspended may not connect, whatever else is wrong with it', () => {
    const desk = new Desk(pki);
    desk.set(client(11));
    desk.set(client(11, { suspend: true, addresses: ['10.9.0.11'] }));
    expect(desk.entry(client(11))).toMatchObject({ session: undefined, away: true });
  });

  test('changes its sort in place, and back', () => {
    const desk = new Desk(pki);
    desk.set(peer(11));
    expect(desk.held).toEqual({ 11: 'peer-11' });
    desk.set(client(11));
    expect(desk.held).toEqual({});
    expect(desk.entry(client(11))).toMatchObject({ inForce: undefined, session: { kind: 'dial-in' } });
    // Its Secret is missing, and the client has gone all the same: it is a static peer now.
    desk.set(peer(11));
    expect(desk.held).toEqual({ 11: 'peer-11' });
    expect(desk.entry(client(11))).toMatchObject({
      session: undefined,
      inForce: { id: 11 },
      plan: { keyProblem: { name: 'ReferenceNotFound' } },
    });
  });

  test('what was good of another sort stays while the new version is refused', () => {
    const desk = new Desk(pki);
    desk.set(peer(11));
    desk.set(client(11, { addresses: ['10.9.0.11'] }));
    expect(desk.held).toEqual({ 11: 'peer-11' });
    expect(desk.entry(client(11))?.session).toBeUndefined();
    desk.set(client(11));
    desk.set(peer(11, { addresses: ['10.9.0.11'] }));
    expect(desk.held).toEqual({});
    expect(desk.entry(client(11))).toMatchObject({ inForce: undefined, session: { kind: 'dial-in' } });
  });

  test('an old version of a static peer goes when a client is accepted for its address', () => {
    const desk = new Desk(pki);
    desk.set(peer(11));
    desk.set(peer(11, { addresses: ['10.9.0.11'] }));
    expect(desk.held).toEqual({ 11: 'peer-11' });
    desk.set(client(12, { addresses: ['10.8.0.11'] }));
    expect(desk.held).toEqual({});
    expect(desk.entry(client(12))?.session).toMatchObject({ vpnIpv4: '10.8.0.11' });
  });

  test.each([
    ['its address', { addresses: ['10.8.0.11'] }],
    ['its identity', { identity: { commonName: 'client-11' } }],
    ['its network behind it', { routes: ['10.20.1.0/24'] }],
  ])('an old version of a client goes when another is accepted for %s', (_, spec) => {
    const desk = new Desk(pki);
    desk.set(client(11, { routes: ['10.20.1.0/24'] }));
    // Refused, and with nothing of what it had.
    desk.set(client(11, { identity: { commonName: 'new' }, addresses: ['10.9.0.11'] }));
    expect(desk.entry(client(11))?.session).toMatchObject({ identity: { commonName: 'client-11' } });
    desk.set(client(12, spec));
    expect(desk.entry(client(12))?.plan.problems).toEqual([]);
    expect(desk.entry(client(11))?.session).toBeUndefined();
    expect(desk.book.takeEnded()).toEqual([refOf(client(11))]);
    expect(desk.book.takeEnded()).toEqual([]);
  });

  test('an old version of a client goes when a static peer is accepted for its address', () => {
    const desk = new Desk(pki);
    desk.set(client(11));
    desk.set(client(11, { addresses: ['10.9.0.11'] }));
    desk.set(peer(12, { addresses: ['10.8.0.11'] }));
    expect(desk.held).toEqual({ 12: 'peer-12' });
    expect(desk.entry(client(11))?.session).toBeUndefined();
    expect(desk.book.takeEnded()).toEqual([refOf(client(11))]);
  });

  test('an old version of a client is not kept when somebody has its address already', () => {
    const desk = new Desk(pki);
    desk.set(client(12));
    desk.set(client(12, { addresses: ['10.9.0.12'] }));
    desk.set(client(11, { addresses: ['10.8.0.12'] }));
    desk.all();
    expect(desk.entry(client(12))?.session).toBeUndefined();
  });

  test('a remote whose key is missing is accepted and not dialled; nobody reaches what is behind it otherwise', () => {
    const desk = new Desk();
    desk.set(remote(11, { routes: ['10.20.1.0/24'] }));
    expect(desk.book.claimed()).toEqual(['10.20.1.0/24']);
    expect(desk.entry(remote(11))).toMatchObject({
      session: undefined,
      plan: { problems: [], keyProblem: { name: 'ReferenceNotFound' } },
    });
  });
});

test('a peer that was deleted is among those to plan until it has been', () => {
  const desk = new Desk();
  desk.set(peer(11));
  desk.set(peer(12));
  // A whole round begins: it plans what the book names.
  desk.book.delete(refOf(peer(11)));
  expect(desk.book.refs()).toEqual([refOf(peer(11)), refOf(peer(12))]);
  desk.all();
  expect(desk.held).toEqual({ 12: 'peer-12' });
  expect(desk.book.inForce().peers.map(({ ref }) => ref.name)).toEqual(['peer-12']);
  expect(desk.book.refs()).toEqual([refOf(peer(12))]);
});
