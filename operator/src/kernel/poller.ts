import { readSync, writeSync } from 'node:fs';
import { close, eventfd, POLLIN, pollAsync } from './libc.ts';

const pollfdBytes = 8;
const wakeValue = Buffer.alloc(8);
wakeValue.writeBigUInt64LE(1n);

/**
 * Waits for many descriptors with one thread-pool thread and one poll(2), for sockets that Node.js has no
 * handle for. Why not a libuv handle: it stops watching on POLLERR, which is how a netlink socket reports an
 * overrun (docs/decisions/0002-netlink-transport.md).
 */
export class ReadinessPoller {
  readonly #callbacks = new Map<number, () => void>();
  readonly #wake = eventfd();
  #running: Promise<void> | undefined;
  #closed = false;

  /**
   * Calls `onReadable` whenever `fd` has something to read or an error to fetch; the callback must read
   * until nothing is left. It runs on the main thread.
   */
  add(fd: number, onReadable: () => void): void {
    this.#callbacks.set(fd, onReadable);
    this.#wakeUp();
    this.#running ??= this.#run();
  }

  remove(fd: number): void {
    this.#callbacks.delete(fd);
    this.#wakeUp();
  }

  /** Stops waiting. The process cannot end before, since a thread-pool thread waits in poll. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wakeUp();
    await this.#running;
    close(this.#wake);
  }

  #wakeUp(): void {
    writeSync(this.#wake, wakeValue);
  }

  async #run(): Promise<void> {
    const drained = Buffer.alloc(8);
    while (!this.#closed) {
      const fds = [this.#wake, ...this.#callbacks.keys()];
      const pollfds = Buffer.alloc(fds.length * pollfdBytes);
      fds.forEach((fd, i) => {
        pollfds.writeInt32LE(fd, i * pollfdBytes);
        pollfds.writeInt16LE(POLLIN, i * pollfdBytes + 4);
      });
      // Bounded, so that a lost wake-up can never hold the process for longer than this.
      const ready = await pollAsync(pollfds, fds.length, 5_000);
      if (ready === 0) continue;
      fds.forEach((fd, i) => {
        if (pollfds.readInt16LE(i * pollfdBytes + 6) === 0) return;
        if (fd === this.#wake) readSync(fd, drained);
        else this.#callbacks.get(fd)?.();
      });
    }
  }
}
