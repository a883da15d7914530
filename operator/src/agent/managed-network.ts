import type { Backoff } from '../cluster/backoff.ts';
import type { OvpnError } from '../errors.ts';
import type { Neighbours } from './mesh/neighbours.ts';
import type { NetworkAgent } from './network-agent.ts';
import type { PeerBook } from './peer-book.ts';
import type { NetworkSessions } from './sessions/network-sessions.ts';

/** A VpnNetwork as the node agent manages it. */
export interface ManagedNetwork {
  readonly agent: NetworkAgent;
  readonly book: PeerBook;
  readonly sessions: NetworkSessions;
  readonly backoff: Backoff;
  /** The other nodes of a mesh. */
  readonly neighbours: Neighbours;
  /** False when the node selector leaves this node out. */
  selected: boolean;
  problem: OvpnError | undefined;
  /** Why clients cannot connect: what is wrong with the Secrets of the network. What works goes on. */
  serverProblem: OvpnError | undefined;
  /** When the certificate expires that clients are shown. Milliseconds since 1970; undefined without a server. */
  serverNotAfter: number | undefined;
  /** When the CRL expires by which clients are judged. Milliseconds since 1970; undefined without one that ends. */
  crlNotAfter: number | undefined;
  cancelRetry: (() => void) | undefined;
  /** Calls off the next word about the mesh. */
  cancelMesh: (() => void) | undefined;
  /** Calls off the word that has to wait for its time. */
  cancelFigures: (() => void) | undefined;
}
