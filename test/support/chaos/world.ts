import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DesiredAttachment } from '../../../operator/src/agent/desired.ts';
import type { AgentProcess } from '../hosts.ts';
import { globalAddresses } from '../links.ts';
import { serverAddresses } from '../openvpn.ts';
import type { AttachedPod, World } from './invariants.ts';
import { readNodeKernel } from './node-kernel.ts';
import type { ChaosScene } from './scene.ts';

/** Reads the whole cluster: the API server, all kernels, all agents and the files that they keep. */
export async function readWorld(scene: ChaosScene, filters: World['filters']): Promise<World> {
  const { nodes, clients } = scene;
  const pods = await Promise.all(
    nodes.map(async ({ host, pod }): Promise<AttachedPod> => ({
      node: host.name,
      containerId: pod.call.containerId,
      addresses: await globalAddresses(pod.netns, 'vpn0'),
    })),
  );
  const connected = await Promise.all(
    clients.map(async ({ name, process }) => [name, process.running ? await process.addresses() : []] as const),
  );
  const [network, peers, kernels, reports] = await Promise.all([
    scene.network(),
    scene.peers(),
    Promise.all(nodes.map(({ agent }) => readNodeKernel(agent))),
    Promise.all(nodes.map(({ agent }) => agent.report())),
  ]);
  const records = nodes.flatMap(({ host, agent }) =>
    attachmentsOf(agent).map(({ containerId, addresses }) => [`${host.name}/${containerId}`, addresses] as const),
  );
  return {
    ...{ network, peers, kernels, reports, pods, filters },
    records: new Map(records),
    clients: new Map(connected),
    remotes: new Map([['office', serverAddresses]]),
  };
}

/** What an agent has written down of the pods of its node. */
function attachmentsOf(agent: AgentProcess): DesiredAttachment[] {
  const folder = join(agent.state, 'attachments');
  return readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as DesiredAttachment);
}

/** What grows in a process that forgets to give something back: its descriptors and its timers. */
export async function usage(scene: ChaosScene): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  const descriptors = (name: string, pid: number | undefined): void => {
    if (pid !== undefined) counts.set(`descriptors of the ${name}`, readdirSync(`/proc/${pid}/fd`).length);
  };
  for (const { host, agent } of scene.nodes) {
    descriptors(`agent of ${host.name}`, agent.agentPid);
    descriptors(`holder of ${host.name}`, agent.holderPid);
    counts.set(`timers of the agent of ${host.name}`, timersIn(await agent.metrics()));
  }
  descriptors('controller', scene.controller.pid);
  counts.set('timers of the controller', timersIn(await scene.controller.metrics()));
  return counts;
}

function timersIn(metrics: string): number {
  if (!metrics.includes('nodejs_active_resources_total'))
    throw new Error(`no count of timers among the metrics: ${metrics.slice(0, 500)}`);
  // There is no line for a type of which there is none.
  return Number(/^nodejs_active_resources\{type="Timeout"\} (\d+)$/m.exec(metrics)?.[1] ?? 0);
}
