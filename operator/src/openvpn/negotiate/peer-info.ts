import type { DataCipher } from '../static-key.ts';
import { printable } from './protocol-fault.ts';

/** Peer-info: what a side tells of itself in its key method message, as lines of NAME=VALUE. */

/** The bits of IV_PROTO. */
export const protocolBits = {
  dataV2: 1 << 1,
  /** The server may push without being asked. */
  requestPush: 1 << 2,
  /** Data keys by TLS key export. */
  tlsKeyExport: 1 << 3,
  authPendingKeywords: 1 << 4,
  p2pNegotiation: 1 << 5,
  dnsOption: 1 << 6,
  /** The EXIT message, and `protocol-flags` in a push. */
  exitMessage: 1 << 7,
  authFailedTemporary: 1 << 8,
  dynamicTlsCrypt: 1 << 9,
  /** Never announced: the kernel does not know the format. */
  epochData: 1 << 10,
  dnsOptionV2: 1 << 11,
  pushUpdate: 1 << 12,
} as const;

export interface PeerInfo {
  /** IV_PROTO; 0 when there is none. */
  readonly protocols: number;
  /** IV_CIPHERS in the peer's order, or what IV_NCP=2 stands for; names in upper case, known to us or not. */
  readonly ciphers: readonly string[];
  /** IV_MTU: the peer takes a pushed tun-mtu up to this. */
  readonly maxTunMtu: number | undefined;
  /** IV_VER */
  readonly version: string | undefined;
  /** IV_PLAT */
  readonly platform: string | undefined;
  /** All values, printable. Claims of the peer, good for display only. */
  readonly values: ReadonlyMap<string, string>;
}

const maxValues = 64;
const maxCiphers = 32;

/** Reads peer-info. Total: a line that is none is passed over. */
export function parsePeerInfo(text: string): PeerInfo {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, name, value] = /^([A-Za-z0-9_-]{1,64})=(.*)$/.exec(line.replace(/\r$/, '')) ?? [];
    if (name !== undefined && value !== undefined && values.size < maxValues) {
      values.set(name, printable(value));
    }
  }
  return {
    protocols: decimal(values.get('IV_PROTO')) ?? 0,
    ciphers: parseCiphers(values),
    maxTunMtu: decimal(values.get('IV_MTU')),
    version: values.get('IV_VER'),
    platform: values.get('IV_PLAT'),
    values,
  };
}

export function hasProtocol(info: PeerInfo, bit: number): boolean {
  return (info.protocols & bit) !== 0;
}

const newestKeyLine = 'UV_OVPN_KEY';

/**
 * The line by which a client of ours says, when it renegotiates, which data key is its newest. When the last message of
 * a renegotiation is lost for good, the server has a key that the client has not; OpenVPN's client ends the session then,
 * but ours goes on with the key before, and the server must not send with the one that it never got.
 */
export function newestKeyInfo(keyId: number): Record<string, string> {
  return { [newestKeyLine]: String(keyId) };
}

/** What the client says in that line; undefined when there is none, as of OpenVPN. */
export function newestKeyOf({ values }: PeerInfo): number | undefined {
  const text = values.get(newestKeyLine);
  return text !== undefined && /^[0-7]$/.test(text) ? Number(text) : undefined;
}

export interface OwnPeerInfo {
  readonly version: string;
  readonly ciphers: readonly DataCipher[];
  /** Whether the wrapping can change to dynamic tls-crypt. */
  readonly dynamicTlsCrypt: boolean;
  readonly maxTunMtu: number;
  /** More lines, for example UV_*. */
  readonly extra?: Readonly<Record<string, string>>;
}

/** The peer-info of our client role. */
export function formatPeerInfo(own: OwnPeerInfo): string {
  const protocols =
    protocolBits.dataV2 |
    protocolBits.requestPush |
    protocolBits.tlsKeyExport |
    protocolBits.dnsOption |
    protocolBits.exitMessage |
    protocolBits.authFailedTemporary |
    (own.dynamicTlsCrypt ? protocolBits.dynamicTlsCrypt : 0);
  const lines = {
    IV_VER: own.version,
    IV_PLAT: 'linux',
    IV_TCPNL: '1',
    IV_MTU: String(own.maxTunMtu),
    IV_NCP: '2',
    IV_CIPHERS: own.ciphers.join(':'),
    IV_PROTO: String(protocols),
    ...own.extra,
  };
  return Object.entries(lines)
    .map(([name, value]) => `${name}=${printable(value)}\n`)
    .join('');
}

function parseCiphers(values: ReadonlyMap<string, string>): string[] {
  const listed = values.get('IV_CIPHERS');
  if (listed !== undefined) {
    return listed
      .toUpperCase()
      .split(':', maxCiphers)
      .filter((name) => name !== '');
  }
  // OpenVPN 2.4 says so that it has these two.
  return (decimal(values.get('IV_NCP')) ?? 0) >= 2 ? ['AES-256-GCM', 'AES-128-GCM'] : [];
}

function decimal(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}
