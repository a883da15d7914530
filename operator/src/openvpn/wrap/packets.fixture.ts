import fc from 'fast-check';
import { PacketError, type ControlOpcode, type ControlPacket } from '../wire/packet.ts';

/** What the tests of this folder share. Not for other code. */

const controlOpcodes: readonly ControlOpcode[] = [
  'soft-reset-v1',
  'control-v1',
  'ack-v1',
  'hard-reset-client-v2',
  'hard-reset-server-v2',
  'hard-reset-client-v3',
  'control-wkc-v1',
];

const buffers = (minLength: number, maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ minLength, maxLength }).map((bytes) => Buffer.from(bytes));

const sessionIds = buffers(8, 8).filter((id) => id.some((byte) => byte !== 0));

/** Any packet that may be sent. */
export const controlPackets: fc.Arbitrary<ControlPacket> = packetsOf(controlOpcodes);

export function packetsOf(opcodes: readonly ControlOpcode[]): fc.Arbitrary<ControlPacket> {
  return fc
    .record({
      opcode: fc.constantFrom(...opcodes),
      keyId: fc.integer({ min: 0, max: 7 }),
      sessionId: sessionIds,
      acks: fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { maxLength: 8 }),
      peer: sessionIds,
      message: fc.integer({ min: 0, max: 0xffff_ffff }),
      payload: buffers(0, 60),
    })
    .map(({ opcode, acks, peer, message, payload, ...rest }) => ({
      opcode,
      ...rest,
      acks,
      peerSessionId: acks.length > 0 ? peer : undefined,
      messageId: opcode === 'ack-v1' ? undefined : message,
      payload: opcode === 'ack-v1' ? Buffer.alloc(0) : payload,
    }));
}

/** The PacketError that `action` throws; anything else fails the test. */
export function packetErrorOf(action: () => unknown): PacketError {
  try {
    action();
  } catch (error) {
    if (error instanceof PacketError) {
      return error;
    }
    throw error;
  }
  throw new Error('nothing was thrown');
}
