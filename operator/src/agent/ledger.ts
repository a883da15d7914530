import { closeSync, constants, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import { writeDurably } from './durable-file.ts';

/**
 * The nonce ledger: which data keys this node has spent. Installing a key starts its packet ids at 1, so a
 * key that was ever installed must never be installed again: its nonces would repeat.
 *
 * A key is written down before the kernel gets it (`reserved`), and again when the kernel has it
 * (`installed`). A crash in between leaves it reserved: usable once more only while the very peer that it
 * was reserved for is in the kernel without any key and without a packet sent ({@link release}).
 *
 * An append-only file of JSON lines, forced to disk before the kernel is told. It holds fingerprints, never keys.
 */

/** Which key, and where it was to go. */
export interface Installation {
  readonly fingerprint: string;
  readonly network: string;
  readonly peerId: number;
  readonly keyId: number;
  /** The VpnKey and its generation, for messages. */
  readonly key: string;
  readonly generation: number;
}

export interface LedgerEntry extends Installation {
  readonly state: 'reserved' | 'installed';
  readonly installedAt: number;
  readonly switchedAt: number | undefined;
}

type Line =
  | { readonly event: 'reserved' | 'installed'; readonly at: number; readonly entry: Installation }
  | { readonly event: 'switched' | 'released'; readonly at: number; readonly fingerprint: string };

/** Rewrite the file at start when it has this many lines more than entries. */
const compactionSlack = 10_000;
/** No descriptor has this number. */
const closed = -1;

export class Ledger {
  readonly #path: string;
  readonly #clock: () => number;
  readonly #entries = new Map<string, LedgerEntry>();
  /** Fingerprints of the keys at a peer and key id, the last one last. */
  readonly #byPlace = new Map<string, Set<string>>();
  /** Keys that are reserved and not confirmed, by peer. */
  readonly #reserved = new Map<string, Set<string>>();
  /** A failed append may have left half a line, which the next one must not be glued to. */
  #tornByFailure = false;
  #fd: number;

  private constructor(path: string, clock: () => number) {
    this.#path = path;
    this.#clock = clock;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    const lines = this.#load();
    if (lines > this.#entries.size * 2 + compactionSlack) this.#compact();
    this.#fd = openForAppend(path);
  }

  /** @throws OvpnError LedgerUnusable when the file cannot be read or is damaged before its last line */
  static open(path: string, clock: () => number): Ledger {
    try {
      return new Ledger(path, clock);
    } catch (error) {
      if (error instanceof OvpnError) throw error;
      throw new OvpnError(
        'LedgerUnusable',
        `cannot use the ledger of spent keys: ${describe(error)}`,
        { object: path },
        { cause: error },
      );
    }
  }

  close(): void {
    if (this.#fd === closed) return;
    closeSync(this.#fd);
    // The number may soon be another file's: a late write must fail, not go there.
    this.#fd = closed;
  }

  /** What is known of a key, wherever it was installed. */
  entry(fingerprint: string): LedgerEntry | undefined {
    return this.#entries.get(fingerprint);
  }

  /** The key that last went to this place. */
  lastAt(network: string, peerId: number, keyId: number): LedgerEntry | undefined {
    const fingerprint = [...(this.#byPlace.get(place({ network, peerId, keyId })) ?? [])].at(-1);
    return fingerprint === undefined ? undefined : this.#entries.get(fingerprint);
  }

  /** Keys that were written down for a peer and not confirmed: a crash came in between. */
  reservedFor(network: string, peerId: number): LedgerEntry[] {
    return [...(this.#reserved.get(peerPlace({ network, peerId })) ?? [])].flatMap(
      (fingerprint) => this.#entries.get(fingerprint) ?? [],
    );
  }

  /** Whether no other key ever went to this place: then the key with that id in the kernel is this one. */
  isAloneAt(entry: Installation): boolean {
    return this.#byPlace.get(place(entry))?.size === 1;
  }

  /** Writes keys down as spent, durably, before they go to the kernel. One flush for all of them. */
  reserve(installations: readonly Installation[]): void {
    this.#append(installations.map((entry) => ({ event: 'reserved', at: this.#clock(), entry })));
  }

  /** The kernel has these keys now. */
  confirm(installations: readonly Installation[]): void {
    this.#append(installations.map((entry) => ({ event: 'installed', at: this.#clock(), entry })));
  }

  /** These keys became the ones that transmit. */
  switched(...fingerprints: readonly string[]): void {
    this.#append(fingerprints.map((fingerprint) => ({ event: 'switched', at: this.#clock(), fingerprint })));
  }

  /** The kernel surely never used the keys (it refused them, or the peer they were for never sent): they may be installed. */
  release(...fingerprints: readonly string[]): void {
    this.#append(fingerprints.map((fingerprint) => ({ event: 'released', at: this.#clock(), fingerprint })));
  }

  #append(lines: readonly Line[]): void {
    if (lines.length === 0) return;
    try {
      if (this.#tornByFailure) this.#startAnew();
      this.#tornByFailure = true;
      writeAll(this.#fd, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
      fsyncSync(this.#fd);
      this.#tornByFailure = false;
    } catch (error) {
      // Nothing may be installed that is not written down.
      throw new OvpnError(
        'LedgerUnusable',
        `cannot write the ledger of spent keys: ${describe(error)}`,
        { object: this.#path },
        { cause: error },
      );
    }
    lines.forEach((line) => this.#take(line));
  }

  /** Replaces the file by what is known, so that no trace of a failed append is left in it. */
  #startAnew(): void {
    this.#compact();
    const fd = openForAppend(this.#path);
    closeSync(this.#fd);
    this.#fd = fd;
  }

  /** Keeps entries in the order in which they were last written: a compacted file says the same. */
  #take(line: Line): void {
    const { fingerprint } = 'entry' in line ? line.entry : line;
    const before = this.#entries.get(fingerprint);
    if ('entry' in line) {
      this.#forget(fingerprint);
      this.#entries.set(fingerprint, { ...line.entry, state: line.event, installedAt: line.at, switchedAt: undefined });
      const here = place(line.entry);
      this.#byPlace.set(here, (this.#byPlace.get(here) ?? new Set()).add(fingerprint));
      if (line.event === 'reserved') {
        const peer = peerPlace(line.entry);
        this.#reserved.set(peer, (this.#reserved.get(peer) ?? new Set()).add(fingerprint));
      }
    } else if (before !== undefined && line.event === 'switched') {
      this.#entries.set(fingerprint, { ...before, switchedAt: line.at });
    } else if (line.event === 'released') this.#forget(fingerprint);
  }

  #forget(fingerprint: string): void {
    const entry = this.#entries.get(fingerprint);
    if (entry === undefined) return;
    this.#entries.delete(fingerprint);
    this.#byPlace.get(place(entry))?.delete(fingerprint);
    const reserved = this.#reserved.get(peerPlace(entry));
    reserved?.delete(fingerprint);
    if (reserved?.size === 0) this.#reserved.delete(peerPlace(entry));
  }

  #load(): number {
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
      throw error;
    }
    const lines = text.split('\n');
    // A crash while appending leaves half a line at the end: the kernel was not told yet.
    const torn = lines.pop() ?? '';
    lines.forEach((raw, i) => {
      const line = parseLine(raw);
      if (line === undefined) {
        throw new OvpnError('LedgerUnusable', `line ${i + 1} of the ledger of spent keys is damaged`, {
          object: this.#path,
        });
      }
      this.#take(line);
    });
    if (torn !== '') this.#compact();
    return lines.length;
  }

  #compact(): void {
    const lines: Line[] = [];
    for (const { state, installedAt, switchedAt, ...entry } of this.#entries.values()) {
      lines.push({ event: state, at: installedAt, entry });
      if (switchedAt !== undefined) lines.push({ event: 'switched', at: switchedAt, fingerprint: entry.fingerprint });
    }
    writeDurably(this.#path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }
}

function peerPlace({ network, peerId }: { network: string; peerId: number }): string {
  return `${network}/${peerId}`;
}

function place({ network, peerId, keyId }: { network: string; peerId: number; keyId: number }): string {
  return `${network}/${peerId}/${keyId}`;
}

function openForAppend(path: string): number {
  return openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
}

function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let offset = 0; offset < bytes.length;) offset += writeSync(fd, bytes, offset);
}

function parseLine(text: string): Line | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || !('event' in value) || !('at' in value)) return undefined;
  const { event, at } = value;
  if (typeof at !== 'number') return undefined;
  if (event === 'switched' || event === 'released') {
    return 'fingerprint' in value && typeof value.fingerprint === 'string'
      ? { event, at, fingerprint: value.fingerprint }
      : undefined;
  }
  if ((event !== 'reserved' && event !== 'installed') || !('entry' in value)) return undefined;
  const entry = parseInstallation(value.entry);
  return entry === undefined ? undefined : { event, at, entry };
}

function parseInstallation(value: unknown): Installation | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { fingerprint, network, peerId, keyId, key, generation } = value as Partial<
    Record<keyof Installation, unknown>
  >;
  return typeof fingerprint === 'string' &&
    typeof network === 'string' &&
    typeof peerId === 'number' &&
    typeof keyId === 'number' &&
    typeof key === 'string' &&
    typeof generation === 'number'
    ? { fingerprint, network, peerId, keyId, key, generation }
    : undefined;
}
