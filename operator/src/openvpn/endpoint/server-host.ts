import type { Scheduler } from '../session/scheduler.ts';
import type { SessionDrop } from '../session/session.ts';
import type { PeerIdentity } from '../tls/peer-identity.ts';
import type { DropReason, StatelessStart } from '../wrap/stateless-start.ts';
import type { Clock } from '../wrap/wrapper.ts';
import type { BeginLimit, BeginRefusal } from './begin-limit.ts';
import type { HalfOpenPlaces, Refusal } from './half-open.ts';
import type { Path } from './path.ts';
import type { ServedClient, ServerOwner, ServerSettings } from './server-settings.ts';

/** What the parts of one server share. */
export interface ServerHost {
  /** The present ones. */
  readonly settings: ServerSettings;
  /** For the present wrapping. */
  readonly start: StatelessStart;
  readonly owner: ServerOwner;
  readonly scheduler: Scheduler;
  readonly random: (bytes: number) => Buffer;
  readonly clock: Clock;
  readonly halfOpen: HalfOpenPlaces;
  readonly begins: BeginLimit;
  readonly counters: ServerCounters;
  /** Authenticated and not ended. */
  readonly clients: Set<ServedClient>;
  /** @param proven whether the source has shown that it receives packets at its address */
  failed(path: Path, listener: string, reason: string, proven: boolean, identity?: PeerIdentity): void;
}

/** Counts since the start. */
export class ServerCounters {
  /** Answers to first packets on UDP. */
  replies = 0;
  /** Sessions begun, and sessions of an earlier program gone on with. */
  begun = 0;
  resumed = 0;
  authenticated = 0;
  established = 0;
  /** Sessions that came to nothing before they authenticated. */
  failed = 0;
  /** Handshakes turned away because too many were on their way, in all and from one source. */
  refusedFull = 0;
  refusedSourceFull = 0;
  /** Handshakes that were not begun because too many had been in the last time, in all and from one source. */
  refusedRate = 0;
  refusedSourceRate = 0;
  /** Handshakes whose place another got: they stood still, or their source had the most. */
  evicted = 0;
  /** Handshakes given up because their client began anew. */
  superseded = 0;
  /** TCP connections that sent no packet. */
  silentConnections = 0;
  /** Packets passed over, by the reason. */
  readonly dropped = new Map<DropReason | SessionDrop, number>();

  drop(reason: DropReason | SessionDrop): void {
    this.dropped.set(reason, (this.dropped.get(reason) ?? 0) + 1);
  }
}

export const evictedWords =
  'its place was given to another: too many handshakes are on their way, and it stood still or its source had the most';

/** Counts and reports a handshake that is not begun. */
export function turnedAway(host: ServerHost, path: Path, listener: string, refusal: Refusal | BeginRefusal): void {
  const { counters, settings } = host;
  const { halfOpen, halfOpenPerSource } = settings.limits;
  const [counter, words] = (
    {
      full: ['refusedFull', `${halfOpen} handshakes are on their way, which is the limit`],
      'source-full': [
        'refusedSourceFull',
        `${halfOpenPerSource} handshakes from the same address are on their way, which is the limit`,
      ],
      rate: ['refusedRate', 'too many handshakes began within a short time'],
      'source-rate': ['refusedSourceRate', 'too many handshakes from the same address began within a short time'],
    } as const
  )[refusal];
  counters[counter] += 1;
  host.failed(path, listener, words, true);
}
