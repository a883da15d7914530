import { closeSync } from 'node:fs';
import { describe, OvpnError } from '../errors.ts';
import type { SocketKeeper } from '../holder/client.ts';
import { boundAddress, formatEndpoint, openUdpSocket } from '../kernel/transport-socket.ts';
import type { DesiredListener } from './desired.ts';
import { socketName } from './names.ts';

interface OpenSocket {
  readonly fd: number;
  readonly address: string;
  readonly port: number;
}

/**
 * The transport sockets of the node. Each has a second descriptor in the socket holder from before the first
 * peer uses it, so that its peers outlive this process.
 */
export class TransportSockets {
  readonly #keeper: SocketKeeper;
  readonly #open = new Map<string, OpenSocket>();

  constructor(keeper: SocketKeeper) {
    this.#keeper = keeper;
  }

  /**
   * The socket of a listener: the one in hand, else the holder's, else a new one.
   *
   * @throws OvpnError HolderUnreachable, or KernelRefused when the address cannot be bound
   */
  ensure(network: string, listener: DesiredListener): number {
    const name = socketName(network, listener.name);
    const present = this.#open.get(name) ?? this.#adopt(name);
    if (present !== undefined && present.port === listener.port && present.address === listener.address)
      return present.fd;
    // Another address on the same port is taken as long as any descriptor of the old socket is open.
    if (present !== undefined && present.port === listener.port) this.#close(name);
    let fd: number;
    try {
      fd = openUdpSocket(listener);
    } catch (error) {
      const where = { object: `VpnNetwork ${network}`, field: `spec.listeners[${listener.name}]` };
      const remedy = 'free the port on this node or choose another one';
      throw new OvpnError(
        'KernelRefused',
        `cannot listen on UDP ${formatEndpoint(listener)}: ${describe(error)}`,
        where,
        { cause: error, remedy },
      );
    }
    try {
      // Replaces what the holder kept. Peers on the old socket live until our descriptor of it closes.
      this.#keeper.put(name, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    const old = this.#open.get(name);
    if (old !== undefined) closeSync(old.fd);
    this.#open.set(name, { fd, address: listener.address, port: listener.port });
    return fd;
  }

  /** Closes the sockets of a network other than the named listeners, everywhere; their peers go. */
  release(network: string, keep: ReadonlySet<string>): void {
    const prefix = socketName(network, '');
    const names = new Set([...this.#open.keys(), ...this.#keeper.list()]);
    for (const name of names) {
      if (!name.startsWith(prefix) || keep.has(name.slice(prefix.length))) continue;
      this.#close(name);
    }
  }

  /** Hands every socket to the holder again: it may have been restarted. */
  renew(): void {
    const held = new Set(this.#keeper.list());
    for (const [name, { fd }] of this.#open) if (!held.has(name)) this.#keeper.put(name, fd);
  }

  /** Closes our own descriptors; the holder's stay. */
  close(): void {
    for (const { fd } of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }

  /** Closes a socket here and in the holder; its peers go. */
  #close(name: string): void {
    this.#keeper.drop(name);
    const present = this.#open.get(name);
    if (present !== undefined) closeSync(present.fd);
    this.#open.delete(name);
  }

  #adopt(name: string): OpenSocket | undefined {
    const fd = this.#keeper.get(name);
    if (fd === undefined) return undefined;
    const { address, port } = boundAddress(fd);
    const socket = { fd, address, port };
    this.#open.set(name, socket);
    return socket;
  }
}
