/**
 * The 256 bytes of a static key are two halves of 64 bytes cipher key and 64 bytes HMAC key (openvpn(8),
 * "--secret"); a cipher or digest takes the first bytes of what it is given. Bytes and not KeyObjects, which cost a
 * server more to make for every client, and to collect, than they save on its few packets.
 */

export const staticKeyBytes = 256;
const halfBytes = 128;
const hmacOffset = 64;

export function cipherKeyOf(staticKey: Uint8Array, half: 0 | 1, bytes: number): Uint8Array {
  return secretKey(staticKey, half * halfBytes, bytes);
}

export function hmacKeyOf(staticKey: Uint8Array, half: 0 | 1, bytes: number): Uint8Array {
  return secretKey(staticKey, half * halfBytes + hmacOffset, bytes);
}

function secretKey(staticKey: Uint8Array, offset: number, bytes: number): Uint8Array {
  return staticKey.subarray(offset, offset + bytes);
}
