import type { ClientKeyMetadata } from '../../openvpn/wrap/client-key.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';

const dayMs = 86_400_000;

/** In the keys that nodes of a mesh make themselves, instead of the time of issue: they do not grow old. */
export const nodeMetadata = { kind: 'user', data: Buffer.from('ovpn-operator node') } as const;

/**
 * The wrapping with clients refused whose tls-crypt-v2 key is too old (openvpn(8), "--tls-crypt-v2-max-age"). OpenVPN
 * writes the time of issue into every client key that it is given no other metadata for.
 *
 * @param clock milliseconds since 1970
 */
export function withKeyAge(wrap: WrapConfig, maxDays: number, clock: () => number): WrapConfig {
  if (wrap.kind !== 'tls-crypt-v2-server') return wrap;
  const acceptMetadata = (metadata: ClientKeyMetadata | undefined): boolean =>
    (metadata?.kind === 'user' && nodeMetadata.data.equals(metadata.data)) ||
    (metadata?.kind === 'timestamp' && clock() - metadata.seconds * 1000 <= maxDays * dayMs);
  return { ...wrap, acceptMetadata };
}
