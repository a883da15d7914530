import { closeSync } from 'node:fs';
import { describe, OvpnError } from '../errors.ts';
import type { SocketKeeper } from '../holder/client.ts';
import { boundAddress, formatEndpoint, openTcpListener, openUdpSocket } from '../kernel/transport-socket.ts';
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
  /** Descriptors of others that the holder keeps for them, by their full names. */
  readonly #shelved = new Map<string, number>();
  readonly #closing: (fd: number) => void;

  /** @param closing called before a descriptor of ours is closed: whoever waits for it has to stop */
  constructor(keeper: SocketKeeper, closing: (fd: number) => void = () => undefined) {
    this.#keeper = keeper;
    this.#closing = closing;
  }

  /**
   * The socket of a listener: the one in hand, else the holder's, else a new one.
   *
   * @throws OvpnError HolderUnreachable, or KernelRefused when the address cannot be bound
   */
  ensure(network: string, listener: DesiredListener): number {
    const name = socketName(network, heldName(listener));
    const present = this.#open.get(name) ?? this.#adopt(name);
    if (present !== undefined && present.port === listener.port && present.address === listener.address)
      return present.fd;
    // Another address on the same port is taken as long as any descriptor of the old socket is open.
    if (present !== undefined && present.port === listener.port) this.#close(name);
    let fd: number;
    try {
      fd = listener.protocol === 'TCP' ? openTcpListener(listener) : openUdpSocket(listener);
    } catch (error) {
      const where = { object: `VpnNetwork ${network}`, field: `spec.listeners[${listener.name}]` };
      const remedy = 'free the port on this node or choose another one';
      throw new OvpnError(
        'KernelRefused',
        `cannot listen on ${listener.protocol} ${formatEndpoint(listener)}: ${describe(error)}`,
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
    if (old !== undefined) this.#closeFd(old);
    this.#open.set(name, { fd, address: listener.address, port: listener.port });
    return fd;
  }

  /**
   * Closes the listeners' sockets of a network other than the named ones (see {@link heldName}), everywhere; their
   * peers go. What a holder that cannot be reached still has goes when this is called again.
   */
  release(network: string, keep: ReadonlySet<string>): void {
    const prefix = socketName(network, '');
    const unwanted = (name: string): boolean => {
      const inside = name.slice(prefix.length);
      return name.startsWith(prefix) && !isShelfName(inside) && !keep.has(inside);
    };
    for (const name of [...this.#open.keys()].filter(unwanted)) this.#closeOwn(name);
    const { held } = this.#list();
    this.#ask((name) => this.#keeper.drop(name), [...held].filter(unwanted));
  }

  /** Closes all sockets of a network, everywhere, and lets the holder's other descriptors of it go. */
  forget(network: string): void {
    this.release(network, new Set());
    this.shelf(network).clear();
  }

  /** What the holder keeps for a network beside its listeners. */
  shelf(network: string): Shelf {
    const full = (name: string): string => socketName(network, `${shelfPrefix}${name}`);
    const shelved = this.#shelved;
    const onShelf = (): { names: string[]; problem: OvpnError | undefined } => {
      const { held, problem } = this.#list();
      return { names: [...held].filter((name) => name.startsWith(full(''))), problem };
    };
    const drop = (names: readonly string[]): OvpnError | undefined => {
      for (const name of names) shelved.delete(name);
      return this.#ask((name) => this.#keeper.drop(name), names);
    };
    return {
      take: (name) => {
        const fd = this.#keeper.get(full(name));
        if (fd !== undefined) shelved.set(full(name), fd);
        return fd;
      },
      keep: (name, fd) => {
        const problem = this.#ask(() => this.#keeper.put(full(name), fd), [undefined]);
        if (problem === undefined || !shelved.has(full(name))) shelved.set(full(name), fd);
        return problem;
      },
      drop: (name) => drop([full(name)]),
      dropOthers: (keep) => {
        const { names, problem } = onShelf();
        return drop(names.filter((name) => !keep.has(name.slice(full('').length)))) ?? problem;
      },
      clear: () => {
        drop([...new Set([...[...shelved.keys()].filter((name) => name.startsWith(full(''))), ...onShelf().names])]);
      },
    };
  }

  /**
   * Hands every socket to the holder that it does not have: it may have been restarted.
   *
   * @returns why the holder could not take all of them. They serve on; only a restart of this process would
   *   cut their peers off
   */
  renew(): OvpnError | undefined {
    const { held, problem } = this.#list();
    if (problem !== undefined) return problem;
    const ours = [...[...this.#open].map(([name, { fd }]) => [name, fd] as const), ...this.#shelved];
    const missing = ours.filter(([name]) => !held.has(name));
    return this.#ask(([name, fd]) => this.#keeper.put(name, fd), missing);
  }

  /** The networks that the holder or we have sockets for; only ours while the holder cannot be reached. */
  names(): ReadonlySet<string> {
    return new Set([...this.#open.keys(), ...this.#list().held].map(networkOf));
  }

  /** Closes our own descriptors; the holder's stay. */
  close(): void {
    for (const socket of this.#open.values()) this.#closeFd(socket);
    this.#open.clear();
    this.#shelved.clear();
  }

  /** Closes a socket here and in the holder; its peers go. */
  #close(name: string): void {
    this.#keeper.drop(name);
    this.#closeOwn(name);
  }

  #closeOwn(name: string): void {
    const present = this.#open.get(name);
    if (present !== undefined) this.#closeFd(present);
    this.#open.delete(name);
  }

  #closeFd({ fd }: OpenSocket): void {
    this.#closing(fd);
    closeSync(fd);
  }

  #list(): { readonly held: ReadonlySet<string>; readonly problem: OvpnError | undefined } {
    try {
      return { held: new Set(this.#keeper.list()), problem: undefined };
    } catch (error) {
      return { held: new Set(), problem: holderProblem(error) };
    }
  }

  /** Asks the holder something about each item, as far as it answers. Returns the first problem. */
  #ask<T>(question: (item: T) => void, items: readonly T[]): OvpnError | undefined {
    let first: OvpnError | undefined;
    for (const item of items) {
      try {
        question(item);
      } catch (error) {
        first ??= holderProblem(error);
      }
    }
    return first;
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

/**
 * Descriptors that the holder keeps for one network beside its listeners' sockets: those of single sessions. Whoever
 * puts one there stays its owner, and says `drop` before it closes it.
 */
export interface Shelf {
  /** A new descriptor of what an earlier process left, which the caller closes. @throws OvpnError HolderUnreachable */
  take(name: string): number | undefined;
  /**
   * Keeps a descriptor in place of the one before.
   *
   * @returns why the holder did not take it: the one before stays; and if there was none, the holder is offered this
   *   one with every {@link TransportSockets.renew}
   */
  keep(name: string, fd: number): OvpnError | undefined;
  /** @returns why the holder still has it */
  drop(name: string): OvpnError | undefined;
  /** Drops all but these: what crashed processes left. @returns why the holder still has some */
  dropOthers(keep: ReadonlySet<string>): OvpnError | undefined;
  clear(): void;
}

/** In no name of a listener. */
const shelfPrefix = '@';

function isShelfName(name: string): boolean {
  return name.startsWith(shelfPrefix);
}

/** The name of a listener's socket inside its network. A dot is in no name of a listener. */
export function heldName({ name, protocol }: Pick<DesiredListener, 'name' | 'protocol'>): string {
  return protocol === 'TCP' ? `${name}.tcp` : name;
}

/** The network of a socket's name; the names of objects hold no slash. */
function networkOf(name: string): string {
  const [network = name] = name.split('/');
  return network;
}

/** What a holder that is away or refuses says. Anything else is a defect and goes on. */
function holderProblem(error: unknown): OvpnError {
  if (error instanceof OvpnError) return error;
  throw error;
}
