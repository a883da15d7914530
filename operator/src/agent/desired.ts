import type { ObjectRef } from '../api/types.ts';
import type { CipherAlgorithm } from '../kernel/ovpn/uapi.ts';
import type { Endpoint, Keepalive } from '../kernel/ovpn/codec.ts';
import type { DataKeys } from '../openvpn/static-key.ts';
import type { DesiredAccess } from './access/plan-access.ts';
import type { AttachmentKey } from './attach-protocol.ts';

/**
 * What the node should look like. Values are normalised, so that what is equal compares equal with what the
 * kernel reports.
 */

/** A VpnNetwork on this node. */
export interface DesiredNetwork {
  readonly name: string;
  readonly mtu: number;
  /** The node's VPN addresses with the length of their pool, e.g. `10.80.0.1/24`. */
  readonly addresses: readonly string[];
  readonly podBlocks: readonly string[];
  readonly listeners: readonly DesiredListener[];
  /** Destinations that pods reach through the network besides the peers' routes: its own pools. */
  readonly pools: readonly string[];
  /** What peers reach of the cluster; undefined: nothing. */
  readonly access?: DesiredAccess | undefined;
}

export interface DesiredListener {
  readonly name: string;
  readonly protocol: 'UDP' | 'TCP';
  readonly address: string;
  readonly port: number;
}

/** A VpnPeer on this node. */
export interface DesiredPeer {
  readonly ref: ObjectRef;
  readonly id: number;
  readonly txId: number;
  readonly vpnIpv4: string | undefined;
  readonly vpnIpv6: string | undefined;
  readonly remote: Endpoint;
  readonly keepalive: Keepalive;
  readonly listener: string;
  readonly routes: readonly PeerRoute[];
  readonly key: DesiredKey | undefined;
}

/** `destination via gateway`: the gateway is the peer's VPN address of the same family. */
export interface PeerRoute {
  readonly destination: string;
  readonly gateway: string;
}

/** The key that should transmit. */
export interface DesiredKey {
  readonly ref: ObjectRef;
  readonly generation: number;
  readonly keyId: number;
  readonly cipher: CipherAlgorithm;
  readonly keys: DataKeys;
  /**
   * The highest generation that any node has said in the key's status to have installed, 0 for none: what is
   * known when this node's ledger is lost, or when the peer was on another node before.
   */
  readonly publishedGeneration: number;
  /** How long both keys of a rotation are accepted before and after the switch. Milliseconds. */
  readonly transitionMs: number;
}

/** A pod's interface. */
export interface DesiredAttachment extends AttachmentKey {
  readonly network: string;
  /** Path of the sandbox's namespace. */
  readonly netns: string;
  /** Which namespace that was ({@link sandboxId}): the path can name another one later. */
  readonly sandbox: string;
  /** The pod's addresses, without length. */
  readonly addresses: readonly string[];
  readonly mac: string;
}
