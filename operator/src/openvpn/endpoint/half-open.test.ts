import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsServer } from '../tls/tls-endpoint.ts';
import { HalfOpenPlaces, type Place } from './half-open.ts';
import { type Path, sourceNetwork } from './path.ts';
import { TestNetwork } from './server.fixture.ts';
import { evictedWords } from './server-host.ts';

test.each([
  ['192.0.2.1', '192.0.2.1'],
  ['2001:db8:1:23ff::1', '2001:db8:1:2300'],
  ['2001:db8:1:2300:1:2:3:4', '2001:db8:1:2300'],
  ['2001:db8::1', '2001:db8:0:0'],
  ['2001:db8:0:ff::', '2001:db8:0:0'],
  ['2001:db8:0:100::', '2001:db8:0:100'],
  ['::1', '0:0:0:0'],
  ['fe80::1:2:3', 'fe80:0:0:0'],
])('%s is behind %s', (address, network) => {
  expect(sourceNetwork(address)).toBe(network);
});

describe('places', () => {
  class Bench {
    now = 0;
    readonly limits = { halfOpen: 6, halfOpenPerSource: 4 };
    readonly places = new HalfOpenPlaces({ limits: () => this.limits, now: () => this.now });
    readonly held = new Map<Place, { evicted: boolean }>();
    readonly evicted: string[] = [];

    take(source: string): Place | string {
      const place = this.places.take(source, () => {
        this.evicted.push(source);
        if (typeof place !== 'string') {
          this.held.delete(place);
        }
      });
      if (typeof place !== 'string') {
        this.held.set(place, { evicted: false });
      }
      return place;
    }

    count(source: string): number {
      return [...this.held.keys()].filter((place) => place.source === source).length;
    }
  }

  test('of the source with the most go to a newcomer, however busy that keeps them', () => {
    const bench = new Bench();
    const kept = ['a', 'a', 'a', 'b', 'b', 'c'].map((source) => bench.take(source));
    bench.places.progressed(kept[0] as Place);
    expect(bench.take('d')).toMatchObject({ source: 'd' });
    expect(bench.evicted).toEqual(['a']);
    expect(bench.held.has(kept[0] as Place)).toBe(true);
    // Now a, b have two each: more than e would have.
    expect(bench.take('e')).toMatchObject({ source: 'e' });
    expect(bench.take('f')).toMatchObject({ source: 'f' });
    expect(bench.evicted.slice(1).toSorted()).toEqual(['a', 'b']);
    expect(['a', 'b', 'c', 'd', 'e', 'f'].map((source) => bench.count(source))).toEqual([1, 1, 1, 1, 1, 1]);
    // Nobody has more than another.
    expect(['a', 'g', 'h'].map((source) => bench.take(source))).toEqual(['full', 'full', 'full']);
    bench.now = 8000;
    bench.held.forEach((_, place) => place.source !== 'c' && bench.places.progressed(place));
    expect(bench.take('g')).toMatchObject({ source: 'g' });
    expect(bench.evicted.at(-1)).toBe('c');
    expect(bench.take('h')).toBe('full');
  });

  test('are shared evenly, whatever happens', () => {
    const sources = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
    const source = fc.constantFrom(...sources);
    const step = fc.tuple(fc.constantFrom('take', 'take', 'take', 'progress', 'release', 'wait'), source, fc.nat(5000));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const bench = new Bench();
        for (const [what, from, number] of steps) {
          const places = [...bench.held.keys()];
          const place = places[number % Math.max(1, places.length)];
          const before = new Map(sources.map((one) => [one, bench.count(one)]));
          const stood = new Map(places.map((one) => [one, bench.now - one.progressAt]));
          if (what === 'take') {
            const [own, most] = [before.get(from) ?? 0, Math.max(...before.values())];
            const taken = bench.take(from);
            if (taken === 'source-full') {
              expect(own).toBe(4);
            } else if (taken === 'full') {
              expect(places.length).toBe(6);
              expect(most).toBeLessThanOrEqual(own + 1);
            }
            for (const lost of places.filter((one) => !bench.held.has(one))) {
              expect(before.get(lost.source)).toBe(most);
              expect(most > own + 1 || stood.get(lost)! >= 8000).toBe(true);
            }
          } else if (what === 'wait') {
            bench.now += number;
          } else if (place !== undefined && what === 'progress') {
            bench.places.progressed(place);
          } else if (place !== undefined) {
            bench.held.delete(place);
            bench.places.release(place);
            bench.places.release(place);
          }
          expect(bench.places.size).toBe(bench.held.size);
          expect(bench.held.size).toBeLessThanOrEqual(6);
        }
      }),
    );
  });
});

let pki: TestPki;
let serverCertificate: Certificate;
let alice: Certificate;

beforeAll(() => {
  pki = testPki();
  serverCertificate = pki.issue('server', { usage: 'serverAuth' });
  alice = pki.issue('alice', { usage: 'clientAuth' });
});

afterAll(() => pki.remove());

function network(halfOpen: number, halfOpenPerSource: number): TestNetwork {
  return new TestNetwork({
    wrap: { kind: 'none' },
    tls: tlsServer({ ca: pki.ca, ...serverCertificate }),
    ciphers: ['AES-256-GCM'],
    tunMtu: 1400,
    limits: { halfOpen, halfOpenPerSource, repliesPerSecond: 1000 },
  });
}

const honestPath: Path = { remote: { address: '192.0.2.1', port: 1000 }, local: undefined };

/** Opens handshakes from its own addresses, and goes on with them by no more than it must. */
class Hostile {
  readonly #net: TestNetwork;
  readonly #thirds: { packet: Buffer; path: Path }[] = [];
  #count = 0;

  constructor(net: TestNetwork) {
    this.#net = net;
  }

  open(address: string): void {
    const path = { remote: { address, port: 2000 + this.#count++ }, local: undefined };
    const sessionId = Buffer.alloc(8, 1);
    sessionId.writeUInt32BE(this.#count);
    this.#net.deliver(Buffer.concat([Buffer.of(7 << 3), sessionId, Buffer.alloc(5)]), path);
    const cookie = this.#net.sent.at(-1)!.packet.subarray(1, 9);
    const packet = Buffer.concat([Buffer.of(5 << 3), sessionId, Buffer.of(1), Buffer.alloc(4), cookie]);
    this.#thirds.push({ packet, path });
    this.#net.deliver(packet, path);
  }

  /** Says again what it has said. */
  repeat(): void {
    this.#thirds.forEach(({ packet, path }) => this.#net.deliver(packet, path));
  }
}

function every(net: TestNetwork, milliseconds: number, task: () => void): () => void {
  let cancel = (): void => undefined;
  const again = (): void => {
    task();
    cancel = net.world.after(milliseconds, again);
  };
  cancel = net.world.after(milliseconds, again);
  return () => cancel();
}

describe('a client comes in though all places are taken', () => {
  test.each([
    ['one address', 20, ['203.0.113.1']],
    ['two addresses', 1, ['203.0.113.1', '203.0.113.2']],
    ['as many addresses as there are places', 60, [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `203.0.113.${n}`)],
    ['one IPv6 /56', 1, [1, 2, 3, 4].map((n) => `2001:db8:1:a${n}::1`)],
  ])('by %s, which repeats its packets all the time', async (_, seconds, addresses) => {
    const net = network(8, 8);
    const hostile = new Hostile(net);
    for (let i = 0; i < 8; i++) {
      hostile.open(addresses[i % addresses.length]!);
    }
    expect(net.server.halfOpen).toBe(8);
    const stop = every(net, 700, () => hostile.repeat());
    const honest = net.udpClient(honestPath, { pki, certificate: alice });
    honest.session.start();
    await net.world.run(() => honest.had('established'), seconds * 1000);
    expect(honest.had('established')).toBe(true);
    stop();
    net.server.close();
    honest.session.close();
  });
});

test('a handshake over a slow and lossy line is not evicted by a crowd', async () => {
  let established = 0;
  for (let seed = 1; seed <= 8; seed++) {
    const net = network(12, 6);
    const hostile = new Hostile(net);
    const open = (): void => hostile.open(`203.0.113.${1 + (Math.floor(net.world.time / 100) % 5)}`);
    for (let i = 0; i < 12; i++) {
      open();
      net.world.time += 100;
    }
    let state = seed * 7919;
    const lost = (): boolean => (state = (state * 1103515245 + 12345) % 0x80000000) / 0x80000000 < 0.2;
    const slow = net.udpClient(honestPath, { pki, certificate: alice }, (deliver) => {
      if (!lost()) {
        net.world.after(150, deliver);
      }
    });
    slow.session.start();
    const stops = [every(net, 100, open), every(net, 5000, () => hostile.repeat())];
    await net.world.run(() => slow.had('established') || slow.had('failed'), 70_000);
    established += slow.had('established') ? 1 : 0;
    const own = net.owner.failures.filter(({ path }) => path.remote.address === honestPath.remote.address);
    expect(own.map(({ reason }) => reason)).not.toContainEqual(expect.stringContaining(evictedWords));
    expect(net.server.counters.evicted + net.server.counters.refusedFull).toBeGreaterThanOrEqual(3);
    stops.forEach((stop) => stop());
    net.server.close();
    slow.session.close();
  }
  // What is lost thrice may end a handshake all the same.
  expect(established).toBeGreaterThanOrEqual(7);
});

describe('a ClientHello that does not come whole', () => {
  test('ends the handshake long before the handshake window', async () => {
    const net = network(8, 8);
    new Hostile(net).open('203.0.113.1');
    await net.world.settle(14_000);
    expect(net.server.halfOpen).toBe(1);
    await net.world.settle(1000);
    expect(net.server.halfOpen).toBe(0);
    expect(net.owner.failures).toMatchObject([
      { reason: "the client's TLS ClientHello did not come whole within 15 s" },
    ]);
    expect(net.world.timers).toBe(0);
  });

  test('at first may have its packets lost three times in a row', async () => {
    const net = network(8, 8);
    let sent = 0;
    const client = net.udpClient(honestPath, { pki, certificate: alice }, (deliver) => {
      // The reset and its answer pass; then all is lost for 13 s, which is before the fourth try.
      sent += 1;
      if (sent <= 2 || net.world.time > 13_000) {
        deliver();
      }
    });
    client.session.start();
    await net.world.run(() => client.had('established'), 30_000);
    expect(client.had('established')).toBe(true);
    client.session.close();
    net.server.close();
  });

  test('within it, a handshake may take all of its window', async () => {
    const net = network(8, 8);
    net.owner.decide = () => undefined;
    const client = net.udpClient(honestPath, { pki, certificate: alice });
    client.session.start();
    await net.world.settle(40_000);
    expect(net.server.halfOpen).toBe(1);
    client.session.close();
    net.server.close();
    expect(net.world.timers).toBe(0);
  });
});
