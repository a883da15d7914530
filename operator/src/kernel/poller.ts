import { readSync, writeSync } from 'node:fs';
import { close, eventfd, POLLERR, POLLHUP, POLLIN, POLLOUT, pollAsync, POLLNVAL } from './libc.ts';

const pollfdBytes = 8;
const wakeValue = Buffer.alloc(8);
wakeValue.writeBigUInt64LE(1n);

type Callback = () => void;

interface Watched {
  readonly fd: number;
  onReadable: Callback | undefined;
  onceWritable: Callback | undefined;
}

/**
 * Waits for many descriptors with one thread-pool thread and one poll(2), for sockets that Node.js has no
 * handle for. Why not a libuv handle: it stops watching on POLLERR, which is how a netlink socket reports an
 * overrun (docs/decisions/0002-netlink-transport.md).
 *
 * The process stays alive while a descriptor is waited for, and ends without delay by process.exit.
 */
export class ReadinessPoller {
  readonly #watched = new Map<number, Watched>();
  readonly #wake = eventfd();
  /** The watched descriptors in the order in which {@link #pollfds} has them, from its second entry on. */
  #entries: readonly Watched[] = [];
  #pollfds = Buffer.alloc(0);
  /** {@link #entries} are not what is watched any more. */
  #changed = true;
  /** The thread may be in poll, and does not know of changes. */
  #polling = false;
  #running: Promise<void> | undefined;
  #closed = false;

  /**
   * Calls `onReadable` whenever `fd` has something to read or an error to fetch; the callback must read, and is
   * called again while something is left. It runs on the main thread. What it throws becomes an uncaught
   * exception of the process, as with any event listener, and the other descriptors go on being served.
   */
  add(fd: number, onReadable: Callback): void {
    this.#watch(fd).onReadable = onReadable;
  }

  /**
   * Calls `callback` once, as soon as `fd` takes something to send, has connected, or has an error to fetch.
   * Otherwise like {@link add}, beside which it may be used for one descriptor.
   */
  onceWritable(fd: number, callback: Callback): void {
    this.#watch(fd).onceWritable = callback;
  }

  /** Stops waiting for `fd`; to be called before it is closed. */
  remove(fd: number): void {
    if (this.#watched.delete(fd)) this.#change();
  }

  /** Stops waiting, for good. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#wakeUp();
    this.#closed = true;
    this.#watched.clear();
    await this.#running;
    close(this.#wake);
  }

  #watch(fd: number): Watched {
    if (this.#closed) throw new Error('the poller is closed');
    let watched = this.#watched.get(fd);
    if (watched === undefined) {
      watched = { fd, onReadable: undefined, onceWritable: undefined };
      this.#watched.set(fd, watched);
    }
    this.#change();
    // Not at once: the caller has yet to say what it waits for.
    this.#running ??= Promise.resolve().then(() => this.#run());
    return watched;
  }

  #change(): void {
    this.#changed = true;
    this.#wakeUp();
  }

  readonly #wakeUp = (): void => {
    // Once closed, the number of the descriptor may be somebody else's.
    if (this.#polling && !this.#closed) writeSync(this.#wake, wakeValue);
  };

  async #run(): Promise<void> {
    // process.exit waits for the thread that is in poll.
    process.on('exit', this.#wakeUp);
    const drained = Buffer.alloc(8);
    while (!this.#closed && this.#watched.size > 0) {
      if (this.#changed) this.#arrange();
      this.#polling = true;
      // Bounded, so that a lost wake-up can never hold the process for longer than this; an idle one wakes for it.
      let ready = await pollAsync(this.#pollfds, 1 + this.#entries.length, 60_000);
      this.#polling = false;
      if (ready === 0) continue;
      if (this.#events(0) !== 0) {
        readSync(this.#wake, drained);
        ready--;
      }
      const { length } = this.#entries;
      for (let i = 0; i < length && ready > 0; i++) {
        const events = this.#events(1 + i);
        const watched = this.#entries[i];
        if (events === 0 || watched === undefined) continue;
        ready--;
        this.#serve(watched, events);
      }
    }
    this.#running = undefined;
    process.off('exit', this.#wakeUp);
  }

  #arrange(): void {
    this.#changed = false;
    this.#entries = [...this.#watched.values()];
    this.#pollfds = Buffer.alloc((1 + this.#entries.length) * pollfdBytes);
    this.#pollfds.writeInt32LE(this.#wake, 0);
    this.#pollfds.writeInt16LE(POLLIN, 4);
    this.#entries.forEach(({ fd, onReadable, onceWritable }, i) => {
      const events = (onReadable === undefined ? 0 : POLLIN) | (onceWritable === undefined ? 0 : POLLOUT);
      this.#pollfds.writeInt32LE(fd, (1 + i) * pollfdBytes);
      this.#pollfds.writeInt16LE(events, (1 + i) * pollfdBytes + 4);
    });
  }

  #events(i: number): number {
    return this.#pollfds.readInt16LE(i * pollfdBytes + 6);
  }

  #serve(watched: Watched, events: number): void {
    // Removed while we waited, or the number is in use again for something else.
    const current = (): boolean => this.#watched.get(watched.fd) === watched;
    if (!current()) return;
    if ((events & POLLNVAL) !== 0) {
      this.remove(watched.fd);
      report(new Error(`descriptor ${watched.fd} was closed before it was removed from the poller`));
      return;
    }
    if ((events & (POLLOUT | POLLERR | POLLHUP)) !== 0 && watched.onceWritable !== undefined) {
      const callback = watched.onceWritable;
      watched.onceWritable = undefined;
      if (watched.onReadable === undefined) this.remove(watched.fd);
      else this.#change();
      call(callback);
    }
    if ((events & ~POLLOUT) !== 0 && watched.onReadable !== undefined && current()) call(watched.onReadable);
  }
}

function call(callback: Callback): void {
  try {
    callback();
  } catch (error) {
    report(error);
  }
}

function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
