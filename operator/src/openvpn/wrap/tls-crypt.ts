import { createCipheriv, createDecipheriv } from 'node:crypto';
import { clearHeaderBytes, PacketError } from '../wire/packet.ts';
import { hmac, requireSameTag, type Envelope } from './envelope.ts';
import { cipherKeyOf, hmacKeyOf } from './key-half.ts';
import { readReplayId, replayIdBytes, writeReplayId } from './replay.ts';

/**
 * tls-crypt (openvpn(8), "--tls-crypt"): packets are authenticated and hidden. On the wire:
 * header ‖ replay id ‖ tag ‖ ciphertext, where the tag is an HMAC-SHA256 over all that is not the tag, and its first
 * half is the start of the AES-256-CTR key stream (an SIV construction: no nonce to run out of).
 */

export const tagBytes = 32;
const ivBytes = 16;
const keyBytes = 32;
const tagOffset = clearHeaderBytes + replayIdBytes;
const bodyOffset = tagOffset + tagBytes;

/** Two keys for one direction. */
export interface SivKey {
  readonly cipher: Uint8Array;
  readonly mac: Uint8Array;
}

/** One half of a static key as tls-crypt and tls-crypt-v2 use it. */
export function sivKey(staticKey: Uint8Array, half: 0 | 1): SivKey {
  return { cipher: cipherKeyOf(staticKey, half, keyBytes), mac: hmacKeyOf(staticKey, half, keyBytes) };
}

/** @param clear what is authenticated but stays readable */
export function sivSeal(key: SivKey, clear: Buffer, plain: Buffer): { tag: Buffer; secret: Buffer } {
  const tag = hmac('SHA256', key.mac, [clear, plain]);
  const cipher = createCipheriv('aes-256-ctr', key.cipher, tag.subarray(0, ivBytes));
  return { tag, secret: cipher.update(plain) };
}

/** @throws PacketError unauthenticated */
export function sivOpen(key: SivKey, clear: Buffer, tag: Buffer, secret: Buffer): Buffer {
  const plain = createDecipheriv('aes-256-ctr', key.cipher, tag.subarray(0, ivBytes)).update(secret);
  requireSameTag(tag, hmac('SHA256', key.mac, [clear, plain]));
  return plain;
}

export type TlsRole = 'client' | 'server';

/** The TLS server sends with the first half of the key, the client with the second. */
export function tlsCryptEnvelope(staticKey: Uint8Array, role: TlsRole): Envelope {
  const outKey = sivKey(staticKey, role === 'server' ? 0 : 1);
  const inKey = sivKey(staticKey, role === 'server' ? 1 : 0);
  return {
    overhead: replayIdBytes + tagBytes,
    seal(header, id, body) {
      const clear = Buffer.allocUnsafe(tagOffset);
      header.copy(clear);
      writeReplayId(id, clear, clearHeaderBytes);
      const { tag, secret } = sivSeal(outKey, clear, body);
      return Buffer.concat([clear, tag, secret]);
    },
    open(bytes) {
      if (bytes.length < bodyOffset) {
        throw new PacketError('truncated', 'ends before its replay id and tag do');
      }
      const clear = bytes.subarray(0, tagOffset);
      const body = sivOpen(inKey, clear, bytes.subarray(tagOffset, bodyOffset), bytes.subarray(bodyOffset));
      return { id: readReplayId(bytes, clearHeaderBytes), body };
    },
  };
}
