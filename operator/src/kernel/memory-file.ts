import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { close, memfdCreate } from './libc.ts';

/**
 * A file in memory only: it has no name in any folder, and is gone with its last descriptor. Another process that is
 * given a descriptor keeps it beyond the end of this one, however that ends.
 */
export class MemoryFile {
  /** Owned until {@link close}. */
  readonly fd: number;

  /** Takes over a descriptor of such a file. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** @param name only shown in /proc */
  static create(name: string): MemoryFile {
    return new MemoryFile(memfdCreate(name));
  }

  /** Its length in bytes. */
  get size(): number {
    return fstatSync(this.fd).size;
  }

  /** All that is in it. */
  read(): Buffer {
    const bytes = Buffer.alloc(this.size);
    let length = 0;
    while (length < bytes.length) {
      const read = readSync(this.fd, bytes, length, bytes.length - length, length);
      if (read === 0) break;
      length += read;
    }
    return bytes.subarray(0, length);
  }

  /** Writes at a place of the file, which descriptors elsewhere share with this one: positions are ours to know. */
  write(bytes: Uint8Array, position: number): void {
    for (let written = 0; written < bytes.length;) {
      written += writeSync(this.fd, bytes, written, bytes.length - written, position + written);
    }
  }

  /** Cuts off what is behind this length. */
  truncate(length: number): void {
    ftruncateSync(this.fd, length);
  }

  close(): void {
    close(this.fd);
  }
}
