import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Host, Hosts } from '../../support/hosts.ts';
import { attempt, run } from '../../support/run.ts';
import { median, type Row, row, type SuiteContext } from '../suite.ts';
import { Clients, type ClientsAnswer, Flood, type FloodSetup, loadNetwork } from './handshake-load.ts';
import { type BenchPki, benchPki } from './handshake-pki.ts';
import { type MeasuredServer, type ServerSetup, startAgent, startEndpoint, startOpenvpn } from './handshake-servers.ts';
import { datagramsRead, usageOf } from './handshake-usage.ts';

/** Bursts of the smallest number of clients that count, after the first one of a server's life. */
const laterBursts = 3;
/** Clients that connect while the flood goes on, within a second. */
const duringFlood = 20;
const floodSeconds = 6;
const floodSockets = 256;
/** A client gives up after that, as OpenVPN's do. */
const handshakeSeconds = 60;
/** How long OpenVPN's server keeps a client that has left. */
const farewellMs = 5500;

/** Who is measured. */
interface Contender {
  readonly name: string;
  /** For a network's own sort of work: many clients at once. */
  readonly start: (setup: ServerSetup) => Promise<MeasuredServer>;
  /** As it comes, with its own limits: for floods. */
  readonly startLimited: (setup: ServerSetup) => Promise<MeasuredServer>;
}

const openvpn = (name: string, offload: boolean): Contender => ({
  name,
  // 100 per 10 s, its default, would have the second hundred wait.
  start: (setup) => startOpenvpn(setup, { offload, firstPackets: 100_000 }),
  startLimited: (setup) => startOpenvpn(setup, { offload, firstPackets: 100 }),
});
const agent: Contender = { name: 'our agent', start: startAgent, startLimited: startAgent };
const alone: Contender = {
  name: 'our control channel alone',
  start: (setup) => startEndpoint(setup, { repliesPerSecond: 100_000 }),
  startLimited: (setup) => startEndpoint(setup, { repliesPerSecond: 100 }),
};

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
export async function handshakeSuite(context: SuiteContext): Promise<Row[]> {
  const { progress, clients } = context;
  const hosts = await Hosts.create('bench');
  try {
    const scene = await Scene.create(hosts, benchPki(context.pki), Math.max(...clients), progress);
    const withDriver = await hasDriver();
    if (!withDriver)
      progress('no ovpn driver in this kernel: our control channel alone, beside OpenVPN without offload');
    const plain = openvpn('OpenVPN, --disable-dco', false);
    const ours = withDriver ? agent : alone;
    const peers = withDriver ? [openvpn('OpenVPN, offload', true), plain, alone] : [plain];
    const rows: Row[] = [];
    for (const tlsCrypt of [true, false]) {
      const series = new Map<Contender, Series>();
      for (const contender of [ours, ...peers]) {
        series.set(contender, await scene.handshakes(contender, tlsCrypt, tlsCrypt ? clients : clients.slice(0, 1)));
      }
      rows.push(
        ...compare(ours, peers, series, (one) => handshakeRows(one, tlsCrypt ? 'tls-crypt' : 'no wrapping', clients)),
      );
    }
    for (const flood of floods) {
      const figures = new Map<Contender, FloodFigures>();
      for (const contender of [ours, ...peers]) figures.set(contender, await scene.flood(contender, flood));
      rows.push(...compare(ours, peers, figures, (one) => floodRows(one, flood.name)));
    }
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

/** A row of each figure beside each peer. */
function compare<Result>(
  ours: Contender,
  peers: readonly Contender[],
  results: ReadonlyMap<Contender, Result>,
  figures: (result: Result) => readonly Figure[],
): Row[] {
  const of = (contender: Contender): readonly Figure[] => {
    const result = results.get(contender);
    return result === undefined ? [] : figures(result);
  };
  return of(ours).flatMap(({ name, unit, values }, index) =>
    peers.map((peer) =>
      row('handshake', name, unit, { ours: values, peer: of(peer)[index]?.values ?? [], peerName: peer.name }),
    ),
  );
}

function handshakeRows({ first, later, memory }: Series, wrap: string, clients: readonly number[]): Figure[] {
  const at = `${clients[0] ?? 0} at once, ${wrap}`;
  const each = (of: (burst: Burst) => number): number[] => later.map(of);
  return [
    { name: `${at}, first: server CPU`, unit: 'µs/handshake', values: [first.cpu] },
    { name: `${at}: server CPU`, unit: 'µs/handshake', values: each(({ cpu }) => cpu) },
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

function floodRows({ cpu, p50, p99, memory }: FloodFigures, name: string): Figure[] {
  return [
    { name: `${name}: server CPU`, unit: 'µs/packet', values: [cpu] },
    { name: `${name}: ${duringFlood} clients connect, p50`, unit: 'ms', values: [p50] },
    { name: `${name}: ${duringFlood} clients connect, p99`, unit: 'ms', values: [p99] },
    { name: `${name}: memory of the server`, unit: 'MiB', values: [memory] },
  ];
}

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

  async handshakes(contender: Contender, tlsCrypt: boolean, clients: readonly number[]): Promise<Series> {
    const server = await contender.start(this.#setup(tlsCrypt));
    try {
      const load = await this.#connectors(server, tlsCrypt);
      const say = (what: string, burst: Burst): void =>
        this.#progress(
          `${contender.name}, ${tlsCrypt ? 'tls-crypt' : 'no wrapping'}, ${what}: server CPU ${burst.cpu.toFixed(0)} µs, ${burst.wall.toFixed(0)} µs in all per handshake`,
        );
      try {
        const [few = 0, ...more] = clients;
        await sleep(1000);
        const idle = usageOf(server.pids).pssKiB;
        const memory = new Map<number, number>();
        const weigh = (count: number): void => void memory.set(count, (usageOf(server.pids).pssKiB - idle) / count);
        const first = await this.#burst(server, load, 0, few);
        say(`first ${few}`, first);
        weigh(few);
        let connected = few;
        for (const count of more) {
          // A few at a time: this is about memory, and no packet has to be lost.
          for (; connected < count; connected += few) {
            await this.#burst(server, load, connected, Math.min(few, count - connected));
          }
          connected = count;
          weigh(count);
        }
        await load.leave();
        const later: Burst[] = [];
        for (let i = 0; i < laterBursts; i++) {
          await sleep(farewellMs);
          const burst = await this.#burst(server, load, 0, few);
          say(`${few} again`, burst);
          later.push(burst);
          await load.leave();
        }
        return { first, later, memory };
      } finally {
        await load.end();
      }
    } finally {
      await server.stop();
    }
  }

  async flood(contender: Contender, { name, kind, rate }: FloodKind): Promise<FloodFigures> {
    const server = await contender.startLimited(this.#setup(true));
    try {
      const load = await this.#connectors(server, true);
      try {
        // Compiled by now, and some clients are there.
        await load.connect(duringFlood, duringFlood, 1000);
        const target = { address: this.#server.ipv4, port: server.port };
        const flood = await Flood.start(this.#load, {
          ...{ server: target, kind, rate },
          tlsCryptKey: this.#pki.tlsCryptKey,
          sockets: floodSockets,
          seconds: floodSeconds,
        });
        const pid = server.pids[0] ?? 0;
        const before = { ...usageOf(server.pids), read: datagramsRead(pid) };
        await sleep(1000);
        const answer = load.connect(0, duringFlood, 1000);
        await sleep((floodSeconds - 2) * 1000);
        const during = usageOf(server.pids);
        const { sent, seconds } = await flood.end();
        const after = { ...usageOf(server.pids), read: datagramsRead(pid) };
        const { times, failures } = await answer;
        const read = after.read - before.read;
        const cpu = ((after.cpuMs - before.cpuMs) * 1000) / read;
        this.#progress(
          `${contender.name}, ${name}: ${(sent / seconds).toFixed(0)} packets/s sent, ${read} of ${sent} read, ${failures.length} of ${duringFlood} clients failed, CPU ${cpu.toFixed(0)} µs/packet`,
        );
        return { cpu, memory: during.pssKiB / 1024, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
      } finally {
        await load.end();
      }
    } finally {
      await server.stop();
    }
  }

  async #burst(server: MeasuredServer, load: Clients, first: number, count: number): Promise<Burst> {
    const before = usageOf(server.pids);
    const answer = await load.connect(first, count);
    // What comes after the pushed options: acknowledgements, status, the server's own tidying up.
    await sleep(1000);
    const after = usageOf(server.pids);
    this.#warn(answer, count);
    return {
      cpu: ((after.cpuMs - before.cpuMs) * 1000) / count,
      wall: (answer.wallMs * 1000) / count,
      p50: quantile(answer.times, 0.5),
      p99: quantile(answer.times, 0.99),
    };
  }

  #warn({ failures, cpuMs, wallMs }: ClientsAnswer, count: number): void {
    const share = ((100 * cpuMs) / wallMs).toFixed(0);
    this.#progress(
      `the clients' own process: ${((cpuMs * 1000) / count).toFixed(0)} µs per handshake, busy ${share} %`,
    );
    if (failures.length > 0) this.#progress(`${failures.length} of ${count} failed: ${failures[0] ?? ''}`);
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
