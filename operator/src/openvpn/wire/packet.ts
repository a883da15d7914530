import { classify, firstByte, type ControlOpcode } from './opcode.ts';
import { PacketError } from './packet-error.ts';

export type { ControlOpcode, Opcode } from './opcode.ts';
export { PacketError, type PacketErrorReason } from './packet-error.ts';

/** A control packet as the reliability layer sees it: unwrapped, its fields apart (OpenVPN RFC draft). */
export interface ControlPacket {
  readonly opcode: ControlOpcode;
  /** 0..7 */
  readonly keyId: number;
  /** The sender's, 8 bytes, not all zero. */
  readonly sessionId: Buffer;
  /** At most 8 message ids of the receiver of this packet. */
  readonly acks: readonly number[];
  /** The receiver's session id, 8 bytes; there exactly when there are acks. */
  readonly peerSessionId: Buffer | undefined;
  /** Missing exactly in `ack-v1`. */
  readonly messageId: number | undefined;
  readonly payload: Buffer;
}

export const sessionIdBytes = 8;
/** OpenVPN's RELIABLE_ACK_SIZE: the most acknowledgements that one packet may carry. */
export const maxAcks = 8;
/**
 * Longer than any control packet. OpenVPN sends at most 1250 bytes, with `--max-packet-size` at most 2048; a
 * tls-crypt-v2 client key adds up to 1024.
 */
export const maxControlPacketBytes = 4096;

/** Opcode and session id: what every wrapping leaves readable in front. */
export const clearHeaderBytes = 1 + sessionIdBytes;

const empty = Buffer.alloc(0);

/** The readable start of any control packet. */
export interface ClearHeader {
  readonly opcode: ControlOpcode;
  readonly keyId: number;
  readonly sessionId: Buffer;
}

/**
 * Reads opcode, key id and session id.
 *
 * @throws PacketError
 */
export function parseHeader(bytes: Buffer): ClearHeader {
  const first = classify(bytes[0]);
  if (first.kind !== 'control') {
    throw new PacketError('opcode', 'is no control packet');
  }
  if (bytes.length > maxControlPacketBytes) {
    throw new PacketError('too-long', `is longer than ${maxControlPacketBytes} bytes`);
  }
  if (bytes.length < clearHeaderBytes) {
    throw new PacketError('truncated', 'ends before its session id does');
  }
  return { opcode: first.opcode, keyId: first.keyId, sessionId: sessionId(bytes, 1) };
}

export function formatHeader({ opcode, keyId, sessionId }: ClearHeader): Buffer {
  const header = Buffer.allocUnsafe(clearHeaderBytes);
  header[0] = firstByte(opcode, keyId);
  sessionId.copy(header, 1, 0, sessionIdBytes);
  return header;
}

/**
 * Reads what follows the header once the wrapping is off: acknowledgements, message id, payload. Nothing in the
 * result points into `body`, so that a packet kept for reordering does not keep a receive buffer.
 *
 * @throws PacketError
 */
export function parseBody(header: ClearHeader, body: Buffer): ControlPacket {
  const count = body[0];
  if (count === undefined) {
    throw new PacketError('truncated', 'has no list of acknowledgements');
  }
  if (count > maxAcks) {
    throw new PacketError('malformed', `acknowledges ${count} messages at once`);
  }
  const withMessageId = header.opcode !== 'ack-v1';
  const acksEnd = 1 + 4 * count;
  const peerEnd = acksEnd + (count > 0 ? sessionIdBytes : 0);
  const end = peerEnd + (withMessageId ? 4 : 0);
  if (body.length < end) {
    throw new PacketError('truncated', 'ends before its fields do');
  }
  const acks: number[] = [];
  for (let offset = 1; offset < acksEnd; offset += 4) {
    acks.push(body.readUInt32BE(offset));
  }
  return {
    ...header,
    acks,
    peerSessionId: count > 0 ? sessionId(body, acksEnd) : undefined,
    messageId: withMessageId ? body.readUInt32BE(peerEnd) : undefined,
    // OpenVPN, too, passes over what follows the acknowledgements of an ACK_V1.
    payload: withMessageId ? Buffer.from(body.subarray(end)) : empty,
  };
}

/** The opposite of {@link parseBody}. */
export function formatBody({ acks, peerSessionId, messageId, payload }: ControlPacket): Buffer {
  const bytes = bodyBytes(acks.length, messageId !== undefined) + payload.length;
  const body = Buffer.allocUnsafe(bytes);
  let offset = body.writeUInt8(acks.length);
  for (const ack of acks) {
    offset = body.writeUInt32BE(ack, offset);
  }
  if (peerSessionId !== undefined && acks.length > 0) {
    offset += peerSessionId.copy(body, offset, 0, sessionIdBytes);
  }
  if (messageId !== undefined) {
    offset = body.writeUInt32BE(messageId, offset);
  }
  payload.copy(body, offset);
  return body;
}

/** Bytes of a body without its payload, to find how much payload still fits. */
export function bodyBytes(acks: number, withMessageId: boolean): number {
  return 1 + 4 * acks + (acks > 0 ? sessionIdBytes : 0) + (withMessageId ? 4 : 0);
}

/**
 * Reads a packet that is not wrapped.
 *
 * @throws PacketError
 */
export function parsePacket(bytes: Buffer): ControlPacket {
  return parseBody(parseHeader(bytes), bytes.subarray(clearHeaderBytes));
}

export function formatPacket(packet: ControlPacket): Buffer {
  assertSendable(packet);
  return Buffer.concat([formatHeader(packet), formatBody(packet)]);
}

/**
 * Refuses what would go out as another packet than the one meant. Such a packet is a defect of this program.
 *
 * @throws RangeError
 */
export function assertSendable({ opcode, sessionId, acks, peerSessionId, messageId }: ControlPacket): void {
  if (
    sessionId.length !== sessionIdBytes ||
    acks.length > maxAcks ||
    (peerSessionId !== undefined) !== acks.length > 0 ||
    (peerSessionId !== undefined && peerSessionId.length !== sessionIdBytes) ||
    (messageId === undefined) !== (opcode === 'ack-v1')
  ) {
    throw new RangeError(`a ${opcode} packet to send has fields that do not go together`);
  }
}

/** OpenVPN takes an all-zero session id for "none yet", so a sender never has it. */
function sessionId(bytes: Buffer, offset: number): Buffer {
  const id = Buffer.from(bytes.subarray(offset, offset + sessionIdBytes));
  if (id.every((byte) => byte === 0)) {
    throw new PacketError('malformed', 'has an all-zero session id');
  }
  return id;
}
