import { addressBytes, addressText, isIpv6 } from '../address.ts';
import { AttributeCursor, MalformedMessage, readU16, type RequestWriter } from '../netlink/message.ts';
import {
  Attr,
  type CipherAlgorithm,
  cipherName,
  cipherNumber,
  Command,
  type DeleteReason,
  deleteReasonName,
  KeyconfAttr,
  KeydirAttr,
  type KeySlot,
  PeerAttr,
  slotName,
  slotNumber,
} from './uapi.ts';

/** The remote transport address of a UDP peer. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
  /** Interface index of a link-local IPv6 address; the driver refuses it elsewhere. */
  readonly scopeId?: number;
}

export interface Keepalive {
  /** Seconds without a packet sent after which a ping goes out. */
  readonly interval: number;
  /** Seconds without an authenticated data packet after which the peer is deleted with reason `expired`. */
  readonly timeout: number;
}

/** Settings that PEER_NEW and PEER_SET share; what is undefined is left out of the request. */
export interface PeerSettings {
  /** Receive id: what the remote puts into its data packets. */
  readonly id: number;
  /** Transmit id, when the remote knows us by another one. Kernel 7.1 and newer. */
  readonly txId?: number | undefined;
  /** Required for UDP, forbidden for TCP. */
  readonly remote?: Endpoint | undefined;
  /** Our address towards the remote: on a host with several, the one the remote calls. */
  readonly local?: string | undefined;
  /** Multi-peer devices only, at least one of both families. */
  readonly vpnIpv4?: string | undefined;
  readonly vpnIpv6?: string | undefined;
  /** Both zero disable. */
  readonly keepalive?: Keepalive | undefined;
}

export interface NewPeer extends PeerSettings {
  /** File descriptor of the transport socket, in this process. */
  readonly socket: number;
}

/** A counter pair as the kernel counts it. */
export interface Traffic {
  readonly rxBytes: bigint;
  readonly txBytes: bigint;
  readonly rxPackets: bigint;
  readonly txPackets: bigint;
}

/** What PEER_GET tells. */
export interface Peer {
  readonly id: number;
  readonly txId: number;
  readonly remote: Endpoint | undefined;
  readonly local: string | undefined;
  readonly localPort: number | undefined;
  /** Set when the socket is in another network namespace than the request: ours always are. */
  readonly socketNetnsid: number | undefined;
  readonly vpnIpv4: string | undefined;
  readonly vpnIpv6: string | undefined;
  readonly keepalive: Keepalive;
  /** Inner packets that were authenticated and delivered, or sent. */
  readonly vpn: Traffic;
  /** OpenVPN packets on the wire; counted before authentication on receive. */
  readonly link: Traffic;
}

/** One direction of a key: the cipher key and the last eight bytes of every nonce. */
export interface KeyDirection {
  readonly cipherKey: Uint8Array;
  readonly nonceTail: Uint8Array;
}

export interface NewKey {
  readonly peerId: number;
  readonly slot: KeySlot;
  readonly keyId: number;
  readonly cipher: CipherAlgorithm;
  readonly encrypt: KeyDirection;
  readonly decrypt: KeyDirection;
}

/** What KEY_GET tells; key material never leaves the kernel. */
export interface KeyInfo {
  readonly peerId: number;
  readonly slot: KeySlot;
  readonly keyId: number;
  readonly cipher: CipherAlgorithm;
}

export type Notification =
  | { readonly kind: 'peer-deleted'; readonly ifindex: number; readonly peerId: number; readonly reason: DeleteReason }
  | { readonly kind: 'key-exhausted'; readonly ifindex: number; readonly peerId: number; readonly keyId: number }
  | { readonly kind: 'peer-floated'; readonly ifindex: number; readonly peerId: number; readonly remote: Endpoint };

/** Writes the peer nest of PEER_NEW (with a socket) or PEER_SET (without). */
export function writePeer(writer: RequestWriter, peer: PeerSettings | NewPeer): void {
  writer.nest(Attr.Peer, () => {
    writer.u32(PeerAttr.Id, peer.id);
    if (peer.remote !== undefined) writeEndpoint(writer, peer.remote);
    if ('socket' in peer) writer.u32(PeerAttr.Socket, peer.socket);
    if (peer.vpnIpv4 !== undefined) writer.bytes(PeerAttr.VpnIpv4, addressBytes(peer.vpnIpv4));
    if (peer.vpnIpv6 !== undefined) writer.bytes(PeerAttr.VpnIpv6, addressBytes(peer.vpnIpv6));
    if (peer.local !== undefined) {
      writer.bytes(isIpv6(peer.local) ? PeerAttr.LocalIpv6 : PeerAttr.LocalIpv4, addressBytes(peer.local));
    }
    if (peer.keepalive !== undefined) {
      writer.u32(PeerAttr.KeepaliveInterval, peer.keepalive.interval);
      writer.u32(PeerAttr.KeepaliveTimeout, peer.keepalive.timeout);
    }
    if (peer.txId !== undefined) writer.u32(PeerAttr.TxId, peer.txId);
  });
}

function writeEndpoint(writer: RequestWriter, remote: Endpoint): void {
  writer.bytes(isIpv6(remote.address) ? PeerAttr.RemoteIpv6 : PeerAttr.RemoteIpv4, addressBytes(remote.address));
  if (remote.scopeId !== undefined && remote.scopeId !== 0) writer.u32(PeerAttr.RemoteIpv6ScopeId, remote.scopeId);
  writer.port(PeerAttr.RemotePort, remote.port);
}

/** Writes the peer nest that only names a peer: PEER_GET, PEER_DEL. */
export function writePeerId(writer: RequestWriter, id: number): void {
  writer.nest(Attr.Peer, () => writer.u32(PeerAttr.Id, id));
}

/** Writes the keyconf nest of KEY_NEW. */
export function writeKey(writer: RequestWriter, key: NewKey): void {
  writer.nest(Attr.Keyconf, () => {
    writer.u32(KeyconfAttr.PeerId, key.peerId);
    writer.u32(KeyconfAttr.Slot, slotNumber(key.slot));
    writer.u32(KeyconfAttr.KeyId, key.keyId);
    writer.u32(KeyconfAttr.CipherAlg, cipherNumber(key.cipher));
    writer.nest(KeyconfAttr.EncryptDir, () => writeDirection(writer, key.encrypt));
    writer.nest(KeyconfAttr.DecryptDir, () => writeDirection(writer, key.decrypt));
  });
}

function writeDirection(writer: RequestWriter, direction: KeyDirection): void {
  writer.bytes(KeydirAttr.CipherKey, direction.cipherKey);
  writer.bytes(KeydirAttr.NonceTail, direction.nonceTail);
}

/** Writes the keyconf nest that names a slot (KEY_GET, KEY_DEL) or only a peer (KEY_SWAP). */
export function writeKeyRef(writer: RequestWriter, peerId: number, slot?: KeySlot): void {
  writer.nest(Attr.Keyconf, () => {
    writer.u32(KeyconfAttr.PeerId, peerId);
    if (slot !== undefined) writer.u32(KeyconfAttr.Slot, slotNumber(slot));
  });
}

/** Stands on one top-level attribute of a message. `attributes` starts after the generic header. */
function find(attributes: Buffer, wanted: number): AttributeCursor {
  for (const at = new AttributeCursor(attributes); at.next();) if (at.type === wanted) return at;
  throw new MalformedMessage(`ovpn message without attribute ${wanted}`);
}

/** Parses a PEER_GET reply. @throws MalformedMessage when it is not one */
export function parsePeer(attributes: Buffer): Peer {
  let id = -1;
  let txId = -1;
  let interval = 0;
  let timeout = 0;
  let remoteAddress: string | undefined;
  let remotePort = 0;
  let scopeId: number | undefined;
  let local: string | undefined;
  let localPort: number | undefined;
  let socketNetnsid: number | undefined;
  let vpnIpv4: string | undefined;
  let vpnIpv6: string | undefined;
  const vpn = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };
  const link = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };
  for (const at = find(attributes, Attr.Peer).nested(); at.next();) {
    switch (at.type) {
      case PeerAttr.Id:
        id = at.u32();
        break;
      case PeerAttr.TxId:
        txId = at.u32();
        break;
      case PeerAttr.RemoteIpv4:
      case PeerAttr.RemoteIpv6:
        remoteAddress = parseAddress(at.value());
        break;
      case PeerAttr.RemoteIpv6ScopeId:
        scopeId = at.u32();
        break;
      case PeerAttr.RemotePort:
        remotePort = at.port();
        break;
      case PeerAttr.LocalIpv4:
      case PeerAttr.LocalIpv6:
        local = parseAddress(at.value());
        break;
      case PeerAttr.LocalPort:
        localPort = at.port();
        break;
      case PeerAttr.SocketNetnsid:
        socketNetnsid = at.s32();
        break;
      case PeerAttr.VpnIpv4:
        vpnIpv4 = parseAddress(at.value());
        break;
      case PeerAttr.VpnIpv6:
        vpnIpv6 = parseAddress(at.value());
        break;
      case PeerAttr.KeepaliveInterval:
        interval = at.u32();
        break;
      case PeerAttr.KeepaliveTimeout:
        timeout = at.u32();
        break;
      case PeerAttr.VpnRxBytes:
        vpn.rxBytes = at.uint();
        break;
      case PeerAttr.VpnTxBytes:
        vpn.txBytes = at.uint();
        break;
      case PeerAttr.VpnRxPackets:
        vpn.rxPackets = at.uint();
        break;
      case PeerAttr.VpnTxPackets:
        vpn.txPackets = at.uint();
        break;
      case PeerAttr.LinkRxBytes:
        link.rxBytes = at.uint();
        break;
      case PeerAttr.LinkTxBytes:
        link.txBytes = at.uint();
        break;
      case PeerAttr.LinkRxPackets:
        link.rxPackets = at.uint();
        break;
      case PeerAttr.LinkTxPackets:
        link.txPackets = at.uint();
        break;
    }
  }
  if (id < 0) throw new MalformedMessage('ovpn peer without an id');
  return {
    id,
    // Kernels before 7.1 have one id for both directions.
    txId: txId < 0 ? id : txId,
    remote: endpoint(remoteAddress, remotePort, scopeId),
    local,
    localPort,
    socketNetnsid,
    vpnIpv4,
    vpnIpv6,
    keepalive: { interval, timeout },
    vpn,
    link,
  };
}

function endpoint(address: string | undefined, port: number, scopeId: number | undefined): Endpoint | undefined {
  if (address === undefined) return undefined;
  return scopeId === undefined || scopeId === 0 ? { address, port } : { address, port, scopeId };
}

function parseAddress(value: Buffer): string {
  if (value.length !== 4 && value.length !== 16) {
    throw new MalformedMessage(`ovpn address of ${value.length} bytes`);
  }
  return addressText(value);
}

/** Parses a KEY_GET reply. @throws MalformedMessage when it is not one */
export function parseKey(attributes: Buffer): KeyInfo {
  let peerId = -1;
  let slot = 0;
  let keyId = 0;
  let cipher = 0;
  for (const at = find(attributes, Attr.Keyconf).nested(); at.next();) {
    if (at.type === KeyconfAttr.PeerId) peerId = at.u32();
    else if (at.type === KeyconfAttr.Slot) slot = at.u32();
    else if (at.type === KeyconfAttr.KeyId) keyId = at.u32();
    else if (at.type === KeyconfAttr.CipherAlg) cipher = at.u32();
  }
  if (peerId < 0) throw new MalformedMessage('ovpn key without a peer id');
  return { peerId, slot: slotName(slot), keyId, cipher: cipherName(cipher) };
}

/**
 * Parses a notification of the `peers` group: `payload` includes the generic header.
 *
 * @returns undefined for a command that is not a notification we know
 * @throws MalformedMessage when a known one lacks what it must have
 */
export function parseNotification(payload: Buffer): Notification | undefined {
  if (payload.length < 4) throw new MalformedMessage('generic netlink message without a header');
  const command = payload.readUInt8(0);
  const attributes = payload.subarray(4);
  if (
    command !== Command.PeerDelNotification &&
    command !== Command.KeySwapNotification &&
    command !== Command.PeerFloatNotification
  ) {
    return undefined;
  }
  const ifindex = find(attributes, Attr.Ifindex).u32();
  if (command === Command.KeySwapNotification) {
    const { peerId, keyId } = parseSwap(find(attributes, Attr.Keyconf).nested());
    return { kind: 'key-exhausted', ifindex, peerId, keyId };
  }
  const { peerId, reason, remote } = parsePeerEvent(find(attributes, Attr.Peer).nested());
  if (command === Command.PeerDelNotification) return { kind: 'peer-deleted', ifindex, peerId, reason };
  if (remote === undefined) throw new MalformedMessage('float notification without an address');
  return { kind: 'peer-floated', ifindex, peerId, remote };
}

function parseSwap(at: AttributeCursor): { peerId: number; keyId: number } {
  let peerId = -1;
  let keyId = 0;
  while (at.next()) {
    if (at.type === KeyconfAttr.PeerId) peerId = at.u32();
    // The specification says u32, the driver sends two bytes (drivers/net/ovpn/netlink.c, ovpn_nl_key_swap_notify).
    if (at.type === KeyconfAttr.KeyId) keyId = at.value().length === 2 ? readU16(at.value()) : at.u32();
  }
  if (peerId < 0) throw new MalformedMessage('key notification without a peer id');
  return { peerId, keyId };
}

function parsePeerEvent(at: AttributeCursor): { peerId: number; reason: DeleteReason; remote: Endpoint | undefined } {
  let peerId = -1;
  let reason: DeleteReason = 'unknown';
  let address: string | undefined;
  let port = 0;
  let scopeId: number | undefined;
  while (at.next()) {
    if (at.type === PeerAttr.Id) peerId = at.u32();
    else if (at.type === PeerAttr.DelReason) reason = deleteReasonName(at.u32());
    else if (at.type === PeerAttr.RemoteIpv4 || at.type === PeerAttr.RemoteIpv6) address = parseAddress(at.value());
    else if (at.type === PeerAttr.RemotePort) port = at.port();
    else if (at.type === PeerAttr.RemoteIpv6ScopeId) scopeId = at.u32();
  }
  if (peerId < 0) throw new MalformedMessage('peer notification without an id');
  return { peerId, reason, remote: endpoint(address, port, scopeId) };
}
