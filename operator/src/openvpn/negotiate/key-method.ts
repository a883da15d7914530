import { ProtocolFault } from './protocol-fault.ts';

/**
 * Key method 2: the message that each side sends first over a new TLS session, the client before the server. The
 * random material in it fed the key derivation of OpenVPN 2.5 and older; with exported keys it is
 * sent because the format has it, and not used.
 *
 *   0 be32 ‖ 2 ‖ client only: pre-master 48 ‖ random 32 ‖ random 32 ‖ options ‖ username ‖ password ‖ peer-info
 *
 * Every string is be16 length, counting a closing NUL, and its bytes.
 */

export type Role = 'client' | 'server';

export interface KeyMethodMessage {
  readonly options: string;
  readonly username: string;
  readonly password: string;
  readonly peerInfo: string;
}

/** OpenVPN's own limit is 2048; a peer-info that our limit refuses would not come from it. */
export const maxKeyMethodBytes = 8192;

const keyMethod = 2;
const headerBytes = 5;
const preMasterBytes = 48;
const randomBytes = 64;

/** How much random material a side's message carries. */
export function keyMaterialBytes(sender: Role): number {
  return randomBytes + (sender === 'client' ? preMasterBytes : 0);
}

/** @param material fresh random bytes, `keyMaterialBytes(sender)` of them */
export function encodeKeyMethod(sender: Role, message: KeyMethodMessage, material: Buffer): Buffer {
  if (material.length !== keyMaterialBytes(sender)) {
    throw new RangeError(`a ${sender} sends ${keyMaterialBytes(sender)} random bytes, not ${material.length}`);
  }
  return Buffer.concat([
    Buffer.from([0, 0, 0, 0, keyMethod]),
    material,
    ...[message.options, message.username, message.password, message.peerInfo].map(encodeString),
  ]);
}

export interface DecodedKeyMethod {
  readonly message: KeyMethodMessage;
  /** Bytes read. What follows them belongs to the next message. */
  readonly length: number;
}

/**
 * Reads a key method message from what has been received so far; undefined when it is not whole yet. A peer may leave
 * out the strings after the options: then the record that held the options is the end of it.
 *
 * @throws ProtocolFault when the bytes can never become one
 */
export function decodeKeyMethod(sender: Role, bytes: Buffer): DecodedKeyMethod | undefined {
  const header = bytes.subarray(0, headerBytes);
  if (!header.equals(Buffer.from([0, 0, 0, 0, keyMethod]).subarray(0, header.length))) {
    throw new ProtocolFault('sent something else than a key method 2 message');
  }
  let offset = headerBytes + keyMaterialBytes(sender);
  const strings: string[] = [];
  while (strings.length < 4) {
    if (strings.length > 0 && offset === bytes.length) {
      break;
    }
    const end = stringEnd(bytes, offset);
    if (end === undefined) {
      if (bytes.length >= maxKeyMethodBytes) {
        throw new ProtocolFault(`sent a key method message longer than ${maxKeyMethodBytes} bytes`);
      }
      return undefined;
    }
    strings.push(decodeString(bytes.subarray(offset + 2, end)));
    offset = end;
  }
  const [options = '', username = '', password = '', peerInfo = ''] = strings;
  return { message: { options, username, password, peerInfo }, length: offset };
}

function encodeString(text: string): Buffer {
  if (text === '') {
    return Buffer.from([0, 0]);
  }
  const body = Buffer.from(`${text}\0`);
  if (body.length > 0xffff) {
    throw new RangeError(`a string of ${body.length} bytes does not fit a key method message`);
  }
  const length = Buffer.alloc(2);
  length.writeUInt16BE(body.length);
  return Buffer.concat([length, body]);
}

function stringEnd(bytes: Buffer, offset: number): number | undefined {
  if (bytes.length < offset + 2) {
    return undefined;
  }
  const end = offset + 2 + bytes.readUInt16BE(offset);
  if (end > maxKeyMethodBytes) {
    throw new ProtocolFault(`sent a key method message longer than ${maxKeyMethodBytes} bytes`);
  }
  return end <= bytes.length ? end : undefined;
}

function decodeString(body: Buffer): string {
  if (body.length === 0) {
    return '';
  }
  // The first NUL has to be the last byte: a string that ends earlier for others than for us is a trap.
  if (body.indexOf(0) !== body.length - 1) {
    throw new ProtocolFault('sent a key method message with a string that does not end in its NUL');
  }
  return body.toString('utf8', 0, body.length - 1);
}
