import type { Role } from './key-method.ts';

/**
 * The options string of the key method message, by which OpenVPN's two sides compare their configuration
 * ("options consistency check"). A difference only makes the peer warn; nothing is decided by it here.
 */

export interface ComparedOptions {
  readonly role: Role;
  readonly transport: 'udp' | 'tcp';
  readonly family: 4 | 6;
  readonly tunMtu: number;
}

export function formatOptionsString({ role, transport, family, tunMtu }: ComparedOptions): string {
  const proto = transport === 'udp' ? `UDPv${family}` : `TCPv${family}_${role.toUpperCase()}`;
  return ['V4', 'dev-type tun', `tun-mtu ${tunMtu}`, `proto ${proto}`, 'key-method 2', `tls-${role}`].join(',');
}
