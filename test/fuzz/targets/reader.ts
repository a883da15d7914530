/** Reads an input as a list of decisions; past its end every decision is 0. */
export class InputReader {
  readonly #input: Buffer;
  #at = 0;

  constructor(input: Buffer) {
    this.#input = input;
  }

  get done(): boolean {
    return this.#at >= this.#input.length;
  }

  byte(): number {
    return this.#input[this.#at++] ?? 0;
  }

  /** 0 .. limit-1 */
  below(limit: number): number {
    return limit <= 1 ? 0 : (limit <= 256 ? this.byte() : this.uint16()) % limit;
  }

  uint16(): number {
    return this.byte() * 256 + this.byte();
  }

  uint32(): number {
    return this.uint16() * 0x10000 + this.uint16();
  }

  /** As many as there are, at most. */
  bytes(count: number): Buffer {
    const bytes = Buffer.from(this.#input.subarray(this.#at, this.#at + count));
    this.#at += count;
    return bytes;
  }

  /** A piece with its length, 16 bits, in front. */
  piece(): Buffer {
    return this.bytes(this.uint16());
  }

  rest(): Buffer {
    return this.bytes(Math.max(0, this.#input.length - this.#at));
  }
}

/** What `InputReader.piece` reads. */
export function piece(bytes: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
