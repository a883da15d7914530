import { randomBytes } from 'node:crypto';
import { PacketError } from '../wire/packet.ts';
import { staticKeyBytes } from './key-half.ts';
import { sivKey, sivOpen, sivSeal, tagBytes, type SivKey } from './tls-crypt.ts';

/**
 * Client keys of tls-crypt-v2 (openvpn(8), "--tls-crypt-v2"). Each client has its own tls-crypt key and, as it cannot
 * read it, the same key wrapped under the server's key. It sends the wrapped key along, so that the server needs to
 * know none: tag(32) ‖ ciphertext of (key ‖ metadata) ‖ length of all this, 16 bits.
 */

export const serverKeyBytes = 128;
export const maxWrappedKeyBytes = 1024;
const lengthBytes = 2;
const minWrappedKeyBytes = tagBytes + staticKeyBytes + lengthBytes;
/** What the server key's owner may put in beside the key, its type byte included. */
export const maxMetadataBytes = maxWrappedKeyBytes - minWrappedKeyBytes;

/** What the issuer of a client key said about it; authentic, and unreadable to the client. */
export type ClientKeyMetadata =
  | { readonly kind: 'user'; readonly data: Buffer }
  /** When the key was issued, in seconds since 1970. */
  | { readonly kind: 'timestamp'; readonly seconds: number }
  | { readonly kind: 'unknown'; readonly type: number; readonly data: Buffer };

const metadataTypes = { user: 0, timestamp: 1 } as const;

export interface ClientKey {
  /** 256 bytes, used as a tls-crypt static key. */
  readonly key: Buffer;
  /** The same, as the client sends it to the server. */
  readonly wrapped: Buffer;
}

export interface UnwrappedClientKey {
  readonly key: Buffer;
  readonly metadata: ClientKeyMetadata | undefined;
}

export type RandomBytes = (count: number) => Buffer;

/** A new key for one client. */
export function issueClientKey(
  serverKey: Uint8Array,
  metadata: ClientKeyMetadata | undefined,
  random: RandomBytes = randomBytes,
): ClientKey {
  const key = random(staticKeyBytes);
  return { key, wrapped: wrapClientKey(serverKey, key, metadata) };
}

/** @throws RangeError when the metadata is too long */
export function wrapClientKey(serverKey: Uint8Array, key: Uint8Array, metadata: ClientKeyMetadata | undefined): Buffer {
  const encoded = formatMetadata(metadata);
  if (encoded.length > maxMetadataBytes) {
    throw new RangeError(`client key metadata has ${encoded.length} bytes of at most ${maxMetadataBytes}`);
  }
  const length = Buffer.allocUnsafe(lengthBytes);
  length.writeUInt16BE(minWrappedKeyBytes + encoded.length);
  const { tag, secret } = sivSeal(serverSivKey(serverKey), length, Buffer.concat([key, encoded]));
  return Buffer.concat([tag, secret, length]);
}

/** @throws PacketError client-key, when it was not wrapped under this server key */
export function unwrapClientKey(serverKey: Uint8Array, wrapped: Buffer): UnwrappedClientKey {
  if (!isWrappedKey(wrapped)) {
    throw new PacketError('client-key', 'has a wrapped client key of a wrong length');
  }
  const length = wrapped.subarray(-lengthBytes);
  const secret = wrapped.subarray(tagBytes, -lengthBytes);
  let plain: Buffer;
  try {
    plain = sivOpen(serverSivKey(serverKey), length, wrapped.subarray(0, tagBytes), secret);
  } catch {
    throw new PacketError('client-key', 'has a client key that was not wrapped under our server key');
  }
  const key = Buffer.from(plain.subarray(0, staticKeyBytes));
  return { key, metadata: parseMetadata(plain.subarray(staticKeyBytes)) };
}

/** The parts of a server key; taken apart once, not for each first packet of a flood. */
const serverSivKeys = new WeakMap<Uint8Array, SivKey>();

function serverSivKey(serverKey: Uint8Array): SivKey {
  const key = serverSivKeys.get(serverKey) ?? sivKey(serverKey, 0);
  serverSivKeys.set(serverKey, key);
  return key;
}

/** Whether the length at its end fits. */
export function isWrappedKey(wrapped: Buffer): boolean {
  return (
    wrapped.length >= minWrappedKeyBytes &&
    wrapped.length <= maxWrappedKeyBytes &&
    wrapped.readUInt16BE(wrapped.length - lengthBytes) === wrapped.length
  );
}

/**
 * Splits a packet from the wrapped key appended to it.
 *
 * @throws PacketError client-key
 */
export function splitWrappedKey(bytes: Buffer): { packet: Buffer; wrapped: Buffer } {
  const length = bytes.length < lengthBytes ? 0 : bytes.readUInt16BE(bytes.length - lengthBytes);
  if (length < minWrappedKeyBytes || length > maxWrappedKeyBytes || length >= bytes.length) {
    throw new PacketError('client-key', 'has no wrapped client key at its end');
  }
  const end = bytes.length - length;
  return { packet: bytes.subarray(0, end), wrapped: bytes.subarray(end) };
}

function formatMetadata(metadata: ClientKeyMetadata | undefined): Buffer {
  switch (metadata?.kind) {
    case undefined:
      return Buffer.alloc(0);
    case 'user':
      return Buffer.concat([Buffer.of(metadataTypes.user), metadata.data]);
    case 'timestamp': {
      const encoded = Buffer.allocUnsafe(9);
      encoded[0] = metadataTypes.timestamp;
      encoded.writeBigInt64BE(BigInt(metadata.seconds), 1);
      return encoded;
    }
    case 'unknown':
      return Buffer.concat([Buffer.of(metadata.type), metadata.data]);
  }
}

function parseMetadata(encoded: Buffer): ClientKeyMetadata | undefined {
  const type = encoded[0];
  if (type === undefined) {
    return undefined;
  }
  const data = Buffer.from(encoded.subarray(1));
  if (type === metadataTypes.user) {
    return { kind: 'user', data };
  }
  if (type === metadataTypes.timestamp && data.length === 8) {
    return { kind: 'timestamp', seconds: Number(data.readBigInt64BE()) };
  }
  return { kind: 'unknown', type, data };
}
