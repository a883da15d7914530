import { readSync, writeSync } from 'node:fs';
import { close, eventfd, POLLIN, pollAsync, POLLNVAL } from './libc.ts';

const pollfdBytes = 8;
const wakeValue = Buffer.alloc(8);
wakeValue.writeBigUInt64LE(1n);

type Callback = () => void;

/**
 * Waits for many descriptors with one thread-pool thread and one poll(2), for sockets that Node.js has no
 * handle for. Why not a libuv handle: it stops watching on POLLERR, which is how a netlink socket reports an
 * overrun (docs/decisions/0002-netlink-transport.md).
 *
 * The process stays alive while a descriptor is waited for, and ends without delay by process.exit.
 */
export class ReadinessPoller {
  readonly #callbacks = new Map<number, Callback>();
  readonly #wake = eventfd();
  #running: Promise<void> | undefined;
  #closed = false;

  /**
   * Calls `onReadable` whenever `fd` has something to read or an error to fetch; the callback must read
   * until nothing is left. It runs on the main thread. What it throws becomes an uncaught exception of the
   * process, as with any event listener, and the other descriptors go on being served.
   */
  add(fd: number, onReadable: Callback): void {
    if (this.#closed) throw new Error('the poller is closed');
    this.#callbacks.set(fd, onReadable);
    this.#wakeUp();
    this.#running ??= this.#run();
  }

  /** Stops waiting for `fd`; to be called before it is closed. */
  remove(fd: number): void {
    this.#callbacks.delete(fd);
    this.#wakeUp();
  }

  /** Stops waiting, for good. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#wakeUp();
    this.#closed = true;
    this.#callbacks.clear();
    await this.#running;
    close(this.#wake);
  }

  readonly #wakeUp = (): void => {
    // Once closed, the number of the descriptor may be somebody else's.
    if (!this.#closed) writeSync(this.#wake, wakeValue);
  };

  async #run(): Promise<void> {
    // process.exit waits for the thread that is in poll.
    process.on('exit', this.#wakeUp);
    const drained = Buffer.alloc(8);
    while (!this.#closed && this.#callbacks.size > 0) {
      const entries = [...this.#callbacks];
      const pollfds = Buffer.alloc((1 + entries.length) * pollfdBytes);
      [this.#wake, ...this.#callbacks.keys()].forEach((fd, i) => {
        pollfds.writeInt32LE(fd, i * pollfdBytes);
        pollfds.writeInt16LE(POLLIN, i * pollfdBytes + 4);
      });
      const events = (i: number): number => pollfds.readInt16LE(i * pollfdBytes + 6);
      // Bounded, so that a lost wake-up can never hold the process for longer than this.
      if ((await pollAsync(pollfds, 1 + entries.length, 5_000)) === 0) continue;
      if (events(0) !== 0) readSync(this.#wake, drained);
      entries.forEach(([fd, callback], i) => {
        // Removed while we waited, or the number is in use again for something else.
        if (events(1 + i) !== 0 && this.#callbacks.get(fd) === callback) this.#serve(fd, callback, events(1 + i));
      });
    }
    this.#running = undefined;
    process.off('exit', this.#wakeUp);
  }

  #serve(fd: number, callback: Callback, events: number): void {
    try {
      if ((events & POLLNVAL) !== 0) {
        this.#callbacks.delete(fd);
        throw new Error(`descriptor ${fd} was closed before it was removed from the poller`);
      }
      callback();
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
