import { join } from 'node:path';
/**
 * A node agent on a folder of manifests, as `ovpn-agent run` starts it, that a parent process can ask to look
 * at everything again (`resync`), or to read its kernel state (`observe`), and to say what that took.
 *
 * node agent.ts MANIFESTS STATE NETNS-FOLDER
 */
import { NetworkKernel } from '../../../operator/src/agent/network-kernel.ts';
import { namespaceName } from '../../../operator/src/agent/names.ts';
import { NodeAgent } from '../../../operator/src/agent/node-agent.ts';
import { type Clock, systemClock } from '../../../operator/src/cluster/clock.ts';
import { FolderSource } from '../../../operator/src/cluster/folder-source.ts';
import { OwnSockets } from '../../../operator/src/holder/client.ts';
import { createLog } from '../../../operator/src/telemetry/log.ts';
import { noMeter } from '../../../operator/src/telemetry/metrics.ts';
import { type AgentAnswer, type AgentQuestion, networkName, nodeName } from '../agent-process.ts';
import { peakKiB } from '../peak.ts';

const [folder = '', stateDir = '', netnsFolder = ''] = process.argv.slice(2);
/** No resync by itself in the middle of a measurement. */
const resyncMs = 86_400_000;

/** The system's clock, with the resync timer under our control. */
class BenchClock implements Clock {
  resync: () => void = () => undefined;

  now(): number {
    return systemClock.now();
  }

  monotonic(): number {
    return systemClock.monotonic();
  }

  after(ms: number, call: () => void): () => void {
    if (ms === resyncMs) this.resync = call;
    return systemClock.after(ms, call);
  }
}

const clock = new BenchClock();
const log = createLog({ to: 'stdout' });
const source = new FolderSource({ folder, stateDir, log });
const agent = new NodeAgent({
  node: nodeName,
  stateDir,
  detachFolder: join(stateDir, 'detach'),
  netnsFolder,
  namespace: 'ovpn-system',
  source,
  keeper: new OwnSockets(),
  clock,
  random: Math.random,
  log,
  meter: noMeter,
  maxPeerSeries: 0,
  leaseMs: 6_000,
  restartMs: 60_000,
  resyncMs,
  // Statuses go with each pass; traffic figures in between would disturb.
  statusMs: resyncMs + 1,
});

const work: Readonly<Record<AgentQuestion, () => Promise<void>>> = {
  settled: () => agent.settled(),
  resync: () => {
    clock.resync();
    return agent.settled();
  },
  observe: async () => {
    const kernel = NetworkKernel.open(namespaceName(networkName), netnsFolder);
    const { peers } = await kernel.observe();
    kernel.close();
    if (peers.size === 0) throw new Error('no peers were observed');
  },
};

async function answer(question: AgentQuestion): Promise<void> {
  const before = agent.writes;
  const start = performance.now();
  await work[question]();
  const ms = performance.now() - start;
  const told: AgentAnswer = { ms, writes: agent.writes - before, peakKiB: peakKiB() };
  process.send?.(told);
}

await agent.start();
for (const { errors } of source.rejections) for (const error of errors) throw error;
process.on('message', (question) => void answer(question as AgentQuestion));
process.send?.({ ms: performance.now(), writes: agent.writes, peakKiB: 0 });
