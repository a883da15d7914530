import { join } from 'node:path';
import { Bed, type Program, type ProgramResult } from '../bed.ts';
import { median, type Row, row, type SuiteContext } from '../suite.ts';

const script = [join(import.meta.dirname, '..', 'programs', 'netlink.ts')];
const runs = 5;
/** Reads in one process; the first of them is apart, as our code is compiled then. */
const reads = 7;

/** The results of one program, a run each. */
class Series {
  readonly name: string;
  readonly #program: Program;
  readonly #results: ProgramResult[] = [];
  /** Milliseconds of whole processes that only write. */
  readonly processes: number[] = [];

  constructor(name: string, program: Program) {
    this.name = name;
    this.#program = program;
  }

  run(peers: number): void {
    this.#results.push(inBed((bed) => checked(bed.run(this.#program, 'load', peers, reads), peers)));
  }

  runWriter(peers: number): void {
    this.processes.push(inBed((bed) => bed.run(this.#program, 'load', peers, 0).wallMs));
  }

  /** Microseconds per item. */
  figures(of: (result: ProgramResult) => number, items: number): number[] {
    return this.#results.map((result) => of(result) / 1000 / items);
  }
}

/** The netlink layer alone: many peers and keys written and read, against the same in C. */
export function netlinkSuite(context: SuiteContext): Promise<Row[]> {
  return Promise.resolve(context.peers.flatMap((peers) => measure(context, peers)));
}

function measure({ reference, progress }: SuiteContext, peers: number): Row[] {
  const ours = new Series('ours', { command: process.execPath, script });
  const plain = new Series('C program, an ACK per request', { command: reference });
  const frugal = new Series('C program, an ACK per send as ours', { command: reference, after: ['once'] });
  for (let round = 1; round <= runs; round++) {
    progress(`${peers} peers, run ${round} of ${runs}`);
    for (const series of [ours, plain, frugal]) series.run(peers);
    for (const series of [ours, plain]) series.runWriter(peers);
  }
  const compare = (
    name: string,
    unit: string,
    items: number,
    of: (result: ProgramResult) => number,
    others = [plain],
  ): Row[] =>
    others.map((other) =>
      row('netlink', `${name}, ${peers} peers`, unit, {
        ours: ours.figures(of, items),
        peer: other.figures(of, items),
        peerName: other.name,
      }),
    );
  const later = (values: readonly number[]): number => median(values.slice(1));
  return [
    ...compare('PEER_NEW + KEY_NEW', 'µs/peer', peers, ({ peerNew, keyNew }) => peerNew + keyNew, [plain, frugal]),
    ...compare('PEER_NEW', 'µs/peer', peers, ({ peerNew }) => peerNew),
    ...compare('KEY_NEW', 'µs/key', peers, ({ keyNew }) => keyNew),
    ...compare('PEER_GET dump, first', 'µs/peer', peers, ({ dump }) => dump[0] ?? 0),
    ...compare('PEER_GET dump', 'µs/peer', peers, ({ dump }) => later(dump)),
    ...compare('KEY_GET of both slots, first', 'µs/request', 2 * peers, ({ keyGet }) => keyGet[0] ?? 0),
    ...compare('KEY_GET of both slots', 'µs/request', 2 * peers, ({ keyGet }) => later(keyGet), [plain, frugal]),
    row('netlink', `a process that adds ${peers} peers`, 'ms', {
      ours: ours.processes,
      peer: plain.processes,
      peerName: plain.name,
    }),
  ];
}

function inBed<T>(act: (bed: Bed) => T): T {
  const bed = new Bed();
  try {
    return act(bed);
  } finally {
    bed.close();
  }
}

/** Every program must find what it made. */
function checked<T extends ProgramResult>(result: T, peers: number): T {
  if (result.peers !== peers || result.keys !== peers) {
    throw new Error(`${result.peers} peers and ${result.keys} keys were read back, not ${peers} each`);
  }
  return result;
}
