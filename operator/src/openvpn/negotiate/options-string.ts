import type { Role } from './key-method.ts';

/**
 * The options string of the key method message, by which OpenVPN's two sides compare their configuration
 * ("options consistency check"). A difference only makes a side warn; nothing is decided by it here.
 */

/**
 * Words of a peer's string (OpenVPN's options_string) for what changes the form of its data packets, by the options
 * that it was given. The kernel's driver knows no such form.
 */
const framing: Readonly<Record<string, string>> = {
  'comp-lzo': 'comp-lzo or compress',
  'mtu-dynamic': 'fragment',
};

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

/** Options of the peer by which no data may pass between it and the kernel's driver. */
export function foreignFraming(optionsString: string): string[] {
  const words = new Set(optionsString.split(',').map((option) => option.split(' ', 1)[0]));
  return Object.entries(framing).flatMap(([word, options]) => (words.has(word) ? [options] : []));
}
