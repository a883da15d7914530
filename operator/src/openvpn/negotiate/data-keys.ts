import { type DataCipher, type DataKeys, deriveDataKeys } from '../static-key.ts';
import type { Role } from './key-method.ts';

/**
 * Data keys of a TLS session. The exported bytes have the layout of a static key file: cipher and HMAC key
 * from client to server, then the same from server to client; the roles are those of TLS.
 */

/** RFC draft "OpenVPN wire protocol", key export. Exported without a context. */
export const dataKeysLabel = 'EXPORTER-OpenVPN-datakeys';
export const dynamicTlsCryptLabel = 'EXPORTER-OpenVPN-dynamic-tls-crypt';
export const exportedBytes = 256;

/** The keys for the kernel out of the 256 exported bytes. */
export function tlsDataKeys(exported: Uint8Array, role: Role, cipher: DataCipher): DataKeys {
  if (exported.length !== exportedBytes) {
    throw new RangeError(`data keys come from ${exportedBytes} exported bytes, not ${exported.length}`);
  }
  return deriveDataKeys(exported, {
    cipher,
    direction: role === 'client' ? 'Normal' : 'Inverse',
    derivation: 'None',
    generation: 1,
  });
}
