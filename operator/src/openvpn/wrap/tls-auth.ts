import { clearHeaderBytes, PacketError } from '../wire/packet.ts';
import { hmac, requireSameTag, type Envelope } from './envelope.ts';
import { hmacKeyOf } from './key-half.ts';
import { readReplayId, replayIdBytes, writeReplayId } from './replay.ts';

/**
 * tls-auth (openvpn(8), "--tls-auth"): packets are readable but carry an HMAC. On the wire:
 * header ‖ HMAC ‖ replay id ‖ body, where the HMAC is over replay id ‖ header ‖ body.
 */

/** The digests of `--auth` that tls-auth takes here, by OpenVPN's names. */
export type TlsAuthDigest = 'SHA1' | 'SHA256' | 'SHA512';

const digestBytes: Readonly<Record<TlsAuthDigest, number>> = { SHA1: 20, SHA256: 32, SHA512: 64 };

/** `--key-direction`: 0 on one end and 1 on the other, or the same key both ways. */
export type KeyDirection = 0 | 1 | 'bidirectional';

export function tlsAuthEnvelope(staticKey: Uint8Array, digest: TlsAuthDigest, direction: KeyDirection): Envelope {
  const tagBytes = digestBytes[digest];
  const outKey = hmacKeyOf(staticKey, direction === 1 ? 1 : 0, tagBytes);
  const inKey = hmacKeyOf(staticKey, direction === 0 ? 1 : 0, tagBytes);
  const idOffset = clearHeaderBytes + tagBytes;
  const bodyOffset = idOffset + replayIdBytes;
  return {
    overhead: tagBytes + replayIdBytes,
    seal(header, id, body) {
      const replayId = Buffer.allocUnsafe(replayIdBytes);
      writeReplayId(id, replayId, 0);
      const tag = hmac(digest, outKey, [replayId, header, body]);
      return Buffer.concat([header, tag, replayId, body]);
    },
    open(bytes) {
      if (bytes.length < bodyOffset) {
        throw new PacketError('truncated', 'ends before its HMAC and replay id do');
      }
      const header = bytes.subarray(0, clearHeaderBytes);
      const replayId = bytes.subarray(idOffset, bodyOffset);
      const body = bytes.subarray(bodyOffset);
      requireSameTag(bytes.subarray(clearHeaderBytes, idOffset), hmac(digest, inKey, [replayId, header, body]));
      return { id: readReplayId(bytes, idOffset), body };
    },
  };
}
