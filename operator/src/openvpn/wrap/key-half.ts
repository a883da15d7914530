import { createSecretKey, type KeyObject } from 'node:crypto';

/**
 * The 256 bytes of a static key are two halves of 64 bytes cipher key and 64 bytes HMAC key (openvpn(8),
 * "--secret"); a cipher or digest takes the first bytes of what it is given.
 */

export const staticKeyBytes = 256;
const halfBytes = 128;
const hmacOffset = 64;

export function cipherKeyOf(staticKey: Uint8Array, half: 0 | 1, bytes: number): KeyObject {
  return secretKey(staticKey, half * halfBytes, bytes);
}

export function hmacKeyOf(staticKey: Uint8Array, half: 0 | 1, bytes: number): KeyObject {
  return secretKey(staticKey, half * halfBytes + hmacOffset, bytes);
}

function secretKey(staticKey: Uint8Array, offset: number, bytes: number): KeyObject {
  return createSecretKey(staticKey.subarray(offset, offset + bytes));
}
