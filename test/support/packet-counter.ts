import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { eventually, run } from './run.ts';
import type { Tally } from './sequence-tally.ts';

/** What packet-counter-program.ts is told. */
export type CounterOrder =
  | {
      readonly op: 'send';
      readonly flow: number;
      readonly to: string;
      readonly perSecond: number;
      /** Ends by itself after so many. */
      readonly count: number;
    }
  | { readonly op: 'stop'; readonly flow: number }
  /** `sent`: how many there are to miss. */
  | { readonly op: 'look'; readonly flow: number; readonly sent: number };

/** What it answers: the account of the flow up to now. */
export interface CounterAnswer extends Tally {
  readonly sent: number;
  readonly missing: readonly (readonly [number, number])[];
  readonly overflows: number;
  readonly refused: string | undefined;
}

/** What became of a flow. */
export interface FlowResult extends Tally {
  readonly sent: number;
  readonly lost: number;
  /** The numbers of the lost ones, the first few ranges. */
  readonly missing: readonly (readonly [number, number])[];
  readonly perSecond: number;
}

const program = join(import.meta.dirname, 'packet-counter-program.ts');
let flows = 0;

/** One end of flows of numbered UDP packets, a process in a namespace. */
export class PacketCounter {
  readonly address: string;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string, undefined>;
  /** One order at a time. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(address: string, child: ChildProcess, answers: AsyncIterator<string, undefined>) {
    this.address = address;
    this.#child = child;
    this.#answers = answers;
  }

  /**
   * @param netns a path
   * @param port the same at both ends of a flow, and another for each pair of ends that share an address
   */
  static async open(netns: string, address: string, port: number): Promise<PacketCounter> {
    // The buffers' limits are the machine's, whatever namespace reads them.
    await run('sysctl', '-qw', 'net.core.rmem_max=67108864', 'net.core.wmem_max=67108864');
    const args = [`--net=${netns}`, process.execPath, '--disable-warning=ExperimentalWarning', program, address];
    const child = spawn('nsenter', [...args, String(port)], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]() as AsyncIterator<string, undefined>;
    const counter = new PacketCounter(address, child, lines);
    if ((await counter.#read()) !== 'ready') throw new Error('the packet counter did not start');
    return counter;
  }

  async ask(order: CounterOrder): Promise<CounterAnswer> {
    const answer = this.#turn.then(async () => {
      this.#child.stdin?.write(`${JSON.stringify(order)}\n`);
      return JSON.parse(await this.#read()) as CounterAnswer;
    });
    this.#turn = answer.catch(() => undefined);
    return answer;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }

  async #read(): Promise<string> {
    const { value } = await this.#answers.next();
    if (value === undefined) throw new Error(`the packet counter at ${this.address} ended`);
    return value;
  }
}

/** Numbered packets from one counter to another. */
export class PacketFlow {
  readonly #from: PacketCounter;
  readonly #to: PacketCounter;
  readonly #id: number;
  readonly #began = performance.now();
  readonly #count: number;
  readonly #overflows: number;

  private constructor(from: PacketCounter, to: PacketCounter, id: number, count: number, overflowsBefore: number) {
    this.#from = from;
    this.#to = to;
    this.#id = id;
    this.#count = count;
    this.#overflows = overflowsBefore;
  }

  /** @param count at most so many; without it until it is stopped */
  static async start(
    from: PacketCounter,
    to: PacketCounter,
    { perSecond, count = 2 ** 32 }: { perSecond: number; count?: number },
  ): Promise<PacketFlow> {
    const id = ++flows;
    const { overflows } = await to.ask({ op: 'look', flow: id, sent: 0 });
    await from.ask({ op: 'send', flow: id, to: to.address, perSecond, count });
    return new PacketFlow(from, to, id, count, overflows);
  }

  /** Waits until so many have been sent. */
  async sent(count: number): Promise<void> {
    const look = async (): Promise<true | undefined> =>
      (await this.#from.ask({ op: 'look', flow: this.#id, sent: 0 })).sent >= count || undefined;
    await eventually(`${count} packets are sent`, look, { timeoutMs: 300_000, stepMs: 50 });
  }

  /**
   * Ends the flow, once all are sent if it has an end, and gives what became of it when nothing more comes.
   *
   * @throws when the counting itself was at fault: what the kernel did not take, or nobody fetched in time
   */
  async finish(): Promise<FlowResult> {
    if (this.#count < 2 ** 32) await this.sent(this.#count);
    const { sent, refused } = await this.#from.ask({ op: 'stop', flow: this.#id });
    const seconds = (performance.now() - this.#began) / 1000;
    if (refused !== undefined) throw new Error(`a packet could not be sent: ${refused}`);
    let last = await this.#look(sent);
    for (let quiet = 0; last.received < sent && quiet < 20; quiet++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const now = await this.#look(sent);
      if (now.received !== last.received) quiet = 0;
      last = now;
    }
    const { received, duplicates, late, missing, overflows } = last;
    if (overflows > this.#overflows) throw new Error(`the counter itself lost ${overflows - this.#overflows} packets`);
    return { sent, received, lost: sent - received, duplicates, late, missing, perSecond: sent / seconds };
  }

  #look(sent: number): Promise<CounterAnswer> {
    return this.#to.ask({ op: 'look', flow: this.#id, sent });
  }
}
