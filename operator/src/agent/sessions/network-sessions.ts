import { formatRef, type ObjectRef } from '../../api/types.ts';
import type { Notification, Peer } from '../../kernel/ovpn/codec.ts';
import type { DesiredServer, DesiredSession } from './desired-session.ts';
import { DialedPeer, type TunnelDevice } from './dialed-peer.ts';
import { HandshakeCounts, type HandshakeFigures } from './handshake-counts.ts';
import type { LivePeer } from './live-peers.ts';
import type { OpenListener } from './listener-sockets.ts';
import { NetworkServer, type SessionServices } from './network-server.ts';
import { type TunnelFacts, Tunnels } from './tunnel-facts.ts';

/** All control channels of one network on this node: its clients, and the remotes that are dialled. */
export class NetworkSessions {
  readonly #services: SessionServices;
  readonly #device: TunnelDevice;
  readonly #server: NetworkServer;
  readonly #dialed = new Map<string, DialedPeer>();
  readonly #dialFacts: Tunnels;
  readonly #dialHandshakes = new HandshakeCounts();

  constructor(services: SessionServices, device: TunnelDevice) {
    this.#services = services;
    this.#device = device;
    this.#server = new NetworkServer(services);
    this.#dialFacts = new Tunnels(services.clock, services.changed);
  }

  /** Reads what an earlier process left of its sessions, before anything else is asked. @throws OvpnError HolderUnreachable */
  open(): void {
    this.#services.memory.open();
  }

  /** Takes the settings of the server, and the sockets that it serves on. */
  configure(server: DesiredServer | undefined, listeners: readonly OpenListener[]): void {
    this.#server.configure(server, listeners);
  }

  /** Takes the sockets to serve on, while the settings of the server cannot be had. */
  listen(listeners: readonly OpenListener[]): void {
    this.#server.listen(listeners);
  }

  /** Takes what a VpnPeer should be; undefined ends what it has. */
  setPeer(ref: ObjectRef, desired: DesiredSession | undefined): void {
    this.#server.setPeer(ref, desired?.kind === 'dial-in' ? desired : undefined);
    const name = formatRef(ref);
    const present = this.#dialed.get(name);
    if (desired?.kind !== 'dial-out') {
      if (present === undefined) return;
      this.#dialed.delete(name);
      present.stop();
      this.#dialFacts.delete(ref);
      return;
    }
    if (present !== undefined) {
      present.configure(desired);
      return;
    }
    this.open();
    const dialed = new DialedPeer(desired, this.#services, this.#device, this.#dialFacts, this.#dialHandshakes);
    dialed.start();
    this.#dialed.set(name, dialed);
  }

  /** The peer is connected to another node by now. */
  movedAway(ref: ObjectRef): void {
    this.#server.movedAway(ref);
  }

  facts(ref: ObjectRef): TunnelFacts | undefined {
    return this.#dialFacts.get(ref) ?? this.#server.facts(ref);
  }

  livePeer(ref: ObjectRef): LivePeer | undefined {
    return this.#dialed.get(formatRef(ref))?.livePeer ?? this.#server.livePeer(ref);
  }

  /** How handshakes went, by our role. */
  get handshakes(): Readonly<Record<'server' | 'client', HandshakeFigures>> {
    return { server: this.#server.handshakes, client: this.#dialHandshakes };
  }

  /** Packets that the server passed over, by the reason. */
  get dropped(): ReadonlyMap<string, number> {
    return this.#server.dropped;
  }

  /** Looks at a peer's counters. */
  used(ref: ObjectRef, observed: Peer): void {
    this.#dialed.get(formatRef(ref))?.used(observed);
    this.#server.used(ref, observed);
  }

  /** What the kernel says of a peer that is not static. */
  notified(notification: Notification): void {
    if (notification.ifindex === this.#services.device()) {
      const { ref } = this.#services.live.get(notification.ifindex, notification.peerId) ?? {};
      const node = ref === undefined ? undefined : this.#dialed.get(formatRef(ref));
      if (node === undefined) this.#server.notified(notification);
      else node.notified(notification);
      return;
    }
    for (const dialed of this.#dialed.values()) {
      if (dialed.livePeer?.ifindex === notification.ifindex) dialed.notified(notification);
    }
  }

  /**
   * Compares with what the kernel has.
   *
   * @param observed the peers of the P2MP device
   * @param ownerOf whom a peer id of an earlier process stands for
   * @returns ids of the P2MP device that stay
   */
  reconcile(observed: ReadonlyMap<number, Peer>, ownerOf: (id: number) => string | undefined): ReadonlySet<number> {
    for (const dialed of this.#dialed.values()) {
      const peer = dialed.livePeer;
      if (peer !== undefined && this.#services.live.read(peer) === undefined) dialed.gone('unknown');
    }
    this.#forgetDialed();
    return this.#server.reconcile(observed, ownerOf);
  }

  /** What an earlier process dialled and nobody wants any more: it goes with its device. */
  #forgetDialed(): void {
    const { memory, live } = this.#services;
    for (const [key, { remote, socket, ifindex, id }] of [...memory.waiting]) {
      if (remote !== undefined && live.look(ifindex, id) === undefined) memory.forget(key, socket);
    }
  }

  /** The remotes that are dialled, whose devices stay. */
  dialed(): ObjectRef[] {
    return [...this.#dialed.values()].map(({ ref }) => ref);
  }

  /** Ends everything, here and in the kernel; the other ends are told before. */
  async stop(): Promise<void> {
    for (const dialed of this.#dialed.values()) dialed.stop();
    this.#dialed.clear();
    await this.#server.stop();
    this.#services.memory.close();
  }

  /**
   * For the end of this process: begins and answers no renegotiation any more. Those that are on their way go on, since
   * the next process could not finish them, and their keys send as soon as they can.
   */
  pause(): void {
    for (const dialed of this.#dialed.values()) dialed.pause();
    this.#server.pause();
  }

  /** Whether a renegotiation is on its way, or its key does not send yet. */
  get renegotiating(): boolean {
    return this.#server.renegotiating || [...this.#dialed.values()].some(({ renegotiating }) => renegotiating);
  }

  /** Lets go of everything in this process; all tunnels go on in the kernel. */
  close(): void {
    for (const dialed of this.#dialed.values()) dialed.close();
    this.#dialed.clear();
    this.#server.close();
    this.#services.memory.close();
  }
}
