import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Host, Hosts } from '../../support/hosts.ts';
import { attempt, run } from '../../support/run.ts';
import { median, type Row, row, type SuiteContext } from '../suite.ts';
import { Clients, Flood, type FloodSetup, loadNetwork } from './handshake-load.ts';
import { type BenchPki, benchPki } from './handshake-pki.ts';
import { type MeasuredServer, type ServerSetup, startAgent, startEndpoint, startOpenvpn } from './handshake-servers.ts';
import { datagramsRead, usageOf } from './handshake-usage.ts';

/** Bursts of the smallest number of clients that count, after the first one of a server's life. */
const laterBursts = 3;
/** Clients that connect while the flood goes on, within a second. */
const duringFlood = 20;
const floodSeconds = 6;
const floodSockets = 256;
const floodRounds = 2;
/** A client gives up after that, as OpenVPN's do. */
const handshakeSeconds = 60;
/** How long OpenVPN's server keeps a client that has left. */
const farewellMs = 5500;

/** Who is measured. */
interface Contender {
  readonly name: string;
  readonly start: (setup: ServerSetup) => Promise<MeasuredServer>;
}

/** First packets that each server answers per second, beyond those that handshakes followed. */
type Answers = 'all' | 'limited';

/** The limit of our agent. OpenVPN answers 100 per 10 s by default, which would have half of 200 clients wait. */
const limitPerSecond = 1000;
const perSecond: Readonly<Record<Answers, number>> = { all: 100_000, limited: limitPerSecond };

const openvpn = (name: string, offload: boolean, answers: Answers): Contender => ({
  name,
  start: (setup) => startOpenvpn(setup, { offload, firstPackets: 10 * perSecond[answers] }),
});
const agent: Contender = { name: 'our agent', start: startAgent };
const alone = (answers: Answers): Contender => ({
  name: 'our control channel alone',
  start: (setup) => startEndpoint(setup, { repliesPerSecond: perSecond[answers] }),
});

/** Ours first, then whom it is compared with. Without the driver there is nothing to hand keys to. */
function contenders(withDriver: boolean, answers: Answers): readonly [Contender, ...Contender[]] {
  const plain = openvpn('OpenVPN, --disable-dco', false, answers);
  return withDriver
    ? [agent, openvpn('OpenVPN, offload', true, answers), plain, alone(answers)]
    : [alone(answers), plain];
}

/** What one server did under one kind of load. */
interface Series {
  readonly first: Burst;
  readonly later: readonly Burst[];
  /** Memory per connected client, KiB, by how many there were. */
  readonly memory: ReadonlyMap<number, number>;
}

interface Burst {
  /** Of the server, µs per handshake. */
  readonly cpu: number;
  /** The same as a multiple of what the clients' process used: what else the machine does makes both dearer. */
  readonly cpuToClients: number;
  /** From the first packet of the first client to the last client's options, µs per handshake. */
  readonly wall: number;
  readonly p50: number;
  readonly p99: number;
}

interface FloodFigures {
  /** Of the server, µs per packet that it read. */
  readonly cpu: number;
  /** Of the clients that connected meanwhile, ms. */
  readonly p50: number;
  readonly p99: number;
  /** Of the server during the flood, MiB. */
  readonly memory: number;
}

/** Full handshakes of many clients with a server, and floods of first packets, beside OpenVPN's own server. */
export async function controlChannelSuite(context: SuiteContext): Promise<Row[]> {
  const { progress, clients } = context;
  const hosts = await Hosts.create('bench');
  try {
    const scene = await Scene.create(hosts, benchPki(context.pki), Math.max(...clients), progress);
    const withDriver = await hasDriver();
    if (!withDriver)
      progress('no ovpn driver in this kernel: our control channel alone, beside OpenVPN without offload');
    const rows: Row[] = [];
    for (const tlsCrypt of [true, false]) {
      const counts = tlsCrypt ? clients : clients.slice(0, 1);
      const series = await scene.with(contenders(withDriver, 'all'), tlsCrypt, (running) => {
        return scene.handshakes(running, counts, tlsCrypt ? 'tls-crypt' : 'no wrapping');
      });
      rows.push(...compare(series, (one) => handshakeRows(one, tlsCrypt ? 'tls-crypt' : 'no wrapping', clients)));
    }
    await scene.with(contenders(withDriver, 'limited'), true, async (running) => {
      for (const flood of floods) {
        rows.push(...compare(await scene.floods(running, flood), (one) => floodRows(one, flood.name)));
      }
    });
    return rows;
  } finally {
    await hosts.remove();
  }
}

interface FloodKind {
  readonly name: string;
  readonly kind: FloodSetup['kind'];
  readonly rate: number;
}

const floods: readonly FloodKind[] = [
  { name: '1,000 forged/s', kind: 'forged', rate: 1000 },
  { name: 'forged without pause', kind: 'forged', rate: 0 },
  { name: 'valid without pause', kind: 'valid', rate: 0 },
];

interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly values: readonly number[];
}

/** A row of each figure of the first beside each of the others. */
function compare<Result>(
  results: readonly { readonly name: string; readonly result: Result }[],
  figures: (result: Result) => readonly Figure[],
): Row[] {
  const [ours, ...peers] = results.map(({ name, result }) => ({ peerName: name, found: figures(result) }));
  return (ours?.found ?? []).flatMap(({ name, unit, values }, index) =>
    peers.map(({ peerName, found }) =>
      row('control-channel', name, unit, { ours: values, peer: found[index]?.values ?? [], peerName }),
    ),
  );
}

function handshakeRows({ first, later, memory }: Series, wrap: string, clients: readonly number[]): Figure[] {
  const at = `${clients[0] ?? 0} at once, ${wrap}`;
  const each = (of: (burst: Burst) => number): number[] => later.map(of);
  return [
    { name: `${at}, first: server CPU`, unit: 'µs/handshake', values: [first.cpu] },
    { name: `${at}: server CPU`, unit: 'µs/handshake', values: each(({ cpu }) => cpu) },
    { name: `${at}: server CPU to clients' CPU`, unit: '×', values: each(({ cpuToClients }) => cpuToClients) },
    { name: `${at}: all connected`, unit: 'µs/handshake', values: each(({ wall }) => wall) },
    { name: `${at}: time to connect, p50`, unit: 'ms', values: each(({ p50 }) => p50) },
    { name: `${at}: time to connect, p99`, unit: 'ms', values: each(({ p99 }) => p99) },
    ...[...memory].map(([count, kib]) => ({
      name: `memory per client of ${count}, ${wrap}`,
      unit: 'KiB/client',
      values: [kib],
    })),
  ];
}

function floodRows(rounds: readonly FloodFigures[], name: string): Figure[] {
  const each = (of: (figures: FloodFigures) => number): number[] => rounds.map(of);
  return [
    { name: `${name}: server CPU`, unit: 'µs/packet', values: each(({ cpu }) => cpu) },
    { name: `${name}: ${duringFlood} clients connect, p50`, unit: 'ms', values: each(({ p50 }) => p50) },
    { name: `${name}: ${duringFlood} clients connect, p99`, unit: 'ms', values: each(({ p99 }) => p99) },
    { name: `${name}: memory of the server`, unit: 'MiB', values: each(({ memory }) => memory) },
  ];
}

/** A server with its clients. */
interface Running {
  readonly name: string;
  readonly server: MeasuredServer;
  readonly load: Clients;
  /** Since when no client is there. */
  leftAt: number;
}

type Results<Result> = { readonly name: string; readonly result: Result }[];

/** A host for the servers, and one with an address for every client. */
class Scene {
  readonly #server: Host;
  readonly #load: string;
  readonly #pki: BenchPki;
  readonly #clients: number;
  readonly #progress: (text: string) => void;
  #folders = 0;

  private constructor(server: Host, load: Host, pki: BenchPki, clients: number, progress: (text: string) => void) {
    this.#server = server;
    this.#load = `/run/netns/${load.namespace}`;
    this.#pki = pki;
    this.#clients = clients;
    this.#progress = progress;
  }

  static async create(hosts: Hosts, pki: BenchPki, clients: number, progress: (text: string) => void): Promise<Scene> {
    const server = await hosts.host('server');
    const load = await hosts.host('load');
    // Any address of it may be bound there.
    await load.exec('ip', 'route', 'add', 'local', loadNetwork, 'dev', 'lo');
    await server.exec('ip', 'route', 'add', loadNetwork, 'via', load.ipv4);
    // Ours asks for as much regardless of the limit.
    for (const name of ['rmem_max', 'wmem_max']) allowBuffers(`/proc/sys/net/core/${name}`);
    return new Scene(server, load, pki, clients, progress);
  }

  /** Runs all servers at once, so that they can be measured in turns: what else the machine does hits all alike. */
  async with<Result>(
    all: readonly Contender[],
    tlsCrypt: boolean,
    measure: (running: readonly Running[]) => Promise<Result>,
  ): Promise<Result> {
    const running: Running[] = [];
    try {
      for (const { name, start } of all) {
        this.#progress(`starting ${name}`);
        const server = await start(this.#setup(tlsCrypt));
        running.push({ name, server, load: await this.#connectors(server, tlsCrypt), leftAt: -Infinity });
      }
      await sleep(2000);
      return await measure(running);
    } finally {
      for (const { server, load } of running) {
        await load.end();
        await server.stop();
      }
    }
  }

  async handshakes(all: readonly Running[], clients: readonly number[], wrap: string): Promise<Results<Series>> {
    const [few = 0, ...more] = clients;
    const series: Results<{ first: Burst; later: Burst[]; memory: Map<number, number> }> = [];
    for (const one of all) {
      const idle = usageOf(one.server.pids).pssKiB;
      const memory = new Map<number, number>();
      const weigh = (count: number): void => void memory.set(count, (usageOf(one.server.pids).pssKiB - idle) / count);
      const first = await this.#burst(one, 0, few, `${wrap}, first ${few}`);
      weigh(few);
      let connected = few;
      for (const count of more) {
        // Some at a time: this is about memory, and no packet has to be lost.
        for (; connected < count; connected += few) {
          await this.#burst(one, connected, Math.min(few, count - connected), `${wrap}, ${connected} are there`);
        }
        connected = count;
        weigh(count);
      }
      await this.#leave(one);
      series.push({ name: one.name, result: { first, later: [], memory } });
    }
    for (let i = 0; i < laterBursts; i++) {
      for (const [index, one] of all.entries()) {
        await this.#untilForgotten(one);
        const burst = await this.#burst(one, 0, few, `${wrap}, ${few} again`);
        series[index]?.result.later.push(burst);
        await this.#leave(one);
      }
    }
    return series;
  }

  async floods(all: readonly Running[], kind: FloodKind): Promise<Results<FloodFigures[]>> {
    const rounds: Results<FloodFigures[]> = all.map(({ name }) => ({ name, result: [] }));
    for (let i = 0; i < floodRounds; i++) {
      for (const [index, one] of all.entries()) {
        await this.#untilForgotten(one);
        rounds[index]?.result.push(await this.#flood(one, kind));
        await this.#leave(one);
      }
    }
    return rounds;
  }

  async #flood({ name, server, load }: Running, { name: what, kind, rate }: FloodKind): Promise<FloodFigures> {
    // Some are there already, and the code is compiled.
    await load.connect(duringFlood, duringFlood, 1000);
    await sleep(1000);
    const pid = server.pids[0] ?? 0;
    const before = { ...usageOf(server.pids), read: datagramsRead(pid) };
    const flood = await Flood.start(this.#load, {
      server: { address: this.#server.ipv4, port: server.port },
      ...{ kind, rate },
      tlsCryptKey: this.#pki.tlsCryptKey,
      sockets: floodSockets,
      seconds: floodSeconds,
    });
    await sleep(1000);
    const connecting = load.connect(0, duringFlood, 1000);
    await sleep((floodSeconds - 2) * 1000);
    const memory = usageOf(server.pids).pssKiB / 1024;
    const { sent, seconds } = await flood.end();
    const after = { ...usageOf(server.pids), read: datagramsRead(pid) };
    const { times, failures } = await connecting;
    const read = after.read - before.read;
    const cpu = ((after.cpuMs - before.cpuMs) * 1000) / read;
    this.#progress(
      `${name}, ${what}: ${(sent / seconds).toFixed(0)} packets/s sent, ${read} of ${sent} read, ${failures.length} of ${duringFlood} clients failed, CPU ${cpu.toFixed(0)} µs/packet`,
    );
    return { cpu, memory, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
  }

  async #leave(one: Running): Promise<void> {
    await one.load.leave();
    one.leftAt = performance.now();
  }

  async #untilForgotten({ leftAt }: Running): Promise<void> {
    await sleep(Math.max(0, leftAt + farewellMs - performance.now()));
  }

  async #burst({ name, server, load }: Running, first: number, count: number, what: string): Promise<Burst> {
    const before = usageOf(server.pids);
    const answer = await load.connect(first, count);
    // What comes after the pushed options: acknowledgements, status, the server's own tidying up.
    await sleep(1000);
    const after = usageOf(server.pids);
    const cpuMs = after.cpuMs - before.cpuMs;
    const burst = {
      cpu: (cpuMs * 1000) / count,
      cpuToClients: cpuMs / answer.cpuMs,
      wall: (answer.wallMs * 1000) / count,
      p50: quantile(answer.times, 0.5),
      p99: quantile(answer.times, 0.99),
    };
    const micros = (value: number): string => `${value.toFixed(0)} µs`;
    this.#progress(
      `${name}, ${what}: per handshake ${micros(burst.cpu)} of the server's CPU, ${micros((answer.cpuMs * 1000) / count)} of the clients', ${micros(burst.wall)} in all`,
    );
    const [failure] = answer.failures;
    if (failure !== undefined) this.#progress(`${answer.failures.length} of ${count} failed: ${failure}`);
    return burst;
  }

  #setup(tlsCrypt: boolean): ServerSetup {
    const folder = join(this.#server.hosts.folder, `run-${++this.#folders}`);
    mkdirSync(folder);
    return { host: this.#server, pki: this.#pki, tlsCrypt, clients: this.#clients, folder };
  }

  async #connectors(server: MeasuredServer, tlsCrypt: boolean): Promise<Clients> {
    return Clients.start(this.#load, {
      server: { address: this.#server.ipv4, port: server.port },
      pki: this.#pki,
      tlsCrypt,
      handshakeSeconds,
    });
  }
}

/** Whether this kernel has the driver, by making a device. */
async function hasDriver(): Promise<boolean> {
  const { code } = await attempt('ip', ['link', 'add', 'name', 'ovpnbench', 'type', 'ovpn']);
  if (code === 0) await run('ip', 'link', 'del', 'ovpnbench');
  return code === 0;
}

/** Lets programs without privileges of their own ask for socket buffers of 4 MiB. */
function allowBuffers(file: string): void {
  const wanted = 4 * 1024 * 1024;
  if (Number(readFileSync(file, 'utf8')) < wanted) writeFileSync(file, String(wanted));
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  if (share === 0.5) return median(sorted);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
