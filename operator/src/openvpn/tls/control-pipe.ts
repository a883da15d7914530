import { Duplex } from 'node:stream';

/** More than one flight of a handshake; TLS has to wait while so much is not taken. */
const enoughWaiting = 16 * 1024;

/**
 * The byte stream between a TLS object and the control packets of one key. What TLS writes waits here until a
 * packet has room for it, and so is cut to the size of packets and not of records; what packets brought is
 * read by TLS.
 */
export class ControlPipe extends Duplex {
  #out: Buffer[] = [];
  #outBytes = 0;
  #written: (() => void) | undefined;
  #hungry = true;
  readonly #onOutput: () => void;
  readonly #onHungry: () => void;

  /**
   * @param onOutput called when there is something to `takeOutput`
   * @param onHungry called when `deliver` is welcome again after it returned false
   */
  constructor(onOutput: () => void, onHungry: () => void = () => undefined) {
    super({ readableHighWaterMark: 32 * 1024, writableHighWaterMark: 32 * 1024 });
    this.#onOutput = onOutput;
    this.#onHungry = onHungry;
  }

  get hasOutput(): boolean {
    return this.#out.length > 0;
  }

  /**
   * Up to `max` bytes for the next packet, undefined when there are none. Works on a destroyed pipe, too: the
   * last bytes of a failed handshake are the alert that tells the peer why.
   */
  takeOutput(max: number): Buffer | undefined {
    const parts: Buffer[] = [];
    let room = max;
    for (let next = this.#out[0]; next !== undefined && room > 0; next = this.#out[0]) {
      parts.push(next.subarray(0, room));
      if (next.length > room) {
        this.#out[0] = next.subarray(room);
      } else {
        this.#out.shift();
      }
      room -= Math.min(room, next.length);
    }
    if (parts.length === 0) {
      return undefined;
    }
    this.#outBytes -= max - room;
    if (this.#outBytes < enoughWaiting) {
      const written = this.#written;
      this.#written = undefined;
      written?.();
    }
    return parts.length === 1 ? parts[0] : Buffer.concat(parts);
  }

  /** Bytes from the peer; false when TLS has enough for now. */
  deliver(bytes: Buffer): boolean {
    if (this.destroyed || bytes.length === 0) {
      return true;
    }
    this.#hungry = this.push(bytes);
    return this.#hungry;
  }

  override _read(): void {
    if (!this.#hungry) {
      this.#hungry = true;
      this.#onHungry();
    }
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this._writev([{ chunk }], callback);
  }

  override _writev(chunks: readonly { readonly chunk: Buffer }[], callback: () => void): void {
    for (const { chunk } of chunks) {
      if (chunk.length > 0) {
        // Copied: TLS may reuse its buffer once the callback is called, and alerts outlive the pipe.
        this.#out.push(Buffer.from(chunk));
        this.#outBytes += chunk.length;
      }
    }
    if (this.#out.length > 0) {
      this.#onOutput();
    }
    // TLS goes on writing, so that what it has to say at one time goes into few packets.
    if (this.#outBytes < enoughWaiting) {
      callback();
    } else {
      this.#written = callback;
    }
  }
}
