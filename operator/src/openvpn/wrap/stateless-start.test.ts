import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseStaticKey } from '../static-key.ts';
import { PacketError, type ControlPacket } from '../wire/packet.ts';
import { Cookies, type Source } from './cookie.ts';
import { parseEarlyNegotiation, resendClientKeyPayload } from './early-negotiation.ts';
import { parseClientKey, parseServerKey } from './key-file.ts';
import { clientKeyFile, serverKeyFile, tlsAuthKeyFile, tlsCryptKeyFile } from './recorded.fixture.ts';
import { ReplyLimit } from './reply-limit.ts';
import { SessionWrapper, type WrapConfig } from './session-wrapper.ts';
import { StatelessStart, type FirstContact } from './stateless-start.ts';
import { packetErrorOf } from './packets.fixture.ts';

const secret = Buffer.alloc(32, 9);
const source: Source = { address: '192.0.2.7', port: 40_000 };
const sid = Buffer.from('c1c2c3c4c5c6c7c8', 'hex');
const empty = Buffer.alloc(0);

describe('cookies', () => {
  test('are good in their slot and the two after it', () => {
    let now = 30_000 * 1000;
    const cookies = new Cookies(secret, () => now);
    const cookie = cookies.issue(source, sid);
    expect(cookie.length).toBe(8);
    const good = [0, 29_999, 30_000, 60_000, 89_999, 90_000, 1e9, -1].map((later) => {
      now = 30_000 * 1000 + later;
      return cookies.verify(source, sid, cookie);
    });
    expect(good).toEqual([true, true, true, true, true, false, false, false]);
  });

  test('are redeemed once for as long as they are good', () => {
    let now = 30_000 * 1000;
    const cookies = new Cookies(secret, () => now);
    const cookie = cookies.issue(source, sid);
    expect([cookies.redeem(cookie), cookies.redeem(cookie)]).toEqual([true, false]);
    now += 89_999;
    expect(cookies.redeem(cookie)).toBe(false);
    expect(cookies.verify(source, sid, cookie)).toBe(true);
    now += 1;
    expect(cookies.verify(source, sid, cookie)).toBe(false);
  });

  test('are remembered in bounded number', () => {
    let now = 0;
    const cookies = new Cookies(secret, () => now);
    const redeemed = (): number => {
      let count = 0;
      for (let i = 0; i < 20_000; i++) {
        const cookie = Buffer.alloc(8);
        cookie.writeUInt32BE(now);
        cookie.writeUInt32BE(i, 4);
        count += cookies.redeem(cookie) ? 1 : 0;
      }
      return count;
    };
    expect(redeemed()).toBe(16_384);
    now += 30_000;
    expect(redeemed()).toBe(16_384);
    // A clock set back: those of later are forgotten.
    now = 0;
    expect(redeemed()).toBe(0);
    now += 90_000;
    expect(redeemed()).toBe(16_384);
  });

  test('hold for one address, port, client session and secret', () => {
    const cookies = new Cookies(secret, () => 0);
    const cookie = cookies.issue(source, sid);
    expect(cookies.verify({ ...source, address: '192.0.2.70' }, sid, cookie)).toBe(false);
    expect(cookies.verify({ ...source, port: 4_000 }, sid, cookie)).toBe(false);
    expect(cookies.verify(source, Buffer.alloc(8, 1), cookie)).toBe(false);
    expect(cookies.verify(source, sid, cookie.subarray(0, 7))).toBe(false);
    expect(new Cookies(Buffer.alloc(32, 8), () => 0).verify(source, sid, cookie)).toBe(false);
    expect(() => new Cookies(Buffer.alloc(15), () => 0)).toThrow(RangeError);
  });
});

describe('the limit of replies', () => {
  test('is so many at once and so many more per period, and what is given back is there again', () => {
    let now = 0;
    const limit = new ReplyLimit(() => now, { most: 2, periodMs: 100 });
    const reply = (): boolean => {
      const free = limit.check();
      if (free) {
        limit.take();
      }
      return free;
    };
    expect([reply(), reply(), reply()]).toEqual([true, true, false]);
    limit.giveBack();
    expect([reply(), reply()]).toEqual([true, false]);
    now = 20;
    expect(reply()).toBe(false);
    now = 50;
    expect([reply(), reply()]).toEqual([true, false]);
    now = 200;
    expect([reply(), reply(), reply()]).toEqual([true, true, false]);
    expect(limit.refused).toBe(5);
    limit.giveBack();
    limit.giveBack();
    expect([reply(), reply(), reply()]).toEqual([true, true, false]);
  });
});

describe('early negotiation', () => {
  test.each([
    ['', false],
    ['000100020001', true],
    ['000100020000', false],
    ['000100020003', true],
    ['0007000100' + '000100020001', true],
    ['00070000', false],
  ])('%p asks for the client key: %p', (hex, resendClientKey) => {
    expect(parseEarlyNegotiation(Buffer.from(hex, 'hex'))).toEqual({ resendClientKey });
  });

  test('what we send is understood', () => {
    expect(parseEarlyNegotiation(resendClientKeyPayload).resendClientKey).toBe(true);
  });

  test('any bytes give an answer or a PacketError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          parseEarlyNegotiation(Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(PacketError);
        }
      }),
    );
    expect(packetErrorOf(() => parseEarlyNegotiation(Buffer.from('0001000101', 'hex'))).reason).toBe('malformed');
  });
});

const tlsCryptKey = parseStaticKey(tlsCryptKeyFile, {});
const tlsAuthKey = parseStaticKey(tlsAuthKeyFile, {});
const ends: readonly (readonly [string, WrapConfig, WrapConfig])[] = [
  ['none', { kind: 'none' }, { kind: 'none' }],
  [
    'tls-auth',
    { kind: 'tls-auth', key: tlsAuthKey, digest: 'SHA1', direction: 0 },
    { kind: 'tls-auth', key: tlsAuthKey, digest: 'SHA1', direction: 1 },
  ],
  ['tls-crypt', { kind: 'tls-crypt', key: tlsCryptKey }, { kind: 'tls-crypt', key: tlsCryptKey }],
  [
    'tls-crypt-v2',
    { kind: 'tls-crypt-v2-server', serverKey: parseServerKey(serverKeyFile, {}) },
    { kind: 'tls-crypt-v2-client', ...parseClientKey(clientKeyFile, {}) },
  ],
];

interface Bench {
  readonly server: StatelessStart;
  readonly client: SessionWrapper;
  readonly reset: ControlPacket;
  readonly limit: ReplyLimit;
  readonly setClock: (ms: number) => void;
  /** Sends the client's reset a second later than the last and gives the unwrapped answer. */
  readonly begin: () => ControlPacket;
  readonly third: (answer: ControlPacket, change?: Partial<ControlPacket>, from?: Source) => FirstContact;
}

function bench(serverConfig: WrapConfig, clientConfig: WrapConfig, sentBefore?: number): Bench {
  let now = 1_800_000_000_000;
  const clock = (): number => now;
  const limit = new ReplyLimit(clock, { most: 3 });
  const server = new StatelessStart(serverConfig, { cookies: new Cookies(secret, clock), limit, clock });
  const client = new SessionWrapper(clientConfig, {
    role: 'client',
    transport: 'udp',
    clock,
    ...(sentBefore !== undefined && { sentBefore }),
  });
  const v2 = clientConfig.kind === 'tls-crypt-v2-client';
  const reset: ControlPacket = {
    opcode: v2 ? 'hard-reset-client-v3' : 'hard-reset-client-v2',
    keyId: 0,
    sessionId: sid,
    acks: [],
    peerSessionId: undefined,
    messageId: 0,
    payload: empty,
  };
  return {
    server,
    client,
    reset,
    limit,
    setClock: (ms) => (now = ms),
    begin: () => {
      now += 1000;
      const contact = server.receive(client.wrap(reset), source);
      if (contact.kind !== 'reply') {
        throw new Error(`not answered: ${JSON.stringify(contact)}`);
      }
      return client.unwrap(contact.bytes);
    },
    third: (answer, change = {}, from = source) =>
      server.receive(
        client.wrap({
          opcode: v2 ? 'control-wkc-v1' : 'control-v1',
          keyId: 0,
          sessionId: sid,
          acks: [0],
          peerSessionId: answer.sessionId,
          messageId: 1,
          payload: Buffer.from('hello'),
          ...change,
        }),
        from,
      ),
  };
}

describe.each(ends)('the stateless start with %s', (_name, serverConfig, clientConfig) => {
  const v2 = clientConfig.kind === 'tls-crypt-v2-client';

  test('three packets make a session, whose replay numbers go on behind the answer', () => {
    const { client, begin, third } = bench(serverConfig, clientConfig);
    const answer = begin();
    expect(answer).toMatchObject({ opcode: 'hard-reset-server-v2', acks: [0], messageId: 0, keyId: 0 });
    expect(answer.peerSessionId).toEqual(sid);
    expect(parseEarlyNegotiation(answer.payload).resendClientKey).toBe(v2);

    const contact = third(answer);
    if (contact.kind !== 'session') {
      throw new Error(`no session: ${JSON.stringify(contact)}`);
    }
    expect(contact.sessionId).toEqual(answer.sessionId);
    expect(contact.packet).toMatchObject({ messageId: 1, payload: Buffer.from('hello') });
    const next = contact.wrapper.wrap({ ...answer, opcode: 'control-v1', messageId: 1 });
    expect(client.unwrap(next).messageId).toBe(1);
    if (serverConfig.kind === 'tls-crypt') {
      expect(next.readUInt32BE(9)).toBe(2);
    }
  });

  test('a session does not count in an earlier second than its answer', () => {
    const { client, begin, third, setClock } = bench(serverConfig, clientConfig);
    const answer = begin();
    setClock(1_800_000_000_000);
    const contact = third(answer);
    if (contact.kind !== 'session') {
      throw new Error(`no session: ${JSON.stringify(contact)}`);
    }
    expect(client.unwrap(contact.wrapper.wrap({ ...answer, opcode: 'control-v1', messageId: 1 })).messageId).toBe(1);
  });

  test.each([
    ['another key id', { keyId: 1 }, v2 ? 'malformed' : 'unexpected'],
    ['a later message', { messageId: 2 }, 'unexpected'],
    ['a later acknowledgement', { acks: [0, 2] }, 'unexpected'],
    ['no acknowledgement', { acks: [], peerSessionId: undefined }, 'unexpected'],
    ['another session id of ours', { peerSessionId: Buffer.alloc(8, 1) }, 'cookie'],
    ['another session id of its own', { sessionId: Buffer.alloc(8, 1) }, 'cookie'],
    ['a soft reset', { opcode: 'soft-reset-v1' }, v2 ? 'client-key' : 'unexpected'],
    ["a server's reset", { opcode: 'hard-reset-server-v2' }, v2 ? 'client-key' : 'unexpected'],
  ] as const)('a third packet with %s makes none', (_what, change, reason) => {
    const { begin, third } = bench(serverConfig, clientConfig);
    expect(third(begin(), change as Partial<ControlPacket>)).toEqual({ kind: 'drop', reason });
  });

  test('nor does one from another address, or too late', () => {
    const { begin, third, setClock } = bench(serverConfig, clientConfig);
    const answer = begin();
    expect(third(answer, {}, { ...source, port: 1 })).toEqual({ kind: 'drop', reason: 'cookie' });
    setClock(1_800_000_000_000 + 90_000);
    expect(third(answer)).toEqual({ kind: 'drop', reason: 'cookie' });
  });

  test('a bare acknowledgement makes one, if the client key is not missing', () => {
    const { begin, third } = bench(serverConfig, clientConfig);
    const contact = third(begin(), { opcode: 'ack-v1', messageId: undefined, payload: empty });
    expect(contact).toMatchObject(v2 ? { kind: 'drop', reason: 'client-key' } : { kind: 'session' });
  });

  test('a first packet that has more than a first packet may is not answered', () => {
    const { server, client, reset } = bench(serverConfig, clientConfig);
    const acks = client.wrap({ ...reset, acks: [0], peerSessionId: sid });
    const message = client.wrap({ ...reset, messageId: 1 });
    for (const bytes of [acks, message]) {
      expect(server.receive(bytes, source)).toEqual({ kind: 'drop', reason: 'unexpected' });
    }
  });

  test('answers are limited, and one by which a session began is given back once', () => {
    const { server, client, reset, begin, third, limit, setClock } = bench(serverConfig, clientConfig);
    const answers = [begin(), begin(), begin()];
    expect(server.receive(client.wrap(reset), source)).toEqual({ kind: 'drop', reason: 'limit' });
    expect(limit.refused).toBe(1);
    expect(third(answers[2]!).kind).toBe('session');
    // Whether it becomes a session is for others to say.
    expect(server.receive(client.wrap(reset), source)).toEqual({ kind: 'drop', reason: 'limit' });
    server.begun(answers[2]!.sessionId);
    expect(server.receive(client.wrap(reset), source).kind).toBe('reply');
    // To a repeated first packet it is the same.
    server.begun(answers[1]!.sessionId);
    expect(server.receive(client.wrap(reset), source)).toEqual({ kind: 'drop', reason: 'limit' });
    setClock(1_800_000_020_000);
    expect(begin().messageId).toBe(0);
  });

  test('any bytes are answered, taken or dropped, and forged ones cost no answer', () => {
    const { server, begin } = bench(serverConfig, clientConfig);
    const bytes = fc.uint8Array({ maxLength: 500 });
    const likely = fc.tuple(fc.integer({ min: 3, max: 11 }), bytes).map(([opcode, rest]) => [opcode << 3, ...rest]);
    fc.assert(
      fc.property(fc.oneof(bytes, likely), (input) => {
        const { kind } = server.receive(Buffer.from(input), source);
        if (serverConfig.kind !== 'none') {
          expect(kind).toBe('drop');
        }
      }),
      { numRuns: 500 },
    );
    if (serverConfig.kind !== 'none') {
      begin();
    }
  });
});

describe('the stateless start', () => {
  test('drops data and unknown packets', () => {
    const { server } = bench({ kind: 'none' }, { kind: 'none' });
    for (const hex of ['', '48000001', 'ff', '00']) {
      expect(server.receive(Buffer.from(hex, 'hex'), source)).toEqual({ kind: 'drop', reason: 'opcode' });
    }
  });

  test('does not answer a tls-crypt-v2 client that would not send its key again', () => {
    const [, serverConfig, clientConfig] = ends.at(-1)!;
    const { server, client, reset } = bench(serverConfig, clientConfig, 0);
    expect(server.receive(client.wrap(reset), source)).toEqual({ kind: 'drop', reason: 'no-early-negotiation' });
  });

  test('does not answer a plain reset under a tls-crypt-v2 key', () => {
    const [, serverConfig, clientConfig] = ends.at(-1)!;
    const { server, client, reset } = bench(serverConfig, clientConfig);
    const bytes = client.wrap({ ...reset, opcode: 'hard-reset-client-v2' });
    expect(server.receive(bytes, source)).toEqual({ kind: 'drop', reason: 'client-key' });
  });
});
