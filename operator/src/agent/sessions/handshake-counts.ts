/** Why a handshake came to nothing; a bounded set. */
export type HandshakeFailure =
  /** TLS, a certificate, the time, or what was negotiated: the log says which. */
  | 'failed'
  /** The other end said no: AUTH_FAILED, HALT. */
  | 'refused'
  /** Too many were on their way or began, in all (`limit`) or from one source (`source-limit`). */
  | 'limit'
  | 'source-limit'
  /** Its place was given to another. */
  | 'evicted'
  /** The client began anew. */
  | 'superseded'
  /** A TCP connection that sent no packet. */
  | 'silent';

/** How handshakes of one role went, since this process has the network. */
export interface HandshakeFigures {
  readonly established: number;
  readonly renewed: number;
  readonly failures: ReadonlyMap<HandshakeFailure, number>;
}

/** Counts handshakes. */
export class HandshakeCounts implements HandshakeFigures {
  established = 0;
  renewed = 0;
  readonly failures = new Map<HandshakeFailure, number>();

  fail(reason: HandshakeFailure): void {
    this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1);
  }
}
