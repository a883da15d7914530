import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { inNamespace } from '../../../operator/src/kernel/netns.ts';
import type { BenchPki } from './handshake-pki.ts';

/** What programs/clients.ts is started with. */
export interface ClientsSetup {
  readonly server: { readonly address: string; readonly port: number };
  readonly pki: BenchPki;
  readonly tlsCrypt: boolean;
  readonly handshakeSeconds: number;
}

export type ClientsOrder =
  /** Client numbers from `first` on connect, all at once or evenly within some time. */
  | { readonly do: 'connect'; readonly first: number; readonly count: number; readonly withinMs: number }
  /** All that are connected leave. */
  | { readonly do: 'leave' };

export interface ClientsAnswer {
  /** Milliseconds to connect, of each client; of one that failed, until then. */
  readonly times: readonly number[];
  readonly failures: readonly string[];
  readonly wallMs: number;
  /** What the clients' own process used meanwhile. */
  readonly cpuMs: number;
}

/** What programs/first-packets.ts is started with. */
export interface FloodSetup {
  readonly server: { readonly address: string; readonly port: number };
  /** `valid`: a first packet as any client sends it. `forged`: as long as that, but random from its session id on. */
  readonly kind: 'valid' | 'forged';
  /** Path of the tls-crypt key; undefined for none. */
  readonly tlsCryptKey: string | undefined;
  /** How many sockets, so source ports, take turns. */
  readonly sockets: number;
  /** Packets per second; 0 for as many as can be. */
  readonly rate: number;
  readonly seconds: number;
}

export interface FloodAnswer {
  readonly sent: number;
  readonly seconds: number;
}

/** Every client has an address of its own, as clients have: servers limit what comes from one. */
export const clientAddress = (index: number): string => `198.18.${index >> 8}.${index & 255}`;
export const floodAddress = (index: number): string => `198.19.${index >> 8}.${index & 255}`;
/** Both of the above. */
export const loadNetwork = '198.18.0.0/15';

const program = (name: string): string => join(import.meta.dirname, '..', 'programs', name);

/** A program of ours in a namespace, that answers orders. */
class Worker<Order, Answer> {
  readonly #child: ChildProcess;

  constructor(namespace: string, name: string, setup: object) {
    // The child is made by this thread and so starts in the namespace that it is in.
    this.#child = inNamespace(namespace, () =>
      fork(program(name), [JSON.stringify(setup)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }),
    );
  }

  async ask(order: Order): Promise<Answer> {
    this.#child.send(order as object);
    return this.answer();
  }

  async answer(): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const ended = (): void => reject(new Error('a program of the benchmark ended'));
      this.#child.once('exit', ended);
      this.#child.once('message', (answer) => {
        this.#child.off('exit', ended);
        resolve(answer as Answer);
      });
    });
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await gone;
  }
}

/** Clients in a process of their own. */
export class Clients {
  readonly #worker: Worker<ClientsOrder, ClientsAnswer>;

  private constructor(worker: Worker<ClientsOrder, ClientsAnswer>) {
    this.#worker = worker;
  }

  static async start(namespace: string, setup: ClientsSetup): Promise<Clients> {
    const worker = new Worker<ClientsOrder, ClientsAnswer>(namespace, 'clients.ts', setup);
    await worker.answer();
    return new Clients(worker);
  }

  async connect(first: number, count: number, withinMs = 0): Promise<ClientsAnswer> {
    return this.#worker.ask({ do: 'connect', first, count, withinMs });
  }

  async leave(): Promise<void> {
    await this.#worker.ask({ do: 'leave' });
  }

  async end(): Promise<void> {
    await this.#worker.end();
  }
}

/** A flood of first packets from a process of its own; begins at once. */
export class Flood {
  readonly #worker: Worker<never, FloodAnswer>;
  readonly #answer: Promise<FloodAnswer>;

  private constructor(worker: Worker<never, FloodAnswer>) {
    this.#worker = worker;
    this.#answer = worker.answer();
  }

  /** Resolves when the packets are made and the first ones are on their way. */
  static async start(namespace: string, setup: FloodSetup): Promise<Flood> {
    const worker = new Worker<never, FloodAnswer>(namespace, 'first-packets.ts', setup);
    await worker.answer();
    return new Flood(worker);
  }

  async end(): Promise<FloodAnswer> {
    const answer = await this.#answer;
    await this.#worker.end();
    return answer;
  }
}
