import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import { formatRef, type ObjectRef, refOf, type Resource, type ResourceKind, type ResourceOf } from '../api/types.ts';
import { FakeClock } from '../cluster/testing/clock.ts';
import { keyManifest, networkManifest, peerManifest } from '../cluster/testing/objects.ts';
import { OvpnError } from '../errors.ts';
import type { LedgerEntry } from './ledger.ts';
import { Neighbours } from './mesh/neighbours.ts';
import { PeerBook } from './peer-book.ts';
import { type BoardNetwork, StatusBoard } from './status-board.ts';

const nodes = ['n1', 'n2'].map((name, index) => ({ name, addresses: [`10.8.0.${index + 1}`] }));
const placedOn = (node: string) => ({ placement: { nodeSelector: { 'kubernetes.io/hostname': node } } });
const dialIn = { endpoint: undefined, keyRef: undefined, static: undefined, identity: { commonName: 'alice' } };

/** One node's board, over a source that is a map and a network without a kernel. */
class Desk {
  readonly said: { readonly name: string; readonly status: unknown }[] = [];
  readonly #objects = new Map<string, Resource>();
  readonly #book: PeerBook;
  readonly network: BoardNetwork;
  readonly board: StatusBoard;
  peerCount = 0;
  readonly #node: string;
  readonly clock = new FakeClock();

  constructor({ node = 'n1', shared = true } = {}) {
    const lookUp = <K extends ResourceKind>(kind: K, namespace: string | undefined, name: string) =>
      this.#objects.get(formatRef({ kind, ...(namespace === undefined ? {} : { namespace }), name })) as
        ResourceOf<K> | undefined;
    this.#node = node;
    const network = this.#take(networkManifest('offices', { nodes, pki: { secretRef: { name: 'server' } } }));
    if (network.kind !== 'VpnNetwork') throw new Error('not a network');
    this.#book = new PeerBook(network);
    const peerCount = (): number => this.peerCount;
    this.network = {
      book: this.#book,
      neighbours: new Neighbours(),
      selected: true,
      problem: undefined,
      serverProblem: undefined,
      agent: {
        accessProblem: undefined,
        desired: undefined,
        device: undefined,
        kernel: undefined,
        get peerCount() {
          return peerCount();
        },
        peers: new Map(),
        observedKeys: () => ({ primary: undefined, secondary: undefined }),
      },
      sessions: { facts: () => undefined, livePeer: () => undefined, used: () => undefined },
    };
    this.board = new StatusBoard({
      node,
      source: {
        complete: true,
        rejections: [],
        shared,
        nodeAddresses: [],
        get: lookUp,
        publishStatus: (resource, status) => this.said.push({ name: formatRef(refOf(resource)), status }),
      },
      networks: new Map([['offices', this.network]]),
      attachments: { ofNetwork: () => [] },
      ledger: { entry: (): LedgerEntry | undefined => undefined },
      users: (ref) => this.#usersOf(ref),
      clock: this.clock,
      netlink: () => ({ rounds: 0, writes: 0 }),
    });
  }

  /** A new version of an object, planned and published as the agent does it. */
  apply(manifest: object): Resource {
    const resource = this.#take(manifest);
    if (resource.kind === 'VpnPeer') {
      for (const ref of this.#book.set(resource))
        this.#book.plan(ref, () => ({ key: undefined, secret: undefined, lookup: () => undefined }), {
          name: this.#node,
          labels: { 'kubernetes.io/hostname': this.#node },
          underlayMtu: 1500,
        });
      this.board.publishPeer(resource);
    }
    if (resource.kind === 'VpnKey') this.board.publishKey(resource);
    return resource;
  }

  #take(manifest: object): Resource {
    const result = parseResource(JSON.parse(JSON.stringify(manifest)), 'test');
    if (!result.ok) throw result.errors[0] ?? new Error('refused');
    this.#objects.set(formatRef(refOf(result.resource)), result.resource);
    return result.resource;
  }

  #usersOf(key: ObjectRef): ObjectRef[] {
    return [...this.#objects.values()].flatMap((object) =>
      object.kind === 'VpnPeer' && object.spec.keyRef?.name === key.name ? [refOf(object)] : [],
    );
  }
}

describe('a peer that waits for its addresses', () => {
  const peer = peerManifest('alice', { ...dialIn, addresses: [] });

  test('is passed over for ten seconds, and then said to wait', () => {
    const desk = new Desk();
    const resource = desk.apply(peer);
    if (resource.kind !== 'VpnPeer') throw new Error('not a peer');
    expect(desk.said).toEqual([]);
    desk.clock.advance(9_999);
    desk.board.publishPeer(resource);
    expect(desk.said).toEqual([]);
    desk.clock.advance(1);
    desk.board.publishPeer(resource);
    expect(desk.said).toMatchObject([{ name: formatRef(refOf(resource)) }]);
    expect(JSON.stringify(desk.said)).toContain('wait for the controller');
  });

  test('is said at once when something else was said of it before', () => {
    const desk = new Desk();
    desk.apply(peerManifest('alice', { ...dialIn, addresses: ['10.8.0.9'] }));
    expect(desk.said).toHaveLength(1);
    desk.apply(peer);
    expect(desk.said).toHaveLength(2);
  });

  test('begins to wait anew when it had an address in between', () => {
    const desk = new Desk();
    const resource = desk.apply(peer);
    if (resource.kind !== 'VpnPeer') throw new Error('not a peer');
    desk.board.forget(refOf(resource));
    desk.clock.advance(60_000);
    desk.apply(peer);
    expect(desk.said).toEqual([]);
  });

  test('is said at once where no controller gives addresses', () => {
    const desk = new Desk({ shared: false });
    desk.apply(peer);
    expect(desk.said).toHaveLength(1);
  });
});

describe('of a VpnKey speaks', () => {
  test('the node of the peer that uses it, and no other', () => {
    const [one, two] = ['n1', 'n2'].map((node) => new Desk({ node }));
    for (const desk of [one, two]) {
      desk?.apply(peerManifest('office', placedOn('n2')));
      desk?.apply(keyManifest('office'));
    }
    expect(one?.said.filter(({ name }) => name.startsWith('VpnKey'))).toEqual([]);
    expect(two?.said.filter(({ name }) => name.startsWith('VpnKey'))).toHaveLength(1);
  });

  test('nobody while no peer uses it', () => {
    const desk = new Desk();
    desk.apply(keyManifest('office'));
    expect(desk.said).toEqual([]);
  });

  test('the only node there is, without an API server', () => {
    const desk = new Desk({ shared: false });
    desk.apply(keyManifest('office'));
    expect(desk.said).toHaveLength(1);
  });

  test('a node that its peer has left only as far as the key may not be installed again', () => {
    const desk = new Desk();
    desk.apply(peerManifest('office', placedOn('n1')));
    const said = { node: 'n1', generation: 1, since: '2026-01-01T00:00:00Z', spent: true };
    desk.apply({ ...keyManifest('office'), status: { installations: [said] } });
    desk.apply(peerManifest('office', placedOn('n2')));
    desk.apply({ ...keyManifest('office'), status: { installations: [said] } });
    expect(desk.said.at(-1)?.status).toEqual({ installations: [said] });
  });
});

describe('how many peers a node has', () => {
  const counts = (desk: Desk): unknown[] =>
    desk.said.map(({ status }) => (status as { nodes: { peers: number }[] }).nodes[0]?.peers);

  test('is said once in as many seconds as the network has nodes, and then as it is', () => {
    const desk = new Desk();
    expect(desk.board.publishNetwork(desk.network)).toBeUndefined();
    desk.clock.advance(500);
    desk.peerCount = 1;
    expect(desk.board.publishNetwork(desk.network)).toBe(1_500);
    // Who sets the time of day back does not silence anybody.
    desk.clock.set(-3_600_000);
    desk.clock.advance(1_499);
    desk.peerCount = 2;
    expect(desk.board.publishNetwork(desk.network)).toBe(1);
    expect(counts(desk)).toEqual([0]);
    desk.clock.advance(1);
    expect(desk.board.publishNetwork(desk.network)).toBeUndefined();
    expect(counts(desk)).toEqual([0, 2]);
    expect(desk.board.publishNetwork(desk.network)).toBeUndefined();
    expect(counts(desk)).toEqual([0, 2]);
  });

  test('is said with the first other word', () => {
    const desk = new Desk();
    desk.board.publishNetwork(desk.network);
    desk.peerCount = 1;
    const problem = new OvpnError('KernelRefused', 'no', { object: 'VpnNetwork offices' });
    desk.board.publishNetwork({ ...desk.network, problem, agent: { ...desk.network.agent, peerCount: 1 } });
    expect(counts(desk)).toEqual([0, 1]);
  });

  test('is said at once where nobody else hears it', () => {
    const desk = new Desk({ shared: false });
    desk.board.publishNetwork(desk.network);
    desk.peerCount = 1;
    desk.board.publishNetwork(desk.network);
    expect(counts(desk)).toEqual([0, 1]);
  });
});
