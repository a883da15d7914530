/**
 * Netlink framing (include/uapi/linux/netlink.h, RFC 3549): a writer that packs many requests into one
 * buffer, and readers that check every length before they trust it.
 *
 * Why not the `netlink` package's AttrStream here: it masks the flags out of attribute types, and the ovpn
 * family refuses nests without NLA_F_NESTED; and a batch of requests is one buffer, not a list of them.
 */

export const NLM_F_REQUEST = 0x1;
export const NLM_F_MULTI = 0x2;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_DUMP = 0x300;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_CAPPED = 0x100;
export const NLM_F_ACK_TLVS = 0x200;

export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const NLMSG_OVERRUN = 4;
export const NLMSG_HDRLEN = 16;

const NLA_HDRLEN = 4;
const NLA_F_NESTED = 0x8000;
/** Strips NLA_F_NESTED and NLA_F_NET_BYTEORDER: the kernel sets the latter on the ports of ovpn peers. */
const NLA_TYPE_MASK = 0x3fff;

const align = (length: number): number => (length + 3) & ~3;

/** One message as received. `payload` is a view into the receive buffer: copy what outlives the call. */
export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly port: number;
  readonly payload: Buffer;
}

/** Bytes from the kernel that are not a netlink message, or not of the expected form. */
export class MalformedMessage extends Error {
  override readonly name = 'MalformedMessage';
}

/** Splits a datagram into messages. @throws MalformedMessage on any length that does not fit */
export function parseMessages(datagram: Buffer): Message[] {
  const messages: Message[] = [];
  for (let offset = 0; offset + NLMSG_HDRLEN <= datagram.length;) {
    const length = datagram.readUInt32LE(offset);
    if (length < NLMSG_HDRLEN || offset + length > datagram.length) {
      throw new MalformedMessage(`netlink message of ${length} bytes at offset ${offset} of ${datagram.length}`);
    }
    messages.push({
      type: datagram.readUInt16LE(offset + 4),
      flags: datagram.readUInt16LE(offset + 6),
      sequence: datagram.readUInt32LE(offset + 8),
      port: datagram.readUInt32LE(offset + 12),
      payload: datagram.subarray(offset + NLMSG_HDRLEN, offset + length),
    });
    offset += align(length);
  }
  return messages;
}

/**
 * Walks over attributes without a view per value: for what is parsed by the ten thousand. `next` goes on to the
 * following attribute; `type` (flags stripped) and the readers tell of the one it stands on.
 *
 * @throws MalformedMessage when a length does not fit, or a value is not of the width that a reader wants
 */
export class AttributeCursor {
  readonly #data: Buffer;
  readonly #end: number;
  #next: number;
  #start = 0;
  #length = 0;
  type = 0;

  constructor(data: Buffer, start = 0, end = data.length) {
    this.#data = data;
    this.#next = start;
    this.#end = end;
  }

  /** False after the last attribute. */
  next(): boolean {
    const offset = this.#next;
    if (offset + NLA_HDRLEN > this.#end) return false;
    const length = this.#data.readUInt16LE(offset);
    if (length < NLA_HDRLEN || offset + length > this.#end) {
      throw new MalformedMessage(`netlink attribute of ${length} bytes at offset ${offset} of ${this.#end}`);
    }
    this.type = this.#data.readUInt16LE(offset + 2) & NLA_TYPE_MASK;
    this.#start = offset + NLA_HDRLEN;
    this.#length = length - NLA_HDRLEN;
    this.#next = offset + align(length);
    return true;
  }

  /** The attributes inside this one. */
  nested(): AttributeCursor {
    return new AttributeCursor(this.#data, this.#start, this.#start + this.#length);
  }

  /** The value, as a view into the message. */
  value(): Buffer {
    return this.#data.subarray(this.#start, this.#start + this.#length);
  }

  u32(): number {
    return this.#data.readUInt32LE(this.#sized(4));
  }
  s32(): number {
    return this.#data.readInt32LE(this.#sized(4));
  }
  /** A big-endian port. */
  port(): number {
    return this.#data.readUInt16BE(this.#sized(2));
  }
  /** As {@link readUint}. */
  uint(): bigint {
    if (this.#length !== 4) return this.#data.readBigUInt64LE(this.#sized(8));
    const value = this.#data.readUInt32LE(this.#start);
    return value === 0 ? 0n : BigInt(value);
  }

  #sized(length: number): number {
    if (this.#length !== length) {
      throw new MalformedMessage(`netlink attribute of ${this.#length} bytes, not ${length}`);
    }
    return this.#start;
  }
}

/**
 * Calls `visit` with the type (flags stripped) and value of each attribute.
 *
 * @throws MalformedMessage when a length does not fit
 */
export function forEachAttribute(data: Buffer, visit: (type: number, value: Buffer) => void): void {
  const at = new AttributeCursor(data);
  while (at.next()) visit(at.type, at.value());
}

/** Reads a value of an exact width. @throws MalformedMessage when the kernel sent another one */
export function readU8(value: Buffer): number {
  return sized(value, 1).readUInt8();
}
export function readU16(value: Buffer): number {
  return sized(value, 2).readUInt16LE();
}
export function readU32(value: Buffer): number {
  return sized(value, 4).readUInt32LE();
}
export function readS32(value: Buffer): number {
  return sized(value, 4).readInt32LE();
}
/** A big-endian port. */
export function readPort(value: Buffer): number {
  return sized(value, 2).readUInt16BE();
}
/** The kernel's variable "uint": four bytes while the value fits, else eight (Documentation/userspace-api/netlink). */
export function readUint(value: Buffer): bigint {
  if (value.length === 4) return BigInt(value.readUInt32LE());
  return sized(value, 8).readBigUInt64LE();
}
/** A NUL-terminated string. */
export function readString(value: Buffer): string {
  const end = value.indexOf(0);
  return value.toString('utf8', 0, end === -1 ? value.length : end);
}

function sized(value: Buffer, length: number): Buffer {
  if (value.length !== length) throw new MalformedMessage(`netlink attribute of ${value.length} bytes, not ${length}`);
  return value;
}

/**
 * Packs requests one after the other into a buffer that grows and is used again. The kernel reads all
 * messages of one send in order, so a batch is as good as that many sends.
 */
export class RequestWriter {
  #buffer: Buffer;
  #length = 0;
  #messageStart = 0;

  constructor(initialBytes = 16 * 1024) {
    this.#buffer = Buffer.alloc(initialBytes);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** Starts a message; its length is filled in by {@link end}. */
  begin(type: number, flags: number): void {
    this.#reserve(NLMSG_HDRLEN);
    this.#messageStart = this.#length;
    this.#buffer.writeUInt32LE(0, this.#length);
    this.#buffer.writeUInt16LE(type, this.#length + 4);
    this.#buffer.writeUInt16LE(flags | NLM_F_REQUEST, this.#length + 6);
    this.#buffer.writeUInt32LE(0, this.#length + 8);
    this.#buffer.writeUInt32LE(0, this.#length + 12);
    this.#length += NLMSG_HDRLEN;
  }

  /** Sets the sequence number of the message in hand. */
  sequence(value: number): void {
    this.#buffer.writeUInt32LE(value, this.#messageStart + 8);
  }

  /** Asks for an acknowledgement of the message that was begun last. */
  acknowledge(): void {
    const at = this.#messageStart + 6;
    this.#buffer.writeUInt16LE(this.#buffer.readUInt16LE(at) | NLM_F_ACK, at);
  }

  end(): void {
    this.#buffer.writeUInt32LE(this.#length - this.#messageStart, this.#messageStart);
    this.#pad();
  }

  /** The family's own header (struct ifinfomsg, genlmsghdr, …), padded to four bytes. */
  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length + 3);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    this.#pad();
  }

  u8(type: number, value: number): void {
    const at = this.#attribute(type, 1);
    this.#buffer[at] = value;
  }
  u32(type: number, value: number): void {
    const at = this.#attribute(type, 4);
    this.#buffer.writeUInt32LE(value, at);
  }
  /** A big-endian 16-bit value, as ports are. */
  port(type: number, value: number): void {
    const at = this.#attribute(type, 2);
    this.#buffer.writeUInt16BE(value, at);
  }
  bytes(type: number, value: Uint8Array): void {
    const at = this.#attribute(type, value.length);
    this.#buffer.set(value, at);
  }
  string(type: number, value: string): void {
    this.bytes(type, Buffer.from(`${value}\0`));
  }

  /** A nest with NLA_F_NESTED set, which strict families demand. */
  nest(type: number, fill: () => void): void {
    this.#reserve(NLA_HDRLEN);
    const start = this.#length;
    this.#buffer.writeUInt16LE(type | NLA_F_NESTED, start + 2);
    this.#length += NLA_HDRLEN;
    fill();
    // Lengths of attributes are 16 bits; ours are some hundred bytes, so this is a programming error.
    if (this.#length - start > 0xffff) throw new RangeError(`netlink nest ${type} exceeds 65535 bytes`);
    this.#buffer.writeUInt16LE(this.#length - start, start);
  }

  /** The packed requests: a view that {@link reset} invalidates. */
  view(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  /** Empties the writer and overwrites what it held: requests carry data keys. */
  reset(): void {
    this.#buffer.fill(0, 0, this.#length);
    this.#length = 0;
  }

  #attribute(type: number, length: number): number {
    this.#reserve(NLA_HDRLEN + length + 3);
    const start = this.#length;
    this.#buffer.writeUInt16LE(NLA_HDRLEN + length, start);
    this.#buffer.writeUInt16LE(type, start + 2);
    this.#length += NLA_HDRLEN + length;
    this.#pad();
    return start + NLA_HDRLEN;
  }

  #pad(): void {
    const padded = align(this.#length);
    this.#reserve(padded - this.#length);
    this.#buffer.fill(0, this.#length, padded);
    this.#length = padded;
  }

  #reserve(bytes: number): void {
    const need = this.#length + bytes;
    if (need <= this.#buffer.length) return;
    const grown = Buffer.alloc(Math.max(need, this.#buffer.length * 2));
    this.#buffer.copy(grown, 0, 0, this.#length);
    // The old copy may hold keys.
    this.#buffer.fill(0, 0, this.#length);
    this.#buffer = grown;
  }
}
