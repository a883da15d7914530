/**
 * The netlink family of the ovpn driver (include/uapi/linux/ovpn.h, Documentation/netlink/specs/ovpn.yaml).
 */

export const familyName = 'ovpn';
export const peersGroup = 'peers';

export const Command = {
  PeerNew: 1,
  PeerSet: 2,
  PeerGet: 3,
  PeerDel: 4,
  PeerDelNotification: 5,
  KeyNew: 6,
  KeyGet: 7,
  KeySwap: 8,
  KeySwapNotification: 9,
  KeyDel: 10,
  PeerFloatNotification: 11,
} as const;

/** Top-level attributes. */
export const Attr = { Ifindex: 1, Peer: 2, Keyconf: 3 } as const;

export const PeerAttr = {
  Id: 1,
  RemoteIpv4: 2,
  RemoteIpv6: 3,
  RemoteIpv6ScopeId: 4,
  RemotePort: 5,
  Socket: 6,
  SocketNetnsid: 7,
  VpnIpv4: 8,
  VpnIpv6: 9,
  LocalIpv4: 10,
  LocalIpv6: 11,
  LocalPort: 12,
  KeepaliveInterval: 13,
  KeepaliveTimeout: 14,
  DelReason: 15,
  VpnRxBytes: 16,
  VpnTxBytes: 17,
  VpnRxPackets: 18,
  VpnTxPackets: 19,
  LinkRxBytes: 20,
  LinkTxBytes: 21,
  LinkRxPackets: 22,
  LinkTxPackets: 23,
  TxId: 24,
} as const;

export const KeyconfAttr = { PeerId: 1, Slot: 2, KeyId: 3, CipherAlg: 4, EncryptDir: 5, DecryptDir: 6 } as const;
export const KeydirAttr = { CipherKey: 1, NonceTail: 2 } as const;

const slotNumbers = { primary: 0, secondary: 1 } as const;
/** The transmit key is in the primary slot; both slots receive. */
export type KeySlot = keyof typeof slotNumbers;

const cipherNumbers = { none: 0, 'AES-GCM': 1, 'CHACHA20-POLY1305': 2 } as const;
/** The driver's cipher algorithms; the length of an AES key chooses AES-128, -192 or -256. */
export type CipherAlgorithm = keyof typeof cipherNumbers;

const deleteReasonNames = ['teardown', 'userspace', 'expired', 'transport-error', 'transport-disconnect'] as const;
/** Why the kernel removed a peer (enum ovpn_del_peer_reason). */
export type DeleteReason = (typeof deleteReasonNames)[number] | 'unknown';

export const slotNumber = (slot: KeySlot): number => slotNumbers[slot];
export const slotName = (value: number): KeySlot => (value === 1 ? 'secondary' : 'primary');
export const cipherNumber = (cipher: CipherAlgorithm): number => cipherNumbers[cipher];
export function cipherName(value: number): CipherAlgorithm {
  if (value === 1) return 'AES-GCM';
  return value === 2 ? 'CHACHA20-POLY1305' : 'none';
}
/** A later kernel may know reasons that we do not. */
export const deleteReasonName = (value: number): DeleteReason => deleteReasonNames[value] ?? 'unknown';

/** Peer ids have 24 bits; 0xFFFFFF means "look up by transport address" on receive, so it is not one. */
export const maxPeerId = 0xfffffe;
/** Key ids have three bits on the wire. */
export const maxKeyId = 7;
export const nonceTailBytes = 8;
