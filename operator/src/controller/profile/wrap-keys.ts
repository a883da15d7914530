import { randomBytes } from 'node:crypto';
import type { Where } from '../../errors.ts';
import { issueClientKey, type RandomBytes, serverKeyBytes } from '../../openvpn/wrap/client-key.ts';
import { formatClientKey, formatServerKey, parseServerKey } from '../../openvpn/wrap/key-file.ts';

/** Keys of tls-crypt-v2, as the files that OpenVPN writes. Both are secret. */

/** A new key for the server; all client keys are wrapped under it. */
export function newServerWrapKey(random: RandomBytes = randomBytes): string {
  return formatServerKey(random(serverKeyBytes));
}

/**
 * A new key for one client. It says when it was issued, which a network can limit (`maxKeyAgeDays`).
 *
 * @param serverKey the file of the server's key
 * @param now milliseconds since 1970
 * @throws OvpnError KeyMaterialInvalid when the server's key is none
 */
export function newClientWrapKey(
  serverKey: string,
  now: number,
  where: Where = {},
  random: RandomBytes = randomBytes,
): string {
  const metadata = { kind: 'timestamp', seconds: Math.floor(now / 1000) } as const;
  return formatClientKey(issueClientKey(parseServerKey(serverKey, where), metadata, random));
}
