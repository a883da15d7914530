import { attempt } from '../run.ts';
import { PingStream } from '../stream.ts';
import type { Pod } from '../office.ts';
import { podAddress } from '../office.ts';
import { behindOffice } from '../dialled-office.ts';
import type { ChaosScene } from './scene.ts';

/** From one packet of a stream to the next. Milliseconds. */
const intervalMs = 400;

interface Way {
  readonly name: string;
  readonly netns: string;
  readonly to: string;
}

/** The ways from everybody to everybody: pods, what is behind the remote, and clients. */
export async function allWays(scene: ChaosScene): Promise<Way[]> {
  const pods = scene.nodes.map(({ host, pod }) => ({ name: `pod of ${host.name}`, netns: pod.netns, to: both(pod) }));
  const peers = await scene.peers();
  const clients = scene.clients.map(({ name, host }) => ({
    ...{ name, netns: `/run/netns/${host.namespace}` },
    to: peers.find(({ metadata }) => metadata.name === name)?.status?.allocation?.addresses ?? [],
  }));
  const office = { name: 'office', to: [behindOffice] };
  const ways: Way[] = [];
  for (const from of pods)
    for (const target of [...pods.filter((pod) => pod !== from), ...clients, office])
      for (const to of target.to) ways.push({ name: `${from.name} to ${target.name} (${to})`, netns: from.netns, to });
  for (const from of clients)
    for (const target of pods)
      for (const to of target.to) ways.push({ name: `${from.name} to ${target.name} (${to})`, netns: from.netns, to });
  return ways;
}

const both = (pod: Pod): string[] => [podAddress(pod, 4), podAddress(pod, 6)];

/** The ways on which no ping is answered in two seconds. */
export async function unreached(ways: readonly Way[]): Promise<string[]> {
  const byNetns = Map.groupBy(ways, ({ netns }) => netns);
  const lost = await Promise.all(
    [...byNetns].map(async ([netns, from]) => {
      const pings = from.map(({ to }) => `{ ping -n -q -c1 -W2 ${to} >/dev/null 2>&1 || echo ${to}; } &`);
      const { stdout } = await attempt('nsenter', [`--net=${netns}`, 'sh', '-c', `${pings.join(' ')} wait`]);
      const missing = new Set(stdout.split('\n'));
      return from.filter(({ to }) => missing.has(to)).map(({ name }) => name);
    }),
  );
  return lost.flat();
}

/** Numbered packets on some ways, all the time. */
export class Traffic {
  readonly #streams: readonly { readonly name: string; readonly stream: PingStream }[];

  private constructor(streams: readonly { readonly name: string; readonly stream: PingStream }[]) {
    this.#streams = streams;
  }

  /** From each pod to that of the next node and behind the remote, and from each client to a pod. */
  static async start(scene: ChaosScene): Promise<Traffic> {
    const { nodes, clients } = scene;
    const ways = nodes.flatMap(({ host, pod }, i) => {
      const next = nodes[(i + 1) % nodes.length]?.pod ?? pod;
      return [
        { name: `pod of ${host.name} to the next`, netns: pod.netns, to: podAddress(next, i % 2 === 0 ? 4 : 6) },
        { name: `pod of ${host.name} to the office`, netns: pod.netns, to: behindOffice },
      ];
    });
    for (const [i, { name, host }] of clients.entries()) {
      const to = nodes[(i + 2) % nodes.length]?.pod;
      if (to === undefined) continue;
      ways.push({ name: `${name} to a pod`, netns: `/run/netns/${host.namespace}`, to: podAddress(to, 4) });
    }
    const started = await Promise.all(
      ways.map(async ({ name, netns, to }) => ({ name, stream: await PingStream.start(netns, to, intervalMs) })),
    );
    return new Traffic(started);
  }

  /** Each stream gets answers again; says how much each has lost. */
  async stop(): Promise<string[]> {
    try {
      return await Promise.all(
        this.#streams.map(async ({ name, stream }) => {
          const { sent, lost } = await stream.stop();
          return `${name}: ${lost} of ${sent} lost`;
        }),
      );
    } finally {
      this.kill();
    }
  }

  kill(): void {
    for (const { stream } of this.#streams) stream.kill();
  }
}
