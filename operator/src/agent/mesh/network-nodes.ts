import type { NetworkNode, VpnNetwork } from '../../api/types.ts';

/** The nodes of a network, for what is asked with every change of every peer. */
export interface NetworkNodes {
  readonly byName: ReadonlyMap<string, NetworkNode>;
  readonly names: readonly string[];
  /** The first by name; undefined where there are none. */
  readonly first: string | undefined;
}

/** Found by the object: a network that changes is another one. */
export function nodesOf(network: VpnNetwork): NetworkNodes {
  let nodes = known.get(network);
  if (nodes === undefined) {
    const byName = new Map(network.spec.nodes.map((node) => [node.name, node]));
    const names = [...byName.keys()];
    known.set(network, (nodes = { byName, names, first: [...names].sort()[0] }));
  }
  return nodes;
}

const known = new WeakMap<VpnNetwork, NetworkNodes>();
