import { createHash, hkdfSync } from 'node:crypto';
import { OvpnError, type Where } from '../errors.ts';

/**
 * Static keys: the file that `openvpn --genkey secret FILE` writes, and the data-channel keys made of it.
 *
 * The file holds 2048 bits as two halves of 64 bytes cipher key and 64 bytes HMAC key, one half for each
 * direction (openvpn(8), "--secret"). An AEAD data key takes the cipher key's first bytes and, for the
 * constant part of its nonces, the first eight bytes of the HMAC key, as the TLS-negotiated keys do.
 */

const staticKeyBytes = 256;
const halfBytes = 128;
const hmacOffset = 64;
const nonceTailBytes = 8;

/** Ciphers of the data channel, by OpenVPN's names. */
export type DataCipher = 'AES-128-GCM' | 'AES-192-GCM' | 'AES-256-GCM' | 'CHACHA20-POLY1305';

const cipherKeyBytes: Readonly<Record<DataCipher, number>> = {
  'AES-128-GCM': 16,
  'AES-192-GCM': 24,
  'AES-256-GCM': 32,
  'CHACHA20-POLY1305': 32,
};

export type KeyDerivation = 'HKDF-SHA256' | 'None';

export interface DataKeyOptions {
  readonly cipher: DataCipher;
  /** The two ends of a tunnel use opposite directions. */
  readonly direction: 'Normal' | 'Inverse';
  readonly generation: number;
  readonly derivation: KeyDerivation;
}

export interface DirectionKey {
  readonly cipherKey: Uint8Array;
  readonly nonceTail: Uint8Array;
}

/** Keys for one installation, and a name for them that gives nothing away. */
export interface DataKeys {
  readonly encrypt: DirectionKey;
  readonly decrypt: DirectionKey;
  /**
   * SHA-256 over what nonces must not repeat under: the cipher key and nonce tail of the transmit direction.
   * The ledger remembers spent keys by it.
   */
  readonly fingerprint: string;
}

const beginLine = '-----BEGIN OpenVPN Static key V1-----';
const endLine = '-----END OpenVPN Static key V1-----';

/**
 * Parses a static key file into its 256 bytes.
 *
 * @throws OvpnError KeyMaterialInvalid; the message never quotes the material
 */
export function parseStaticKey(text: string, where: Where): Uint8Array {
  // Not by one pattern: on a file of openings without an end it would look for the end from each of them anew.
  const start = text.indexOf(beginLine);
  const end = start < 0 ? -1 : text.indexOf(endLine, start);
  const body = end < 0 ? undefined : text.slice(start + beginLine.length, end);
  if (body === undefined) {
    throw new OvpnError(
      'KeyMaterialInvalid',
      'is not an OpenVPN static key: it has no "OpenVPN Static key V1" block',
      where,
    );
  }
  const hex = body.replaceAll(/\s+/g, '');
  if (!/^[0-9a-fA-F]*$/.test(hex)) {
    throw new OvpnError('KeyMaterialInvalid', 'holds something else than hexadecimal digits in its key block', where);
  }
  if (hex.length !== staticKeyBytes * 2) {
    throw new OvpnError('KeyMaterialInvalid', `holds ${hex.length * 4} bits of key, not ${staticKeyBytes * 8}`, where);
  }
  const key = Buffer.from(hex, 'hex');
  if (key.subarray(0, halfBytes).equals(key.subarray(halfBytes))) {
    // Both ends would then encrypt with one key and repeat each other's nonces.
    throw new OvpnError('KeyMaterialInvalid', 'has the same key for both directions', where);
  }
  return key;
}

/**
 * The data keys of one generation. With HKDF-SHA256 (RFC 5869) every generation and cipher gives
 * unrelated keys, so raising the generation on both ends is a full rotation; with `None` the file's bytes are used as
 * they are and a new generation needs new bytes.
 *
 * @throws OvpnError KeyMaterialInvalid when both ends would encrypt with one key
 */
export function deriveDataKeys(staticKey: Uint8Array, options: DataKeyOptions, where: Where = {}): DataKeys {
  const material = options.derivation === 'None' ? staticKey : expand(staticKey, options);
  const normal = options.direction === 'Normal';
  const encrypt = directionKey(material, normal ? 0 : halfBytes, options.cipher);
  const decrypt = directionKey(material, normal ? halfBytes : 0, options.cipher);
  if (sameKey(encrypt, decrypt)) {
    // The halves differ, but only in bytes that this cipher leaves out.
    throw new OvpnError('KeyMaterialInvalid', `gives the same ${options.cipher} key for both directions`, where);
  }
  const fingerprint = createHash('sha256')
    .update('ovpn-operator data key\0')
    .update(encrypt.cipherKey)
    .update(encrypt.nonceTail)
    .digest('hex');
  return { encrypt, decrypt, fingerprint };
}

function sameKey(one: DirectionKey, other: DirectionKey): boolean {
  return Buffer.compare(one.cipherKey, other.cipherKey) === 0 && Buffer.compare(one.nonceTail, other.nonceTail) === 0;
}

function expand(staticKey: Uint8Array, { generation, cipher }: DataKeyOptions): Uint8Array {
  const info = `ovpn-operator static data key v1|generation ${generation}|${cipher}`;
  return new Uint8Array(hkdfSync('sha256', staticKey, '', info, staticKeyBytes));
}

function directionKey(material: Uint8Array, offset: number, cipher: DataCipher): DirectionKey {
  return {
    cipherKey: material.slice(offset, offset + cipherKeyBytes[cipher]),
    nonceTail: material.slice(offset + hmacOffset, offset + hmacOffset + nonceTailBytes),
  };
}

/** A name for a Secret's static key that can be shown: it changes when the bytes do. */
export function staticKeyFingerprint(staticKey: Uint8Array): string {
  return createHash('sha256').update('ovpn-operator static key\0').update(staticKey).digest('hex').slice(0, 32);
}

/** The text of a static key file with these 256 bytes, as `openvpn --genkey secret FILE` writes it. */
export function formatStaticKey(key: Uint8Array): string {
  const lines = Buffer.from(key)
    .toString('hex')
    .match(/.{1,32}/g);
  return [beginLine, ...(lines ?? []), endLine, ''].join('\n');
}
