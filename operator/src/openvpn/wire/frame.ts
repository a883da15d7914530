import { maxControlPacketBytes, PacketError } from './packet.ts';

/**
 * Packets on TCP: each has its length in front, 16 bits big-endian (OpenVPN RFC draft, "TCP").
 *
 * The kernel takes over a TCP socket in the middle of its stream, so what userspace has read by then must end with a
 * frame; bytes read beyond it are lost to the kernel. Hence the reader says how many bytes to read next
 * ({@link FrameReader.wanted}) and how many it took, and never goes past the end of one frame.
 */

const lengthBytes = 2;
const maxFrame = 0xffff;

/** The packet as TCP carries it. */
export function frame(packet: Buffer): Buffer {
  if (packet.length === 0 || packet.length > maxFrame) {
    throw new RangeError(`a frame cannot hold ${packet.length} bytes`);
  }
  const framed = Buffer.allocUnsafe(lengthBytes + packet.length);
  framed.writeUInt16BE(packet.length);
  packet.copy(framed, lengthBytes);
  return framed;
}

export interface Taken {
  /** How many bytes of the chunk are used up; the rest is the caller's. */
  readonly consumed: number;
  /** The packet that these bytes completed, without its length. */
  readonly packet: Buffer | undefined;
}

export class FrameReader {
  readonly #limit: number;
  readonly #length = Buffer.alloc(lengthBytes);
  /** Bytes there of what is being read: of the length, then of the packet. */
  #have = 0;
  #packet: Buffer | undefined;

  /** @param limit the longest packet to accept; memory for one is taken when its length has been read */
  constructor(limit: number = maxControlPacketBytes) {
    this.#limit = Math.min(limit, maxFrame);
  }

  /** Nothing of a next frame has been read: here the kernel may take over. */
  get atBoundary(): boolean {
    return this.#have === 0 && this.#packet === undefined;
  }

  /** How many bytes may be read next without passing the end of the frame; at least one. */
  get wanted(): number {
    return (this.#packet?.length ?? lengthBytes) - this.#have;
  }

  /**
   * Takes bytes off a chunk up to the end of one frame. Call again with the rest until `consumed` is all.
   *
   * @throws PacketError when the length is none that this reader accepts; the stream is of no use any more then
   */
  take(chunk: Buffer): Taken {
    let consumed = 0;
    if (this.#packet === undefined) {
      consumed = this.#fill(this.#length, chunk, 0);
      if (this.#have < lengthBytes) {
        return { consumed, packet: undefined };
      }
      const length = this.#length.readUInt16BE();
      if (length === 0) {
        throw new PacketError('malformed', 'is a frame without a packet');
      }
      if (length > this.#limit) {
        throw new PacketError('too-long', `is a frame of more than ${this.#limit} bytes`);
      }
      this.#packet = Buffer.alloc(length);
      this.#have = 0;
    }
    const packet = this.#packet;
    consumed = this.#fill(packet, chunk, consumed);
    if (this.#have < packet.length) {
      return { consumed, packet: undefined };
    }
    this.#packet = undefined;
    this.#have = 0;
    return { consumed, packet };
  }

  /** Returns where in the chunk it stopped. */
  #fill(target: Buffer, chunk: Buffer, from: number): number {
    const count = Math.min(target.length - this.#have, chunk.length - from);
    chunk.copy(target, this.#have, from, from + count);
    this.#have += count;
    return from + count;
  }
}
