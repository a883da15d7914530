import type { Server } from 'node:http';
import { dirname, join } from 'node:path';
import { detachFolder } from '../agent/attach-protocol.ts';
import { measured } from '../agent/attach-metrics.ts';
import { createAttachServer } from '../agent/attach-server.ts';
import { NodeAgent } from '../agent/node-agent.ts';
import { hostnameLabel } from '../api/placement.ts';
import { ApiSource } from '../cluster/api-source.ts';
import { systemClock } from '../cluster/clock.ts';
import { FolderSource } from '../cluster/folder-source.ts';
import { loadKubeAccess } from '../cluster/kube-access.ts';
import type { ResourceSource } from '../cluster/source.ts';
import { HolderClient, OwnSockets } from '../holder/client.ts';
import { refuseCoreDumps } from '../kernel/libc.ts';
import { requirePrivileges } from '../kernel/privileges.ts';
import { startHealthServer } from '../telemetry/health-server.ts';
import { createLog, type Log } from '../telemetry/log.ts';
import { type Meter, Metrics } from '../telemetry/metrics.ts';
import { version } from '../version.ts';
import type { RunOptions } from './run-options.ts';

/** Runs the node agent until SIGTERM or SIGINT. Stopping leaves the kernel as it is. */
export async function runAgent(options: RunOptions): Promise<void> {
  requirePrivileges();
  refuseCoreDumps();
  const log = createLog({ level: options.logLevel, base: { node: options.node } });
  const metrics = new Metrics('agent', { version, log });
  const source = await makeSource(options, log, metrics);
  const agent = new NodeAgent({
    node: options.node,
    stateDir: options.state,
    detachFolder: join(dirname(options.socket), detachFolder),
    netnsFolder: options.netns,
    namespace: options.namespace,
    source,
    keeper: options.holder === 'none' ? new OwnSockets() : new HolderClient(options.holder),
    clock: systemClock,
    random: Math.random,
    log,
    meter: metrics,
    maxPeerSeries: options.metricsPeers,
    resyncMs: options.resync * 1000,
    statusMs: options.statusInterval * 1000,
    leaseMs: options.nodeLease * 1000,
    restartMs: options.restartGrace * 1000,
  });
  const stop = new Promise<void>((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
  // The socket first: it shows that no other agent serves this node, and DEL works before the resources are known.
  const server = await createAttachServer({
    socketPath: options.socket,
    handle: measured(metrics, (request) => agent.handle(request)),
    log: {
      info: (fields, message) => log.info({ event: 'cni.info', ...fields }, message),
      warn: (fields, message) => log.warn({ event: 'cni.warning', ...fields }, message),
      error: (fields, message) => log.error({ event: 'cni.error', ...fields }, message),
    },
  });
  let health: Server | undefined;
  try {
    if (options.health !== 'off')
      health = await startHealthServer({ ...options.health, ready: () => agent.readiness, metrics, log });
    const started = agent.start().then(() => log.info({ event: 'agent.ready', version }, 'the agent is ready'));
    // A start may take as long as the API server is away.
    await Promise.race([Promise.all([started, stop]), stop]);
    log.info({ event: 'agent.stopping' }, 'stopping; the kernel keeps forwarding');
  } finally {
    health?.closeAllConnections();
    health?.close();
    await server.close();
    await agent.stop();
  }
}

async function makeSource(options: RunOptions, log: Log, meter: Meter): Promise<ResourceSource> {
  if (options.manifests !== undefined) {
    return new FolderSource({
      folder: options.manifests,
      stateDir: options.state,
      log,
      meter,
      nodeLabels: { [hostnameLabel]: options.node, ...Object.fromEntries(options.label) },
    });
  }
  const access = await loadKubeAccess(options.kubeconfig === undefined ? {} : { kubeconfig: options.kubeconfig });
  return new ApiSource({ access, node: options.node, log, meter, namespace: options.namespace });
}
