import { normaliseFingerprint } from '../../api/certificate-names.ts';
import type { ObjectRef } from '../../api/types.ts';
import { firstMeshPeerId, maxPeerId } from '../../api/vpn-peer.ts';
import type { AuthenticatedClient } from '../../openvpn/session/session-event.ts';
import type { PeerIdentity } from '../../openvpn/tls/peer-identity.ts';

/**
 * How a node of the mesh introduces itself: by lines of peer-info, which count only beside a certificate of the mesh.
 */

const nodeLine = 'UV_OVPN_NODE';
const idLine = 'UV_OVPN_PEER_ID';

/** What a node of the mesh is called, as a peer. */
export function nodeRef(name: string): ObjectRef {
  return { kind: 'Node', name };
}

/** Who a node says it is, and the peer id that it has free for the two of us. */
export interface Introduction {
  readonly node: string;
  readonly peerId: number;
}

/** The lines of peer-info that say so. */
export function introduction(node: string, peerId: number): Record<string, string> {
  return { [nodeLine]: node, [idLine]: String(peerId) };
}

/** What a node of the mesh says; undefined when it does not say who it is. */
export function parseIntroduction({ peerInfo }: Pick<AuthenticatedClient, 'peerInfo'>): Introduction | undefined {
  const node = peerInfo.values.get(nodeLine);
  const digits = peerInfo.values.get(idLine) ?? '';
  const peerId = /^\d{1,8}$/.test(digits) ? Number(digits) : 0;
  return node === undefined || peerId < firstMeshPeerId || peerId > maxPeerId ? undefined : { node, peerId };
}

/**
 * Whether a verified certificate is that of the nodes of a mesh.
 *
 * @param meshName their name; undefined without a mesh
 * @param certificates fingerprints, one of which it has to have, where the name alone proves nothing
 */
export function isOfMesh(
  identity: PeerIdentity,
  meshName: string | undefined,
  certificates: readonly string[] | undefined,
): boolean {
  if (meshName === undefined || identity.commonName !== meshName) return false;
  return certificates === undefined || certificates.includes(normaliseFingerprint(identity.fingerprint));
}
