import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseStaticKey } from '../static-key.ts';
import { formatPacket, PacketError, type ControlOpcode, type ControlPacket } from '../wire/packet.ts';
import { issueClientKey, type ClientKeyMetadata } from './client-key.ts';
import { parseClientKey, parseServerKey } from './key-file.ts';
import {
  clientKeyFile,
  clientKeyWithMetadataFile,
  recorded,
  recordedDynamic,
  serverKeyFile,
  tlsAuthKeyFile,
  tlsCryptKeyFile,
} from './recorded.fixture.ts';
import { SessionWrapper, type WrapConfig, type WrapperOptions, type WrapperState } from './session-wrapper.ts';
import { packetErrorOf, packetsOf } from './packets.fixture.ts';

const tlsAuthKey = parseStaticKey(tlsAuthKeyFile, {});
const tlsCryptKey = parseStaticKey(tlsCryptKeyFile, {});
const serverKey = parseServerKey(serverKeyFile, {});
const clientKey = parseClientKey(clientKeyFile, {});

/** [name, server's configuration, client's] */
const kinds: readonly (readonly [string, WrapConfig, WrapConfig])[] = [
  ['none', { kind: 'none' }, { kind: 'none' }],
  ...(['SHA1', 'SHA256', 'SHA512'] as const).flatMap((digest) =>
    (
      [
        [0, 1],
        [1, 0],
        ['bidirectional', 'bidirectional'],
      ] as const
    ).map(([server, client]): readonly [string, WrapConfig, WrapConfig] => [
      `tls-auth ${digest} ${server}`,
      { kind: 'tls-auth', key: tlsAuthKey, digest, direction: server },
      { kind: 'tls-auth', key: tlsAuthKey, digest, direction: client },
    ]),
  ),
  ['tls-crypt', { kind: 'tls-crypt', key: tlsCryptKey }, { kind: 'tls-crypt', key: tlsCryptKey }],
  ['tls-crypt-v2', { kind: 'tls-crypt-v2-server', serverKey }, { kind: 'tls-crypt-v2-client', ...clientKey }],
];
const authenticated = kinds.filter(([name]) => name !== 'none');

const everyOpcode: readonly ControlOpcode[] = ['soft-reset-v1', 'control-v1', 'ack-v1', 'hard-reset-client-v2'];
const fromClient = packetsOf(everyOpcode);
const fromClientV2 = packetsOf([...everyOpcode, 'hard-reset-client-v3', 'control-wkc-v1']).map(
  ({ keyId, ...packet }) => ({ ...packet, keyId: withClientKey(packet.opcode) ? 0 : keyId }),
);
const fromServer = packetsOf(['soft-reset-v1', 'control-v1', 'ack-v1', 'hard-reset-server-v2']);

function withClientKey(opcode: ControlOpcode): boolean {
  return opcode === 'hard-reset-client-v3' || opcode === 'control-wkc-v1';
}

function end(config: WrapConfig, role: 'client' | 'server', options: Partial<WrapperOptions> = {}): SessionWrapper {
  return new SessionWrapper(config, { role, transport: 'udp', clock: () => 1_800_000_000_000, ...options });
}

const sid = Buffer.from('c1c2c3c4c5c6c7c8', 'hex');
const peerSid = Buffer.from('5152535455565758', 'hex');

function control(change: Partial<ControlPacket> = {}): ControlPacket {
  return {
    opcode: 'control-v1',
    keyId: 0,
    sessionId: sid,
    acks: [0],
    peerSessionId: peerSid,
    messageId: 1,
    payload: Buffer.from('to be or not to be'),
    ...change,
  };
}

const clientReset = control({
  opcode: 'hard-reset-client-v3',
  acks: [],
  peerSessionId: undefined,
  messageId: 0,
  payload: Buffer.alloc(0),
});

/** Both ends of a session; a tls-crypt-v2 server has its client's key. */
function bothEnds(
  server: WrapConfig,
  client: WrapConfig,
  options: Partial<WrapperOptions> = {},
): { server: SessionWrapper; client: SessionWrapper } {
  const ends = { server: end(server, 'server', options), client: end(client, 'client', options) };
  if (client.kind === 'tls-crypt-v2-client') {
    ends.server.unwrap(ends.client.wrap(clientReset));
  }
  return ends;
}

describe.each(kinds)('%s', (_name, serverConfig, clientConfig) => {
  const packets = clientConfig.kind === 'tls-crypt-v2-client' ? fromClientV2 : fromClient;

  test('gives back what was wrapped, both ways, on both transports', () => {
    fc.assert(
      fc.property(
        fc.array(packets, { maxLength: 5 }),
        fc.array(fromServer, { maxLength: 5 }),
        fc.constantFrom('udp' as const, 'tcp' as const),
        (up, down, transport) => {
          const { server, client } = bothEnds(serverConfig, clientConfig, { transport });
          for (const packet of up) {
            const bytes = client.wrap(packet);
            expect(bytes.length).toBe(formatPacket(packet).length + client.overhead(packet.opcode, packet.keyId));
            expect(server.unwrap(bytes)).toEqual(packet);
          }
          for (const packet of down) {
            expect(client.unwrap(server.wrap(packet))).toEqual(packet);
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test('any bytes give a packet or a PacketError, at either end', () => {
    const { server, client } = bothEnds(serverConfig, clientConfig);
    const bytes = fc.uint8Array({ maxLength: 500 });
    const likely = fc.tuple(fc.integer({ min: 3, max: 11 }), bytes).map(([opcode, rest]) => [opcode << 3, ...rest]);
    fc.assert(
      fc.property(fc.oneof(bytes, likely), (input) => {
        for (const side of [server, client, end(serverConfig, 'server')]) {
          try {
            side.unwrap(Buffer.from(input));
          } catch (error) {
            expect(error).toBeInstanceOf(PacketError);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  test('any start of a packet is refused', () => {
    const whole = end(clientConfig, 'client').wrap(control());
    const { server } = bothEnds(serverConfig, clientConfig);
    // Without wrapping, what is cut off of a payload cannot be seen.
    const fields = serverConfig.kind === 'none' ? whole.length - control().payload.length : whole.length;
    for (let length = 0; length < fields; length++) {
      expect(() => server.unwrap(whole.subarray(0, length))).toThrow(PacketError);
    }
  });
});

describe.each(authenticated)('%s', (_name, serverConfig, clientConfig) => {
  const v2 = clientConfig.kind === 'tls-crypt-v2-client';

  test('a packet with any bit flipped is refused and changes nothing', () => {
    const opcodes: ControlOpcode[] = v2 ? ['control-wkc-v1', 'control-v1'] : ['control-v1'];
    for (const opcode of opcodes) {
      const { server, client } = bothEnds(serverConfig, clientConfig);
      const bytes = client.wrap(control({ opcode }));
      const before = server.state;
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const flipped = Buffer.from(bytes);
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        expect(() => server.unwrap(flipped)).toThrow(PacketError);
      }
      expect(server.state).toEqual(before);
      expect(server.unwrap(bytes)).toEqual(control({ opcode }));
    }
  });

  test('a packet is taken once', () => {
    const { server, client } = bothEnds(serverConfig, clientConfig);
    const bytes = client.wrap(control());
    server.unwrap(bytes);
    expect(packetErrorOf(() => server.unwrap(bytes)).reason).toBe('replayed');
    expect(server.unwrap(client.wrap(control()))).toEqual(control());
  });

  test('UDP may reorder, TCP may not', () => {
    for (const transport of ['udp', 'tcp'] as const) {
      const { server, client } = bothEnds(serverConfig, clientConfig, { transport });
      const one = client.wrap(control({ messageId: 1 }));
      const two = client.wrap(control({ messageId: 2 }));
      if (transport === 'udp') {
        expect([server.unwrap(two).messageId, server.unwrap(one).messageId]).toEqual([2, 1]);
      } else {
        expect(packetErrorOf(() => server.unwrap(two)).reason).toBe('replayed');
        expect([server.unwrap(one).messageId, server.unwrap(two).messageId]).toEqual([1, 2]);
      }
    }
  });

  test('a packet does not pass for one of the other direction', () => {
    const { server, client } = bothEnds(serverConfig, clientConfig);
    const symmetric = clientConfig.kind === 'tls-auth' && clientConfig.direction === 'bidirectional';
    const bytes = client.wrap(control());
    if (symmetric) {
      expect(end(clientConfig, 'client').unwrap(bytes)).toEqual(control());
    } else {
      expect(packetErrorOf(() => end(clientConfig, 'client').unwrap(bytes)).reason).toBe('unauthenticated');
    }
    expect(server.unwrap(bytes)).toEqual(control());
  });

  test('a session goes on after a restart of either end, even from an older state', () => {
    for (const transport of ['udp', 'tcp'] as const) {
      const { server, client } = bothEnds(serverConfig, clientConfig, { transport });
      client.unwrap(server.wrap(control()));
      const saved = JSON.parse(JSON.stringify(server.state)) as WrapperState;
      const missed = client.wrap(control({ messageId: 2 }));
      server.unwrap(missed);
      client.unwrap(server.wrap(control()));

      const resumed = end(serverConfig, 'server', { transport, state: saved });
      expect(client.unwrap(resumed.wrap(control({ messageId: 3 }))).messageId).toBe(3);
      expect(client.unwrap(resumed.wrap(control({ messageId: 4 }))).messageId).toBe(4);
      const after = client.wrap(control({ messageId: 5 }));
      expect(resumed.unwrap(after).messageId).toBe(5);
      expect(packetErrorOf(() => resumed.unwrap(after)).reason).toBe('replayed');

      // And twice in the same second, with the clock set back.
      const again = end(serverConfig, 'server', { transport, state: resumed.state, clock: () => 0 });
      expect(client.unwrap(again.wrap(control({ messageId: 6 }))).messageId).toBe(6);
      expect(again.unwrap(client.wrap(control({ messageId: 7 }))).messageId).toBe(7);
    }
  });
});

describe('replay ids', () => {
  test('a tls-crypt-v2 client shows early negotiation by its first, and so that a server sees it', () => {
    const { server, client } = bothEnds(kinds.at(-1)![1], kinds.at(-1)![2]);
    expect(client.wrap(control()).readUInt32BE(9)).toBe(0x0f000002);
    expect(server.earlyNegotiation).toBe(true);
    const older = end({ kind: 'tls-crypt-v2-client', ...clientKey }, 'client', { sentBefore: 0 });
    const unaware = end({ kind: 'tls-crypt-v2-server', serverKey }, 'server');
    unaware.unwrap(older.wrap(clientReset));
    expect(unaware.earlyNegotiation).toBe(false);
  });

  test('go on behind the stateless answer', () => {
    const wrapper = end({ kind: 'tls-crypt', key: tlsCryptKey }, 'server', { sentBefore: 1 });
    expect(wrapper.wrap(control()).readUInt32BE(9)).toBe(2);
  });
});

describe('the client key of tls-crypt-v2', () => {
  const config = { kind: 'tls-crypt-v2-server', serverKey } as const;
  const clientConfig = { kind: 'tls-crypt-v2-client', ...clientKey } as const;

  test('has to come first', () => {
    const bytes = end(clientConfig, 'client').wrap(control());
    const server = end(config, 'server');
    expect(packetErrorOf(() => server.unwrap(bytes)).reason).toBe('client-key');
    expect(() => server.wrap(control())).toThrow(RangeError);
  });

  test('is taken over only with a packet that it authenticates', () => {
    const server = end(config, 'server');
    const bytes = end(clientConfig, 'client').wrap(clientReset);
    bytes[20]! ^= 1;
    expect(packetErrorOf(() => server.unwrap(bytes)).reason).toBe('unauthenticated');
    expect(server.state.clientKey).toBeUndefined();
    expect(server.clientKeyMetadata).toBeUndefined();
  });

  test('cannot change within a session', () => {
    const { server } = bothEnds(config, clientConfig);
    const other = end({ kind: 'tls-crypt-v2-client', ...issueClientKey(serverKey, undefined) }, 'client');
    expect(packetErrorOf(() => server.unwrap(other.wrap(clientReset))).reason).toBe('client-key');
  });

  test('may be sent again, and to a server that was restarted', () => {
    const { server, client } = bothEnds(config, clientConfig);
    const again = control({ opcode: 'control-wkc-v1' });
    expect(server.unwrap(client.wrap(again))).toEqual(again);
    const resumed = end(config, 'server', { state: server.state });
    expect(resumed.unwrap(client.wrap(again))).toEqual(again);
  });

  test('is refused by what its issuer wrote into it', () => {
    const seen: (ClientKeyMetadata | undefined)[] = [];
    const picky = {
      ...config,
      acceptMetadata: (metadata: ClientKeyMetadata | undefined) => {
        seen.push(metadata);
        return metadata?.kind === 'user';
      },
    };
    const server = end(picky, 'server');
    expect(packetErrorOf(() => server.unwrap(end(clientConfig, 'client').wrap(clientReset))).reason).toBe('client-key');
    const named = { kind: 'tls-crypt-v2-client', ...parseClientKey(clientKeyWithMetadataFile, {}) } as const;
    server.unwrap(end(named, 'client').wrap(clientReset));
    expect(server.clientKeyMetadata).toEqual({ kind: 'user', data: Buffer.from('hello peer') });
    expect(seen.map((metadata) => metadata?.kind)).toEqual(['timestamp', 'user']);
  });

  test('comes from clients only, and only with key id 0', () => {
    const { server, client } = bothEnds(config, clientConfig);
    const bytes = client.wrap(control({ opcode: 'control-wkc-v1', keyId: 1 }));
    expect(packetErrorOf(() => server.unwrap(bytes)).reason).toBe('malformed');
    expect(packetErrorOf(() => client.unwrap(bytes)).reason).toBe('opcode');
    const plain = end({ kind: 'none' }, 'client');
    expect(packetErrorOf(() => plain.unwrap(formatPacket(clientReset))).reason).toBe('opcode');
    expect(() => plain.wrap(clientReset)).toThrow(RangeError);
  });
});

describe.each(kinds)('dynamic tls-crypt over %s', (name, serverConfig, clientConfig) => {
  const exported = Buffer.from(Array.from({ length: 256 }, (_unused, index) => (index * 7) & 0xff));
  const renewal = control({ opcode: 'soft-reset-v1', keyId: 1, messageId: 0 });

  function upgraded(): { server: SessionWrapper; client: SessionWrapper } {
    const ends = bothEnds(serverConfig, clientConfig);
    ends.server.useDynamicKey(exported);
    ends.client.useDynamicKey(exported);
    return ends;
  }

  test('wraps what has a key id above 0, with numbers of its own, and nothing else', () => {
    const { server, client } = upgraded();
    client.wrap(control());
    const bytes = client.wrap(renewal);
    expect(bytes.length).toBe(formatPacket(renewal).length + 40);
    expect(client.overhead('soft-reset-v1', 1)).toBe(40);
    expect(bytes.readUInt32BE(9)).toBe(1);
    expect(server.unwrap(bytes)).toEqual(renewal);
    expect(packetErrorOf(() => server.unwrap(bytes)).reason).toBe('replayed');
    expect(server.unwrap(client.wrap(control()))).toEqual(control());
    expect(client.unwrap(server.wrap(renewal))).toEqual(renewal);
  });

  test('refuses the static key for them', () => {
    const { server } = upgraded();
    const { client } = bothEnds(serverConfig, clientConfig);
    expect(() => server.unwrap(client.wrap(renewal))).toThrow(PacketError);
  });

  test('needs the same static key as well as the same exported bytes', () => {
    const { server } = upgraded();
    const { client } = bothEnds(serverConfig, clientConfig);
    client.useDynamicKey(Buffer.alloc(256, 1));
    expect(packetErrorOf(() => server.unwrap(client.wrap(renewal))).reason).toBe('unauthenticated');
    const bare = end({ kind: 'none' }, 'client');
    bare.useDynamicKey(exported);
    const unwrap = (): ControlPacket => server.unwrap(bare.wrap(renewal));
    if (name === 'none') {
      expect(unwrap()).toEqual(renewal);
    } else {
      expect(packetErrorOf(unwrap).reason).toBe('unauthenticated');
    }
  });

  test('outlives a restart', () => {
    const { server, client } = upgraded();
    const bytes = client.wrap(renewal);
    server.unwrap(bytes);
    client.unwrap(server.wrap(renewal));
    const resumed = end(serverConfig, 'server', { state: JSON.parse(JSON.stringify(server.state)) as WrapperState });
    expect(packetErrorOf(() => resumed.unwrap(bytes)).reason).toBe('replayed');
    expect(client.unwrap(resumed.wrap(renewal))).toEqual(renewal);
    expect(resumed.unwrap(client.wrap(renewal))).toEqual(renewal);
  });
});

test('dynamic tls-crypt takes 256 bytes, and a client key where there is one', () => {
  expect(() => end({ kind: 'none' }, 'client').useDynamicKey(Buffer.alloc(64))).toThrow(RangeError);
  expect(() => {
    end({ kind: 'tls-crypt-v2-server', serverKey }, 'server').useDynamicKey(Buffer.alloc(256));
  }).toThrow(RangeError);
});

describe('packets of stock OpenVPN', () => {
  const byName = new Map(kinds.map(([name, server, client]) => [name, { server, client }]));
  // tls-auth in `recorded` is named by our direction, whichever end we are.
  const ours = (wrap: string, weAre: 'client' | 'server'): WrapConfig => {
    const config = byName.get(wrap)!;
    return wrap.startsWith('tls-auth') ? config.server : config[weAre];
  };

  test.each(recorded.map((row) => [row.from, row.transport, row.wrap, row.hex] as const))(
    'of %s over %s with %s are understood',
    (from, transport, wrap, hex) => {
      const bytes = Buffer.from(hex, 'hex');
      const weAre = from.endsWith('client') ? 'server' : 'client';
      const wrapper = end(ours(wrap, weAre), weAre, { transport: bytes[0] === 0x58 ? 'udp' : transport });
      const packet = wrapper.unwrap(bytes);
      expect(packet.sessionId).toEqual(bytes.subarray(1, 9));
      const first = packet.opcode.startsWith('hard-reset');
      if (first) {
        expect(packet).toMatchObject({ keyId: 0, messageId: 0 });
        expect(packet.acks).toEqual(weAre === 'server' ? [] : [0]);
      } else if (packet.opcode === 'ack-v1') {
        expect(packet).toMatchObject({ acks: [1], messageId: undefined });
      } else {
        // The third packet: it acknowledges our reset and begins the TLS handshake.
        expect(packet).toMatchObject({ acks: [0], messageId: 1 });
        expect(packet.payload.subarray(0, 3).toString('hex')).toBe('160301');
      }
      if (first && weAre === 'client' && wrap === 'tls-crypt-v2') {
        expect(packet.payload.toString('hex')).toBe(transport === 'udp' ? '000100020001' : '');
      }
      if (weAre === 'server' && wrap === 'tls-crypt-v2') {
        expect(wrapper.clientKeyMetadata).toMatchObject({ kind: 'timestamp' });
        expect(wrapper.earlyNegotiation).toBe(true);
      }
    },
  );

  test.each(recordedDynamic.map((row) => [row.from, row.wrap, row] as const))(
    'of %s with %s under dynamic tls-crypt are understood',
    (_from, wrap, { hex, exported }) => {
      const wrapper = end(ours(wrap, 'client'), 'client');
      wrapper.useDynamicKey(Buffer.from(exported, 'hex'));
      expect(wrapper.unwrap(Buffer.from(hex, 'hex'))).toMatchObject({
        opcode: 'soft-reset-v1',
        keyId: 1,
        acks: [0],
        messageId: 0,
      });
    },
  );
});
