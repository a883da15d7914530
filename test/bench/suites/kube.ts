import { median, percentile, type Row, row, type SuiteContext } from '../suite.ts';
import { crowd, KubeCluster, patient, processes, type Usage, type Who } from './kube-cluster.ts';
import type { PeerWatch } from './peer-watch.ts';

/** Peers that are applied one after the other, with many loaded. */
const ones = 100;

type ByProcess<T> = Readonly<Record<Who, T>>;

/** What one number of peers gives. Times in milliseconds. */
interface Figures {
  readonly peers: number;
  /** Creating all of them while nobody watches. */
  readonly bare: number;
  readonly planned: number;
  readonly said: number;
  readonly requests: ByProcess<ReadonlyMap<string, number>>;
  readonly before: ByProcess<Usage>;
  readonly after: ByProcess<Usage>;
  /** Of single peers with all loaded: the POST alone, and from its start. */
  readonly post: readonly number[];
  readonly toPlan: readonly number[];
  readonly toStatus: readonly number[];
}

/** The control plane: an API server with many VpnPeers, the controller, and what an agent has to do with the two. */
export async function kubeSuite(context: SuiteContext): Promise<Row[]> {
  const all: Figures[] = [];
  for (const peers of context.peers) all.push(await withPeers(context, peers));
  const [first] = all;
  return all.flatMap((figures) => [
    ...rowsOf(figures),
    ...(first === undefined || first === figures ? [] : flatness(figures, first)),
  ]);
}

async function withPeers({ progress }: SuiteContext, peers: number): Promise<Figures> {
  const say = (text: string): void => progress(`${peers} peers: ${text}`);
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  say('starting an API server');
  const bare = await timeAlone(peers);
  say(`created in ${seconds(bare)} with nobody there; once more with controller and agent`);
  const cluster = await KubeCluster.start();
  let watch: PeerWatch | undefined;
  try {
    await cluster.startProcesses();
    watch = await cluster.watch();
    const from = cluster.plane.audit().length;
    const before = usages(cluster);
    const begun = performance.now();
    const planned = patient('all are planned', () => (cluster.planned === peers ? performance.now() : undefined));
    await cluster.applyCrowd(peers, 'client');
    say(`created after ${seconds(performance.now() - begun)}`);
    const plannedAt = await planned;
    const { said } = await patient('status says so of all', () => (watch?.said === peers ? watch : undefined));
    const saidAt = performance.now();
    say(`planned after ${seconds(plannedAt - begun)}, ${said} statuses after ${seconds(saidAt - begun)}`);
    // Events and the network's summary come after.
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    const after = usages(cluster);
    const requests = {
      'ovpn-controller': countsOf(cluster, 'ovpn-controller', from),
      'ovpn-agent': countsOf(cluster, 'ovpn-agent', from),
    };
    for (const who of processes) say(`${who}: ${[...requests[who]].map(([what, n]) => `${n} ${what}`).join(', ')}`);
    const single = await applyOnes(cluster, watch, peers);
    return { peers, bare, planned: plannedAt - begun, said: saidAt - begun, requests, before, after, ...single };
  } catch (error) {
    throw new Error(`${String(error)}\n${cluster.log}`, { cause: error });
  } finally {
    await watch?.stop();
    await cluster.stop();
  }
}

/** How long the same client takes on an API server of its own. */
async function timeAlone(peers: number): Promise<number> {
  const cluster = await KubeCluster.start();
  try {
    const begun = performance.now();
    await cluster.applyCrowd(peers, 'bare');
    return performance.now() - begun;
  } finally {
    await cluster.stop();
  }
}

function usages(cluster: KubeCluster): ByProcess<Usage> {
  return { 'ovpn-controller': cluster.usage('ovpn-controller'), 'ovpn-agent': cluster.usage('ovpn-agent') };
}

/** Requests by verb and resource, the most frequent first. */
function countsOf(cluster: KubeCluster, who: Who, from: number): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { verb, objectRef } of cluster.requests(who, from)) {
    const { resource = 'other', subresource } = objectRef ?? {};
    // The lease is renewed by time, whoever there is.
    if (resource === 'leases') continue;
    const name = `${verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return new Map([...counts].sort(([, a], [, b]) => b - a));
}

async function applyOnes(
  cluster: KubeCluster,
  watch: PeerWatch,
  peers: number,
): Promise<Pick<Figures, 'post' | 'toPlan' | 'toStatus'>> {
  const [post, toPlan, toStatus]: [number[], number[], number[]] = [[], [], []];
  for (let number = 1; number <= ones; number++) {
    const name = `one-${number}`;
    const begun = performance.now();
    const said = watch.untilSaid(`${crowd}/${name}`);
    await cluster.applyOne(name);
    post.push(performance.now() - begun);
    await patient('it is planned', () => (cluster.planned === peers + number ? true : undefined), 2);
    toPlan.push(performance.now() - begun);
    toStatus.push((await said) - begun);
    // Rates that are meant for crowds must not make single ones wait.
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return { post, toPlan, toStatus };
}

function rowsOf(figures: Figures): Row[] {
  const { peers, bare, planned, said, requests, before, after, post, toPlan, toStatus } = figures;
  const one = (name: string, unit: string, ours: number, peer: number, peerName: string): Row =>
    row('kube', name, unit, { ours: [ours], peer: [peer], peerName });
  const perPeer = (ms: number): number => (ms * 1000) / peers;
  const creating = 'creating them, nobody there';
  const sum = (counts: ReadonlyMap<string, number>): number => [...counts.values()].reduce((all, n) => all + n, 0);
  return [
    one(`${peers} applied: all planned`, 'µs/peer', perPeer(planned), perPeer(bare), creating),
    one(`${peers} applied: all statuses`, 'µs/peer', perPeer(said), perPeer(bare), creating),
    ...processes.flatMap((who) => {
      const name = who.replace('ovpn-', '');
      const kib = (after[who].bytes - before[who].bytes) / 1024 / peers;
      const cpu = perPeer(after[who].cpuMs - before[who].cpuMs);
      const idle = 'before the first peer';
      return [
        one(
          `${peers} applied: requests, ${name}`,
          'per peer',
          sum(requests[who]) / peers,
          1,
          'the one that creates it',
        ),
        one(`${peers} applied: bytes, ${name}`, 'KiB/peer', kib, 1, '1 KiB, about a VpnPeer with its status'),
        one(`${peers} applied: CPU, ${name}`, 'µs/peer', cpu, perPeer(bare), creating),
        one(`${peers} loaded: memory, ${name}`, 'MiB', after[who].rssMiB, before[who].rssMiB, idle),
      ];
    }),
    ...([0.5, 0.99] as const).flatMap((share) => {
      const p = `p${share * 100}`;
      const posting = `its POST, ${p}`;
      return [
        one(
          `one more, ${peers} loaded: planned, ${p}`,
          'ms',
          percentile(toPlan, share),
          percentile(post, share),
          posting,
        ),
        one(
          `one more, ${peers} loaded: status, ${p}`,
          'ms',
          percentile(toStatus, share),
          percentile(post, share),
          posting,
        ),
      ];
    }),
  ];
}

/** How a greater number of peers compares with the first: 1 where nothing grows. */
function flatness(more: Figures, less: Figures): Row[] {
  const peerName = `the same with ${less.peers}`;
  const compare = (name: string, unit: string, of: (figures: Figures) => number): Row =>
    row('kube', `${more.peers}: ${name}`, unit, { ours: [of(more)], peer: [of(less)], peerName });
  const cpu =
    (who: Who) =>
    ({ after, before, peers }: Figures): number =>
      ((after[who].cpuMs - before[who].cpuMs) * 1000) / peers;
  return [
    compare('all planned', 'µs/peer', ({ planned, peers }) => (planned * 1000) / peers),
    compare('all statuses', 'µs/peer', ({ said, peers }) => (said * 1000) / peers),
    compare('CPU, controller', 'µs/peer', cpu('ovpn-controller')),
    compare('CPU, agent', 'µs/peer', cpu('ovpn-agent')),
    compare('one more planned, p50', 'ms', ({ toPlan }) => median(toPlan)),
    compare('status of one more, p50', 'ms', ({ toStatus }) => median(toStatus)),
  ];
}
