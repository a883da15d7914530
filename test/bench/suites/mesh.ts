import { setTimeout as sleep } from 'node:timers/promises';
import { median, percentile, type Row, row, type SuiteContext } from '../suite.ts';
import { countsOf, MeshCluster, type Traffic } from './mesh-cluster.ts';
import { meshHandshakes } from './mesh-handshakes.ts';

/** Nodes that join and leave again, one after the other. */
const joiners = 3;
/** Clients that connect, and then come to another node. */
const clients = 10;
/**
 * What follows from an event has come about: figures in status come within a minute, and those that wait for others
 * within a second for each node.
 */
const settleMs = (nodes: number): number => 65_000 + nodes * 1_000;
/** As `--node-lease` of the agent: the bound of every failover. */
const leaseMs = 5_000;
const failoverNodes = 10;
const failoverPeers = 40;
const failovers = 20;

type Say = (text: string) => void;

/** What a mesh of one size gives. Times in milliseconds. */
interface Figures {
  readonly nodes: number;
  /** From the start of all agents at once until all have planned all others. */
  readonly start: number;
  readonly rssMiB: number;
  /** The PATCH of the Node that joins or leaves, and from its start until all others have done what they have to. */
  readonly patch: readonly number[];
  readonly join: readonly number[];
  readonly leave: readonly number[];
  /** From when a client is connected until all other nodes send to the node where it is. */
  readonly claim: readonly number[];
  readonly move: readonly number[];
  /** Per event. */
  readonly traffic: Readonly<Record<Event, PerEvent>>;
}

interface PerEvent {
  /** Requests of all agents. */
  readonly requests: number;
  /** Of watches of all nodes. */
  readonly events: number;
  readonly bytes: number;
  readonly cpuMs: number;
}

const events = ['join', 'leave', 'claim', 'move'] as const;
type Event = (typeof events)[number];

/** Meshes of many nodes: convergence, messages per event, failover, and the handshakes of a start. */
export async function meshSuite({ nodes, progress }: SuiteContext): Promise<Row[]> {
  const rows: Row[] = [];
  rows.push(...(await meshHandshakes(nodes, progress)));
  const all: Figures[] = [];
  for (const count of nodes) all.push(await withNodes(count, (text) => progress(`${count} nodes: ${text}`)));
  const [first] = all;
  for (const figures of all) {
    rows.push(...rowsOf(figures));
    if (first !== undefined && first !== figures) rows.push(...flatness(figures, first));
  }
  rows.push(...(await failoverRows(progress)));
  for (const peers of [100, 1_000]) rows.push(...(await takeoverRows(failoverNodes, peers, progress)));
  const most = Math.min(50, Math.max(...nodes));
  if (most > failoverNodes) rows.push(...(await takeoverRows(most, 100, progress)));
  return rows;
}

async function withCluster<T>(nodes: number, members: number, work: (cluster: MeshCluster) => Promise<T>): Promise<T> {
  const cluster = await MeshCluster.start(nodes, members);
  try {
    return await work(cluster);
  } finally {
    await cluster.stop();
  }
}

function namesOf(count: number): string[] {
  return Array.from({ length: count }, (_, i) => MeshCluster.nodeName(i + 1));
}

function withNodes(nodes: number, say: Say): Promise<Figures> {
  return withCluster(nodes + joiners, nodes, async (cluster) => {
    const members = namesOf(nodes);
    const spare = namesOf(nodes + joiners).slice(nodes);
    const begun = Date.now();
    const { rssMiB } = await cluster.until({ what: 'connected', nodes: members });
    const start = Date.now() - begun;
    say(`all planned and connected ${(start / 1000).toFixed(1)} s after their agents had read what there is`);
    const told = async (event: string, what: () => Promise<void>, wait: number): Promise<Traffic> => {
      const traffic = await cluster.during(what, wait);
      say(
        `${event}: agents ${countsOf(traffic.agents) || 'nothing'}; controller ${countsOf(traffic.controller) || 'nothing'}; ` +
          `${traffic.events} events of watches, ${(traffic.bytes / 1024).toFixed(0)} KiB, CPU of the nodes ${traffic.cpuMs.toFixed(0)} ms`,
      );
      return traffic;
    };
    await told('settling', () => Promise.resolve(), settleMs(nodes));
    await told('nothing', () => Promise.resolve(), 30_000);
    const patch: number[] = [];
    const join: number[] = [];
    const leave: number[] = [];
    const joined = async (): Promise<void> => {
      for (const name of spare) {
        const since = Date.now();
        patch.push(await cluster.setMember(name, true));
        const by = members;
        join.push((await cluster.until({ what: 'known', node: name, by })).at - since);
      }
    };
    const left = async (): Promise<void> => {
      for (const name of spare) {
        const since = Date.now();
        patch.push(await cluster.setMember(name, false));
        leave.push((await cluster.until({ what: 'forgotten', node: name })).at - since);
      }
    };
    const traffic = {
      join: await told(`${joiners} joins`, joined, settleMs(nodes)),
      leave: await told(`${joiners} leaves`, left, settleMs(nodes)),
      ...(await clientEvents(cluster, members, told, settleMs(nodes))),
    };
    const perEvent = {
      join: share(traffic.join, joiners),
      leave: share(traffic.leave, joiners),
      claim: share(traffic.claim, clients),
      move: share(traffic.move, clients),
    };
    const { claim, move } = traffic.times;
    say(
      `join ${join.join(' ')} ms, leave ${leave.join(' ')} ms, claim ${claim.join(' ')} ms, move ${move.join(' ')} ms`,
    );
    return { nodes, start, rssMiB, patch, join, leave, claim, move, traffic: perEvent };
  });
}

/** One event's part of what many have brought. */
function share({ agents, events: watched, bytes, cpuMs }: Traffic, count: number): PerEvent {
  return { requests: agents.length / count, events: watched / count, bytes: bytes / count, cpuMs: cpuMs / count };
}

async function clientEvents(
  cluster: MeshCluster,
  members: readonly string[],
  told: (event: string, what: () => Promise<void>, wait: number) => Promise<Traffic>,
  wait: number,
): Promise<Record<'claim' | 'move', Traffic> & { times: Record<'claim' | 'move', number[]> }> {
  const peers: string[] = [];
  for (let i = 0; i < clients; i++) peers.push(await cluster.addClient(`client-${i}`));
  // Until they have their addresses, and all nodes have planned them.
  await sleep(5_000);
  const times = { claim: [] as number[], move: [] as number[] };
  const come = (event: 'claim' | 'move', first: number) => async (): Promise<void> => {
    for (const [i, peer] of peers.entries()) {
      const node = members[(first + i) % members.length] ?? '';
      const since = Date.now();
      await cluster.ask({ do: 'connect', node, peer });
      const { at } = await cluster.until({ what: 'followed', peer, node, by: members });
      times[event].push(at - since);
    }
  };
  return {
    claim: await told(`${clients} clients connect`, come('claim', 0), wait),
    move: await told(`${clients} clients come to another node`, come('move', 1), wait),
    times,
  };
}

const one = (name: string, unit: string, ours: number, peer: number, peerName: string): Row =>
  row('mesh', name, unit, { ours: [ours], peer: [peer], peerName });

function rowsOf({ nodes, patch, join, leave, claim, move, traffic, rssMiB }: Figures): Row[] {
  const its = 'the PATCH of its Node';
  const posts = 'the PATCH of a Node';
  return [
    one(`${nodes} nodes: one joins, all others have its peer, route and pods`, 'ms', median(join), median(patch), its),
    one(`${nodes} nodes: one leaves, all others know`, 'ms', median(leave), median(patch), its),
    one(`${nodes} nodes: a client connects, all others send there`, 'ms', median(claim), median(patch), posts),
    one(`${nodes} nodes: it comes to another node, all others follow`, 'ms', median(move), median(patch), posts),
    ...events.flatMap((event) => {
      const { requests, events: watched, bytes, cpuMs } = traffic[event];
      return [
        one(`${nodes} nodes: ${event}: requests of all agents`, 'per event', requests, 1, 'one'),
        one(`${nodes} nodes: ${event}: watch events`, 'per node', watched / nodes, 1, 'one for each node'),
        one(`${nodes} nodes: ${event}: bytes of watches`, 'KiB/node', bytes / 1024 / nodes, 1, '1 KiB'),
        one(`${nodes} nodes: ${event}: CPU`, 'ms/node', cpuMs / nodes, 1, '1 ms'),
      ];
    }),
    one(`${nodes} nodes: memory of one`, 'MiB', rssMiB / nodes, 1, '1 MiB'),
  ];
}

/** How a greater mesh compares with the first: 1 where an event costs each node the same. */
function flatness(more: Figures, less: Figures): Row[] {
  const peerName = `the same with ${less.nodes}`;
  const compare = (name: string, unit: string, of: (figures: Figures) => number): Row =>
    row('mesh', `${more.nodes}: ${name}`, unit, { ours: [of(more)], peer: [of(less)], peerName });
  return [
    compare('one joins', 'ms', ({ join }) => median(join)),
    compare('a client comes to another node', 'ms', ({ move }) => median(move)),
    ...events.flatMap((event) => [
      compare(`${event}: watch events`, 'per node', ({ traffic, nodes }) => traffic[event].events / nodes),
      compare(`${event}: bytes of watches`, 'KiB/node', ({ traffic, nodes }) => traffic[event].bytes / 1024 / nodes),
      compare(`${event}: CPU`, 'ms/node', ({ traffic, nodes }) => traffic[event].cpuMs / nodes),
    ]),
  ];
}

/** Nodes that die one after the other, and come back. */
async function failoverRows(progress: Say): Promise<Row[]> {
  const say: Say = (text) => progress(`failover: ${text}`);
  return withCluster(failoverNodes, failoverNodes, async (cluster) => {
    const members = namesOf(failoverNodes);
    await cluster.addKey();
    await cluster.until({ what: 'connected', nodes: members });
    const peers = await cluster.addRemotes('remote', failoverPeers);
    await cluster.until({ what: 'dialled', peers });
    const [claimed, dialled, followed]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < failovers; i++) {
      const node = members[i % members.length] ?? '';
      const holders = await cluster.holders(peers);
      const its = peers.filter((peer) => holders.get(peer) === node);
      // At any moment between two renewals.
      await sleep(2_000 + Math.random() * 2_000);
      const since = Date.now();
      await cluster.ask({ do: 'kill', node });
      const others = members.filter((name) => name !== node);
      await Promise.all(
        its.map(async (peer) => {
          const taken = await cluster.until({ what: 'taken', peers: [peer], from: [node] });
          claimed.push(taken.at - since);
          dialled.push((await cluster.until({ what: 'dialled', peers: [peer] })).at - since);
          followed.push((await cluster.until({ what: 'agreed', peer, by: others })).at - since);
        }),
      );
      await cluster.startNodes([node]);
      await cluster.until({ what: 'connected', nodes: members });
    }
    say(`${claimed.length} peers of ${failovers} nodes that died`);
    const lease = 'the Lease of a node';
    return ([0.5, 0.99] as const).flatMap((share) => {
      const p = `p${share * 100}`;
      return [
        one(`failover, ${failoverNodes} nodes: claimed, ${p}`, 'ms', percentile(claimed, share), leaseMs, lease),
        one(`failover, ${failoverNodes} nodes: dialled, ${p}`, 'ms', percentile(dialled, share), leaseMs, lease),
        one(
          `failover, ${failoverNodes} nodes: all send there, ${p}`,
          'ms',
          percentile(followed, share),
          leaseMs,
          lease,
        ),
      ];
    });
  });
}

/** One node that has all placed peers dies. */
async function takeoverRows(nodes: number, count: number, progress: Say): Promise<Row[]> {
  const say: Say = (text) => progress(`${count} peers of one node, ${nodes} nodes: ${text}`);
  return withCluster(nodes, 1, async (cluster) => {
    const [lost = '', ...others] = namesOf(nodes);
    await cluster.addKey();
    const posting = Date.now();
    const peers = await cluster.addRemotes('remote', count);
    const posted = Date.now() - posting;
    await cluster.until({ what: 'dialled', peers });
    for (const name of others) await cluster.setMember(name, true);
    await cluster.until({ what: 'connected', nodes: [lost, ...others] });
    await sleep(20_000);
    let [claimed, dialled] = [0, 0];
    const traffic = await cluster.during(async () => {
      const since = Date.now();
      await cluster.ask({ do: 'kill', node: lost });
      claimed = (await cluster.until({ what: 'taken', peers, from: [lost] })).at - since;
      dialled = (await cluster.until({ what: 'dialled', peers })).at - since;
    }, 1_000);
    const held = new Map<string, number>();
    for (const holder of (await cluster.holders(peers)).values()) held.set(holder, (held.get(holder) ?? 0) + 1);
    const most = Math.max(...held.values());
    const claims = traffic.agents.filter(({ requestURI }) => requestURI.includes('fieldManager=ovpn-agent-claim'));
    say(
      `claimed after ${claimed} ms, dialled after ${dialled} ms; ${held.size} nodes have ${Math.min(...held.values())} to ${most}; ` +
        `${claims.length} claims (${countsOf(claims)}); all ${countsOf(traffic.agents)}; ${traffic.leases} of Leases; ${traffic.events} events`,
    );
    const name = `takeover of ${count}, ${nodes} nodes`;
    return [
      one(`${name}: all claimed`, 'ms', claimed, leaseMs, 'the Lease of a node'),
      one(`${name}: all dialled`, 'ms', dialled, leaseMs, 'the Lease of a node'),
      one(
        `${name}: beyond the Lease`,
        'µs/peer',
        (Math.max(1, dialled - leaseMs) * 1000) / count,
        (posted * 1000) / count,
        'creating it, one client',
      ),
      one(`${name}: claims`, 'per peer', claims.length / count, 1, 'the one that counts'),
      one(`${name}: requests`, 'per peer', traffic.agents.length / count, 1, 'the claim'),
      one(`${name}: requests about Leases`, 'in all', traffic.leases, nodes, 'one of each node'),
      one(`${name}: the node with the most`, 'peers', most, count / (nodes - 1), 'an even share'),
    ];
  });
}
