/**
 * Many nodes of a mesh in one process (mesh-node.ts). The parent says what happens to them, and asks when all of them
 * have heard of it.
 *
 * node mesh-nodes.ts NETWORK
 */
import type { ObjectRef } from '../../../operator/src/api/types.ts';
import { loadKubeAccess } from '../../../operator/src/cluster/kube-access.ts';
import { createLog } from '../../../operator/src/telemetry/log.ts';
import { MeshNode, type Registry } from '../mesh-node.ts';
import type { MeshAnswer, MeshOrder } from '../suites/mesh-cluster.ts';

const [network = ''] = process.argv.slice(2);
const log = createLog({ level: 'error', to: 'stderr' });
const registry: Registry = new Map();
/** What the watches of nodes that are gone had brought. */
const past = { events: 0, bytes: 0 };
/** How often a state that is waited for is looked for. Milliseconds. */
const stepMs = 2;

const find = (name: string): MeshNode => {
  const node = registry.get(name);
  if (node === undefined) throw new Error(`there is no node ${name}`);
  return node;
};

const peerRef = (name: string): ObjectRef => {
  const [namespace = '', of = ''] = name.split('/');
  return { kind: 'VpnPeer', namespace, name: of };
};

async function start(nodes: readonly { readonly name: string; readonly kubeconfig: string }[]): Promise<void> {
  await Promise.all(
    nodes.map(async ({ name, kubeconfig }) => {
      const access = await loadKubeAccess({ kubeconfig });
      await new MeshNode({ name, network, access, log: log.child({ node: name }), registry }).start();
    }),
  );
}

async function kill(name: string): Promise<void> {
  const node = find(name);
  const { events, bytes } = node.watched;
  await node.kill();
  past.events += events;
  past.bytes += bytes;
}

/** Whether something is so by now. */
function isSo(order: Extract<MeshOrder, { do: 'until' }>): boolean {
  const nodes = [...registry.values()];
  const but = (name: string): MeshNode[] => nodes.filter((node) => node.name !== name);
  switch (order.what) {
    case 'connected': {
      const members = new Set(order.nodes);
      const wanted = members.size - 1;
      return nodes.every(
        ({ name, mesh }) => !members.has(name) || (mesh.planned === wanted && mesh.connected === wanted),
      );
    }
    case 'known':
      return but(order.node).every((node) => !order.by.includes(node.name) || node.knows(order.node));
    case 'forgotten':
      return but(order.node).every((node) => !node.knows(order.node));
    case 'followed': {
      const ref = peerRef(order.peer);
      return nodes.every((node) => !order.by.includes(node.name) || node.wayTo(ref) === order.node);
    }
    case 'agreed': {
      const ref = peerRef(order.peer);
      const ways = new Set(nodes.filter(({ name }) => order.by.includes(name)).map((node) => node.wayTo(ref)));
      const [way] = ways;
      return ways.size === 1 && way !== undefined && registry.get(way)?.wayTo(ref) === way;
    }
    case 'taken': {
      // By what any node has heard, which then has all of it.
      const [first] = nodes;
      return order.peers.every((peer) => {
        const holder = first?.holderOf(peerRef(peer));
        return holder !== undefined && !order.from.includes(holder);
      });
    }
    case 'dialled':
      return order.peers.every((peer) => nodes.some((node) => node.wayTo(peerRef(peer)) === node.name));
  }
}

async function until(order: Extract<MeshOrder, { do: 'until' }>): Promise<void> {
  const began = performance.now();
  while (!isSo(order)) {
    if (performance.now() - began > order.withinMs) throw new Error(`not within ${order.withinMs} ms: ${order.what}`);
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
}

function usage(): MeshAnswer {
  const { user, system } = process.cpuUsage();
  let { events, bytes } = past;
  for (const { watched } of registry.values()) {
    events += watched.events;
    bytes += watched.bytes;
  }
  return { at: Date.now(), cpuMs: (user + system) / 1000, events, bytes, rssMiB: process.memoryUsage().rss / 2 ** 20 };
}

async function obey(order: MeshOrder): Promise<void> {
  switch (order.do) {
    case 'start':
      return start(order.nodes);
    case 'kill':
      return kill(order.node);
    case 'connect':
      find(order.node).connect(peerRef(order.peer));
      return;
    case 'until':
      return until(order);
    case 'usage':
      return;
  }
}

process.on('message', ({ id, order }: { id: number; order: MeshOrder }) => {
  void obey(order).then(
    () => process.send?.({ id, answer: usage() }),
    (error: unknown) => process.send?.({ id, failure: String(error) }),
  );
});
process.send?.({ id: 0, answer: usage() });
