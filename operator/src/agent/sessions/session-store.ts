import { MemoryFile } from '../../kernel/memory-file.ts';

/**
 * What a restarted agent needs of the sessions of one network, by key, in a file in memory whose second descriptor the
 * socket holder keeps. It is never on a disk: it holds the keys of control channels.
 *
 * A log of JSON lines, of which the last for a key counts. A change costs one line, however many sessions there are;
 * when most lines are outdated, what counts is written to a new file that takes the old one's place in the holder at
 * once. A line that a kill has cut short counts for nothing.
 */

/** Where the file is kept while the agent is not there. */
export interface FileKeeper {
  /** A new descriptor of the file; undefined when there is none. @throws OvpnError HolderUnreachable */
  take(): number | undefined;
  /**
   * Keeps the file in place of the one before. False when that cannot be done now: the one before stays kept, and if
   * there was none, this one is kept as soon as that can be done.
   */
  keep(fd: number): boolean;
}

/** Write the file anew when it has this many lines more than twice what counts. */
const compactionSlack = 256;
/** A compaction that the holder did not take is not tried again before so many further lines. */
const retryAfterLines = 256;

interface Line {
  readonly key: string;
  /** Undefined for a key that is not there any more. */
  readonly value?: unknown;
}

export class SessionStore {
  readonly #keeper: FileKeeper;
  readonly #values = new Map<string, unknown>();
  #file: MemoryFile | undefined;
  #opened = false;
  /** Up to where the file holds whole lines. */
  #size = 0;
  #lines = 0;
  #compactFrom = 0;

  constructor(keeper: FileKeeper) {
    this.#keeper = keeper;
  }

  /**
   * Reads what an earlier process left. Does nothing the second time.
   *
   * @throws OvpnError HolderUnreachable
   */
  open(): void {
    if (this.#opened) return;
    const fd = this.#keeper.take();
    this.#opened = true;
    if (fd === undefined) return;
    const file = new MemoryFile(fd);
    this.#file = file;
    const bytes = file.read();
    this.#size = bytes.lastIndexOf(0x0a) + 1;
    file.truncate(this.#size);
    for (const text of bytes.toString('utf8', 0, this.#size).split('\n').slice(0, -1)) {
      const line = parseLine(text);
      this.#lines++;
      if (line === undefined) continue;
      if (line.value === undefined) this.#values.delete(line.key);
      else this.#values.set(line.key, line.value);
    }
  }

  /** All that counts: what an earlier process wrote, and this one. Nobody has looked at the values' shapes. */
  get values(): ReadonlyMap<string, unknown> {
    return this.#values;
  }

  /** @param value plain JSON */
  set(key: string, value: object): void {
    this.#values.set(key, value);
    this.#append({ key, value });
  }

  delete(key: string): void {
    if (this.#values.delete(key)) this.#append({ key });
  }

  /** Closes this process's descriptor; what is in the file stays with the holder. */
  close(): void {
    this.#file?.close();
    this.#file = undefined;
    this.#opened = false;
    this.#values.clear();
  }

  #append(line: Line): void {
    if (
      this.#file === undefined ||
      this.#lines >= Math.max(this.#compactFrom, 2 * this.#values.size + compactionSlack)
    ) {
      if (this.#rewrite()) return;
    }
    const bytes = Buffer.from(textOf(line));
    this.#file?.write(bytes, this.#size);
    this.#size += bytes.length;
    this.#lines++;
  }

  /** Writes what counts to a new file. False when the old one has to go on. */
  #rewrite(): boolean {
    const old = this.#file;
    const file = MemoryFile.create('ovpn-sessions');
    const bytes = Buffer.from([...this.#values].map(([key, value]) => textOf({ key, value })).join(''));
    file.write(bytes, 0);
    if (!this.#keeper.keep(file.fd) && old !== undefined) {
      file.close();
      this.#compactFrom = this.#lines + retryAfterLines;
      return false;
    }
    old?.close();
    this.#file = file;
    this.#size = bytes.length;
    this.#lines = this.#values.size;
    this.#compactFrom = 0;
    return true;
  }
}

function textOf(line: Line): string {
  return `${JSON.stringify(line)}\n`;
}

function parseLine(text: string): Line | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || !('key' in value) || typeof value.key !== 'string')
      return undefined;
    return { key: value.key, ...('value' in value ? { value: value.value } : {}) };
  } catch {
    return undefined;
  }
}
