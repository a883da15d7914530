/**
 * What the CNI binary and the node agent say to each other over the agent's Unix socket: one JSON object
 * and a newline each way, then the connection closes. No HTTP, so that the binary starts fast and loads
 * nothing. The socket belongs to root and is the permission check (DESIGN.md, Security).
 *
 * This file is the whole contract and is shared by both sides; it imports nothing.
 */

/** Raised when a field changes meaning; both sides refuse another major version with AgentProtocol. */
export const protocolVersion = 2;

export const defaultAgentSocket = '/run/ovpn-operator/agent.sock';

/**
 * Folder beside the agent's socket where the binary leaves, while the agent does not answer, each DEL as a file:
 * the {@link DelRequest} as JSON, written under another name and renamed to `*.json`. Before it serves an ADD the
 * agent does what is there, and removes the files.
 */
export const detachFolder = 'detach';

/**
 * A request or reply longer than this is refused: the peer is not one of ours. Room for a GC of more than 1,000
 * containers with the longest names. Bytes.
 */
export const maxMessageBytes = 512 * 1024;

/** A report of many peers is longer than what the CNI plugin exchanges. Bytes. */
export const maxReportBytes = 256 * maxMessageBytes;

/** Who the sandbox belongs to, from CNI_ARGS; absent outside Kubernetes. */
export interface PodIdentity {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

/** What the CNI specification makes unique within one network configuration: CNI_CONTAINERID and CNI_IFNAME. */
export interface RuntimeAttachment {
  readonly containerId: string;
  /** CNI_IFNAME: in a chain that of the whole chain (`eth0`), not the name of an interface of ours. */
  readonly cniIfname: string;
}

/** The calls of a runtime that belong together: ADD, CHECK and DEL have the same. One can have several interfaces. */
export interface CallKey extends RuntimeAttachment {
  /** The `name` of the CNI network configuration. */
  readonly config: string;
}

/** One interface of ours in a sandbox. */
export interface AttachmentKey {
  readonly containerId: string;
  readonly ifname: string;
}

export interface AddRequest extends CallKey {
  readonly version: typeof protocolVersion;
  readonly op: 'add';
  /**
   * The VpnNetwork to attach to. Absent: the agent chooses, by the pod's annotation `ovpn-operator.io/networks` or the
   * `attach` selectors of the networks; none is a success without attachments.
   */
  readonly network?: string;
  /** With `network` the interface's name; without, what comes before its number: `vpn` makes vpn0, vpn1 … */
  readonly ifname: string;
  /** Path of the sandbox's network namespace, as the runtime gave it in CNI_NETNS. */
  readonly netns: string;
  readonly pod?: PodIdentity;
  /** Static addresses, at most one per family, with or without a prefix length, which is not used. Only with `network`. */
  readonly ips?: readonly string[];
  /** MAC address of the interface. Only with `network`. */
  readonly mac?: string;
  /**
   * Addresses that another IPAM plugin has allocated, with prefix length: the agent allocates none. Only with
   * `network`, and not beside `ips`.
   */
  readonly delegated?: readonly string[];
}

export interface AddResult {
  /** In the order of their interfaces' numbers. With `network` exactly one; without, as many as were chosen. */
  readonly attachments: readonly Attachment[];
}

/** Takes away all that the call has. What is gone already, or was never there, is no error. The result is `{}`. */
export interface DelRequest extends CallKey {
  readonly version: typeof protocolVersion;
  readonly op: 'del';
  /** Absent when the runtime no longer has the namespace: DEL must succeed all the same. */
  readonly netns?: string;
}

/** An interface in the sandbox, as the result of ADD (prevResult) has it. */
export interface ExpectedInterface {
  readonly ifname: string;
  readonly mac?: string;
  /** Bytes. */
  readonly mtu?: number;
  /** With prefix length. */
  readonly addresses: readonly string[];
}

/** Succeeds with `{}`, or fails with AttachmentDeviates, whose message names every deviation. */
export interface CheckRequest extends CallKey {
  readonly version: typeof protocolVersion;
  readonly op: 'check';
  /** As in the ADD. */
  readonly network?: string;
  /** As in the ADD. */
  readonly ifname: string;
  readonly netns: string;
  /** All interfaces of prevResult that are in the sandbox; the agent picks its own. */
  readonly expected: readonly ExpectedInterface[];
}

/** Takes away what the network configuration has and the runtime does not list. The result is `{}`. */
export interface GcRequest {
  readonly version: typeof protocolVersion;
  readonly op: 'gc';
  readonly config: string;
  /** Limits it to attachments of this VpnNetwork. */
  readonly network?: string;
  /** `cni.dev/valid-attachments`. */
  readonly valid: readonly RuntimeAttachment[];
}

export interface StatusRequest {
  readonly version: typeof protocolVersion;
  readonly op: 'status';
  /** Absent: whether the agent can serve ADD at all. */
  readonly network?: string;
}

/**
 * `unavailable`: an ADD can fail (CNI code 50). `limited`: it can fail, and pods that are attached may have no or
 * little connectivity, too (CNI code 51).
 */
export type StatusResult =
  { readonly state: 'ready' } | { readonly state: 'unavailable' | 'limited'; readonly reason: string };

/** Asks for a NodeReport (report.ts): what the kernel holds, for a person at the node. */
export interface ReportRequest {
  readonly version: typeof protocolVersion;
  readonly op: 'report';
}

export type AgentRequest = AddRequest | DelRequest | CheckRequest | GcRequest | StatusRequest | ReportRequest;

export interface AttachedAddress {
  /** Address with prefix length, e.g. `10.81.1.5/32`. */
  readonly address: string;
  readonly gateway: string;
}

export interface AttachedRoute {
  /** Destination prefix, e.g. `192.168.10.0/24`. */
  readonly dst: string;
  readonly gw: string;
  /** Bytes, when the route has an MTU of its own. */
  readonly mtu?: number;
}

/** What stands in the sandbox after ADD: what the CNI result reports. */
export interface Attachment extends AttachmentKey {
  readonly network: string;
  readonly netns: string;
  /** MAC address of the interface inside the sandbox. */
  readonly mac: string;
  readonly mtu: number;
  /** The far end, in the network's namespace. */
  readonly hostInterface: { readonly name: string; readonly mac: string; readonly netns: string };
  readonly addresses: readonly AttachedAddress[];
  readonly routes: readonly AttachedRoute[];
}

export interface AgentFailure {
  /** Name and stable code of the table of errors (errors.ts). */
  readonly name: string;
  readonly code: string;
  readonly message: string;
  /** Whether the same call can succeed later without a change by a person (CNI error code 11). */
  readonly retry: boolean;
}

export type AgentReply<T> =
  { readonly ok: true; readonly result: T } | { readonly ok: false; readonly error: AgentFailure };
