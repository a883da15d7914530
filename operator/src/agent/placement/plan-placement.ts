import { createHash } from 'node:crypto';
import { givenUp, isHeldBy, type PlacementReason, standing } from '../../api/placement.ts';
import type { Holder } from '../../api/types.ts';

/**
 * Which node has a peer that is dialled, where several could: pure. The claim in `status.holder` says it, and everybody
 * goes by that; here is decided when a node claims. docs/decisions/0017-placement.md
 */

/** What is known of the node that has a peer: its Lease is renewed, has not been for its time, or was given up. */
export type Liveness = 'alive' | 'silent' | 'released';

/** Nodes claim one after the other, this far apart; the first is quick enough for the others to see it. Milliseconds. */
const staggerMs = 500;
/** The last of many nodes waits no longer than this. */
const longestStaggerMs = 2_000;

/**
 * The place of a node in the order of those that could have a peer: by the highest hash of both (rendezvous hashing), so
 * that all nodes come to the same order, peers spread, and a node that comes or goes changes the order of no others.
 *
 * @returns how many of the nodes go before it
 */
export function rankOf(node: string, uid: string, nodes: readonly string[]): number {
  const own = weight(node, uid);
  return nodes.filter((other) => other !== node && weight(other, uid) > own).length;
}

function weight(node: string, uid: string): string {
  return createHash('sha256').update(`${uid}/${node}`).digest('hex');
}

/** How long a node waits before it claims what nobody has, for those before it to be first. Milliseconds. */
export function staggerOf(rank: number, nodes: number): number {
  return rank * Math.min(staggerMs, longestStaggerMs / Math.max(1, nodes));
}

/** What a node knows of a placed peer. */
export interface PlacementView {
  readonly self: string;
  readonly uid: string;
  readonly holder: Holder | undefined;
  /** Of the holder's node, where that is another. */
  readonly liveness: Liveness;
  /** The nodes of the network. */
  readonly nodes: readonly string[];
  /** Whether this node could have the peer: it is selected, stays, and the network stands here. */
  readonly mayTake: boolean;
  /** Whether it may go on having it: false when the peer or its network selects other nodes now. */
  readonly mayKeep: boolean;
}

export type PlacementStep =
  | { readonly do: 'rest' | 'hold' }
  | { readonly do: 'give-up'; readonly holder: Holder }
  | { readonly do: 'take'; readonly afterMs: number; readonly epoch: number; readonly reason: PlacementReason };

/** What this node does about a placed peer. */
export function nextPlacement(view: PlacementView): PlacementStep {
  const { self, uid, holder, nodes, mayTake, mayKeep } = view;
  if (holder !== undefined && isHeldBy(self, holder)) {
    return mayKeep ? { do: 'hold' } : { do: 'give-up', holder: { ...holder, reason: givenUp } };
  }
  const reason = reasonToTake(holder, view.liveness);
  if (!mayTake || reason === undefined) return { do: 'rest' };
  // Of a node that is lost, all know; it need not be waited for.
  const candidates = reason === 'Placed' ? nodes : nodes.filter((node) => node !== holder?.node || node === self);
  const afterMs = staggerOf(rankOf(self, uid, candidates), candidates.length);
  return { do: 'take', afterMs, epoch: (holder?.epoch ?? 0) + 1, reason };
}

function reasonToTake(holder: Holder | undefined, liveness: Liveness): PlacementReason | undefined {
  if (holder === undefined) return 'Placed';
  if (standing(holder) === undefined || liveness === 'released') return 'NodeReleased';
  return liveness === 'silent' ? 'NodeLost' : undefined;
}
