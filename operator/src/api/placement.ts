import { isDialOutPeer } from './peer-kind.ts';
import type { Holder, VpnNetwork, VpnPeer } from './types.ts';
import { isMesh } from './vpn-network.ts';

/** The label by which Kubernetes names a node; no two nodes have the same. */
export const hostnameLabel = 'kubernetes.io/hostname';

/** Why a node has a placed peer: reasons of status.holder and of the condition Placed. Never change one's meaning. */
export type PlacementReason = 'Placed' | 'NodeLost' | 'NodeReleased';

/** What a node says of a peer that it has given up; a reason of status.holder. */
export const givenUp = 'GivenUp';

/**
 * Whether a peer goes where a node is free for it: one that is dialled, in a mesh, and not bound to a node by name. One
 * with a static key never: two nodes would start at the same packet id (docs/decisions/0004-static-keys.md).
 */
export function isPlaced({ spec }: Pick<VpnNetwork, 'spec'>, peer: VpnPeer): boolean {
  return isMesh(spec) && isDialOutPeer(peer) && peer.spec.placement.nodeSelector[hostnameLabel] === undefined;
}

/** A claim that still holds: its node has not given the peer up. */
export function standing(holder: Holder | undefined): Holder | undefined {
  return holder?.reason === givenUp ? undefined : holder;
}

/** Whether a placed peer is this node's to dial. */
export function isHeldBy(node: string, holder: Holder | undefined): boolean {
  return standing(holder)?.node === node;
}
