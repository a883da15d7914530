import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { benchCache } from '../reference.ts';
import { percentile, type Row, row } from '../suite.ts';
import { type BenchPki, benchPki, makePki } from './handshake-pki.ts';

/** The handshakes of a mesh that starts. */

export interface HandshakesSetup {
  readonly pki: BenchPki;
  readonly nodes: number;
  /** Which of them are in the process. */
  readonly first: number;
  readonly count: number;
  readonly port: number;
}

export interface HandshakesAnswer {
  readonly handshakes: number;
  /** From the first packet until all are done, also those that others begin with the nodes of the process. */
  readonly wallMs: number;
  /** Of both ends. */
  readonly cpuMs: number;
  /** What both ends of all pairs have added to the process. */
  readonly rssKiB: number;
  /** Of each handshake, from its first packet until the dialling end has keys. */
  readonly times: readonly number[];
  /** Tries that failed, and were made again; what the first of them said. */
  readonly failures: number;
  readonly failure: string;
}

/** Nodes have addresses of their own, as servers limit what comes from one. */
export const meshAddress = (index: number): string => `127.77.${index >> 8}.${(index & 255) + 1}`;

/** All pairs of a mesh. */
export async function meshHandshakes(nodes: readonly number[], progress: (text: string) => void): Promise<Row[]> {
  const pki = benchPki(await makePki(benchCache(), 1));
  const all = new Map<number, HandshakesAnswer>();
  for (const count of nodes) {
    const answer = await start(pki, count);
    all.set(count, answer);
    const { handshakes, wallMs, cpuMs, rssKiB, times, failures, failure } = answer;
    progress(
      `${count} nodes: ${handshakes} handshakes in ${(wallMs / 1000).toFixed(2)} s, ${((handshakes * 1000) / wallMs).toFixed(0)} per second, ` +
        `CPU ${(cpuMs / handshakes).toFixed(2)} ms each, ${(rssKiB / handshakes).toFixed(0)} KiB each, ` +
        `p50 ${percentile(times, 0.5).toFixed(0)} ms, p99 ${percentile(times, 0.99).toFixed(0)} ms, ` +
        `${failures} tries failed${failures > 0 ? ` (${failure})` : ''}`,
    );
  }
  const [[least, base] = []] = all;
  if (base === undefined || least === undefined) return [];
  return [...all].flatMap(([count, answer]) => {
    const compare = (name: string, unit: string, of: (answer: HandshakesAnswer) => number): Row =>
      row('mesh', `start of ${count} nodes: ${name}`, unit, {
        ours: [of(answer)],
        peer: [of(base)],
        peerName: `the start of ${least}`,
      });
    return [
      compare('handshakes, both ends', 'µs/handshake', ({ wallMs, handshakes }) => (wallMs * 1000) / handshakes),
      compare('CPU of both ends', 'µs/handshake', ({ cpuMs, handshakes }) => (cpuMs * 1000) / handshakes),
      compare('memory of both ends', 'KiB/pair', ({ rssKiB, handshakes }) => rssKiB / handshakes),
      compare('time to connect, p99', 'ms', ({ times }) => percentile(times, 0.99)),
    ];
  });
}

/** The most nodes of one process: every connection that is dialled has a socket of its own. */
const together = 100;

async function start(pki: BenchPki, nodes: number): Promise<HandshakesAnswer> {
  const port = 20_000 + (process.pid % 20_000);
  const parts = Array.from({ length: Math.ceil(nodes / together) }, (_, i) => {
    const first = i * together;
    return new Part({ pki, nodes, first, count: Math.min(together, nodes - first), port });
  });
  try {
    for (const part of parts) await part.answer();
    for (const part of parts) part.begin();
    const answers = await Promise.all(parts.map((part) => part.answer()));
    const sum = (of: (answer: HandshakesAnswer) => number): number => answers.reduce((all, one) => all + of(one), 0);
    return {
      handshakes: sum(({ handshakes }) => handshakes),
      wallMs: Math.max(...answers.map(({ wallMs }) => wallMs)),
      cpuMs: sum(({ cpuMs }) => cpuMs),
      rssKiB: sum(({ rssKiB }) => rssKiB),
      times: answers.flatMap(({ times }) => times),
      failures: sum(({ failures }) => failures),
      failure: answers.find(({ failure }) => failure !== '')?.failure ?? '',
    };
  } finally {
    for (const part of parts) part.end();
  }
}

/** A process with some of the nodes. */
class Part {
  readonly #child: ChildProcess;
  readonly #answers: unknown[] = [];
  #told: () => void = () => undefined;

  constructor(setup: HandshakesSetup) {
    const program = join(import.meta.dirname, '../programs/mesh-handshakes.ts');
    this.#child = fork(program, [JSON.stringify(setup)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#child.on('message', (answer) => {
      this.#answers.push(answer);
      this.#told();
    });
    this.#child.on('exit', () => this.#told());
  }

  begin(): void {
    this.#child.send('begin');
  }

  async answer(): Promise<HandshakesAnswer> {
    while (this.#answers.length === 0) {
      if (this.#child.exitCode !== null) throw new Error(`the handshakes ended with ${this.#child.exitCode}`);
      await new Promise<void>((resolve) => (this.#told = resolve));
    }
    return this.#answers.shift() as HandshakesAnswer;
  }

  /** In order, so that a profiler can write what it has. */
  end(): void {
    if (this.#child.connected) this.#child.disconnect();
  }
}
