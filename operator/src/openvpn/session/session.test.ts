import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { formatOptionsString } from '../negotiate/options-string.ts';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsClient, type TlsCredentials, type TlsEvents, tlsServer } from '../tls/tls-endpoint.ts';
import { parsePacket } from '../wire/packet.ts';
import { wrapClientKey } from '../wrap/client-key.ts';
import { Cookies } from '../wrap/cookie.ts';
import { ReplyLimit } from '../wrap/reply-limit.ts';
import { StatelessStart } from '../wrap/stateless-start.ts';
import { SessionWrapper, type WrapConfig, type WrapperState } from '../wrap/session-wrapper.ts';
import { type ClientOptions, ClientSession } from './client-session.ts';
import { World } from './world.fixture.ts';
import type { Established, SessionEvent } from './session-event.ts';
import { type Offer, ServerSession, type ServerStart } from './server-session.ts';
import type { Session, SessionOptions } from './session.ts';
import type { SessionState } from './session-state.ts';

let pki: TestPki;
let server: Certificate;
let client: Certificate;

beforeAll(() => {
  pki = testPki();
  server = pki.issue('server', { usage: 'serverAuth' });
  client = pki.issue('client', { usage: 'clientAuth' });
});

afterAll(() => pki.remove());

interface Setup {
  readonly wrap?: { client: WrapConfig; server: WrapConfig };
  readonly serverTls?: Partial<TlsCredentials>;
  readonly clientTls?: Partial<TlsCredentials>;
  readonly serverOptions?: Partial<SessionOptions>;
  readonly clientOptions?: Partial<ClientOptions>;
  /** Whether a packet gets lost. */
  readonly loses?: (from: 'client' | 'server') => boolean;
  readonly start?: ServerStart;
  /** What the server does with a client (default: takes it in). */
  readonly decide?: (session: ServerSession) => void;
}

const offer: Offer = {
  peerId: 5,
  topology: 'subnet',
  routeGateway: '10.8.0.1',
  ifconfig: { address: '10.8.0.2', second: '255.255.255.0' },
  pingSeconds: 10,
  pingRestartSeconds: 60,
  tunMtu: 1400,
};

const none = { client: { kind: 'none' }, server: { kind: 'none' } } as const;

/** A client and a server session with a network between them. */
class Pair {
  readonly world = new World();
  readonly events = { client: [] as SessionEvent[], server: [] as SessionEvent[] };
  readonly sent = { client: [] as Buffer[], server: [] as Buffer[] };
  readonly setup: Setup;
  client: ClientSession;
  server: ServerSession;
  /** Takes the server's packets while there is no session yet. */
  contact: ((packet: Buffer) => void) | undefined;
  #seed = 1;

  constructor(setup: Setup = {}) {
    this.setup = setup;
    this.client = this.makeClient();
    this.server = this.makeServer(setup.start ?? { kind: 'reset' });
  }

  makeClient(state?: SessionState): ClientSession {
    const { wrap = none, clientTls, clientOptions } = this.setup;
    return new ClientSession(
      {
        ...this.#common('client', wrap.client, state?.wrapper),
        tls: tlsClient({ ca: pki.ca, ...client, ...clientTls }, { remoteCertTls: 'server' }),
        version: '2.6.0-test',
        maxTunMtu: 1600,
        ...clientOptions,
      },
      state,
    );
  }

  makeServer(start: ServerStart, wrapper?: SessionWrapper): ServerSession {
    const { wrap = none, serverTls, serverOptions } = this.setup;
    const state = start.kind === 'state' ? start.state.wrapper : undefined;
    return new ServerSession(
      {
        ...this.#common('server', wrap.server, state),
        ...(wrapper !== undefined && { wrapper }),
        tls: tlsServer({ ca: pki.ca, ...server, ...serverTls }),
        ...serverOptions,
      },
      start,
    );
  }

  of(side: 'client' | 'server'): Session {
    return side === 'client' ? this.client : this.server;
  }

  established(side: 'client' | 'server'): Established {
    const event = this.events[side].find(({ type }) => type === 'established');
    if (event?.type !== 'established') {
      throw new Error(`${side} is not established: ${JSON.stringify(this.events)}`);
    }
    return event.established;
  }

  last(side: 'client' | 'server'): SessionEvent | undefined {
    return this.events[side].at(-1);
  }

  /** Goes on until both sides have had this event, or one has failed. */
  async until(type: SessionEvent['type']): Promise<void> {
    const had = (side: 'client' | 'server'): boolean =>
      this.events[side].some((event) => event.type === type || event.type === 'failed');
    await this.world.run(() => had('client') && had('server'));
  }

  /** Goes on until both sides have renegotiated this often. */
  async rekeyed(times: number): Promise<void> {
    const count = (side: 'client' | 'server') => this.events[side].filter(({ type }) => type === 'rekeyed').length;
    await this.world.run(() => count('client') === times && count('server') === times);
  }

  async connect(): Promise<this> {
    this.client.start();
    await this.until('established');
    await this.world.settle();
    return this;
  }

  close(): void {
    this.client.close();
    this.server.close();
    expect(this.world.timers).toBe(0);
  }

  #common(side: 'client' | 'server', wrap: WrapConfig, state: WrapperState | undefined) {
    const { world } = this;
    const other = side === 'client' ? 'server' : 'client';
    return {
      wrapper: new SessionWrapper(wrap, {
        role: side,
        transport: 'udp',
        clock: () => 1_700_000_000_000 + world.time,
        state,
      }),
      scheduler: world,
      random: (bytes: number) => this.#random(bytes),
      send: (packet: Buffer) => {
        expect(packet.length).toBeLessThanOrEqual(1250);
        this.sent[side].push(packet);
        if (this.setup.loses?.(side) !== true) {
          world.carry(() => {
            if (this.contact !== undefined && other === 'server') {
              this.contact(packet);
            } else {
              this.of(other).receive(packet);
            }
          });
        }
      },
      notify: (event: SessionEvent) => {
        this.events[side].push(event);
        if (event.type === 'authenticated') {
          (this.setup.decide ?? ((session) => session.accept(offer)))(this.server);
        }
        if (event.type === 'established' && side === 'server') {
          this.server.confirm();
        }
      },
      ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'] as const,
      optionsString: formatOptionsString({ role: side, transport: 'udp', family: 4, tunMtu: 1400 }),
    };
  }

  #random(bytes: number): Buffer {
    const blocks: Buffer[] = [];
    while (blocks.length * 32 < bytes) {
      blocks.push(createHash('sha256').update(`${this.#seed++}`).digest());
    }
    return Buffer.concat(blocks).subarray(0, bytes);
  }
}

const key = Uint8Array.from({ length: 256 }, (_, i) => i);
const tlsCrypt = { client: { kind: 'tls-crypt', key }, server: { kind: 'tls-crypt', key } } as const;

function expectSameKeys(pair: Pair, type: 'established' | 'rekeyed', times = 1): void {
  const of = (side: 'client' | 'server') =>
    pair.events[side].flatMap((event) =>
      event.type === 'rekeyed' && type === 'rekeyed'
        ? [{ keyId: event.keyId, keys: event.keys }]
        : event.type === 'established' && type === 'established'
          ? [{ keyId: event.established.keyId, keys: event.established.keys }]
          : [],
    );
  const [clients, servers] = [of('client'), of('server')];
  expect(clients).toHaveLength(times);
  expect(servers.map(({ keyId }) => keyId)).toEqual(clients.map(({ keyId }) => keyId));
  expect(servers.map(({ keys }) => keys.encrypt)).toEqual(clients.map(({ keys }) => keys.decrypt));
  expect(servers.map(({ keys }) => keys.decrypt)).toEqual(clients.map(({ keys }) => keys.encrypt));
}

describe.each([
  ['none', none],
  ['tls-crypt', tlsCrypt],
] as const)('wrapped by %s', (_, wrap) => {
  test.each(['TLSv1.2', 'TLSv1.3'] as const)('client and server come to the same keys with %s', async (version) => {
    const only = { minVersion: version, maxVersion: version };
    const pair = await new Pair({ wrap, serverTls: only }).connect();
    expectSameKeys(pair, 'established');
    expect(pair.established('client')).toMatchObject({
      cipher: 'AES-256-GCM',
      peerId: 5,
      exitMessage: true,
      dynamicTlsCrypt: true,
      tlsVersion: version,
      identity: { commonName: 'server' },
      push: { ifconfig: { address: '10.8.0.2', second: '255.255.255.0' }, pingSeconds: 10, tunMtu: 1400 },
    });
    expect(pair.established('server')).toMatchObject({ peerId: 5, identity: { commonName: 'client' } });
    pair.close();
  });

  test.each(['client', 'server'] as const)('the %s renegotiates, through all key ids and around', async (side) => {
    const pair = await new Pair({ wrap }).connect();
    for (let i = 1; i <= 9; i++) {
      expect(pair.of(side).rekey()).toBe(true);
      expect(pair.of(side).rekey()).toBe(false);
      await pair.rekeyed(i);
    }
    expectSameKeys(pair, 'rekeyed', 9);
    const ids = pair.events.client.flatMap((event) => (event.type === 'rekeyed' ? [event.keyId] : []));
    expect(ids).toEqual([1, 2, 3, 4, 5, 6, 7, 1, 2]);
    const all = pair.events.client.flatMap((event) => (event.type === 'rekeyed' ? [event.keys.fingerprint] : []));
    expect(new Set(all).size).toBe(9);
    pair.close();
  });

  test.each(['client', 'server'] as const)(
    'the %s pauses: it finishes the renegotiation that is on its way, and neither begins nor answers another',
    async (side) => {
      const pair = await new Pair({ wrap }).connect();
      const other = side === 'client' ? pair.server : pair.client;
      const paused = pair.of(side);
      other.rekey();
      await pair.until('rekeying');
      expect(paused.renegotiating).toBe(true);
      paused.pause();
      await pair.rekeyed(1);
      await pair.until('key-confirmed');
      expect([paused.renegotiating, other.renegotiating]).toEqual([false, false]);
      expect(paused.rekey()).toBe(false);
      expect(other.rekey()).toBe(true);
      await pair.world.settle(5_000);
      expect([paused.renegotiating, paused.keyId, paused.phase]).toEqual([false, 1, 'established']);
      pair.close();
    },
  );

  test('both renegotiate at the same time and make one key of it', async () => {
    const pair = await new Pair({ wrap }).connect();
    pair.client.rekey();
    pair.server.rekey();
    await pair.until('rekeyed');
    expectSameKeys(pair, 'rekeyed');
    pair.close();
  });

  test.each([1, 2, 3])('a third of all packets lost (%d)', async (seed) => {
    let state = seed;
    const loses = (): boolean => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32 < 0.33;
    };
    const pair = await new Pair({
      wrap,
      loses,
      serverOptions: { handshakeSeconds: 600 },
      clientOptions: { handshakeSeconds: 600 },
    }).connect();
    expectSameKeys(pair, 'established');
    pair.server.rekey();
    await pair.until('rekeyed');
    expectSameKeys(pair, 'rekeyed');
    pair.close();
  });
});

const serverKey = Uint8Array.from({ length: 128 }, (_, i) => i);

test('tls-crypt-v2 also with a server that keeps state from the first packet on', async () => {
  const wrapped = wrapClientKey(serverKey, key, undefined);
  const pair = new Pair({
    wrap: { client: { kind: 'tls-crypt-v2-client', key, wrapped }, server: { kind: 'tls-crypt-v2-server', serverKey } },
    clientOptions: { tlsCryptV2: true },
  });
  await pair.connect();
  pair.server.rekey();
  await pair.rekeyed(1);
  expectSameKeys(pair, 'established');
  expectSameKeys(pair, 'rekeyed');
  pair.close();
});

describe('a stateless start', () => {
  test.each([
    ['none', () => none],
    ['tls-crypt', () => tlsCrypt],
    [
      'tls-crypt-v2',
      () => {
        const wrapped = wrapClientKey(serverKey, key, undefined);
        return {
          client: { kind: 'tls-crypt-v2-client', key, wrapped },
          server: { kind: 'tls-crypt-v2-server', serverKey },
        };
      },
    ],
  ] as const)('with %s leads to a session that renegotiates', async (name, makeWrap) => {
    const wrap = makeWrap() as NonNullable<Setup['wrap']>;
    const pair = new Pair({ wrap, clientOptions: { tlsCryptV2: name === 'tls-crypt-v2' } });
    const clock = (): number => 1_700_000_000_000 + pair.world.time;
    const source = { address: '192.0.2.1', port: 1194 };
    const start = new StatelessStart(wrap.server, {
      cookies: new Cookies(Buffer.alloc(32, 1), clock),
      limit: new ReplyLimit(clock),
      clock,
    });
    const answers: string[] = [];
    const contact = (bytes: Buffer): void => {
      const first = start.receive(bytes, source);
      answers.push(first.kind);
      if (first.kind === 'reply') {
        pair.world.carry(() => void pair.client.receive(first.bytes));
      } else if (first.kind === 'session') {
        pair.server.close();
        pair.server = pair.makeServer({ kind: 'stateless', sessionId: first.sessionId }, first.wrapper);
        expect(pair.server.receivePacket(first.packet)).toBeUndefined();
        pair.contact = undefined;
      }
    };
    pair.contact = contact;
    await pair.connect();
    expect(answers).toEqual(['reply', 'session']);

    expectSameKeys(pair, 'established');
    pair.server.rekey();
    await pair.rekeyed(1);
    pair.client.rekey();
    await pair.rekeyed(2);
    expectSameKeys(pair, 'rekeyed', 2);
    pair.close();
  });
});

describe('who may come in', () => {
  test('a client without a common cipher is told so', async () => {
    const pair = new Pair({ clientOptions: { ciphers: ['AES-128-GCM'] } });
    pair.client.start();
    await pair.until('closed');
    const words = 'no common data cipher: the server allows AES-256-GCM:CHACHA20-POLY1305, the client AES-128-GCM';
    expect(pair.events.client[0]).toMatchObject({ type: 'auth-failed', failure: { reason: words, temporary: false } });
    expect(pair.events.server).toMatchObject([{ type: 'refused', reason: words }, { type: 'closed' }]);
    expect(pair.world.timers).toBe(0);
  });

  test("the owner's refusal, for now or for good, reaches the client with its reason", async () => {
    const pair = new Pair({
      decide: (session) => session.refuse('no room', { temporary: true, backoffSeconds: 7 }),
    });
    pair.client.start();
    await pair.until('closed');
    expect(pair.events.client[0]).toMatchObject({
      type: 'auth-failed',
      failure: { reason: 'no room', temporary: true, backoffSeconds: 7 },
    });
    expect(pair.world.timers).toBe(0);
  });

  test('a client that the recheck does not welcome is refused', async () => {
    const pair = new Pair({ serverOptions: { recheck: ({ commonName }) => `${commonName} is not known here` } });
    pair.client.start();
    await pair.until('closed');
    expect(pair.events.client[0]).toMatchObject({ failure: { reason: 'client is not known here' } });
  });

  test('a client whose certificate does not verify is told why, and may come again', async () => {
    const late = pki.issue('late', { usage: 'clientAuth', expired: true });
    const pair = new Pair({ clientTls: late });
    pair.client.start();
    await pair.until('closed');
    const reason = "the peer's certificate was refused: the certificate has expired";
    expect(pair.events.server.filter(({ type }) => type !== 'closed')).toEqual([
      { type: 'refused', reason, identity: undefined },
    ]);
    expect(pair.events.client[0]).toMatchObject({
      type: 'auth-failed',
      failure: { reason, temporary: true, backoffSeconds: 60 },
    });
    pair.close();
  });

  test('an offer that cannot be pushed changes nothing', async () => {
    const pair = new Pair({
      decide: (session) => {
        expect(() => session.accept({ ...offer, dhcpOptions: [{ type: 'DNS', value: 'a,b' }] })).toThrow(/pushed/);
        expect(session.accept(offer)).toBe(true);
        expect(session.accept(offer)).toBe(false);
      },
    });
    await pair.connect();
    expectSameKeys(pair, 'established');
    pair.close();
  });

  test('a long push arrives whole', async () => {
    const routes = Array.from({ length: 200 }, (_, i) => ({
      network: { address: `10.${i}.0.0`, length: 16 },
      gateway: undefined,
      metric: undefined,
    }));
    const pair = await new Pair({ decide: (session) => session.accept({ ...offer, routes }) }).connect();
    expect(pair.established('client').push.routes).toEqual(routes);
    pair.close();
  });

  test.each<[string, () => Partial<TlsCredentials>, string]>([
    ['of another name', () => pki.issue('somebody else', { usage: 'clientAuth' }), 'another name'],
    ['that has expired', () => pki.issue('client', { usage: 'clientAuth', expired: true }), 'has expired'],
  ])('a renegotiation with a certificate %s ends the session, and the client is told why', async (_, later, words) => {
    let clientTls: Partial<TlsCredentials> = {};
    const setup: Setup = {
      get clientOptions() {
        return {
          tls: { open: (events: TlsEvents) => tlsClient({ ca: pki.ca, ...client, ...clientTls }, {}).open(events) },
        };
      },
    };
    for (const side of ['client', 'server'] as const) {
      clientTls = {};
      const pair = await new Pair(setup).connect();
      clientTls = later();
      pair.of(side).rekey();
      await pair.until('closed');
      expect(pair.events.server.find(({ type }) => type === 'refused')).toMatchObject({
        reason: expect.stringContaining(words),
      });
      expect(pair.events.client.find(({ type }) => type === 'auth-failed')).toMatchObject({
        failure: { reason: expect.stringContaining(words) },
      });
      pair.close();
    }
  });
});

describe('the key of a renegotiation', () => {
  test.each(['client', 'server'] as const)('is confirmed at both ends when the %s began it', async (side) => {
    const pair = await new Pair().connect();
    const before = { client: pair.events.client.length, server: pair.events.server.length };
    pair.of(side).rekey();
    await pair.world.run(() =>
      (['client', 'server'] as const).every((end) => pair.last(end)?.type === 'key-confirmed'),
    );
    for (const end of ['client', 'server'] as const) {
      expect(pair.events[end].slice(before[end]).map(({ type }) => type)).toEqual([
        'rekeying',
        'rekeyed',
        'key-confirmed',
      ]);
      expect(pair.last(end)).toMatchObject({ keyId: 1 });
    }
    pair.close();
  });

  test('is not confirmed at the server while the client cannot hear it', async () => {
    let deaf = false;
    const pair = await new Pair({
      loses: (from) => deaf && from === 'server',
    }).connect();
    pair.client.rekey();
    await pair.world.run(() => {
      // From the client's key method on.
      deaf ||= pair.last('server')?.type === 'rekeyed';
      return deaf;
    });
    await pair.world.run(() => pair.last('client')?.type === 'rekey-failed', 200_000);
    expect(pair.last('server')?.type).toBe('rekeyed');
    expect(pair.server.exportState()).toMatchObject({ keyId: 1, unconfirmed: true });
    expect(pair.client.exportState()).not.toHaveProperty('unconfirmed');
    deaf = false;
    // The client says that it has only key 0, as OpenVPN never would: it ends a session whose renegotiation failed.
    pair.client.rekey();
    await pair.world.run(() => pair.last('server')?.type === 'key-confirmed');
    expect(pair.events.server.at(-2)).toMatchObject({ type: 'rekeyed', keyId: 2, skipsKey: true });
    expect(pair.server.exportState()).not.toHaveProperty('unconfirmed');
    pair.client.rekey();
    await pair.world.run(() => pair.last('server')?.type === 'key-confirmed' && pair.server.keyId === 3);
    expect(pair.events.server.at(-2)).toMatchObject({ type: 'rekeyed', keyId: 3, skipsKey: false });
    pair.close();
  });

  test('that the client does not know to be confirmed is, when the server goes on to the next', async () => {
    const pair = await new Pair().connect();
    pair.server.rekey();
    await pair.rekeyed(1);
    const state = JSON.parse(JSON.stringify(pair.client.exportState())) as SessionState;
    pair.client.close();
    // As if the process had ended in between.
    pair.client = pair.makeClient({ ...state, unconfirmed: true });
    const before = pair.events.client.length;
    pair.client.rekey();
    await pair.world.run(() => pair.last('client')?.type === 'key-confirmed' && pair.client.keyId === 2);
    expect(pair.events.client.slice(before).map((event) => event.type)).toEqual([
      'rekeying',
      'key-confirmed',
      'rekeyed',
      'key-confirmed',
    ]);
    expect(pair.events.client[before + 1]).toEqual({ type: 'key-confirmed', keyId: 1 });
    pair.close();
  });
});

describe('time', () => {
  test('a session whose key is not renewed for too long ends', async () => {
    let silent = false;
    const serverOptions = { renegotiateSeconds: 900 };
    const clientOptions = { renegotiateSeconds: 0 };
    const pair = await new Pair({ serverOptions, clientOptions, loses: () => silent }).connect();
    const began = pair.world.time;
    silent = true;
    await pair.world.run(() => pair.events.server.some(({ type }) => type === 'refused'), 10_000_000);
    expect(pair.events.server.find(({ type }) => type === 'refused')).toMatchObject({
      reason: expect.stringContaining('its key could not be renewed in time'),
    });
    // Twice the period, and the last try.
    expect(pair.world.time - began).toBeGreaterThan(1_800_000);
    expect(pair.world.time - began).toBeLessThan(2_000_000);
    pair.close();
  });

  test('without an answer the client gives up after a minute and says what to check', async () => {
    const pair = new Pair({ loses: () => true });
    pair.client.start();
    await pair.world.run(() => pair.events.client.length > 0);
    expect(pair.world.time).toBe(60_000);
    expect(pair.events.client).toEqual([{ type: 'failed', reason: expect.stringContaining('no answer') }]);
    // 0, 2, 6, 10 … 58 s
    expect(pair.sent.client).toHaveLength(16);
    pair.close();
  });

  test('a server forgets a client that stops in the middle', async () => {
    let packets = 0;
    const pair = new Pair({ loses: () => ++packets > 4 });
    pair.client.start();
    await pair.world.run(() => pair.events.server.length > 0);
    expect(pair.events.server).toEqual([{ type: 'failed', reason: 'the TLS handshake did not finish within 60 s' }]);
    pair.close();
  });

  test('both renegotiate on their own, and a renegotiation that fails leaves the session as it is', async () => {
    let lost = false;
    const pair = await new Pair({
      loses: () => lost,
      serverOptions: { renegotiateSeconds: 100 },
      clientOptions: { renegotiateSeconds: 0 },
    }).connect();
    await pair.until('rekeyed');
    expect(pair.world.time).toBeGreaterThanOrEqual(90_000);
    expect(pair.world.time).toBeLessThanOrEqual(100_000);
    lost = true;
    await pair.world.run(() => pair.last('server')?.type === 'rekey-failed', 300_000);
    expect(pair.last('server')).toMatchObject({ keyId: 2, reason: expect.stringContaining('60 s') });
    lost = false;
    pair.client.rekey();
    await pair.rekeyed(2);
    expectSameKeys(pair, 'rekeyed', 2);
    pair.close();
  });
});

describe('a peer that renegotiates without pause', () => {
  test.each(['client', 'server'] as const)(
    'is held to a rate, and its keys come all the same: the %s',
    async (side) => {
      const pair = await new Pair().connect();
      const other = side === 'client' ? 'server' : 'client';
      const keys = (): number => pair.events[other].filter(({ type }) => type === 'rekeyed').length;
      const began = pair.world.time;
      for (let wanted = 1; wanted <= 40; wanted++) {
        expect(pair.of(side).rekey()).toBe(true);
        await pair.world.run(() => keys() === wanted && pair.last(side)?.type === 'key-confirmed');
        expect(keys()).toBe(wanted);
      }
      // 16 at once, then one in two seconds, which a repetition of the peer's packet may come after.
      expect(pair.world.time - began).toBeGreaterThanOrEqual(24 * 2000);
      expect(pair.world.time - began).toBeLessThan(24 * 6000);
      pair.close();
    },
  );
});

describe('farewells', () => {
  test('the client says EXIT and both are done', async () => {
    const pair = await new Pair().connect();
    pair.client.exit();
    await pair.until('closed');
    expect(pair.events.server.slice(-2)).toEqual([{ type: 'exit' }, { type: 'closed' }]);
    expect(pair.world.timers).toBe(0);
  });

  test('the server sends the client away, also after a renegotiation', async () => {
    const pair = await new Pair().connect();
    pair.client.rekey();
    await pair.until('rekeyed');
    pair.server.restart('going down', { nextRemote: true });
    await pair.until('closed');
    expect(pair.events.client.at(-2)).toEqual({ type: 'restart', reason: 'going down', nextRemote: true });
  });

  test('HALT', async () => {
    const pair = await new Pair().connect();
    pair.server.halt('removed');
    await pair.until('closed');
    expect(pair.events.client.at(-2)).toEqual({ type: 'halt', reason: 'removed' });
  });

  test('a farewell that nobody acknowledges ends after five seconds', async () => {
    let lost = false;
    const pair = await new Pair({ loses: () => lost }).connect();
    lost = true;
    const before = pair.world.time;
    pair.client.exit();
    await pair.world.run(() => pair.last('client')?.type === 'closed');
    expect(pair.world.time - before).toBe(5000);
    pair.close();
  });
});

describe('a restarted program', () => {
  test.each(['client', 'server'] as const)('goes on as the %s and renegotiates from either side', async (side) => {
    const pair = await new Pair({ wrap: tlsCrypt }).connect();
    pair.client.rekey();
    await pair.until('rekeyed');
    const state = JSON.parse(JSON.stringify(pair.of(side).exportState())) as SessionState;
    pair.of(side).close();
    pair.world.time += 2000;
    if (side === 'client') {
      pair.client = pair.makeClient(state);
    } else {
      pair.server = pair.makeServer({ kind: 'state', state });
    }
    expect(pair.of(side).keyId).toBe(1);
    for (const [i, initiator] of (['client', 'server'] as const).entries()) {
      pair.of(initiator).rekey();
      await pair.rekeyed(i + 2);
    }
    expectSameKeys(pair, 'rekeyed', 3);
    // Text goes again: the new TLS session carries it.
    pair.client.exit();
    await pair.until('closed');
    expect(pair.events.server.at(-2)).toEqual({ type: 'exit' });
  });

  test('there is no state before the session is established, and none of nonsense', async () => {
    const pair = new Pair();
    expect(pair.server.exportState()).toBeUndefined();
    await pair.connect();
    const state = pair.server.exportState()!;
    expect(JSON.stringify(state)).not.toContain('cipherKey');
    for (const change of [
      { role: 'client' },
      { sessionId: '00'.repeat(8) },
      { keyId: 8 },
      { nextKeyId: 0 },
      { version: 2 },
    ]) {
      expect(() => pair.makeServer({ kind: 'state', state: { ...state, ...change } as SessionState })).toThrow(
        RangeError,
      );
    }
    pair.close();
  });
});

describe('packets that are not of the session', () => {
  test('are passed over, whatever they are', async () => {
    // With dynamic tls-crypt, packets of later keys would not even be read.
    const pair = await new Pair({ serverOptions: { dynamicTlsCrypt: false } }).connect();
    const packet = pair.sent.client[0]!;
    const strange = Buffer.from(packet);
    strange.fill(0xab, 1, 9);
    expect(pair.server.receive(strange)).toBe('other-session');
    expect(pair.server.receive(Buffer.alloc(0))).toBe('opcode');
    expect(pair.server.receive(Buffer.alloc(500, 0xff))).toBe('opcode');
    const otherKey = Buffer.from(packet);
    otherKey[0] = (packet[0]! & 0xf8) | 4;
    expect(pair.server.receive(otherKey)).toBe('unexpected');
    const before = pair.events.server.length;
    const { server: session } = pair;
    for (let i = 0; i < 3000; i++) {
      const noise = createHash('sha512').update(`${i}`).digest();
      noise[0] = ([3, 4, 5, 7, 8, 10, 11][i % 7]! << 3) | (noise[0]! & 7);
      packet.copy(noise, 1, 1, 9);
      session.receive(noise);
    }
    await pair.world.settle();
    expect(pair.events.server.slice(before).every(({ type }) => type === 'rekey-failed')).toBe(true);
    expect(session.phase).toBe('established');
    pair.close();
  });

  test('a repeated first packet is acknowledged again and starts nothing', async () => {
    const pair = await new Pair().connect();
    const count = pair.sent.server.length;
    expect(pair.server.receive(pair.sent.client[0]!)).toBeUndefined();
    await pair.world.settle();
    expect(pair.sent.server.slice(count).map((bytes) => parsePacket(bytes).opcode)).toEqual(['ack-v1']);
    pair.close();
    expect(pair.server.receive(pair.sent.client[0]!)).toBe('unexpected');
  });
});
