import { OvpnError } from '../../errors.ts';
import { genericHeader, type GenericFamily, resolveFamily } from '../netlink/generic.ts';
import { NetlinkError } from '../netlink/error.ts';
import { NETLINK_GENERIC, NetlinkSocket, type Outcome, type Request, requestCounters } from '../netlink/socket.ts';
import type { Message, RequestWriter } from '../netlink/message.ts';
import {
  type KeyInfo,
  type NewKey,
  type NewPeer,
  parseKey,
  parsePeer,
  type Peer,
  type PeerSettings,
  writeKey,
  writeKeyRef,
  writePeer,
  writePeerId,
} from './codec.ts';
import { Attr, Command, familyName, type KeySlot, peersGroup } from './uapi.ts';

/** Bytes of struct genlmsghdr in front of a message's attributes. */
const GENL_HDRLEN = 4;

/**
 * Requests of the ovpn family as values, so that many go out in one batch. Each names its device by
 * interface index, which the kernel looks up in the namespace of the socket that sends it.
 */
export class OvpnRequests {
  readonly #family: number;

  constructor(family: GenericFamily) {
    this.#family = family.id;
  }

  peerNew(ifindex: number, peer: NewPeer): Request {
    return this.#request(
      Command.PeerNew,
      ifindex,
      () => `PEER_NEW ${peer.id}`,
      (writer) => writePeer(writer, peer),
    );
  }

  peerSet(ifindex: number, peer: PeerSettings): Request {
    return this.#request(
      Command.PeerSet,
      ifindex,
      () => `PEER_SET ${peer.id}`,
      (writer) => writePeer(writer, peer),
    );
  }

  peerDel(ifindex: number, id: number): Request {
    return this.#request(
      Command.PeerDel,
      ifindex,
      () => `PEER_DEL ${id}`,
      (writer) => writePeerId(writer, id),
    );
  }

  peerGet(ifindex: number, id: number): Request {
    return this.#request(
      Command.PeerGet,
      ifindex,
      () => `PEER_GET ${id}`,
      (writer) => writePeerId(writer, id),
    );
  }

  peerDump(ifindex: number): Request {
    return this.#request(
      Command.PeerGet,
      ifindex,
      () => 'PEER_GET dump',
      () => undefined,
    );
  }

  keyNew(ifindex: number, key: NewKey): Request {
    const name = (): string => `KEY_NEW of peer ${key.peerId}, ${key.slot} slot, key id ${key.keyId}`;
    return this.#request(Command.KeyNew, ifindex, name, (writer) => writeKey(writer, key));
  }

  keyGet(ifindex: number, peerId: number, slot: KeySlot): Request {
    return this.#request(
      Command.KeyGet,
      ifindex,
      () => `KEY_GET of peer ${peerId}, ${slot} slot`,
      (writer) => writeKeyRef(writer, peerId, slot),
    );
  }

  /**
   * Exchanges the two slots. The kernel does so even with an empty secondary slot, which stops
   * transmission: callers check first (drivers/net/ovpn/crypto.c, ovpn_crypto_key_slots_swap).
   */
  keySwap(ifindex: number, peerId: number): Request {
    return this.#request(
      Command.KeySwap,
      ifindex,
      () => `KEY_SWAP of peer ${peerId}`,
      (writer) => writeKeyRef(writer, peerId),
    );
  }

  keyDel(ifindex: number, peerId: number, slot: KeySlot): Request {
    return this.#request(
      Command.KeyDel,
      ifindex,
      () => `KEY_DEL of peer ${peerId}, ${slot} slot`,
      (writer) => writeKeyRef(writer, peerId, slot),
    );
  }

  #request(command: number, ifindex: number, name: () => string, write: (writer: RequestWriter) => void): Request {
    return {
      type: this.#family,
      describe: () => `ovpn ${name()} on interface index ${ifindex}`,
      write: (writer) => {
        writer.raw(headers[command] ?? genericHeader(command));
        writer.u32(Attr.Ifindex, ifindex);
        write(writer);
      },
    };
  }
}

const headers = Object.values(Command).reduce<Buffer[]>((made, command) => {
  made[command] = genericHeader(command);
  return made;
}, []);

/** The ovpn family in one network namespace: requests that are sent at once and waited for. */
export class OvpnFamily {
  readonly requests: OvpnRequests;
  /** Number of the multicast group `peers`. */
  readonly notificationGroup: number;
  readonly familyId: number;
  readonly #socket: NetlinkSocket;

  private constructor(socket: NetlinkSocket, family: GenericFamily) {
    this.#socket = socket;
    this.familyId = family.id;
    this.requests = new OvpnRequests(family);
    this.notificationGroup = family.groups.get(peersGroup) ?? 0;
  }

  /**
   * Opens the family, in the namespace at `namespace` (a path) when given.
   *
   * @throws OvpnError KernelWithoutOvpn when the kernel does not know the family
   * @throws SystemError when the namespace is not there
   */
  static open(namespace?: string, name = familyName, counters = requestCounters()): OvpnFamily {
    const socket = NetlinkSocket.open(NETLINK_GENERIC, namespace, counters);
    try {
      const family = resolveFamily(socket, name);
      if (family === undefined) {
        throw new OvpnError('KernelWithoutOvpn', `this kernel has no generic netlink family "${name}"`);
      }
      return new OvpnFamily(socket, family);
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  get counters(): NetlinkSocket['counters'] {
    return this.#socket.counters;
  }

  close(): void {
    this.#socket.close();
  }

  /** Sends changing requests in order with few system calls; an outcome for each. */
  batch(requests: readonly Request[]): Outcome[] {
    return this.#socket.batch(requests);
  }

  /** Sends one changing request. @throws NetlinkError */
  send(request: Request): void {
    this.#socket.request(request);
  }

  /** One peer, or undefined when the device has no such peer. @throws NetlinkError on anything else */
  getPeer(ifindex: number, id: number): Peer | undefined {
    try {
      return readPeer(this.#socket.get(this.requests.peerGet(ifindex, id)));
    } catch (error) {
      absent(error);
      return undefined;
    }
  }

  /** Many peers by id, with few system calls; those the device does not have are left out. */
  getPeers(ifindex: number, ids: readonly number[]): Map<number, Peer> {
    const requests = ids.map((id) => this.requests.peerGet(ifindex, id));
    const peers = new Map<number, Peer>();
    for (const peer of this.#socket.getAll(requests, readPeer)) if (peer !== undefined) peers.set(peer.id, peer);
    return peers;
  }

  /**
   * All peers of a device. The driver resumes a dump by count and marks no change in between, so on a
   * changing table a peer can be missed or come twice: the caller treats this as a hint for one round.
   */
  dumpPeers(ifindex: number): Peer[] {
    return this.#socket.dump(this.requests.peerDump(ifindex), readPeer);
  }

  /** The key in a slot, or undefined when the slot is empty or the peer gone. */
  getKey(ifindex: number, peerId: number, slot: KeySlot): KeyInfo | undefined {
    try {
      return readKey(this.#socket.get(this.requests.keyGet(ifindex, peerId, slot)));
    } catch (error) {
      absent(error);
      return undefined;
    }
  }

  /** Both slots of many peers, with few system calls. */
  getKeys(ifindex: number, peerIds: readonly number[]): Map<number, KeyInfo[]> {
    const requests = peerIds.flatMap((id) => [
      this.requests.keyGet(ifindex, id, 'primary'),
      this.requests.keyGet(ifindex, id, 'secondary'),
    ]);
    const keys = new Map<number, KeyInfo[]>(peerIds.map((id) => [id, []]));
    for (const key of this.#socket.getAll(requests, readKey)) if (key !== undefined) keys.get(key.peerId)?.push(key);
    return keys;
  }
}

const readPeer = (message: Message): Peer => parsePeer(message.payload.subarray(GENL_HDRLEN));
const readKey = (message: Message): KeyInfo => parseKey(message.payload.subarray(GENL_HDRLEN));

/** ENOENT of a read means "not there"; everything else is a failure. */
function absent(error: unknown): void {
  if (!(error instanceof NetlinkError && error.code === 'ENOENT')) throw error;
}
