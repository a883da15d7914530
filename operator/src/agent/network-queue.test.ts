import { describe, expect, test } from '@jest/globals';
import type { ObjectRef } from '../api/types.ts';
import { NetworkQueue, type NetworkWork } from './network-queue.ts';

const peer = (name: string): ObjectRef => ({ kind: 'VpnPeer', namespace: 'shop', name });

/** Passes that end when the test says so. */
class Passes {
  readonly begun: string[] = [];
  readonly #ends = new Map<string, () => void>();
  readonly queue = new NetworkQueue((network, { whole, peers }: NetworkWork) => {
    this.begun.push([network, ...(whole ? ['whole'] : []), ...peers.map(({ name }) => name)].join(' '));
    return new Promise((resolve) => this.#ends.set(network, resolve));
  });

  async end(network: string): Promise<void> {
    this.#ends.get(network)?.();
    await tick();
  }
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('the queue of passes', () => {
  test('makes one pass of what comes at once, and the next of what comes meanwhile', async () => {
    const passes = new Passes();
    const { queue, begun } = passes;
    queue.addPeers('corp', [peer('a')]);
    queue.addPeers('corp', [peer('b'), peer('a')]);
    queue.addPeers('corp', []);
    await tick();
    expect(begun).toEqual(['corp a b']);
    queue.addPeers('corp', [peer('c')]);
    queue.addWhole('corp');
    await tick();
    expect(begun).toHaveLength(1);
    await passes.end('corp');
    expect(begun).toEqual(['corp a b', 'corp whole c']);
  });

  test('lets no network wait for another, and passes of one for each other', async () => {
    const passes = new Passes();
    passes.queue.addWhole('corp');
    passes.queue.addWhole('lab');
    await tick();
    expect(passes.begun).toEqual(['corp whole', 'lab whole']);
    passes.queue.addPeers('corp', [peer('a')]);
    await passes.end('lab');
    expect(passes.begun).toHaveLength(2);
    await passes.end('corp');
    expect(passes.begun).toEqual(['corp whole', 'lab whole', 'corp a']);
  });

  test('says when a network, or all of them, have nothing left to do', async () => {
    const passes = new Passes();
    const settled: string[] = [];
    passes.queue.addWhole('corp');
    passes.queue.addWhole('lab');
    void passes.queue.settled('corp').then(() => settled.push('corp'));
    void passes.queue.settled('nowhere').then(() => settled.push('nowhere'));
    void passes.queue.settled().then(() => settled.push('all'));
    await tick();
    passes.queue.addWhole('corp');
    await passes.end('corp');
    expect(settled).toEqual(['nowhere']);
    await passes.end('corp');
    expect(settled).toEqual(['nowhere', 'corp']);
    await passes.end('lab');
    expect(settled).toEqual(['nowhere', 'corp', 'all']);
  });

  test('begins nothing after it was stopped', async () => {
    const passes = new Passes();
    passes.queue.addWhole('corp');
    await tick();
    passes.queue.addWhole('corp');
    passes.queue.stop();
    passes.queue.addWhole('lab');
    await passes.end('corp');
    await passes.queue.settled();
    expect(passes.begun).toEqual(['corp whole']);
  });
});
