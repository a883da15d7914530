import { describe, expect, test } from '@jest/globals';
import type { Holder, ObjectRef, VpnPeer } from '../../api/types.ts';
import { FakeClock, until } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { nextStep, PeerClaims } from './peer-claims.ts';

const at = (second: number): number => Date.UTC(2026, 0, 1, 0, 0, second);
const holder = (node: string, epoch: number, second: number): Holder => ({
  ...{ node, epoch },
  since: new Date(at(second)).toISOString(),
});

describe('a node that a peer has connected to', () => {
  test.each<[string, number | undefined, Holder | undefined, string]>([
    ['claims one that nobody has', undefined, undefined, 'claim 1'],
    ['claims one that was elsewhere before', undefined, holder('b', 4, 5), 'claim 5'],
    ['yields when the peer came to the other later', undefined, holder('b', 4, 15), 'yield'],
    ['rests when it is said to have it', undefined, holder('a', 4, 5), 'rest'],
    ['rests when its claim stands', 4, holder('a', 4, 10), 'rest'],
    ['yields to a claim after its own, whatever the clocks say', 4, holder('b', 5, 1), 'yield'],
    ['claims again when an older claim came through late', 4, holder('b', 3, 30), 'claim 4'],
    ['claims again when its claim was lost', 4, undefined, 'claim 1'],
  ])('%s', (_, epoch, said, expected) => {
    const step = nextStep('a', { since: at(10), epoch }, said);
    expect(step.do === 'claim' ? `claim ${step.holder.epoch}` : step.do).toBe(expected);
    if (step.do === 'claim') expect(step.holder).toMatchObject({ node: 'a', since: '2026-01-01T00:00:10.000Z' });
  });
});

/** One object on an API server that takes a write only of the present version, and the agents that look at it. */
class Server {
  version = 1;
  holder: Holder | undefined;
  down = false;
  writes = 0;
  readonly clock = new FakeClock();
  readonly lost: string[] = [];
  readonly #agents = new Map<string, { claims: PeerClaims; seen: VpnPeer }>();

  get peer(): VpnPeer {
    const metadata = { name: 'alice', namespace: 'team', resourceVersion: String(this.version) };
    return { metadata, status: { holder: this.holder } } as unknown as VpnPeer;
  }

  agent(node: string): PeerClaims {
    const claims = new PeerClaims({
      node,
      clock: this.clock,
      random: () => 0.5,
      log: recordingLog().log,
      lost: () => this.lost.push(node),
      source: {
        get: (() => this.#agents.get(node)?.seen) as never,
        claim: async (peer, wanted) => {
          await Promise.resolve();
          if (this.down) throw new Error('the API server is away');
          if (peer.metadata.resourceVersion !== String(this.version)) return 'conflict';
          this.holder = wanted;
          this.version++;
          this.writes++;
          return 'taken';
        },
      },
    });
    this.#agents.set(node, { claims, seen: this.peer });
    return claims;
  }

  /** The watches of these agents bring what is there. */
  tell(...nodes: string[]): void {
    for (const node of nodes) {
      const agent = this.#agents.get(node);
      if (agent === undefined) continue;
      agent.seen = this.peer;
      agent.claims.changed(alice);
    }
  }
}

const alice: ObjectRef = { kind: 'VpnPeer', namespace: 'team', name: 'alice' };

describe('two nodes', () => {
  test('a client that moves is claimed by the node where it is, and given up where it was', async () => {
    const server = new Server();
    const [a, b] = [server.agent('a'), server.agent('b')];
    a.connected(alice, at(1));
    await until('the claim of a', () => server.holder?.node === 'a');
    server.tell('a', 'b');
    b.connected(alice, at(2));
    await until('the claim of b', () => server.holder?.node === 'b');
    expect(server.holder).toMatchObject({ epoch: 2 });
    server.tell('a', 'b');
    expect(server.lost).toEqual(['a']);
    expect(server.writes).toBe(2);
  });

  test('that claim at the same version come to one holder: where the client came last', async () => {
    const server = new Server();
    const [a, b] = [server.agent('a'), server.agent('b')];
    b.connected(alice, at(2));
    a.connected(alice, at(1));
    await until('one of them', () => server.writes === 1);
    expect(server.holder?.node).toBe('b');
    server.tell('a', 'b');
    server.clock.advance(1_000);
    expect(server.lost).toEqual(['a']);
    expect(server.holder).toMatchObject({ node: 'b', epoch: 1 });
  });

  test('an old claim that was held up cannot undo a newer one', async () => {
    const server = new Server();
    const [a, b] = [server.agent('a'), server.agent('b')];
    server.down = true;
    a.connected(alice, at(1));
    await until('a has tried', () => server.clock.pending !== undefined);
    server.down = false;
    b.connected(alice, at(2));
    await until('the claim of b', () => server.holder?.node === 'b');
    // The watch of a has not brought it yet.
    server.clock.advance(10_000);
    await until('a has tried again', () => server.clock.pending !== undefined);
    expect(server.holder?.node).toBe('b');
    server.tell('a');
    expect(server.lost).toEqual(['a']);
  });
});

test('nothing is written for a peer whose claim stands, or that is gone', async () => {
  const server = new Server();
  const a = server.agent('a');
  a.connected(alice, at(1));
  await until('the claim', () => server.writes === 1);
  server.tell('a');
  a.connected(alice, at(1));
  server.clock.advance(60_000);
  a.gone(alice);
  server.tell('a');
  expect(server.clock.pending).toBeUndefined();
  expect(server.writes).toBe(1);
});

test('a claim that fails is tried again', async () => {
  const server = new Server();
  server.down = true;
  const a = server.agent('a');
  a.connected(alice, at(1));
  await until('a timer', () => server.clock.pending !== undefined);
  server.down = false;
  server.clock.advance(10_000);
  await until('the claim', () => server.holder?.node === 'a');
});
