import type { KeyInfo, Peer } from '../../kernel/ovpn/codec.ts';
import type { OvpnMode } from '../../kernel/rtnetlink/links.ts';
import type { Way } from '../../kernel/rtnetlink/lookup.ts';
import type { AttachmentReport, NetworkReport } from '../report.ts';

/** What was found out about one packet: all that the explanation (steps.ts) is made of. */
export interface RouteFacts {
  readonly destination: string;
  /** Undefined when the packet begins inside the network. */
  readonly pod: PodFacts | undefined;
  /** Undefined when the packet does not get into a network. */
  readonly network: NetworkFacts | undefined;
}

/** The first part of the way, in the pod's namespace. */
export interface PodFacts {
  /** `namespace/name`, or the path of its network namespace. */
  readonly name: string;
  /** Its interfaces of ours, of all networks. */
  readonly attachments: readonly AttachmentReport[];
  /** Whether its namespace can be entered; when not, nothing else is known. */
  readonly present: boolean;
  readonly way: Way | undefined;
  /** Name of the interface on which the packet leaves. */
  readonly out: string | undefined;
}

/** The second part, in the network's namespace. */
export interface NetworkFacts {
  readonly report: NetworkReport;
  /** Undefined when the pod has no source address for this destination. */
  readonly source: string | undefined;
  /** The interface on which the packet comes in; undefined when the node itself sends it. */
  readonly input: string | undefined;
  /** Where the kernel would send a packet to the source address: it must be `input`, else the filter drops it. */
  readonly sourceOut: string | undefined;
  readonly filterStands: boolean;
  /** Whether the namespace forwards packets of the family. */
  readonly forwards: boolean;
  readonly way: Way;
  /** The interface on which the packet leaves. */
  readonly out: OutFacts | undefined;
  /** The way of an answer from the destination to the source; undefined where there is nothing to answer. */
  readonly answer: { readonly way: Way; readonly out: string | undefined } | undefined;
}

export interface OutFacts {
  readonly name: string;
  readonly up: boolean;
  /** Undefined for an interface that is not of the driver. */
  readonly mode: OvpnMode | undefined;
  /** Bytes. */
  readonly mtu: number;
  /** The driver's peer that gets the packet. */
  readonly peer: PeerFacts | undefined;
  /**
   * What the driver takes as next hop of the destination when a packet comes from there: the peer with this address
   * may send it (drivers/net/ovpn/peer.c, ovpn_peer_check_by_src).
   */
  readonly sourceCheck: string | undefined;
}

export interface PeerFacts {
  readonly peer: Peer;
  readonly keys: readonly KeyInfo[];
  /** `namespace/name` of the VpnPeer, when the agent knows one. */
  readonly name: string | undefined;
}
