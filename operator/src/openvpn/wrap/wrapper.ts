import type { ControlOpcode, ControlPacket } from '../wire/packet.ts';

/** Milliseconds since 1970, injected so that tests own the time. */
export type Clock = () => number;

/**
 * The wrapping of one session's control packets: authenticates and (tls-crypt) hides them, and keeps the replay
 * counters of both directions.
 */
export interface Wrapper {
  /**
   * The bytes to send. Each call takes a new replay id, so a retransmission is wrapped anew.
   */
  wrap(packet: ControlPacket): Buffer;
  /**
   * The packet in received bytes. The packet counts as seen once it is authentic, even when it is malformed then.
   *
   * @throws PacketError and nothing else, whatever the bytes
   */
  unwrap(bytes: Buffer): ControlPacket;
  /** How many bytes `wrap` adds to the clear form (`formatPacket`) of a packet. */
  overhead(opcode: ControlOpcode, keyId: number): number;
}
