import type { VpnNetwork } from '../api/types.ts';
import type { Tracked } from '../cluster/informer.ts';
import type { Labelled } from './caches.ts';

/** Whether a network takes a node in. */
export function isTaking({ spec }: VpnNetwork, { meta }: Tracked<Labelled>): boolean {
  return Object.entries(spec.nodeSelector).every(([label, value]) => meta.labels[label] === value);
}
