/**
 * What the CNI binary and the node agent say to each other over the agent's Unix socket: one JSON object
 * and a newline each way, then the connection closes. No HTTP, so that the binary starts fast and loads
 * nothing. The socket belongs to root and is the permission check (DESIGN.md, Security).
 *
 * This file is the whole contract and is shared by both sides; it imports nothing.
 */

/** Raised when a field changes meaning; both sides refuse another major version with AgentProtocol. */
export const protocolVersion = 1;

export const defaultAgentSocket = '/run/ovpn-operator/agent.sock';

/** A request or reply longer than this is refused: the peer is not one of ours. Bytes. */
export const maxMessageBytes = 256 * 1024;

/** A report of many peers is longer than what the CNI plugin exchanges. Bytes. */
export const maxReportBytes = 256 * maxMessageBytes;

/** Who the sandbox belongs to, from CNI_ARGS; absent outside Kubernetes. */
export interface PodIdentity {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

/** An attachment is identified by what the CNI specification makes unique: container id and interface name. */
export interface AttachmentKey {
  readonly containerId: string;
  readonly ifname: string;
}

export interface AddRequest extends AttachmentKey {
  readonly version: typeof protocolVersion;
  readonly op: 'add';
  readonly network: string;
  /** Path of the sandbox's network namespace, as the runtime gave it in CNI_NETNS. */
  readonly netns: string;
  readonly pod?: PodIdentity;
}

export interface DelRequest extends AttachmentKey {
  readonly version: typeof protocolVersion;
  readonly op: 'del';
  readonly network: string;
  /** Absent when the runtime no longer has the namespace: DEL must succeed all the same. */
  readonly netns?: string;
}

export interface StatusRequest {
  readonly version: typeof protocolVersion;
  readonly op: 'status';
}

/** Asks for a NodeReport (report.ts): what the kernel holds, for a person at the node. */
export interface ReportRequest {
  readonly version: typeof protocolVersion;
  readonly op: 'report';
}

export type AgentRequest = AddRequest | DelRequest | StatusRequest | ReportRequest;

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
