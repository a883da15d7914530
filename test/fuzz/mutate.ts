import type { Random } from './random.ts';

/** Small and large changes of an input: what a fuzzer does to its corpus. Inputs themselves are never changed. */

/** Where lengths, counts and signs turn over. */
const interesting8 = [0, 1, 2, 7, 8, 9, 0x0f, 0x10, 0x1f, 0x20, 0x38, 0x50, 0x58, 0x7f, 0x80, 0xfe, 0xff];
const interesting16 = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x122, 0x3ff, 0x400, 0x401, 0xfff, 0x1000, 0x1001, 0x7fff];
const interesting32 = [0, 1, 12, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0x0f00_0000, 0x0f00_0001];

export interface MutateOptions {
  /** No mutant is longer. */
  readonly maxBytes: number;
  /** Words of the format, inserted now and then. */
  readonly words: readonly Buffer[];
}

type Mutation = (input: Buffer, random: Random, pool: readonly Buffer[], options: MutateOptions) => Buffer;

const mutations: readonly Mutation[] = [
  flip,
  setByte,
  setByte,
  setNumber,
  addToByte,
  remove,
  insert,
  copyWithin,
  splice,
];
const rare: readonly Mutation[] = [truncate, repeat, insertWord, insertWord, insertWord];

/** A mutant of one entry of the pool, by one to a few changes. */
export function mutate(random: Random, pool: readonly Buffer[], options: MutateOptions): Buffer {
  let input = pool.length === 0 ? Buffer.alloc(0) : random.pick(pool);
  for (let changes = 1 + random.small(6); changes > 0; changes--) {
    const mutation = random.below(3) === 0 ? random.pick(rare) : random.pick(mutations);
    input = mutation(input, random, pool, options);
  }
  return input.length <= options.maxBytes ? input : input.subarray(0, options.maxBytes);
}

function changed(input: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(input);
  if (copy.length > 0) {
    change(copy);
  }
  return copy;
}

function flip(input: Buffer, random: Random): Buffer {
  return changed(input, (copy) => {
    const at = random.below(copy.length);
    copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
  });
}

function setByte(input: Buffer, random: Random): Buffer {
  return changed(input, (copy) => {
    copy[random.below(copy.length)] = random.below(2) === 0 ? random.next() : random.pick(interesting8);
  });
}

function addToByte(input: Buffer, random: Random): Buffer {
  return changed(input, (copy) => {
    const at = random.below(copy.length);
    copy[at] = (copy[at] ?? 0) + random.below(33) - 16;
  });
}

/** A number of 16 or 32 bits: an interesting one, or the length of what follows, about. */
function setNumber(input: Buffer, random: Random): Buffer {
  return changed(input, (copy) => {
    const bytes = random.below(2) === 0 ? 2 : 4;
    if (copy.length < bytes) {
      return;
    }
    const at = random.below(copy.length - bytes + 1);
    const rest = copy.length - at - bytes + random.below(5) - 2;
    const value = random.below(3) === 0 ? Math.max(0, rest) : random.pick(bytes === 2 ? interesting16 : interesting32);
    copy.writeUIntBE(value % 2 ** (8 * bytes), at, bytes);
  });
}

function truncate(input: Buffer, random: Random): Buffer {
  return input.subarray(0, random.below(input.length + 1));
}

function remove(input: Buffer, random: Random): Buffer {
  const from = random.below(input.length);
  const count = 1 + random.small(Math.min(64, input.length));
  return Buffer.concat([input.subarray(0, from), input.subarray(from + count)]);
}

function insert(input: Buffer, random: Random): Buffer {
  const count = 1 + random.small(32);
  const bytes = random.below(2) === 0 ? random.bytes(count) : Buffer.alloc(count, random.pick(interesting8));
  return insertAt(input, random.below(input.length + 1), bytes);
}

function insertWord(input: Buffer, random: Random, _pool: readonly Buffer[], { words }: MutateOptions): Buffer {
  return words.length === 0
    ? setByte(input, random)
    : insertAt(input, random.below(input.length + 1), random.pick(words));
}

function copyWithin(input: Buffer, random: Random): Buffer {
  const from = random.below(input.length);
  const piece = input.subarray(from, from + 1 + random.small(64));
  return insertAt(input, random.below(input.length + 1), piece);
}

/** The start of one entry and the end of another. */
function splice(input: Buffer, random: Random, pool: readonly Buffer[]): Buffer {
  const other = pool.length === 0 ? input : random.pick(pool);
  return Buffer.concat([
    input.subarray(0, random.below(input.length + 1)),
    other.subarray(random.below(other.length + 1)),
  ]);
}

/** A piece over and over, up to the longest input: what is quadratic shows here. */
function repeat(input: Buffer, random: Random, _pool: readonly Buffer[], { maxBytes, words }: MutateOptions): Buffer {
  const from = random.below(input.length);
  const ofWord = words.length > 0 && random.below(2) === 0;
  const piece = ofWord ? random.pick(words) : input.subarray(from, from + 1 + random.small(64));
  const room = Math.max(0, maxBytes - input.length);
  const times = random.below(4) === 0 ? Math.floor(room / Math.max(1, piece.length)) : random.small(64);
  return insertAt(input, from, Buffer.alloc(Math.min(room, piece.length * times), piece.length > 0 ? piece : 0));
}

function insertAt(input: Buffer, at: number, piece: Buffer): Buffer {
  return Buffer.concat([input.subarray(0, at), piece, input.subarray(at)]);
}
