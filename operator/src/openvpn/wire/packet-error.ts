/**
 * Why bytes from the network were refused. Few on purpose: they name counters and log lines. What a peer sent is
 * never quoted.
 *
 * - `opcode`: not a control packet, or one that has no place in this wrapping
 * - `truncated`: ends before its own fields do
 * - `too-long`: longer than any control packet may be
 * - `malformed`: a field holds what the protocol forbids (an all-zero session id, nine acknowledgements)
 * - `unauthenticated`: the tag or HMAC does not fit: another key, or altered bytes
 * - `replayed`: authentic, but seen before or older than what may still come
 * - `client-key`: the wrapped tls-crypt-v2 client key is not of our server key, or was refused
 */
export type PacketErrorReason =
  'opcode' | 'truncated' | 'too-long' | 'malformed' | 'unauthenticated' | 'replayed' | 'client-key';

/**
 * The one error that parsing and unwrapping throw. It stands for a packet to drop, not for something a person has to
 * mend, so it is no OvpnError. It carries no stack trace: whoever floods us would have us pay for one each.
 */
export class PacketError extends Error {
  override readonly name = 'PacketError';
  readonly reason: PacketErrorReason;

  constructor(reason: PacketErrorReason, message: string) {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(message);
    Error.stackTraceLimit = limit;
    this.reason = reason;
  }
}
