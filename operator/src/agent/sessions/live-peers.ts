import { formatRef, type ObjectRef } from '../../api/types.ts';
import { firstMeshPeerId, maxPeerId, maxStaticPeerId } from '../../api/vpn-peer.ts';
import { describe, OvpnError } from '../../errors.ts';
import { NetlinkError } from '../../kernel/netlink/error.ts';
import type { Outcome, Request } from '../../kernel/netlink/socket.ts';
import type { NewPeer, Peer } from '../../kernel/ovpn/codec.ts';
import type { OvpnRequests } from '../../kernel/ovpn/family.ts';
import type { CipherAlgorithm } from '../../kernel/ovpn/uapi.ts';
import { deleteRoute, type Route, setRoute } from '../../kernel/rtnetlink/routes.ts';
import type { DataCipher, DataKeys } from '../../openvpn/static-key.ts';
import type { Log } from '../../telemetry/log.ts';
import { kernelRefused } from '../key-rotation.ts';
import type { KeySlots } from '../key-slots.ts';
import { newPeer } from '../new-peer.ts';
import type { PeerMemory } from '../peer-memory.ts';

/**
 * The kernel's side of peers that have a control session: made when a handshake is done, gone when the session is.
 * Unlike static peers they are not mended: a key is installed once in its life, so what the kernel lost needs a new
 * handshake.
 */

/** Peers with a session have ids from here on, static peers below. */
export const firstSessionId = maxStaticPeerId + 1;

/** What of the kernel this needs; `undefined` while the network's namespace is not open. */
export interface LiveKernel {
  readonly requests: OvpnRequests;
  ovpnBatch(requests: readonly Request[]): Outcome[];
  tryChange(requests: readonly Request[]): Outcome[];
  getPeer(ifindex: number, id: number): Peer | undefined;
  observePeers(
    ifindex: number,
    ids: readonly number[],
  ): ReadonlyMap<number, { readonly peer: Peer | undefined; readonly keys: KeySlots }>;
}

/** A data key as a session gives it out. */
export interface SessionKey {
  /** OpenVPN's key id, 0 to 7. */
  readonly keyId: number;
  readonly cipher: DataCipher;
  readonly keys: DataKeys;
}

export interface NewLivePeer {
  readonly ref: ObjectRef;
  /** The device, by its index in the network's namespace. */
  readonly ifindex: number;
  readonly settings: NewPeer;
  readonly routes: readonly Route[];
}

/** A peer in the kernel, and whom it stands for. */
export interface LivePeer {
  readonly ref: ObjectRef;
  readonly ifindex: number;
  readonly id: number;
  readonly routes: readonly Route[];
}

export class LivePeers {
  readonly #network: string;
  readonly #kernel: () => LiveKernel | undefined;
  readonly #memory: PeerMemory;
  readonly #log: Log;
  readonly #peers = new Map<string, LivePeer>();
  #lastId = firstSessionId - 1;

  constructor(options: {
    readonly network: string;
    readonly kernel: () => LiveKernel | undefined;
    readonly memory: PeerMemory;
    readonly log: Log;
  }) {
    this.#network = options.network;
    this.#kernel = options.kernel;
    this.#memory = options.memory;
    this.#log = options.log;
  }

  get size(): number {
    return this.#peers.size;
  }

  get(ifindex: number, id: number): LivePeer | undefined {
    return this.#peers.get(keyOf(ifindex, id));
  }

  values(): Iterable<LivePeer> {
    return this.#peers.values();
  }

  /**
   * A peer id that was not in use lately: notifications about an earlier holder, which may still be on their way,
   * are not mistaken for the new one's.
   */
  freeId(ifindex: number): number {
    do {
      this.#lastId = this.#lastId >= firstMeshPeerId - 1 ? firstSessionId : this.#lastId + 1;
    } while (this.#peers.has(keyOf(ifindex, this.#lastId)));
    return this.#lastId;
  }

  /**
   * An id for a node of the mesh. On kernels without a transmit id of its own (before 7.1) a peer has the same id at
   * both ends: it is one that is free here, and so many are there that it is hardly ever taken at the other end.
   */
  freeMeshId(ifindex: number, random: (bytes: number) => Buffer): number {
    for (;;) {
      const id = firstMeshPeerId + (random(3).readUIntBE(0, 3) % (maxPeerId - firstMeshPeerId + 1));
      if (!this.#peers.has(keyOf(ifindex, id))) return id;
    }
  }

  /** These ids are in the kernel already: new ones come after them. */
  inUse(ids: Iterable<number>): void {
    for (const id of ids) this.#startAfter(id);
  }

  #startAfter(id: number): void {
    if (id < firstMeshPeerId) this.#lastId = Math.max(this.#lastId, id);
  }

  /**
   * Makes the peer with its first key, and its routes.
   *
   * @throws OvpnError KernelRefused; nothing of it is left in the kernel then
   */
  create({ ref, ifindex, settings, routes }: NewLivePeer, key: SessionKey): LivePeer {
    const kernel = this.#open();
    const { requests } = kernel;
    const { id } = settings;
    const peer: LivePeer = { ref, ifindex, id, routes };
    const [make, ...rest] = newPeer(requests, ifindex, settings);
    // By itself: when the id is taken, the peer that has it gets neither this key nor deleted.
    this.#demand(peer, kernel.ovpnBatch(make === undefined ? [] : [make]));
    this.#peers.set(keyOf(ifindex, id), peer);
    try {
      const keyNew = requests.keyNew(ifindex, { peerId: id, slot: 'primary', ...kernelKey(key) });
      this.#demand(peer, kernel.ovpnBatch([...rest, keyNew]));
      this.#demand(peer, kernel.tryChange(routes.map(setRoute)));
    } catch (error) {
      this.remove(peer);
      throw error;
    }
    if (settings.remote !== undefined) {
      // So that a restarted agent knows whose it is.
      this.#memory.set(this.#network, id, { endpoint: settings.remote, owner: formatRef(ref) });
    }
    return peer;
  }

  /** Takes over a peer that an earlier process made. Its session is lost; its data goes on. */
  adopt(peer: LivePeer): void {
    this.#peers.set(keyOf(peer.ifindex, peer.id), peer);
    this.#startAfter(peer.id);
    const kernel = this.#kernel();
    const refusal = kernel === undefined ? undefined : firstRefusal(kernel.tryChange(peer.routes.map(setRoute)));
    if (refusal !== undefined)
      this.#log.warn(
        { event: 'route.refused', peer: formatRef(peer.ref), error: refusal.message },
        'the kernel refused a route',
      );
  }

  /** Makes the routes of a peer those. @throws OvpnError KernelRefused */
  setRoutes(peer: LivePeer, routes: readonly Route[]): LivePeer {
    const kernel = this.#open();
    const wanted = new Set(routes.map(textOf));
    const present = new Set(peer.routes.map(textOf));
    kernel.tryChange(peer.routes.filter((route) => !wanted.has(textOf(route))).map(deleteRoute));
    const missing = routes.filter((route) => !present.has(textOf(route)));
    const outcomes = kernel.tryChange(missing.map(setRoute));
    const refused = new Set(missing.filter((_, i) => outcomes[i]?.ok === false));
    const changed = { ...peer, routes: routes.filter((route) => !refused.has(route)) };
    this.#peers.set(keyOf(peer.ifindex, peer.id), changed);
    this.#demand(peer, outcomes);
    return changed;
  }

  /** Puts a further key into the secondary slot, in place of what is there. @throws OvpnError KernelRefused */
  addKey(peer: LivePeer, key: SessionKey): void {
    const kernel = this.#open();
    const { requests } = kernel;
    this.#demand(
      peer,
      kernel.ovpnBatch([
        requests.keyDel(peer.ifindex, peer.id, 'secondary'),
        requests.keyNew(peer.ifindex, { peerId: peer.id, slot: 'secondary', ...kernelKey(key) }),
      ]),
    );
  }

  /** Sends with the key in the secondary slot from now on. @throws OvpnError KernelRefused */
  swapKeys(peer: LivePeer): void {
    const kernel = this.#open();
    this.#demand(peer, kernel.ovpnBatch([kernel.requests.keySwap(peer.ifindex, peer.id)]));
  }

  /** Receives with the key in the primary slot alone. @throws OvpnError KernelRefused */
  retireKey(peer: LivePeer): void {
    const kernel = this.#open();
    this.#demand(peer, kernel.ovpnBatch([kernel.requests.keyDel(peer.ifindex, peer.id, 'secondary')]));
  }

  /** Takes the peer and its routes out of the kernel; what is not there any more is no error. */
  remove(peer: LivePeer): void {
    this.gone(peer);
    this.#tryRemoval(peer, (kernel) => {
      const refusal = firstRefusal(kernel.ovpnBatch([kernel.requests.peerDel(peer.ifindex, peer.id)]));
      if (refusal !== undefined && !isAbsence(refusal)) throw refusal;
    });
  }

  /** The kernel has deleted the peer: only its routes are left to go. */
  gone(peer: LivePeer): void {
    const { routes } = this.get(peer.ifindex, peer.id) ?? peer;
    this.forget(peer);
    this.#tryRemoval(peer, (kernel) => kernel.tryChange(routes.map(deleteRoute)));
  }

  /** What cannot be removed now is a stranger to the next whole round. Callers are in the middle of an end. */
  #tryRemoval({ ref, id }: LivePeer, remove: (kernel: LiveKernel) => void): void {
    const kernel = this.#kernel();
    if (kernel === undefined) return;
    try {
      remove(kernel);
    } catch (error) {
      this.#log.warn(
        { event: 'peer.delete-failed', peer: formatRef(ref), peerId: id, error: describe(error) },
        'the kernel may have kept a peer or its routes',
      );
    }
  }

  /** Forgets the peer without a change in the kernel. */
  forget(peer: LivePeer): void {
    this.#peers.delete(keyOf(peer.ifindex, peer.id));
    this.#memory.delete(this.#network, peer.id);
  }

  /** The peer as the kernel has it; undefined also when its device is gone. @throws NetlinkError, SystemError */
  read(peer: Pick<LivePeer, 'ifindex' | 'id'>): Peer | undefined {
    try {
      return this.#kernel()?.getPeer(peer.ifindex, peer.id);
    } catch (error) {
      if (error instanceof NetlinkError && isAbsence(error)) return undefined;
      throw error;
    }
  }

  /** A peer that an earlier process made, as the kernel has it now. */
  look(ifindex: number, id: number): { readonly peer: Peer; readonly keys: KeySlots } | undefined {
    const peer = this.read({ ifindex, id });
    const keys = peer === undefined ? undefined : this.#kernel()?.observePeers(ifindex, [id]).get(id)?.keys;
    return peer === undefined || keys === undefined ? undefined : { peer, keys };
  }

  #demand(peer: LivePeer, outcomes: readonly Outcome[]): void {
    const refusal = firstRefusal(outcomes);
    if (refusal !== undefined) throw kernelRefused(peer.ref, refusal);
  }

  #open(): LiveKernel {
    const kernel = this.#kernel();
    if (kernel === undefined) {
      throw new OvpnError('NetworkNotReady', 'is not set up on this node yet', {
        object: `VpnNetwork ${this.#network}`,
      });
    }
    return kernel;
  }
}

function keyOf(ifindex: number, id: number): string {
  return `${ifindex}/${id}`;
}

function textOf(route: Route): string {
  return JSON.stringify(route);
}

function firstRefusal(outcomes: readonly Outcome[]): NetlinkError | undefined {
  for (const outcome of outcomes) if (!outcome.ok) return outcome.error;
  return undefined;
}

/** The peer or its device is not there. */
function isAbsence({ code }: NetlinkError): boolean {
  return code === 'ENOENT' || code === 'ENODEV';
}

function kernelKey({ keyId, cipher, keys }: SessionKey) {
  return { keyId, cipher: kernelCipher(cipher), encrypt: keys.encrypt, decrypt: keys.decrypt };
}

/** The kernel knows AES-GCM by the length of the key. */
export function kernelCipher(cipher: DataCipher): CipherAlgorithm {
  return cipher === 'CHACHA20-POLY1305' ? 'CHACHA20-POLY1305' : 'AES-GCM';
}
