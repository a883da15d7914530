import { OvpnError, type Where } from '../../errors.ts';
import { isWrappedKey, serverKeyBytes, type ClientKey } from './client-key.ts';
import { staticKeyBytes } from './key-half.ts';

/**
 * The files of tls-crypt-v2, as `openvpn --genkey tls-crypt-v2-server` and `… tls-crypt-v2-client` write them: PEM
 * blocks of 128 bytes server key, and of 256 bytes client key with the wrapped client key behind. Keys of tls-auth and
 * tls-crypt are static keys (`static-key.ts`).
 */

const serverLabel = 'OpenVPN tls-crypt-v2 server key';
const clientLabel = 'OpenVPN tls-crypt-v2 client key';

/** @throws OvpnError KeyMaterialInvalid; the message never quotes the material */
export function parseServerKey(text: string, where: Where): Buffer {
  const remedy = 'put in a key made by `openvpn --genkey tls-crypt-v2-server FILE`';
  const key = parsePem(text, serverLabel, where, remedy);
  if (key.length !== serverKeyBytes) {
    throw new OvpnError('KeyMaterialInvalid', `holds ${key.length} bytes of key, not ${serverKeyBytes}`, where, {
      remedy,
    });
  }
  return key;
}

export function formatServerKey(key: Uint8Array): string {
  return formatPem(serverLabel, Buffer.from(key));
}

/** @throws OvpnError KeyMaterialInvalid; the message never quotes the material */
export function parseClientKey(text: string, where: Where): ClientKey {
  const remedy =
    "put in a key made by `openvpn --tls-crypt-v2 SERVERKEY --genkey tls-crypt-v2-client FILE` with the server's key";
  const bytes = parsePem(text, clientLabel, where, remedy);
  const wrapped = bytes.subarray(staticKeyBytes);
  if (!isWrappedKey(wrapped)) {
    throw new OvpnError('KeyMaterialInvalid', 'has a wrapped key whose length does not fit', where, { remedy });
  }
  return { key: bytes.subarray(0, staticKeyBytes), wrapped };
}

export function formatClientKey({ key, wrapped }: ClientKey): string {
  return formatPem(clientLabel, Buffer.concat([key, wrapped]));
}

function parsePem(text: string, label: string, where: Where, remedy: string): Buffer {
  const begin = `-----BEGIN ${label}-----`;
  const start = text.indexOf(begin);
  const end = text.indexOf(`-----END ${label}-----`, start);
  if (start < 0 || end < 0) {
    throw new OvpnError('KeyMaterialInvalid', `has no "${label}" block`, where, { remedy });
  }
  const base64 = text.slice(start + begin.length, end).replaceAll(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(base64) || base64.length % 4 !== 0) {
    throw new OvpnError('KeyMaterialInvalid', 'holds something else than base64 in its key block', where, { remedy });
  }
  return Buffer.from(base64, 'base64');
}

function formatPem(label: string, bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? [];
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ''].join('\n');
}
