/** Names of properties and the values that each can have. */
export type Factors = Readonly<Record<string, readonly unknown[]>>;
/** One value for each property. */
export type Row<F extends Factors> = { readonly [K in keyof F]: F[K][number] };

/** How many candidates are tried for each row; more of them give a row or two less. */
const candidates = 40;

/**
 * Rows in which every value of a property meets every value of each other property at least once, in far fewer
 * rows than all combinations have. Greedy, so close to the fewest and not always these; the same factors always
 * give the same rows.
 */
export function pairwise<F extends Factors>(factors: F): Row<F>[] {
  const names = Object.keys(factors);
  const sizes = names.map((name) => factors[name]?.length ?? 0);
  if (sizes.includes(0)) throw new Error(`no value for ${names[sizes.indexOf(0)] ?? ''}`);
  const open = openPairs(sizes);
  const random = sequence();
  // A single property has no pairs: each of its values is a row.
  const rows: number[][] = sizes.length === 1 ? [...Array(sizes[0]).keys()].map((value) => [value]) : [];
  while (open.size > 0) {
    let best: { row: number[]; gain: number } | undefined;
    for (let n = 0; n < candidates; n++) {
      const row = candidate(sizes, open, random);
      const gain = gainOf(row, open);
      if (best === undefined || gain > best.gain) best = { row, gain };
    }
    const row = best?.row ?? [];
    rows.push(row);
    for (const pair of pairsOf(row)) open.delete(pair);
  }
  return rows.map(
    (row) => Object.fromEntries(names.map((name, n) => [name, factors[name]?.[row[n] ?? 0]])) as unknown as Row<F>,
  );
}

const pairKey = (a: number, valueA: number, b: number, valueB: number): string =>
  a < b ? `${a}=${valueA},${b}=${valueB}` : `${b}=${valueB},${a}=${valueA}`;

function openPairs(sizes: readonly number[]): Set<string> {
  const open = new Set<string>();
  for (const [a, sizeA] of sizes.entries())
    for (const [b, sizeB] of sizes.entries())
      if (a < b) for (let x = 0; x < sizeA; x++) for (let y = 0; y < sizeB; y++) open.add(pairKey(a, x, b, y));
  return open;
}

function pairsOf(row: readonly number[]): string[] {
  return row.flatMap((x, a) => row.flatMap((y, b) => (a < b ? [pairKey(a, x, b, y)] : [])));
}

const gainOf = (row: readonly number[], open: ReadonlySet<string>): number =>
  pairsOf(row).filter((pair) => open.has(pair)).length;

/** Begins with a pair that is still open, then gives each further property the value that covers the most. */
function candidate(sizes: readonly number[], open: ReadonlySet<string>, random: (below: number) => number): number[] {
  const row: (number | undefined)[] = sizes.map(() => undefined);
  const pairs = [...open];
  for (const part of (pairs[random(pairs.length)] ?? '').split(',')) {
    const [name, value] = part.split('=').map(Number);
    if (name !== undefined) row[name] = value;
  }
  for (const a of shuffled(sizes.length, random)) {
    if (row[a] !== undefined) continue;
    const size = sizes[a] ?? 0;
    // From a random value on, so that equally good ones take turns.
    const first = random(size);
    let best = { value: first, gain: -1 };
    for (let n = 0; n < size; n++) {
      const value = (first + n) % size;
      const gain = row.filter((y, b) => y !== undefined && open.has(pairKey(a, value, b, y))).length;
      if (gain > best.gain) best = { value, gain };
    }
    row[a] = best.value;
  }
  return row.map((value) => value ?? 0);
}

function shuffled(count: number, random: (below: number) => number): number[] {
  const order = [...Array(count).keys()];
  for (let n = count - 1; n > 0; n--) {
    const other = random(n + 1);
    [order[n], order[other]] = [order[other] ?? 0, order[n] ?? 0];
  }
  return order;
}

/** Numbers that look random and are the same in every run (mulberry32). */
function sequence(): (below: number) => number {
  let state = 1;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return Math.floor((((value ^ (value >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
