import { EventEmitter } from 'node:events';
import { AF_NETLINK, close, MSG_TRUNC, recvNow, setsockoptInt, SOCK_RAW, socket, SystemError } from '../libc.ts';
import { inNamespace } from '../netns.ts';
import type { ReadinessPoller } from '../poller.ts';
import { MalformedMessage, type Message, NLMSG_OVERRUN, parseMessages } from './message.ts';
import { configureNetlinkSocket, SOL_NETLINK } from './socket.ts';

const NETLINK_ADD_MEMBERSHIP = 1;
const ENOBUFS = 'ENOBUFS';

interface NotificationEvents {
  message: [message: Message];
  /** Notifications were lost: whoever listens must read the whole state again. */
  overrun: [];
  /** A message that could not be parsed; the socket goes on. */
  malformed: [error: MalformedMessage];
}

/**
 * A socket that only listens to multicast groups. Losing notifications (ENOBUFS) is expected under load: it
 * is reported as an `overrun`, and the socket goes on.
 */
export class NotificationSocket extends EventEmitter<NotificationEvents> {
  readonly #fd: number;
  readonly #poller: ReadinessPoller;
  readonly #receive = Buffer.alloc(64 * 1024);
  readonly #sender = Buffer.alloc(12);
  #open = true;

  private constructor(fd: number, poller: ReadinessPoller) {
    super();
    this.#fd = fd;
    this.#poller = poller;
    poller.add(fd, () => this.#drain());
  }

  /**
   * Joins multicast groups of a netlink protocol.
   *
   * @param bufferBytes how much may queue up before notifications are lost
   * @param namespace path of the network namespace to listen in; the caller's own when undefined
   */
  static open(
    protocol: number,
    groups: readonly number[],
    poller: ReadinessPoller,
    { bufferBytes = 8 * 1024 * 1024, namespace }: { bufferBytes?: number; namespace?: string } = {},
  ): NotificationSocket {
    const make = (): number => socket(AF_NETLINK, SOCK_RAW, protocol);
    const fd = namespace === undefined ? make() : inNamespace(namespace, make);
    try {
      configureNetlinkSocket(fd, bufferBytes);
      for (const group of groups) setsockoptInt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
    } catch (error) {
      close(fd);
      throw error;
    }
    return new NotificationSocket(fd, poller);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#poller.remove(this.#fd);
    close(this.#fd);
  }

  #drain(): void {
    let lost = false;
    try {
      while (this.#open) {
        const datagram = this.#receiveNow();
        if (datagram === undefined) break;
        lost = datagram === 'lost' || this.#deliver(datagram) || lost;
      }
    } finally {
      // Also when a listener threw: that state is stale must not be forgotten.
      if (lost && this.#open) this.emit('overrun');
    }
  }

  /** The next datagram of the kernel, `lost` for one that did not arrive whole, undefined when none is queued. */
  #receiveNow(): Buffer | 'lost' | undefined {
    for (;;) {
      let length: number | undefined;
      try {
        length = recvNow(this.#fd, this.#receive, MSG_TRUNC, this.#sender);
      } catch (error) {
        // Reading the error clears it; what is queued behind it is still good.
        if (!(error instanceof SystemError && error.code === ENOBUFS)) throw error;
        return 'lost';
      }
      if (length === undefined) return undefined;
      // Only what the kernel (port 0) sends counts.
      if (this.#sender.readUInt32LE(4) !== 0) continue;
      return length > this.#receive.length ? 'lost' : this.#receive.subarray(0, length);
    }
  }

  #deliver(datagram: Buffer): boolean {
    let lost = false;
    try {
      for (const message of parseMessages(datagram)) {
        if (message.type === NLMSG_OVERRUN) lost = true;
        else this.emit('message', message);
      }
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.emit('malformed', error);
    }
    return lost;
  }
}
