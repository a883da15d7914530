import { createHash, hkdfSync } from 'node:crypto';
import { issuedServerSecret, secretEntries } from '../../api/issued.ts';
import { formatRef, type NetworkNode, type ObjectRef, refOf, type VpnNetwork } from '../../api/types.ts';
import { isMesh, meshListenerOf } from '../../api/vpn-network.ts';
import { wrapClientKey } from '../../openvpn/wrap/client-key.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';
import type { PeerRoute } from '../desired.ts';
import type { DesiredDialIn, DesiredDialOut, DesiredServer } from '../sessions/desired-session.ts';
import { nodeMetadata } from '../sessions/key-age.ts';
import { nodeRef } from '../sessions/neighbour.ts';
import { notAfterOf, tlsCredentials } from '../sessions/materials.ts';
import { findSecret, minimumTls, rekeyLimits, type SecretLookup } from '../sessions/plan-sessions.ts';

/**
 * The plan of a mesh: what the other nodes of a network are to this one. Of every two nodes one dials the other. Pure.
 */

/** Another node of the network. */
export interface DesiredNeighbour {
  readonly ref: ObjectRef;
  /** The pods of the node, and its own addresses, by the way that leads to it. */
  readonly routes: readonly PeerRoute[];
  /** How it is connected; undefined as long as it cannot be. */
  readonly session: DesiredDialIn | DesiredDialOut | undefined;
}

/** Nodes are nearer to each other than clients, and a node that is gone should be missed soon. Seconds. */
const meshKeepalive = { interval: 3, timeout: 15 };

/**
 * Whether the first of two nodes dials the second. Both come to the same answer, and about half of all nodes dial any
 * one of them.
 */
export function dials(one: string, other: string): boolean {
  const [low = '', high = ''] = [one, other].sort();
  const lowDials = (createHash('sha256').update(`${low}/${high}`).digest()[0] ?? 0) % 2 === 0;
  return (one === low) === lowDials;
}

/**
 * The other nodes of the network; none without a mesh.
 *
 * @param server the plan of the network's server, whose wrapping keys and ciphers the mesh shares
 * @param namespace the operator's own, where the network's Secret is
 * @throws OvpnError SecretMissing, CertificateInvalid
 */
export function planMesh(
  network: VpnNetwork,
  self: string,
  server: DesiredServer | undefined,
  namespace: string,
  lookup: SecretLookup,
): DesiredNeighbour[] {
  const { spec, metadata } = network;
  const listener = meshListenerOf(spec);
  if (!isMesh(spec) || server === undefined || listener === undefined) return [];
  const others = spec.nodes.filter(({ name }) => name !== self);
  if (others.length === 0) return [];
  const credentials = tlsCredentials(
    {
      ...findSecret(lookup, namespace, issuedServerSecret(metadata.name)),
      remedy: 'wait for the controller, which makes it',
    },
    { object: formatRef(refOf(network)), field: 'spec.mesh' },
    minimumTls(network),
    undefined,
    { cert: secretEntries.meshCertificate, key: secretEntries.meshKey },
  );
  const { intervalSeconds, timeoutSeconds } = spec.keepalive;
  const keepalive = {
    interval: Math.min(intervalSeconds, meshKeepalive.interval),
    timeout: Math.min(timeoutSeconds, meshKeepalive.timeout),
  };
  const shared = {
    kind: 'dial-out',
    credentials,
    notAfter: notAfterOf(credentials),
    checks: {
      remoteCertTls: 'server',
      name: { type: 'name', value: metadata.name },
      fingerprints: undefined,
    },
    wrap: clientWrap(server.wrap, self),
    ciphers: spec.dataCiphers,
    rekey: rekeyLimits(network),
    // The far routes of a node change with every peer that comes and goes: they are kept apart (far-routes.ts).
    routes: [],
    ownRanges: [],
    keepalive,
  } as const;
  return others.map((node) => {
    const ref = nodeRef(node.name);
    const [vpnIpv4, vpnIpv6] = [node.addresses.find(isV4), node.addresses.find(isV6)];
    const base = { ref, routes: routesTo(node, node.podBlocks) };
    if (!dials(self, node.name)) {
      const claimant = { ref: { ...ref, namespace: '' }, key: node.name, created: 0 };
      return {
        ...base,
        session: { kind: 'dial-in', ref, claimant, identity: {}, vpnIpv4, vpnIpv6, keepalive, routes: [] },
      };
    }
    const remotes = node.underlayAddresses.map((host) => ({ host, port: listener.port, transport: 'udp' as const }));
    const neighbour = { self, vpnIpv4, vpnIpv6 };
    return { ...base, session: remotes.length === 0 ? undefined : { ...shared, ref, remotes, neighbour } };
  });
}

/** Routes over a node, each by the node's address of its family; what has none is left out, and stays refused. */
export function routesTo(node: Pick<NetworkNode, 'addresses'>, destinations: readonly string[]): PeerRoute[] {
  return destinations.flatMap((destination) => {
    const gateway = node.addresses.find(isV6(destination) ? isV6 : isV4);
    return gateway === undefined ? [] : [{ destination, gateway }];
  });
}

/**
 * The other side of the server's wrapping. With tls-crypt-v2 a node makes itself a key of the server's, always the same
 * one: another would be a new connection.
 */
function clientWrap(wrap: WrapConfig, self: string): WrapConfig {
  switch (wrap.kind) {
    case 'tls-auth':
      return wrap.direction === 'bidirectional' ? wrap : { ...wrap, direction: wrap.direction === 0 ? 1 : 0 };
    case 'tls-crypt-v2-server': {
      const key = Buffer.from(hkdfSync('sha512', wrap.serverKey, '', `ovpn-operator mesh ${self}`, wrappedKeyBytes));
      return { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(wrap.serverKey, key, nodeMetadata) };
    }
    default:
      return wrap;
  }
}

const wrappedKeyBytes = 256;

function isV6(address: string): boolean {
  return address.includes(':');
}

function isV4(address: string): boolean {
  return !isV6(address);
}
