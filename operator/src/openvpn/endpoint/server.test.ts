import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Established } from '../session/session-event.ts';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsServer } from '../tls/tls-endpoint.ts';
import { frame } from '../wire/frame.ts';
import { wrapClientKey } from '../wrap/client-key.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import type { Path } from './path.ts';
import { type ClientSetup, TestClient, TestNetwork, testOffer } from './server.fixture.ts';
import type { ServedClient, ServerSettings } from './server-settings.ts';

let pki: TestPki;
let serverCertificate: Certificate;
let alice: Certificate;

beforeAll(() => {
  pki = testPki();
  serverCertificate = pki.issue('server', { usage: 'serverAuth' });
  alice = pki.issue('alice', { usage: 'clientAuth' });
});

afterAll(() => pki.remove());

const key = Uint8Array.from({ length: 256 }, (_, i) => i);
const serverKey = Uint8Array.from({ length: 128 }, (_, i) => i);
const wraps: Record<string, () => { server: WrapConfig; client: WrapConfig }> = {
  none: () => ({ server: { kind: 'none' }, client: { kind: 'none' } }),
  'tls-auth': () => ({
    server: { kind: 'tls-auth', key, digest: 'SHA256', direction: 0 },
    client: { kind: 'tls-auth', key, digest: 'SHA256', direction: 1 },
  }),
  'tls-crypt': () => ({ server: { kind: 'tls-crypt', key }, client: { kind: 'tls-crypt', key } }),
  'tls-crypt-v2': () => ({
    server: { kind: 'tls-crypt-v2-server', serverKey },
    client: { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(serverKey, key, undefined) },
  }),
};

function network(settings: Partial<ServerSettings> = {}): TestNetwork {
  return new TestNetwork({
    wrap: { kind: 'none' },
    tls: tlsServer({ ca: pki.ca, ...serverCertificate }),
    ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
    tunMtu: 1400,
    limits: { halfOpen: 100, halfOpenPerSource: 10, repliesPerSecond: 100 },
    ...settings,
  });
}

const as = (certificate: Certificate, more: Partial<ClientSetup> = {}): ClientSetup => ({ pki, certificate, ...more });

function at(port: number, address = '192.0.2.1'): Path {
  return { remote: { address, port }, local: '198.51.100.1' };
}

describe.each(Object.keys(wraps))('a client with %s', (name) => {
  test('connects over UDP, renegotiates and leaves', async () => {
    const { server, client } = wraps[name]!();
    const net = network({ wrap: server });
    const alices = net.udpClient(at(1000), as(alice, { wrap: client }));
    alices.session.start();
    await net.world.run(() => alices.had('established'));
    await net.world.settle();
    expect(net.owner.told.map(({ what }) => what)).toEqual(['authenticated', 'established']);
    const served = net.owner.clients[0]!;
    expect(served).toMatchObject({ transport: 'udp', listener: 'udp', keyId: 0, identity: { commonName: 'alice' } });
    expect(served.path).toEqual(at(1000));
    expect(net.owner.told[1]!.established!.keys.decrypt).toEqual(alices.event('established')!.established.keys.encrypt);
    expect(net.server.halfOpen).toBe(0);
    expect([...net.server.clients()]).toEqual([served]);

    expect(served.rekey()).toBe(true);
    await net.world.run(() => alices.had('rekeyed') && net.owner.count('rekeyed') === 1);
    expect(served.keyId).toBe(1);

    alices.session.exit();
    await net.world.run(() => net.owner.ends.length > 0);
    expect(net.owner.ends).toEqual([{ cause: 'exit', reason: 'the client left' }]);
    expect([...net.server.clients()]).toEqual([]);
    await net.world.settle(10_000);
    expect(net.owner.ends).toHaveLength(1);
    expect(net.world.timers).toBe(0);
  });

  test.each([1, 7, 65536])('does so over TCP in reads of at most %d bytes', async (cut) => {
    const { server, client } = wraps[name]!();
    const net = network({ wrap: server });
    const stream = net.tcpClient(at(1000), as(alice, { wrap: client }), cut);
    const handOvers: number[] = [];
    net.owner.programKernel = (served) => {
      served.handOver(() => {
        handOvers.push(stream.reads.length);
        stream.handedOver = true;
        served.confirm();
        return true;
      });
    };
    stream.client.session.start();
    await net.world.run(() => stream.client.had('established'));
    await net.world.settle();
    expect(handOvers).toHaveLength(1);
    const before = stream.reads.slice(0, handOvers[0]);
    expect(before.every(({ bytes, wanted }) => bytes.length <= wanted)).toBe(true);
    expect(stream.endpoint.wanted).toBe(65537);

    const served = net.owner.clients[0]!;
    stream.client.session.rekey();
    await net.world.run(() => stream.client.had('rekeyed') && net.owner.count('rekeyed') === 1);
    expect(served.keyId).toBe(1);
    stream.client.session.exit();
    await net.world.run(() => net.owner.ends.length > 0);
    await net.world.settle(10_000);
    expect(net.owner.ends).toEqual([{ cause: 'exit', reason: 'the client left' }]);
    expect(stream.closed).toBe(true);
    expect(net.world.timers).toBe(0);
  });
});

/** A network with alice connected from port 1000. */
async function connected(settings: Partial<ServerSettings> = {}, setup: Partial<ClientSetup> = {}) {
  const net = network(settings);
  const client = net.udpClient(at(1000), as(alice, setup));
  client.session.start();
  await net.world.run(() => client.had('established'));
  await net.world.settle();
  return { net, client, served: net.owner.clients[0]! };
}

/** Both sides agree on a further key: the session works. */
async function expectAlive(net: TestNetwork, client: TestClient, served: ServedClient): Promise<void> {
  const before = served.keyId;
  expect(served.rekey()).toBe(true);
  await net.world.run(() => served.keyId !== before && client.session.keyId === served.keyId, 10_000);
  expect(served.keyId).not.toBe(before);
  expect(client.session.keyId).toBe(served.keyId);
  await net.world.settle();
}

test('many clients over UDP and TCP at the same time are each served by themselves', async () => {
  const net = network();
  let peerId = 0;
  net.owner.decide = (client) => client.accept({ ...testOffer, peerId: peerId++ });
  const clients = Array.from({ length: 30 }, (_, i) =>
    i % 3 === 0
      ? net.tcpClient(at(2000 + i, `192.0.2.${i}`), as(alice)).client
      : net.udpClient(at(2000 + (i % 2), `192.0.2.${i}`), as(alice)),
  );
  clients.forEach(({ session }) => session.start());
  await net.world.run(() => clients.every((client) => client.had('established')));
  await net.world.settle();
  expect(net.owner.count('established')).toBe(30);
  const byPeerId = (established: (Established | undefined)[]) => new Map(established.map((one) => [one!.peerId, one!]));
  const servers = byPeerId(net.owner.told.flatMap(({ established }) => established ?? []));
  for (const [id, { keys }] of byPeerId(clients.map((client) => client.event('established')?.established))) {
    expect(servers.get(id)!.keys.decrypt).toEqual(keys.encrypt);
  }
  expect(new Set(net.owner.clients.map(({ path }) => path.remote.address)).size).toBe(30);
  expect(net.server.halfOpen).toBe(0);
  net.server.close();
  clients.forEach(({ session }) => session.close());
  expect(net.world.timers).toBe(0);
});

describe('a client that begins anew from the same address', () => {
  test('gets its new session, and the former one ends when that has authenticated', async () => {
    const { net, client: former, served } = await connected();
    const next = net.udpClient(at(1000), as(alice));
    next.session.start();
    let endsAtAuthentication = -1;
    net.owner.decide = (client) => {
      endsAtAuthentication = net.owner.ends.length;
      expect(served.rekey()).toBe(false);
      client.accept(testOffer);
    };
    await net.world.run(() => net.server.halfOpen === 1);
    expect(net.owner.ends).toEqual([]);
    await net.world.run(() => next.had('established'));
    await net.world.settle();
    expect(endsAtAuthentication).toBe(1);
    expect(net.owner.told.map(({ what }) => what)).toEqual([
      ...['authenticated', 'established'],
      ...['ended', 'authenticated', 'established'],
    ]);
    expect(net.owner.told[2]).toMatchObject({ client: served, end: { cause: 'replaced-path' } });
    expect([...net.server.clients()]).toEqual([net.owner.clients[1]]);
    await expectAlive(net, next, net.owner.clients[1]!);
    former.session.close();
    next.session.exit();
    await net.world.settle(10_000);
    expect(net.owner.ends.map(({ cause }) => cause)).toEqual(['replaced-path', 'exit']);
    expect(net.world.timers).toBe(0);
  });

  test('does not end the former session when it cannot authenticate', async () => {
    const { net, client, served } = await connected();
    const stranger = testPki('Another CA');
    const other = net.udpClient(at(1000), as(stranger.issue('alice', { usage: 'clientAuth' })));
    stranger.remove();
    other.session.start();
    await net.world.run(() => net.owner.failures.length > 0);
    expect(net.owner.failures[0]!.reason).toContain('the CA of the certificate is not one that is trusted here');
    expect(net.owner.ends).toEqual([]);
    other.session.close();
    net.route(at(1000), client);
    await expectAlive(net, client, served);
  });

  test('once more in the middle of the handshake leaves nothing of the handshake before', async () => {
    const net = network();
    const clients = Array.from({ length: 5 }, () => net.udpClient(at(1000), as(alice)));
    for (const [i, client] of clients.entries()) {
      client.session.start();
      net.route(at(1000), client);
      await net.world.run(() => net.server.counters.begun === i + 1, 1000);
      if (i < 4) {
        client.session.close();
      }
    }
    expect(net.server.halfOpen).toBe(2);
    expect(net.server.counters.superseded).toBe(3);
    await net.world.run(() => clients[4]!.had('established'));
    expect(net.server.halfOpen).toBe(0);
    expect(net.owner.count('established')).toBe(1);
    expect(net.owner.failures).toEqual([]);
  });
});

test.each(Object.keys(wraps))('forged first packets do not disturb a client with %s', async (name) => {
  const { server, client: wrap } = wraps[name]!();
  const { net, client, served } = await connected({ wrap: server }, { wrap });
  const [begun, sent] = [net.server.counters.begun, net.sent.length];
  for (let i = 0; i < 20; i++) {
    // The forger knows the keys of the wrapping, but sees no answer.
    const forger = new TestClient(net.world, 'udp', as(alice, { wrap }), (packet) => net.deliver(packet, at(1000)));
    forger.session.start();
    await net.world.settle();
    forger.session.close();
  }
  expect(net.sent.length - sent).toBe(20);
  expect(net.server.counters.begun).toBe(begun);
  expect(net.server.halfOpen).toBe(0);
  expect(net.owner.ends).toEqual([]);
  await expectAlive(net, client, served);
});

describe('limits', () => {
  /** A client that says no more than what makes a session of it. */
  async function stopsShort(net: TestNetwork, path: Path): Promise<TestClient> {
    const client = net.udpClient(path, as(alice));
    const { begun } = net.server.counters;
    client.session.start();
    // Not long enough to say anything twice.
    await net.world.run(() => net.server.counters.begun > begun, 400);
    client.session.close();
    return client;
  }

  test('one source has some handshakes at a time, however many addresses of a /56 it uses', async () => {
    const net = network({ limits: { halfOpen: 100, halfOpenPerSource: 3, repliesPerSecond: 1000 } });
    for (let i = 0; i < 5; i++) {
      await stopsShort(net, at(1000 + i));
      await stopsShort(net, at(1000, `2001:db8:0:100::${i + 1}`));
      await stopsShort(net, at(1000, `2001:db8:0:${i}::${i + 1}`));
    }
    expect(net.server.halfOpen).toBe(9);
    expect(net.server.counters.refusedSourceFull).toBe(6);
    expect(net.owner.failures[0]).toMatchObject({
      listener: 'udp',
      reason: '3 handshakes from the same address are on their way, which is the limit',
    });
    const other = net.udpClient(at(1000, '203.0.113.5'), as(alice));
    other.session.start();
    await net.world.run(() => other.had('established'));
    await net.world.settle(60_000);
    expect(net.server.halfOpen).toBe(0);
    await stopsShort(net, at(1000));
    expect(net.server.halfOpen).toBe(1);
  });

  test('when all places are taken, a client waits and comes in for one that fell silent', async () => {
    const net = network({ limits: { halfOpen: 4, halfOpenPerSource: 10, repliesPerSecond: 1000 } });
    for (let i = 0; i < 4; i++) {
      await stopsShort(net, at(1000 + i));
    }
    const honest = net.udpClient(at(2000), as(alice));
    honest.session.start();
    await net.world.settle(1000);
    expect(net.server.counters).toMatchObject({ refusedFull: expect.any(Number), evicted: 0 });
    expect(net.server.counters.refusedFull).toBeGreaterThan(0);
    await net.world.run(() => honest.had('established'));
    expect(honest.had('established')).toBe(true);
    // Long before the handshake window of the silent ones is over.
    expect(net.world.time).toBeLessThan(20_000);
    expect(net.server.counters.evicted).toBe(1);
    expect(net.server.halfOpen).toBe(3);
  });

  test('a handshake that goes on is not cut for another', async () => {
    const net = network({ limits: { halfOpen: 1, halfOpenPerSource: 10, repliesPerSecond: 1000 } });
    // Its owner takes its time, and the client asks again and again.
    net.owner.decide = () => undefined;
    const slow = net.udpClient(at(1000), as(alice));
    slow.session.start();
    await net.world.run(() => net.owner.count('authenticated') === 1);
    for (let i = 0; i < 10; i++) {
      const other = net.udpClient(at(2000), as(alice));
      other.session.start();
      await net.world.settle(4000);
      other.session.close();
    }
    expect(net.server.counters).toMatchObject({ begun: 1 });
    expect(net.server.counters.refusedFull).toBeGreaterThan(0);
    const [served] = net.server.clients();
    expect(served!.accept(testOffer)).toBe(true);
    await net.world.run(() => slow.had('established'));
    expect(net.owner.ends).toEqual([]);
  });

  test('TCP connections count from the first moment, and are closed when nothing comes', async () => {
    const net = network({
      handshakeSeconds: 20,
      limits: { halfOpen: 3, halfOpenPerSource: 2, repliesPerSecond: 100 },
    });
    const streams = [1, 2, 3].map((port) => net.tcpClient(at(port), as(alice)));
    expect(streams.map(({ closed }) => closed)).toEqual([false, false, true]);
    const others = [1, 2].map((port) => net.tcpClient(at(port, '203.0.113.7'), as(alice)));
    expect(others.map(({ closed }) => closed)).toEqual([false, true]);
    expect(net.server.counters).toMatchObject({ refusedSourceFull: 1, refusedFull: 1 });
    // A byte is not a packet.
    streams[0]!.put(Buffer.of(0));
    await net.world.settle(14_000);
    expect(streams[0]!.closed).toBe(false);
    await net.world.settle(1000);
    expect([...streams, ...others].every(({ closed }) => closed)).toBe(true);
    expect(net.server.halfOpen).toBe(0);
    expect(net.server.counters.silentConnections).toBe(3);
    expect(net.world.timers).toBe(0);
  });

  test('first packets are answered at a limited rate, which can be changed', async () => {
    const limits = { halfOpen: 100, halfOpenPerSource: 100, repliesPerSecond: 5 };
    const net = network({ limits });
    const flood = async () => {
      for (let i = 0; i < 20; i++) {
        net.udpClient(at(1000 + i), as(alice)).session.start();
      }
      await net.world.settle();
    };
    await flood();
    // Those that are no forgeries do not count.
    expect(net.server.counters.replies).toBe(5);
    expect(net.server.counters.dropped.get('limit')).toBe(15);
    expect(net.server.counters.begun).toBe(5);
  });

  test('nobody gets more answers to forged first packets by following up its own', async () => {
    const net = network({ limits: { halfOpen: 100, halfOpenPerSource: 2, repliesPerSecond: 10 } });
    const forged = (): number => {
      const before = net.server.counters.replies;
      for (let i = 0; i < 100; i++) {
        const sessionId = Buffer.alloc(8, 1 + i);
        net.deliver(Buffer.concat([Buffer.of(7 << 3), sessionId, Buffer.alloc(5)]), at(53, '198.51.100.9'));
      }
      return net.server.counters.replies - before;
    };
    const hostile = await stopsShort(net, at(1000));
    await stopsShort(net, at(1001));
    const turnedAway = net.udpClient(at(1002), as(alice));
    turnedAway.session.start();
    await net.world.settle();
    turnedAway.session.close();
    expect(net.server.counters).toMatchObject({ begun: 2, refusedSourceFull: 1 });
    // Of ten, one was answered to whom no session began.
    expect(forged()).toBe(9);
    for (const client of [hostile, turnedAway]) {
      client.sent.slice(1).forEach((packet) => net.deliver(packet, at(client === hostile ? 1000 : 1002)));
    }
    expect(forged()).toBe(0);
    // Session over, the same packet begins another one; its answer has been given back already.
    await net.world.settle(62_000);
    expect(net.server.halfOpen).toBe(0);
    expect(forged()).toBe(10);
    hostile.sent.slice(1).forEach((packet) => net.deliver(packet, at(1000)));
    expect(net.server.counters.begun).toBe(3);
    expect(forged()).toBe(0);
  });

  test.each(['udp', 'tcp'] as const)('handshakes begin at a limited rate over %s', async (transport) => {
    const limits = { halfOpen: 100, halfOpenPerSource: 100, repliesPerSecond: 1000 };
    const rates = { begins: { burst: 6, perSecond: 1 }, beginsPerSource: { burst: 4, perSecond: 0.5 } };
    const net = network({ limits: { ...limits, ...rates } });
    const begin = async (count: number, address: string): Promise<number> => {
      const { begun } = net.server.counters;
      for (let i = 0; i < count; i++) {
        const path = at(2000 + i, address);
        const stream = transport === 'tcp' ? net.tcpClient(path, as(alice)) : undefined;
        const client = stream?.client ?? net.udpClient(path, as(alice));
        client.session.start();
        await net.world.settle();
        client.session.close();
        stream?.endpoint.closed();
      }
      return net.server.counters.begun - begun;
    };
    expect(await begin(10, '192.0.2.1')).toBe(4);
    expect(net.server.counters).toMatchObject({ refusedSourceRate: 6, refusedRate: 0 });
    expect(await begin(10, '192.0.2.2')).toBe(2);
    expect(net.server.counters).toMatchObject({ refusedSourceRate: 6, refusedRate: 8 });
    expect(new Set(net.owner.failures.map(({ reason }) => reason))).toContain(
      'too many handshakes from the same address began within a short time',
    );
    net.world.time += 4000;
    expect(await begin(10, '192.0.2.1')).toBe(2);
    expect(await begin(10, '192.0.2.2')).toBe(2);
    net.server.close();
  });

  test('a client that was turned away by the rate comes in with its next packet', async () => {
    const limits = { halfOpen: 100, halfOpenPerSource: 100, repliesPerSecond: 1000 };
    const net = network({ limits: { ...limits, begins: { burst: 1, perSecond: 1 } } });
    await stopsShort(net, at(1000));
    const client = net.udpClient(at(1001), as(alice));
    client.session.start();
    await net.world.run(() => client.had('established'), 5000);
    expect(client.had('established')).toBe(true);
    expect(net.server.counters.refusedRate).toBeGreaterThan(0);
  });

  test('reports are limited, and say how many were left out', async () => {
    const net = network({ wrap: { kind: 'tls-crypt', key } });
    const wrong = { kind: 'tls-crypt', key: key.toReversed() } as const;
    const flood = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const client = net.udpClient(at(1000 + i), as(alice, { wrap: wrong }));
        client.session.start();
        await net.world.settle();
        client.session.close();
      }
    };
    await flood(50);
    const words = "the client's first packet does not authenticate: it needs tls-crypt with the key of this server";
    expect(net.owner.failures.map(({ reason }) => reason)).toEqual(Array(5).fill(words));
    expect(net.server.counters.dropped.get('unauthenticated')).toBe(50);
    net.world.time += 1000;
    await flood(1);
    expect(net.owner.failures[5]!.reason).toBe(`${words} (45 more failures before this one were not reported)`);
    expect(net.server.halfOpen).toBe(0);
  });
});

describe('clients that are not welcome', () => {
  test('by their identity are told so, and the owner hears of them once', async () => {
    const net = network();
    net.owner.unwelcome = (name) => `${name} is not a peer of this network`;
    const client = net.udpClient(at(1000), as(alice));
    client.session.start();
    await net.world.run(() => client.had('closed'));
    expect(client.event('auth-failed')).toMatchObject({ failure: { reason: 'alice is not a peer of this network' } });
    await net.world.settle(10_000);
    expect(net.owner.failures).toEqual([
      { path: at(1000), listener: 'udp', reason: 'alice is not a peer of this network', commonName: 'alice' },
    ]);
    expect(net.owner.told).toEqual([]);
    expect(net.server.counters).toMatchObject({ failed: 1, authenticated: 0 });
    expect(net.world.timers).toBe(0);
  });

  test.each(['udp', 'tcp'] as const)('by the owner are told so over %s, and end', async (transport) => {
    const net = network();
    net.owner.decide = (client) => client.refuse('no address is left', { temporary: true, backoffSeconds: 9 });
    const stream = transport === 'tcp' ? net.tcpClient(at(1000), as(alice)) : undefined;
    const client = stream?.client ?? net.udpClient(at(1000), as(alice));
    client.session.start();
    await net.world.run(() => client.had('closed'));
    await net.world.settle(10_000);
    expect(client.event('auth-failed')).toMatchObject({
      failure: { reason: 'no address is left', temporary: true, backoffSeconds: 9 },
    });
    expect(net.owner.ends).toEqual([{ cause: 'closed', reason: 'no address is left' }]);
    expect(net.owner.failures).toEqual([]);
    expect(stream?.closed).not.toBe(false);
    expect(net.server.halfOpen).toBe(0);
    expect(net.world.timers).toBe(0);
  });

  test.each(['udp', 'tcp'] as const)('by their certificate over %s are reported with the reason', async (transport) => {
    const net = network();
    const expired = pki.issue('late', { usage: 'clientAuth', expired: true });
    const stream = transport === 'tcp' ? net.tcpClient(at(1000), as(expired)) : undefined;
    const client = stream?.client ?? net.udpClient(at(1000), as(expired));
    client.session.start();
    await net.world.run(() => client.had('failed') && net.owner.failures.length > 0);
    expect(net.owner.failures).toMatchObject([
      { listener: transport, reason: "the peer's certificate was refused: the certificate has expired" },
    ]);
    expect(stream?.closed).not.toBe(false);
    await net.world.settle(1000);
    expect(net.owner.told).toEqual([]);
    expect(net.world.timers).toBe(0);
  });

  test.each<[string, boolean, () => Certificate]>([
    ['that has expired', true, () => pki.issue('late', { usage: 'clientAuth', expired: true })],
    ['of another use', false, () => pki.issue('impostor', { usage: 'serverAuth' })],
  ])('by a certificate %s hear whether they should come again: %p', async (_, temporary, issue) => {
    const net = network();
    const client = net.udpClient(at(1000), as(issue()));
    client.session.start();
    await net.world.run(() => client.had('auth-failed'));
    const backoffSeconds = temporary ? 60 : undefined;
    expect(client.event('auth-failed')!.failure).toMatchObject({ temporary, backoffSeconds });
    client.session.close();
  });

  test.each([
    ['none', 'tls-crypt', 'this server uses neither tls-auth nor tls-crypt'],
    ['tls-crypt', 'none', 'it needs tls-crypt with the key of this server'],
    ['tls-auth', 'tls-crypt', 'it needs tls-auth with the key of this server'],
    ['tls-crypt-v2', 'tls-crypt', 'it needs tls-crypt-v2 with the key of this server'],
    ['tls-crypt', 'tls-crypt-v2', 'it needs tls-crypt with the key of this server'],
  ])('by another wrapping than %s, %s, are reported', async (ours, theirs, words) => {
    const net = network({ wrap: wraps[ours]!().server });
    const wrap = wraps[theirs]!().client;
    net.udpClient(at(1000), as(alice, { wrap })).session.start();
    const stream = net.tcpClient(at(1001), as(alice, { wrap }));
    stream.client.session.start();
    await net.world.settle(1000);
    expect(net.owner.failures.map(({ listener }) => listener)).toEqual(['udp', 'tcp']);
    expect(net.owner.failures.every(({ reason }) => reason.includes(words))).toBe(true);
    expect(stream.closed).toBe(true);
    expect(net.server.halfOpen).toBe(0);
  });

  test('by a tls-crypt-v2 key of another server are reported', async () => {
    const net = network({ wrap: wraps['tls-crypt-v2']!().server });
    const wrapped = wrapClientKey(serverKey.toReversed(), key, undefined);
    net.udpClient(at(1000), as(alice, { wrap: { kind: 'tls-crypt-v2-client', key, wrapped } })).session.start();
    await net.world.settle(1000);
    expect(net.owner.failures.map(({ reason }) => reason)).toEqual([expect.stringContaining('was not issued under')]);
  });

  test('any more when they renegotiate are ended, and told why', async () => {
    const { net, client } = await connected();
    net.owner.unwelcome = () => 'alice was suspended';
    client.session.rekey();
    await net.world.run(() => net.owner.ends.length > 0);
    expect(net.owner.ends).toEqual([{ cause: 'failed', reason: 'alice was suspended' }]);
    await net.world.settle(1000);
    expect(client.events.filter(({ type }) => type === 'auth-failed')).toMatchObject([
      { failure: { reason: 'alice was suspended' } },
    ]);
    expect(net.owner.failures).toEqual([]);
  });
});

describe('ends', () => {
  test.each([
    ['restart', 'moving to another node'],
    ['halt', 'the peer was removed'],
  ] as const)('%s is said to the client, then told', async (how, reason) => {
    const { net, client, served } = await connected();
    served[how](reason);
    await net.world.run(() => client.had('closed'));
    await net.world.settle(10_000);
    expect(client.event(how)).toMatchObject({ reason });
    expect(net.owner.ends).toEqual([{ cause: 'closed', reason }]);
    expect(net.world.timers).toBe(0);
  });

  test('close is silent, and its path is free', async () => {
    const { net, client, served } = await connected();
    const sent = net.sent.length;
    served.close();
    served.close();
    served.handOver(() => true);
    expect(served.rekey()).toBe(false);
    expect([...net.server.clients()]).toEqual([]);
    client.session.exit();
    await net.world.settle(20_000);
    expect(net.sent.length).toBe(sent);
    expect(net.owner.ends).toEqual([]);
    const next = net.udpClient(at(1000), as(alice));
    next.session.start();
    await net.world.run(() => next.had('established'));
    expect(net.owner.ends).toEqual([]);
  });

  test('a closed listener ends its clients, and the server goes on', async () => {
    const { net, client } = await connected();
    const stream = net.tcpClient(at(1001), as(alice));
    stream.client.session.start();
    await net.world.run(() => stream.client.had('established'));
    net.udp.close();
    expect(net.owner.ends).toEqual([{ cause: 'transport', reason: 'its listener was closed' }]);
    const sent = net.sent.length;
    client.session.rekey();
    await net.world.settle(5000);
    expect(net.sent.length).toBe(sent);
    expect([...net.server.clients()].map(({ transport }) => transport)).toEqual(['tcp']);
  });

  test('a closed server is silent to all and leaves nothing behind', async () => {
    const { net, client } = await connected();
    const established = net.tcpClient(at(1001), as(alice));
    established.client.session.start();
    await net.world.run(() => established.client.had('established'));
    const silent = net.tcpClient(at(1002), as(alice));
    const half = net.udpClient(at(1003), as(alice));
    half.session.start();
    await net.world.run(() => net.server.halfOpen === 2);
    net.server.close();
    [client, half, established.client].forEach(({ session }) => session.close());
    expect(net.owner.ends).toEqual([]);
    expect(established.closed && silent.closed).toBe(true);
    expect(net.server.halfOpen).toBe(0);
    expect(net.world.timers).toBe(0);
    expect([...net.server.clients()]).toEqual([]);
  });
});

describe('a client that moves', () => {
  test('is followed when the kernel says so, and leaves its former path to others', async () => {
    const { net, client, served } = await connected();
    // The client sends from elsewhere now, and hears what is sent there.
    const roaming = net.roam(client, at(1000), at(7777, '203.0.113.9'));
    client.session.rekey();
    await net.world.settle(1000);
    expect(served.keyId).toBe(0);
    expect(net.server.counters.dropped.get('unexpected')).toBeGreaterThan(0);
    served.moved(roaming.remote);
    served.moved(roaming.remote);
    expect(served.path).toEqual({ remote: roaming.remote, local: '198.51.100.1' });
    await net.world.run(() => served.keyId === 1 && client.session.keyId === 1, 10_000);
    expect([served.keyId, client.session.keyId]).toEqual([1, 1]);
    expect(net.sent.at(-1)!.path.remote).toEqual(roaming.remote);

    const other = net.udpClient(at(1000), as(alice));
    other.session.start();
    await net.world.run(() => other.had('established'));
    expect(net.owner.ends).toEqual([]);
    expect([...net.server.clients()]).toHaveLength(2);
  });

  test('is followed when its packets come from elsewhere and the owner, who is asked, knows that it moved', async () => {
    const { net, client, served } = await connected();
    const roaming = net.roam(client, at(1000), at(7777, '203.0.113.9'));
    net.owner.displaced = (asked) => {
      net.owner.asked.push(asked);
      asked.moved(roaming.remote);
    };
    client.session.rekey();
    await net.world.run(() => served.keyId === 1 && client.session.keyId === 1, 10_000);
    expect([served.keyId, client.session.keyId]).toEqual([1, 1]);
    expect(net.owner.asked).toEqual([served]);
    // Not even the first of its packets was lost.
    expect(net.server.counters.dropped.get('unexpected')).toBeUndefined();
  });

  test('has its owner asked once a second, however many packets come from wherever', async () => {
    const { net, client, served } = await connected();
    const [packet = Buffer.alloc(0)] = client.sent.slice(-1);
    const forge = (): void => {
      for (let port = 1; port <= 50; port++) net.deliver(packet, at(port, '203.0.113.66'));
    };
    forge();
    expect(net.owner.asked).toEqual([served]);
    net.world.time += 999;
    forge();
    expect(net.owner.asked).toHaveLength(1);
    net.world.time += 1;
    forge();
    expect(net.owner.asked).toEqual([served, served]);
    expect(served.path).toEqual(at(1000));
    served.close();
    net.world.time += 1000;
    forge();
    expect(net.owner.asked).toHaveLength(2);
  });

  test('and has ended is not asked about, though it lingers', async () => {
    const { net, client, served } = await connected();
    client.session.exit();
    await net.world.run(() => net.owner.ends.length === 1);
    net.deliver(client.sent.at(-1)!, at(7777, '203.0.113.9'));
    expect([...net.server.clients()]).not.toContain(served);
    expect(net.owner.asked).toEqual([]);
  });

  test('to another address of ours is answered from that one, and a stranger who has seen its packets changes nothing', async () => {
    const { net, client, served } = await connected();
    const elsewhere = { ...at(1000), local: '198.51.100.2' };
    const seen = client.sent.at(-1)!;
    const forged = Buffer.concat([seen.subarray(0, 9), Buffer.alloc(40, 7)]);
    net.deliver(forged, elsewhere);
    expect(served.path).toEqual(at(1000));
    net.roam(client, at(1000), elsewhere);
    client.session.rekey();
    await net.world.run(() => served.keyId === 1 && client.session.keyId === 1, 10_000);
    expect(served.path).toEqual(elsewhere);
    expect(net.sent.at(-1)!.path).toEqual(elsewhere);
  });

  test('to where another client is takes nothing from that one', async () => {
    const { net, client, served } = await connected();
    const other = net.udpClient(at(2000), as(alice));
    other.session.start();
    await net.world.run(() => other.had('established'));
    await net.world.settle();
    const otherServed = net.owner.clients[1]!;
    served.moved(at(2000).remote);
    await expectAlive(net, other, otherServed);
    expect(net.owner.ends).toEqual([]);
    served.moved(at(1000).remote);
    await expectAlive(net, client, served);
    served.close();
    served.moved(at(2000).remote);
    await expectAlive(net, other, otherServed);
  });

  test('and has ended takes nothing from one that has its session id and its address', async () => {
    const net = network();
    const clients = [];
    for (const count of [1, 2]) {
      const client = net.udpClient(at(1000), as(alice, { options: { random: (bytes) => Buffer.alloc(bytes, 9) } }));
      client.session.start();
      await net.world.run(() => client.had('established'));
      await net.world.settle();
      clients.push(client);
      expect(net.owner.clients).toHaveLength(count);
      if (count === 1) {
        net.owner.clients[0]!.close();
      }
    }
    net.owner.clients[0]!.moved(at(2000).remote);
    await expectAlive(net, clients[1]!, net.owner.clients[1]!);
    net.server.close();
    clients.forEach(({ session }) => session.close());
    expect(net.world.timers).toBe(0);
  });
});

describe('TCP', () => {
  test('the kernel takes over at the end of a frame when nothing is queued, not before', async () => {
    const net = network();
    const stream = net.tcpClient(at(1000), as(alice));
    const takes: string[] = [];
    let answer = false;
    net.owner.programKernel = (client) => {
      stream.idle = false;
      client.handOver(() => {
        takes.push(`${stream.idle} ${stream.endpoint.wanted}`);
        return answer;
      });
    };
    stream.client.session.start();
    await net.world.run(() => net.owner.count('established') === 1);
    await net.world.settle();
    const [served] = net.owner.clients;
    expect(takes).toEqual([]);
    // Half a frame waits.
    const packet = frame(stream.client.sent.at(-1)!);
    stream.endpoint.receive(packet.subarray(0, 5));
    stream.idle = true;
    stream.endpoint.drained();
    expect(takes).toEqual([]);
    stream.endpoint.receive(packet.subarray(5));
    expect(takes).toEqual(['true 2']);
    // Not taken: reads stay exact, and it may be offered again.
    expect(stream.endpoint.wanted).toBe(2);
    stream.endpoint.drained();
    expect(takes).toHaveLength(1);
    answer = true;
    served!.handOver(() => takes.push('again') > 0);
    expect(takes).toHaveLength(2);
    expect(stream.endpoint.wanted).toBe(65537);
    served!.confirm();
    await net.world.run(() => stream.client.had('established'));
    stream.client.session.rekey();
    await net.world.run(() => served!.keyId === 1);
    expect(served!.keyId).toBe(1);
  });

  test('a connection that breaks ends its client or its handshake', async () => {
    const net = network();
    const stream = net.tcpClient(at(1000), as(alice));
    stream.client.session.start();
    await net.world.run(() => stream.client.had('established'));
    stream.endpoint.closed('connection reset by peer');
    stream.endpoint.closed();
    stream.endpoint.receive(Buffer.of(0, 1, 2));
    expect(net.owner.ends).toEqual([{ cause: 'transport', reason: 'connection reset by peer' }]);
    expect(stream.closed).toBe(true);

    const half = net.tcpClient(at(1001), as(alice));
    half.client.session.start();
    await net.world.run(() => net.server.counters.begun === 2);
    half.endpoint.closed();
    expect(net.owner.failures).toMatchObject([{ listener: 'tcp', reason: 'the client closed the connection' }]);

    // A check of the port is nothing to report.
    net.tcpClient(at(1002), as(alice)).endpoint.closed();
    expect(net.owner.failures).toHaveLength(1);
    stream.client.session.close();
    half.client.session.close();
    await net.world.settle(10_000);
    expect(net.world.timers).toBe(0);
  });

  test('last words go out before the connection is closed, within some seconds', async () => {
    const net = network();
    const streams = [1, 2].map((port) => net.tcpClient(at(port), as(alice)));
    for (const { client } of streams) {
      client.session.start();
      await net.world.run(() => client.had('established'));
    }
    streams.forEach((stream) => (stream.idle = false));
    for (const client of net.owner.clients) {
      client.halt('removed');
    }
    await net.world.run(() => net.owner.ends.length === 2);
    expect(streams.map(({ closed }) => closed)).toEqual([false, false]);
    streams[0]!.idle = true;
    streams[0]!.endpoint.drained();
    expect(streams.map(({ closed }) => closed)).toEqual([true, false]);
    await net.world.settle(6000);
    expect(streams.map(({ closed }) => closed)).toEqual([true, true]);
    expect(net.world.timers).toBe(0);
  });

  test('an open-ended stream of nonsense ends at its first frame', () => {
    const net = network();
    for (const hex of ['0000', '474554202f20485454502f312e31', '000a' + '00'.repeat(10), 'ffff', '000138']) {
      const stream = net.tcpClient(at(1000), as(alice));
      stream.endpoint.receive(Buffer.from(hex, 'hex'));
      expect(stream.closed).toBe(true);
    }
    expect(net.server.halfOpen).toBe(0);
    expect(net.world.timers).toBe(0);
  });
});

describe('new settings', () => {
  test('are for clients that come from then on, certificates and limits for all', async () => {
    const { net, client, served } = await connected();
    const { server: wrap, client: clientWrap } = wraps['tls-crypt']!();
    const strict = testPki('New CA');
    const renewed = strict.issue('server', { usage: 'serverAuth' });
    net.server.configure({
      wrap,
      tls: tlsServer({ ca: strict.ca, ...renewed }),
      ciphers: ['CHACHA20-POLY1305'],
      tunMtu: 1300,
      limits: { halfOpen: 1, halfOpenPerSource: 1, repliesPerSecond: 50 },
    });
    const bob = strict.issue('bob', { usage: 'clientAuth' });
    const next = net.udpClient(at(2000), { pki: strict, certificate: bob, wrap: clientWrap });
    next.session.start();
    await net.world.run(() => next.had('established'));
    expect(next.event('established')!.established.cipher).toBe('CHACHA20-POLY1305');
    // The former client's certificate is of no use any more, but its session goes on.
    client.session.rekey();
    await net.world.run(() => net.owner.count('rekey-failed') === 1);
    expect(served.keyId).toBe(0);
    strict.remove();
  });
});

describe('whatever bytes come', () => {
  const packet = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // Like control packets, so that more than the first byte is looked at.
    fc
      .tuple(fc.integer({ min: 3, max: 11 }), fc.integer({ min: 0, max: 7 }), fc.uint8Array({ maxLength: 120 }))
      .map(([opcode, keyId, rest]) => Uint8Array.of((opcode << 3) | keyId, ...rest)),
  );

  test.each(Object.keys(wraps))('strangers to a server with %s get nothing but answers to first packets', (name) => {
    const net = network({ wrap: wraps[name]!().server });
    fc.assert(
      fc.property(packet, fc.integer({ min: 1, max: 65535 }), (bytes, port) => {
        net.deliver(Buffer.from(bytes), at(port));
        const stream = net.tcpClient(at(port), as(alice));
        stream.endpoint.receive(Buffer.from(bytes));
        stream.endpoint.receive(frame(Buffer.of(0x38, ...bytes)));
        stream.endpoint.closed();
        expect(stream.closed).toBe(true);
      }),
      { numRuns: 500 },
    );
    expect(net.server.halfOpen).toBe(0);
    expect(net.owner.told).toEqual([]);
    expect(net.world.timers).toBe(0);
  });

  test.each(Object.keys(wraps))('from the address and with the session id of a client with %s', async (name) => {
    const { server, client: wrap } = wraps[name]!();
    const { net, client, served } = await connected({ wrap: server }, { wrap });
    const { begun } = net.server.counters;
    fc.assert(
      fc.property(packet, fc.boolean(), (bytes, withSessionId) => {
        const forged = Buffer.from(bytes);
        if (withSessionId) {
          client.session.sessionId.copy(forged, 1);
        }
        // Without a wrapping a message with the right session id is as good as the client's own.
        if (name === 'none' && withSessionId && forged[0] !== 0x48) {
          return;
        }
        net.deliver(forged, at(1000));
      }),
      { numRuns: 500 },
    );
    await net.world.settle();
    expect(net.server.counters.begun).toBe(begun);
    expect(net.owner.ends).toEqual([]);
    await expectAlive(net, client, served);
  });

  test.each(Object.keys(wraps))('changed and repeated packets of handshakes with %s', async (name) => {
    const { server, client: wrap } = wraps[name]!();
    const net = network({ wrap: server, limits: { halfOpen: 8, halfOpenPerSource: 8, repliesPerSecond: 1e6 } });
    const recorded = net.udpClient(at(1000), as(alice, { wrap }));
    recorded.session.start();
    await net.world.run(() => recorded.had('established'));
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(fc.tuple(fc.nat(1300), fc.integer({ min: 1, max: 255 })), { maxLength: 3 }),
        fc.integer({ min: 998, max: 1002 }),
        (which, changes, port) => {
          const bytes = Buffer.from(recorded.sent[which % recorded.sent.length]!);
          for (const [offset, mask] of changes) {
            bytes[offset % bytes.length]! ^= mask;
          }
          net.deliver(bytes, at(port));
        },
      ),
      { numRuns: 1000 },
    );
    await net.world.settle(130_000);
    expect(net.server.halfOpen).toBe(0);
    expect(net.owner.count('established')).toBe(1);
  });
});
