import { type ChildProcess, spawn } from 'node:child_process';
import { eventually, patienceMs } from './run.ts';

/** What a running ping has seen. */
export interface StreamResult {
  /** Requests from the first to the last one that was answered. */
  readonly sent: number;
  readonly lost: number;
  /** Sequence numbers without an answer, the first few. */
  readonly missing: readonly number[];
  /** When those were sent, in words. */
  readonly gaps: readonly string[];
  readonly output: string;
}

/**
 * A ping that runs beside a test, 100 packets a second, until it is stopped. Loss is counted by sequence
 * numbers from the first answer to the last: what was sent before the other end was ready, and what is under way at the
 * end, counts for nothing.
 */
export class PingStream {
  readonly #child: ChildProcess;
  /** When each answer came. Milliseconds since 1970. */
  readonly #seen = new Map<number, number>();
  readonly #intervalMs: number;
  readonly #started = Date.now();
  #first = Infinity;
  #last = 0;
  #output = '';
  #rest = '';

  private constructor(netns: string, destination: string, intervalMs: number) {
    this.#intervalMs = intervalMs;
    const args = [
      `--net=${netns}`,
      'stdbuf',
      '-oL',
      'ping',
      '-n',
      '-i',
      String(intervalMs / 1000),
      '-s',
      '56',
      destination,
    ];
    this.#child = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.stdout?.on('data', (chunk: Buffer) => this.#take(chunk.toString('latin1')));
    this.#child.stderr?.on('data', (chunk: Buffer) => (this.#output += chunk.toString('latin1')));
  }

  /** Starts and waits for the first answers. */
  static async start(netns: string, destination: string, intervalMs = 10): Promise<PingStream> {
    const stream = new PingStream(netns, destination, intervalMs);
    try {
      await stream.answers(3);
    } catch (error) {
      stream.#child.kill('SIGKILL');
      throw error;
    }
    return stream;
  }

  /** Waits for so many more answers. */
  async answers(count: number, timeoutMs = patienceMs): Promise<void> {
    const wanted = this.#seen.size + count;
    await eventually(
      `${count} more answers to ping`,
      () => {
        if (this.#child.exitCode !== null) throw new Error(`ping ended: ${this.#output}`);
        return this.#seen.size >= wanted || undefined;
      },
      { timeoutMs, stepMs: 20 },
    );
  }

  get result(): StreamResult {
    const missing: number[] = [];
    for (let sequence = this.#first; sequence <= this.#last; sequence++)
      if (!this.#seen.has(sequence)) missing.push(sequence);
    const sent = Math.max(0, this.#last - this.#first + 1);
    return { sent, lost: missing.length, missing: missing.slice(0, 20), gaps: this.#gaps(), output: this.#output };
  }

  #gaps(): string[] {
    const gaps: string[] = [];
    let before: [number, number] | undefined;
    for (const [sequence, at] of [...this.#seen].toSorted(([a], [b]) => a - b)) {
      if (before !== undefined && sequence > before[0] + 1) {
        const [from, to] = [before[1], at].map((time) => new Date(time).toISOString().slice(11, 23));
        gaps.push(`${before[0] + 1} to ${sequence - 1} between ${from} and ${to}`);
      }
      before = [sequence, at];
    }
    return gaps.slice(0, 20);
  }

  /** Ends on answers; a stream that gets none any more fails. */
  async stop(): Promise<StreamResult> {
    try {
      await this.answers(5);
      const elapsed = Date.now() - this.#started;
      const { sent } = this.result;
      // A ping that stood still would lose nothing; a loaded machine may be slow.
      if (sent < elapsed / this.#intervalMs / 10)
        throw new Error(`only ${sent} pings in ${elapsed} ms: ${this.#output}`);
      return this.result;
    } finally {
      this.kill();
    }
  }

  kill(): void {
    if (this.#child.exitCode === null) this.#child.kill('SIGKILL');
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      const match = /icmp_seq=(\d+) (.*)/.exec(line);
      if (match?.[2]?.startsWith('ttl=') === true) {
        const sequence = Number(match[1]);
        if (!this.#seen.has(sequence)) this.#seen.set(sequence, Date.now());
        this.#first = Math.min(this.#first, sequence);
        this.#last = Math.max(this.#last, sequence);
      } else if (line.trim() !== '' && this.#output.length < 2_000) this.#output += `${line}\n`;
    }
  }
}

/** Runs a ping beside an action and gives what it saw. */
export async function whilePinging(
  netns: string,
  destination: string,
  action: () => Promise<void>,
): Promise<StreamResult> {
  const stream = await PingStream.start(netns, destination);
  try {
    await action();
    return await stream.stop();
  } finally {
    stream.kill();
  }
}
