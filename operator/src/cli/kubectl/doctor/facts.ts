import type { Fact } from '../../doctor/facts.ts';
import type { Finding } from '../../doctor/findings.ts';
import type { OperatorPod } from '../operator-pods.ts';
import type { Seen } from '../read.ts';

/** What was found out about a cluster: all that its findings (findings.ts) are made of. */
export interface ClusterFacts {
  /** The API server's time, in milliseconds. */
  readonly now: number;
  readonly operatorNamespace: string;
  /** The version of this program. */
  readonly version: string;
  readonly definitions: Fact<readonly DefinitionFact[]>;
  readonly pods: Fact<readonly OperatorPod[]>;
  readonly daemonSets: Fact<readonly DaemonSetFact[]>;
  readonly nodes: Fact<readonly NodeFact[]>;
  /** When each node's kubelet last renewed its Lease, by the clock of the node. Milliseconds. */
  readonly nodeLeases: Fact<ReadonlyMap<string, number>>;
  readonly leader: Fact<LeaderFact | undefined>;
  readonly networks: Fact<readonly Seen<'VpnNetwork'>[]>;
  readonly peers: Fact<readonly Seen<'VpnPeer'>[]>;
  readonly keys: Fact<readonly Seen<'VpnKey'>[]>;
  /** Rights of our service accounts that they lack, as `ovpn-agent may not patch vpnpeers/status`. */
  readonly missingRights: Fact<readonly string[]>;
  /** What the nodes' own doctors say. */
  readonly nodeFindings: ReadonlyMap<string, Fact<readonly Finding[]>>;
}

/** One CRD as the API server has it. */
export interface DefinitionFact {
  readonly name: string;
  readonly present: boolean;
  /** Whether the version that this program speaks is served. */
  readonly served: boolean;
  /** Fields that this program knows and the CRD does not: it is older. */
  readonly lacking: readonly string[];
  /** Fields that the CRD has and this program does not know: it is newer. */
  readonly unknown: readonly string[];
}

export interface DaemonSetFact {
  readonly name: string;
  readonly component: string;
  readonly desired: number;
  readonly updated: number;
  readonly ready: number;
  /** Whether its pods are replaced by themselves when it changes. */
  readonly rolls: boolean;
  readonly nodeSelector: Readonly<Record<string, string>>;
}

export interface NodeFact {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly ready: boolean;
  readonly unschedulable: boolean;
  /** As `key=value:effect`. */
  readonly taints: readonly string[];
}

export interface LeaderFact {
  readonly holder: string;
  /** By the clock of the holder. Milliseconds. */
  readonly renewed: number;
  readonly durationSeconds: number;
}

/** A finding of a cluster: of one of its nodes, or of none. */
export interface ClusterFinding extends Finding {
  readonly node?: string;
}
