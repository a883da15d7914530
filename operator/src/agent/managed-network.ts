import type { Backoff } from '../cluster/backoff.ts';
import type { OvpnError } from '../errors.ts';
import type { NetworkAgent } from './network-agent.ts';
import type { PeerBook } from './peer-book.ts';

/** A VpnNetwork as the node agent manages it. */
export interface ManagedNetwork {
  readonly agent: NetworkAgent;
  readonly book: PeerBook;
  readonly backoff: Backoff;
  /** False when the node selector leaves this node out. */
  selected: boolean;
  problem: OvpnError | undefined;
  cancelRetry: (() => void) | undefined;
}
