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
  readonly health: HealthAddress | 'off';
  /** With more peers than this, metrics have none of single peers. */
  readonly metricsPeers: number;
  readonly logLevel: LogLevel;
}
