import { createHmac, timingSafeEqual } from 'node:crypto';
import { PacketError } from '../wire/packet.ts';
import type { ReplayId } from './replay.ts';

/**
 * What a wrapping does to one packet. It has keys and no memory; counting and judging replay ids is done outside.
 */
export interface Envelope {
  /** How many bytes it adds to a packet. */
  readonly overhead: number;
  /** @param header opcode, key id and session id: they stay readable */
  seal(header: Buffer, id: ReplayId, body: Buffer): Buffer;
  /**
   * Authenticates a packet and gives its body back.
   *
   * @param bytes at least a clear header
   * @throws PacketError
   */
  open(bytes: Buffer): Opened;
}

export interface Opened {
  /** Missing when the wrapping has no replay protection. */
  readonly id: ReplayId | undefined;
  readonly body: Buffer;
}

/** The HMAC over the parts in this order, without a copy of them. */
export function hmac(digest: string, key: Uint8Array, parts: readonly Buffer[]): Buffer {
  const mac = createHmac(digest, key);
  for (const part of parts) {
    mac.update(part);
  }
  return mac.digest();
}

/**
 * @throws PacketError unauthenticated, when the tags differ; how long it takes tells nothing about where
 */
export function requireSameTag(received: Buffer, computed: Buffer): void {
  if (received.length !== computed.length || !timingSafeEqual(received, computed)) {
    throw new PacketError('unauthenticated', 'has a tag that does not fit');
  }
}
