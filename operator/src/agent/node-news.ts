import type { VpnNetworkStatus } from '../api/types.ts';

/**
 * When a node says how it fares. What nodes say of themselves stands in one object, which the agents of all nodes
 * follow: each word of one node is a message to all of them, as long as all that the others have said. So nobody speaks
 * of what all would have to speak of at once: one node that joins, leaves or dies is that to every other. Figures that
 * come and go with peers and pods are said as often as keeps all nodes together at one word a second. Pure.
 */

export type NodeStatus = NonNullable<VpnNetworkStatus['nodes']>[number];

/** How long nodes of a mesh have to be missing: of one that joins, all are connected within a moment. Milliseconds. */
export const meshPatienceMs = 5_000;
/** One word a second, of all nodes together. Milliseconds. */
const perNodeMs = 1_000;
/** In a mesh of up to so many others each one that is missing counts: there are few to say it, and few to hear it. */
const fewNeighbours = 10;

export interface NewsFacts {
  /** How many nodes the network has. */
  readonly nodes: number;
  /** How long ago this node said something. Milliseconds. */
  readonly saidAgoMs: number;
  /** For how long more nodes of the mesh have been missing than may be (`lacksNeighbours`); 0 when they are not. */
  readonly lackingForMs: number;
}

/**
 * In how many milliseconds a status is to be said after another one: 0 for now, Infinity for not before something else
 * changes.
 */
export function sayIn(said: NodeStatus, now: NodeStatus, facts: NewsFacts): number {
  if (withoutFigures(said) !== withoutFigures(now)) return 0;
  const figuresIn = Math.max(0, facts.nodes * perNodeMs - facts.saidAgoMs);
  const counts = said.peers === now.peers && said.attachments === now.attachments ? Infinity : figuresIn;
  return Math.min(counts, meshIn(said.mesh, now.mesh, figuresIn, facts.lackingForMs));
}

type Mesh = NodeStatus['mesh'];

/**
 * Whether so many nodes of a mesh are missing that this node says so by itself. Of few, each: of many, more than one in
 * ten, and more than two, as it is with a node that is cut off. One that is gone from hundreds shows by its own silence.
 */
export function lacksNeighbours(mesh: Mesh): boolean {
  const neighbours = mesh?.neighbours ?? 0;
  return lackOf(mesh) > (neighbours <= fewNeighbours ? 0 : Math.max(2, Math.floor(neighbours / 10)));
}

function meshIn(said: Mesh, now: Mesh, figuresIn: number, lackingForMs: number): number {
  const isSame = said?.neighbours === now?.neighbours && said?.connected === now?.connected;
  if (isSame) return Infinity;
  if (lacksNeighbours(now)) return lacksNeighbours(said) ? figuresIn : Math.max(0, meshPatienceMs - lackingForMs);
  if (lacksNeighbours(said)) return 0;
  // That all are connected is no news, however many they are by now.
  return lackOf(said) > 0 && lackOf(now) === 0 ? figuresIn : Infinity;
}

function lackOf(mesh: Mesh): number {
  return (mesh?.neighbours ?? 0) - (mesh?.connected ?? 0);
}

function withoutFigures(status: NodeStatus): string {
  const { mesh, ...rest } = status;
  return JSON.stringify({ ...rest, peers: 0, attachments: 0, mesh: mesh !== undefined });
}
