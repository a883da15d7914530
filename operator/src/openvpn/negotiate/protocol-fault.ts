/**
 * Something in a peer's message that cannot be used. The message says so in words that can follow "the peer",
 * and never quotes a secret.
 */
export class ProtocolFault extends Error {
  override readonly name = 'ProtocolFault';
}

/** Text from a peer as it may stand in a log or a status: printable, on one line, of bounded length. */
export function printable(text: string, maxLength = 256): string {
  const line = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?');
  return line.length <= maxLength ? line : `${line.slice(0, maxLength)}...`;
}
