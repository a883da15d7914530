import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { classify, firstByte } from './opcode.ts';
import { bodyBytes, formatPacket, maxControlPacketBytes, PacketError, parsePacket } from './packet.ts';
import { controlPackets, packetErrorOf } from '../wrap/packets.fixture.ts';

describe('the first byte', () => {
  test.each([
    [0x38, { kind: 'control', opcode: 'hard-reset-client-v2', keyId: 0 }],
    [0x40, { kind: 'control', opcode: 'hard-reset-server-v2', keyId: 0 }],
    [0x50, { kind: 'control', opcode: 'hard-reset-client-v3', keyId: 0 }],
    [0x58, { kind: 'control', opcode: 'control-wkc-v1', keyId: 0 }],
    [0x19, { kind: 'control', opcode: 'soft-reset-v1', keyId: 1 }],
    [0x27, { kind: 'control', opcode: 'control-v1', keyId: 7 }],
    [0x28, { kind: 'control', opcode: 'ack-v1', keyId: 0 }],
    [0x30, { kind: 'data', opcode: 'data-v1', keyId: 0 }],
    [0x49, { kind: 'data', opcode: 'data-v2', keyId: 1 }],
    // Key method 1, nothing, and what no version defines.
    [0x08, { kind: 'unknown' }],
    [0x00, { kind: 'unknown' }],
    [0x60, { kind: 'unknown' }],
    [0xff, { kind: 'unknown' }],
    [undefined, { kind: 'unknown' }],
  ])('%p is %p', (byte, meaning) => {
    expect(classify(byte)).toEqual(meaning);
    const first = classify(byte);
    if (first.kind !== 'unknown') {
      expect(firstByte(first.opcode, first.keyId)).toBe(byte);
    }
  });
});

describe('a packet that is not wrapped', () => {
  // HARD_RESET_CLIENT_V2 without acks, message id 0.
  test('parses the first packet of OpenVPN', () => {
    const packet = parsePacket(Buffer.from('380102030405060708' + '00' + '00000000', 'hex'));
    expect(packet).toEqual({
      opcode: 'hard-reset-client-v2',
      keyId: 0,
      sessionId: Buffer.from('0102030405060708', 'hex'),
      acks: [],
      peerSessionId: undefined,
      messageId: 0,
      payload: Buffer.alloc(0),
    });
  });

  test('what is formatted parses to the same', () => {
    fc.assert(
      fc.property(controlPackets, (packet) => {
        const bytes = formatPacket(packet);
        expect(parsePacket(bytes)).toEqual(packet);
        expect(bytes.length).toBe(
          9 + bodyBytes(packet.acks.length, packet.messageId !== undefined) + packet.payload.length,
        );
      }),
    );
  });

  test('any bytes give a packet or a PacketError', () => {
    const bytes = fc.uint8Array({ maxLength: 200 });
    // Half of the inputs begin like a control packet, so that the body is reached too.
    const likely = fc.tuple(fc.integer({ min: 3, max: 11 }), bytes).map(([opcode, rest]) => [opcode << 3, ...rest]);
    fc.assert(
      fc.property(fc.oneof(bytes, likely), (input) => {
        try {
          const packet = parsePacket(Buffer.from(input));
          expect(packet.acks.length).toBeLessThanOrEqual(8);
          expect(packet.peerSessionId !== undefined).toBe(packet.acks.length > 0);
          expect(packet.payload.length).toBeLessThanOrEqual(input.length);
        } catch (error) {
          expect(error).toBeInstanceOf(PacketError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    ['nothing', '', 'opcode'],
    ['data', '4800000100000000', 'opcode'],
    ['half a session id', '3801020304', 'truncated'],
    ['no body', '380102030405060708', 'truncated'],
    ['an all-zero session id', '3800000000000000000000000000', 'malformed'],
    ['an all-zero peer session id', '280102030405060708' + '01' + '00000000' + '0000000000000000', 'malformed'],
    ['nine acks', '280102030405060708' + '09' + '00'.repeat(60), 'malformed'],
    ['acks that are not there', '280102030405060708' + '02' + '00000000', 'truncated'],
    ['no peer session id after acks', '280102030405060708' + '01' + '00000000' + '0102', 'truncated'],
    ['half a message id', '200102030405060708' + '00' + '0000', 'truncated'],
    ['too long', '200102030405060708' + '00' + '00000000' + '00'.repeat(maxControlPacketBytes), 'too-long'],
  ])('%s is refused', (_what, hex, reason) => {
    expect(packetErrorOf(() => parsePacket(Buffer.from(hex, 'hex'))).reason).toBe(reason);
  });

  test('a parsed packet does not keep the receive buffer', () => {
    const received = Buffer.from('200102030405060708' + '00' + '00000001' + 'aabb', 'hex');
    const packet = parsePacket(received);
    received.fill(0);
    expect(packet.payload).toEqual(Buffer.from('aabb', 'hex'));
    expect(packet.sessionId[0]).toBe(1);
  });

  test.each([
    ['a control packet without a message id', { opcode: 'control-v1', messageId: undefined }],
    ['an ACK with one', { opcode: 'ack-v1', messageId: 1 }],
    ['acks without their session', { acks: [1], peerSessionId: undefined }],
    ['too many acks', { acks: [1, 2, 3, 4, 5, 6, 7, 8, 9], peerSessionId: Buffer.alloc(8, 1) }],
    ['a short session id', { sessionId: Buffer.alloc(7, 1) }],
  ] as const)('%s is not sent', (_what, change) => {
    const packet = {
      opcode: 'control-v1',
      keyId: 0,
      sessionId: Buffer.alloc(8, 1),
      acks: [],
      peerSessionId: undefined,
      messageId: 1,
      payload: Buffer.alloc(0),
    } as const;
    expect(() => formatPacket({ ...packet, ...change })).toThrow(RangeError);
  });

  test('a PacketError costs no stack trace and leaves the limit as it was', () => {
    const limit = Error.stackTraceLimit;
    expect(new PacketError('truncated', 'x').stack).not.toContain('\n    at ');
    expect(Error.stackTraceLimit).toBe(limit);
  });
});
