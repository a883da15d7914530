/** Who holds numbers and blocks: a peer, or a node in one network. */
export type Holder =
  | { readonly kind: 'VpnPeer'; readonly network: string; readonly namespace: string; readonly name: string }
  | { readonly kind: 'Node'; readonly network: string; readonly name: string };

/** A holder as a key of the work queue. No part may hold a slash: all are names of Kubernetes. */
export function holderKey(holder: Holder): string {
  const { kind, network, name } = holder;
  return kind === 'VpnPeer' ? `${kind}/${network}/${holder.namespace}/${name}` : `${kind}/${network}/${name}`;
}

/** The holder of a key that `holderKey` made. */
export function parseHolderKey(key: string): Holder {
  const [kind, network = '', ...rest] = key.split('/');
  if (kind === 'VpnPeer') return { kind, network, namespace: rest[0] ?? '', name: rest[1] ?? '' };
  return { kind: 'Node', network, name: rest[0] ?? '' };
}

/** The holder as a person reads it. */
export function holderText(holder: Holder): string {
  return holder.kind === 'VpnPeer' ? `VpnPeer ${holder.namespace}/${holder.name}` : `Node ${holder.name}`;
}
