import type { HealthAddress } from './health-address.ts';
import type { LogLevel } from '../telemetry/levels.ts';

/** The options of `ovpn-agent run`. */
export interface RunOptions {
  readonly manifests?: string;
  readonly node: string;
  readonly label: readonly [string, string][];
  readonly state: string;
  readonly socket: string;
  readonly holder: string;
  readonly netns: string;
  readonly kubeconfig?: string;
  readonly namespace: string;
  readonly resync: number;
  readonly statusInterval: number;
  /** For how many seconds others take this node for alive that hears nothing more of it. */
  readonly nodeLease: number;
  /** For how many seconds others wait for an agent that ended in order. */
  readonly restartGrace: number;
  readonly health: HealthAddress | 'off';
  /** With more peers than this, metrics have none of single peers. */
  readonly metricsPeers: number;
  readonly logLevel: LogLevel;
}
