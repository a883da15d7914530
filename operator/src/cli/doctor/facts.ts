import type { NodeReport } from '../../agent/report.ts';
import type { Installed } from '../../install/installer.ts';

/** Something that was looked at, or why it could not be. */
export type Fact<T> = { readonly known: T } | { readonly unknown: string };

/** What was found out about a node: all that findings (findings.ts) are made of. */
export interface NodeFacts {
  readonly privileges: Fact<true>;
  /** As uname(1) prints it. */
  readonly release: string;
  readonly driver: Fact<DriverFacts>;
  /** Whether the kernel answers requests about packet filters. */
  readonly packetFilter: Fact<true>;
  /** Whether something keeps the clock right. */
  readonly clock: Fact<boolean>;
  readonly state: { readonly folder: string; readonly space: Fact<SpaceFacts> };
  /** Undefined where the agent is told to keep its sockets itself. */
  readonly holder: { readonly socket: string; readonly sockets: Fact<readonly string[]> } | undefined;
  readonly cni: {
    readonly binFolder: string;
    readonly confFolder: string;
    /** How the plugin was to be installed, where that is known. */
    readonly mode: 'file' | 'chain' | undefined;
    readonly installed: Fact<Installed>;
  };
  readonly report: Fact<NodeReport>;
  /** Least MTU of the paths that encrypted packets take, in bytes. */
  readonly underlayMtu: Fact<number>;
  /** Sockets that are open on the node, as `udp 1194`. */
  readonly ports: Fact<ReadonlySet<string>>;
  readonly networks: ReadonlyMap<string, NetworkChecks>;
}

export interface DriverFacts {
  readonly present: boolean;
  /** Whether a peer may know us by another id than we know it (OVPN_A_PEER_TX_ID). */
  readonly transmitIds: boolean;
}

export interface SpaceFacts {
  /** Why a file cannot be written; undefined when it can. */
  readonly refused: string | undefined;
  readonly freeBytes: number;
}

/** A network's namespace as the kernel has it. */
export interface NetworkChecks {
  /** Undefined for a sysctl that is not there. */
  readonly sysctls: Fact<ReadonlyMap<string, string | undefined>>;
  readonly filterStands: Fact<boolean>;
}
