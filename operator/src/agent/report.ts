import type { Condition, PeerKind } from '../api/types.ts';

/** What the agent tells about its node, for `ovpn-agent status`: read from the kernel when it is asked for. */
export interface NodeReport {
  readonly node: string;
  /** Whether all resources are known, so that what is not wanted may be removed. */
  readonly sourcesComplete: boolean;
  /**
   * Netlink requests that changed something since the agent started, and how often a network was read whole
   * and compared. On a settled node `writes` stands still while `rounds` goes on.
   */
  readonly netlink: { readonly writes: number; readonly rounds: number };
  /**
   * The Lease by which others know that this node lives, as long as it has peers that another could dial: when it was
   * last renewed (milliseconds), whether others have to take the node for alive, and how many peers hang on it.
   */
  readonly lease:
    { readonly renewedAgoMs: number | undefined; readonly held: boolean; readonly peers: number } | undefined;
  readonly rejections: readonly {
    readonly origin: string;
    readonly object: string | undefined;
    readonly errors: readonly string[];
  }[];
  readonly networks: readonly NetworkReport[];
}

export interface NetworkReport {
  readonly name: string;
  readonly namespace: string;
  /** Where the namespace is mounted; undefined until it stands. */
  readonly netns: string | undefined;
  readonly device: string | undefined;
  readonly mtu: number | undefined;
  readonly addresses: readonly string[];
  readonly listeners: readonly string[];
  readonly problem: string | undefined;
  readonly peers: readonly PeerReport[];
  /** The other nodes of a mesh. */
  readonly neighbours: readonly NeighbourReport[];
  readonly attachments: readonly AttachmentReport[];
}

export interface NeighbourReport {
  readonly node: string;
  readonly peerId: number | undefined;
  readonly endpoint: string | undefined;
  readonly podBlocks: readonly string[];
  readonly connected: boolean;
  /** Why it is not. */
  readonly message: string;
}

export interface PeerReport {
  readonly name: string;
  readonly kind: PeerKind;
  /** In a mesh: the node that has the peer. */
  readonly holder: string | undefined;
  /** Undefined while a peer with a control channel is not connected. */
  readonly peerId: number | undefined;
  readonly addresses: readonly string[];
  readonly endpoint: string | undefined;
  /** What a peer with a control channel has agreed on. */
  readonly cipher: string | undefined;
  /** Key ids in the primary and secondary slot. */
  readonly keys: { readonly primary: number | undefined; readonly secondary: number | undefined };
  readonly keyGeneration: number | undefined;
  readonly routes: readonly string[];
  /** Addresses and destinations that its spec asks for, whether they are in force or not. */
  readonly claims: readonly string[];
  readonly rxBytes: number;
  readonly txBytes: number;
  readonly rxPackets: number;
  readonly txPackets: number;
  readonly ready: Condition['status'];
  readonly reason: string;
  readonly message: string;
}

export interface AttachmentReport {
  readonly containerId: string;
  readonly ifname: string;
  /** The sandbox's network namespace, as the runtime named it. */
  readonly netns: string;
  readonly pod: string | undefined;
  readonly addresses: readonly string[];
}
