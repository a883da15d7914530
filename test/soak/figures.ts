import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentProcess, Host } from '../support/hosts.ts';
import { KernelView } from '../support/kernel-view.ts';
import { attempt, eventually, run } from '../support/run.ts';

/** What an agent, its holder and the kernel have at a moment. */

/** What a figure may rise by in a whole run; none is one that is only shown. */
export const tolerances: Readonly<Record<string, number | undefined>> = {
  'agent: descriptors': 2,
  'agent: timers': 3,
  'agent: handles': 2,
  'agent: heap, KiB': 4096,
  'agent: outside of the heap, KiB': 4096,
  'agent: resident, KiB': 24_576,
  'holder: descriptors': 2,
  'holder: resident, KiB': 4096,
  'kernel: namespaces': 1,
  'kernel: links': 1,
  'kernel: addresses': 1,
  'kernel: routes': 2,
  'kernel: rules': 1,
  'kernel: lines of nftables': 2,
  'kernel: peers': 1,
  'kernel: keys': 3,
  'kernel: sockets of the node': 3,
  'state: files': 1,
  'state: bytes': 65_536,
};

export type Figures = Readonly<Record<keyof typeof tolerances, number>>;

interface Observation {
  readonly heapUsed: number;
  readonly external: number;
  readonly rss: number;
  readonly timers: number;
  readonly handles: number;
}

const observationOf = (agent: AgentProcess): string => join(agent.folder, 'observation.json');

/** How the agent has to be started, so that it can be asked. */
export function observed(agent: AgentProcess): Readonly<Record<string, string>> {
  return {
    NODE_OPTIONS: `--expose-gc --import=${join(import.meta.dirname, 'observer.ts')}`,
    OVPN_SOAK_OBSERVATION: observationOf(agent),
  };
}

/** @param networks whose namespaces are looked at; `pods` those that are not attached at this moment */
export async function takeFigures(
  agent: AgentProcess,
  networks: readonly string[],
  pods: readonly string[],
): Promise<Figures> {
  const [memory, kernel] = [await observe(agent), await kernelFigures(agent, networks, pods)];
  const kib = (bytes: number): number => Math.round(bytes / 1024);
  const files = filesBelow(agent.state);
  return {
    'agent: descriptors': descriptors(agent.agentPid),
    'agent: timers': memory.timers,
    'agent: handles': memory.handles,
    'agent: heap, KiB': kib(memory.heapUsed),
    'agent: outside of the heap, KiB': kib(memory.external),
    'agent: resident, KiB': kib(memory.rss),
    'holder: descriptors': descriptors(agent.holderPid),
    'holder: resident, KiB': residentKiB(agent.holderPid),
    ...kernel,
    'state: files': files.length,
    'state: bytes': files.reduce((sum, path) => sum + statSync(path).size, 0),
  };
}

async function observe(agent: AgentProcess): Promise<Observation> {
  const path = observationOf(agent);
  rmSync(path, { force: true });
  process.kill(agent.agentPid ?? 0, 'SIGUSR2');
  return eventually('the agent to say what it has', () => {
    try {
      return JSON.parse(readFileSync(path, 'utf8')) as Observation;
    } catch {
      return undefined;
    }
  });
}

async function kernelFigures(
  agent: AgentProcess,
  networks: readonly string[],
  pods: readonly string[],
): Promise<Record<string, number>> {
  const views = networks.map((name) => new KernelView(agent, name));
  const spaces = [hostSpace(agent.host), ...views.map(({ path }) => path), ...pods];
  const count = async (script: string): Promise<number> => {
    const texts = await Promise.all(spaces.map((netns) => run('nsenter', `--net=${netns}`, 'sh', '-ec', script)));
    return texts.flatMap((text) => text.split('\n').filter((line) => line.trim() !== '')).length;
  };
  const dialled = (await Promise.all(views.map((view) => view.dialled()))).flat();
  const slots = [
    ...views.flatMap((view) => view.peers().map(({ id }) => view.slots(id))),
    ...(
      await Promise.all(
        views.map(async (view) =>
          (await view.dialled()).flatMap(({ device, peer }) =>
            peer === undefined ? [] : [view.slots(peer.id, device)],
          ),
        ),
      )
    ).flat(),
  ];
  const sockets = (await attempt('nsenter', [`--net=${hostSpace(agent.host)}`, 'ss', '-Hantu'])).stdout;
  return {
    'kernel: namespaces': readdirSync(agent.netns).length,
    'kernel: links': await count('ip -o link'),
    'kernel: addresses': await count('ip -o addr'),
    'kernel: routes': await count('ip route show table all; ip -6 route show table all'),
    'kernel: rules': await count('ip rule; ip -6 rule'),
    'kernel: lines of nftables': await count('nft list ruleset'),
    'kernel: peers':
      views.flatMap((view) => view.peers()).length + dialled.filter(({ peer }) => peer !== undefined).length,
    'kernel: keys': slots.join('').replaceAll(/[-/]/g, '').length,
    // What a closed connection leaves behind waits a minute by itself.
    'kernel: sockets of the node': sockets.split('\n').filter((line) => line !== '' && !line.includes('TIME-WAIT'))
      .length,
  };
}

const hostSpace = (host: Host): string => `/run/netns/${host.namespace}`;

function descriptors(pid = 0): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function residentKiB(pid = 0): number {
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN);
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
}
