import { randomUUID } from 'node:crypto';
import { systemClock } from '../cluster/clock.ts';
import { loadKubeAccess } from '../cluster/kube-access.ts';
import { Controller } from '../controller/controller.ts';
import { reconcilers } from '../controller/reconcilers.ts';
import { refuseCoreDumps } from '../kernel/libc.ts';
import { startHealthServer } from '../telemetry/health-server.ts';
import type { LogLevel } from '../telemetry/levels.ts';
import { createLog } from '../telemetry/log.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { version } from '../version.ts';
import type { HealthAddress } from './health-address.ts';

/** The options of `ovpn-controller`. */
export interface ControllerRunOptions {
  readonly kubeconfig?: string;
  readonly namespace: string;
  readonly name: string;
  readonly health: HealthAddress;
  readonly logLevel: LogLevel;
}

/** Runs the controller until SIGTERM or SIGINT. Throws when it lost the lead: then it has to be started anew. */
export async function runController(options: ControllerRunOptions): Promise<void> {
  // It holds the private keys of CAs.
  refuseCoreDumps();
  // A restarted container has the name of the one before it, and must not take its lease for its own.
  const identity = `${options.name}_${randomUUID()}`;
  const log = createLog({ level: options.logLevel, base: { controller: options.name } });
  const metrics = new Metrics('controller', { version, log });
  const access = await loadKubeAccess(options.kubeconfig === undefined ? {} : { kubeconfig: options.kubeconfig });
  const controller = new Controller({
    access,
    identity,
    namespace: options.namespace,
    reconcilers,
    clock: systemClock,
    random: Math.random,
    log,
    meter: metrics,
  });
  const stop = (): void => {
    log.info({ event: 'controller.stopping' }, 'stopping; what was decided stays in force');
    void controller.stop();
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  const health = await startHealthServer({ ...options.health, ready: () => controller.health(), metrics, log });
  try {
    if ((await controller.run()) === 'lost') throw new Error('the leadership was lost');
  } finally {
    health.closeAllConnections();
    health.close();
  }
}
