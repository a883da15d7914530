import type { Claimant } from '../../api/claims.ts';
import type { IdentityFields } from '../../api/certificate-names.ts';
import type { ObjectRef } from '../../api/types.ts';
import type { Keepalive } from '../../kernel/ovpn/codec.ts';
import type { DataCipher } from '../../openvpn/static-key.ts';
import type { PeerChecks } from '../../openvpn/tls/peer-checks.ts';
import type { TlsCredentials } from '../../openvpn/tls/tls-endpoint.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';
import type { ToldOfCluster } from '../access/plan-access.ts';
import type { PeerRoute } from '../desired.ts';

/** What the control channels of a node should look like: pure values, made by plan-sessions.ts. */

/** When keys are replaced. */
export interface RekeyLimits {
  /** 0 leaves it to the other side. */
  readonly seconds: number;
  /** 0 stands for the cipher's own limit. */
  readonly bytes: number;
  readonly packets: number;
  /** How long both keys are accepted before the switch. Milliseconds. */
  readonly transitionMs: number;
}

/** Everything that clients are told alike. */
export interface PushedToAll {
  /** The node's own VPN addresses. */
  readonly gatewayIpv4: string | undefined;
  readonly gatewayIpv6: string | undefined;
  /** Lengths of the pools that peers have their addresses of. */
  readonly lengthIpv4: number;
  readonly lengthIpv6: number;
  readonly routes: readonly string[];
  readonly dnsServers: readonly string[];
  readonly searchDomains: readonly string[];
  readonly mtu: number;
}

/** The server side of a network. */
export interface DesiredServer {
  readonly credentials: TlsCredentials;
  /** When its certificate expires. Milliseconds since 1970. */
  readonly notAfter: number;
  /** When the CRL expires by which it judges clients, and with that refuses all; undefined when it has none that ends. */
  readonly crlNotAfter?: number | undefined;
  readonly wrap: WrapConfig;
  /** For tls-crypt-v2: how old a client's key may be, in days. */
  readonly maxKeyAgeDays?: number | undefined;
  readonly ciphers: readonly DataCipher[];
  readonly rekey: RekeyLimits;
  readonly push: PushedToAll;
  /** The common name by which nodes of the mesh are known; undefined without a mesh. */
  readonly meshName?: string | undefined;
  /**
   * The fingerprint of the certificate of the nodes, normalised, where the CA signs for others, too, and so may have given
   * their name to somebody else; undefined where the name is enough.
   */
  readonly meshCertificate?: string | undefined;
}

/** A client that may dial in. */
export interface DesiredDialIn {
  readonly kind: 'dial-in';
  readonly ref: ObjectRef;
  /** Since when it claims its identity. */
  readonly claimant: Claimant;
  readonly identity: IdentityFields;
  /** Where the network issues certificates: the fingerprints of those that are good, as they are normalised. */
  readonly certificates?: readonly string[] | undefined;
  readonly vpnIpv4: string | undefined;
  readonly vpnIpv6: string | undefined;
  readonly keepalive: Keepalive;
  readonly routes: readonly PeerRoute[];
  /** What it is told of the cluster; undefined: nothing. */
  readonly cluster?: ToldOfCluster | undefined;
}

export interface DesiredRemote {
  readonly host: string;
  readonly port: number;
  readonly transport: 'udp' | 'tcp';
}

/** A server that is dialled. */
export interface DesiredDialOut {
  readonly kind: 'dial-out';
  readonly ref: ObjectRef;
  readonly remotes: readonly DesiredRemote[];
  readonly credentials: TlsCredentials;
  /** When our certificate expires. Milliseconds since 1970. */
  readonly notAfter: number;
  /** When the CRL expires by which the server is judged; undefined when there is none that ends. */
  readonly crlNotAfter?: number | undefined;
  readonly checks: PeerChecks;
  readonly wrap: WrapConfig;
  readonly ciphers: readonly DataCipher[];
  readonly rekey: RekeyLimits;
  readonly routes: readonly string[];
  /** VPN ranges of this network: a remote's own address inside them is not routed to the remote. */
  readonly ownRanges: readonly string[];
  /** Ours when the remote pushes none. */
  readonly keepalive: Keepalive;
  /** Several nodes could have it: each asks before it dials whether it is the one. */
  readonly placed?: boolean | undefined;
  /** A node of the mesh. It has its place on the network's own device, and a remote a device for itself. */
  readonly neighbour?: DialedNeighbour | undefined;
}

/** What a node of the mesh needs to be dialled. */
export interface DialedNeighbour {
  /** Our own name, for it to know who dials. */
  readonly self: string;
  readonly vpnIpv4: string | undefined;
  readonly vpnIpv6: string | undefined;
}

export type DesiredSession = DesiredDialIn | DesiredDialOut;
