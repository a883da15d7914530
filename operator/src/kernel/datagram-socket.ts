import { isIpv6 } from './address.ts';
import {
  addressOf,
  AF_INET,
  AF_INET6,
  getsockname,
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_PKTINFO,
  MSG_CTRUNC,
  MSG_TRUNC,
  recvmmsgNow,
  sendmsgNow,
  SystemError,
} from './libc.ts';
import type { ReadinessPoller } from './poller.ts';
import {
  type AddressFamily,
  isLinkLocal,
  type Path,
  readAddress,
  readSockaddr,
  writeAddress,
  writeSockaddr,
} from './socket-address.ts';
import { tellLocalAddress } from './transport-socket.ts';

/**
 * How many datagrams are read at a time. What is left is read in the next round of the event loop, so that a
 * flood on one socket holds up neither timers nor other sockets.
 */
const batch = 64;
/** The longest datagram taken: longer than any OpenVPN control packet. */
const maxDatagram = 4096;
/** The longest that IPv4 and IPv6 can send. */
const maxSent = 65_535;

// Structures of 64-bit Linux, the same on x86_64 and aarch64.
const mmsghdr = { bytes: 64, nameLength: 8, iov: 16, iovCount: 24, control: 32, controlLength: 40, flags: 48, got: 56 };
const iovBytes = 16;
const nameBytes = 32;
const cmsghdrBytes = 16;
/** Room for one in_pktinfo (12 bytes) or in6_pktinfo (20 bytes) after its header, and to spare. */
const controlBytes = 80;

/** An array of `struct mmsghdr` with the memory that each points to, in one buffer. */
class MessageArena {
  readonly memory: Buffer;
  readonly #words: Uint32Array;
  readonly #count: number;
  readonly #dataBytes: number;
  readonly #names: number;
  readonly #controls: number;
  readonly #data: number;

  constructor(count: number, dataBytes: number) {
    const iovs = count * mmsghdr.bytes;
    this.#count = count;
    this.#dataBytes = dataBytes;
    this.#names = iovs + count * iovBytes;
    this.#controls = this.#names + count * nameBytes;
    this.#data = this.#controls + count * controlBytes;
    const buffer = new ArrayBuffer(this.#data + count * dataBytes);
    this.memory = Buffer.from(buffer);
    this.#words = new Uint32Array(buffer, 0, iovs / 4);
    const base = addressOf(this.memory);
    const pointer = (to: number): bigint => base + BigInt(to);
    for (let i = 0; i < count; i++) {
      const header = i * mmsghdr.bytes;
      const iov = iovs + i * iovBytes;
      this.memory.writeBigUInt64LE(pointer(this.name(i)), header);
      this.memory.writeBigUInt64LE(pointer(iov), header + mmsghdr.iov);
      this.memory.writeBigUInt64LE(1n, header + mmsghdr.iovCount);
      this.memory.writeBigUInt64LE(pointer(this.control(i)), header + mmsghdr.control);
      this.memory.writeBigUInt64LE(pointer(this.data(i)), iov);
      this.memory.writeBigUInt64LE(BigInt(dataBytes), iov + 8);
    }
    this.#iovs = iovs;
    this.prepare(count);
  }
  readonly #iovs: number;

  name(i: number): number {
    return this.#names + i * nameBytes;
  }
  control(i: number): number {
    return this.#controls + i * controlBytes;
  }
  data(i: number): number {
    return this.#data + i * this.#dataBytes;
  }
  field(i: number, offset: number): number {
    return this.#words[(i * mmsghdr.bytes + offset) >> 2] ?? 0;
  }
  setField(i: number, offset: number, value: number): void {
    this.#words[(i * mmsghdr.bytes + offset) >> 2] = value;
  }
  setLength(i: number, bytes: number): void {
    this.memory.writeUInt32LE(bytes, this.#iovs + i * iovBytes + 8);
  }

  /** Gives the first headers the lengths again that receiving changed. */
  prepare(used: number): void {
    for (let i = 0; i < Math.min(used, this.#count); i++) {
      this.setField(i, mmsghdr.nameLength, nameBytes);
      this.setField(i, mmsghdr.controlLength, controlBytes);
    }
  }
}

// One for all sockets: no call outlasts its own use of it.
const receiving = new MessageArena(batch, maxDatagram);
const sending = new MessageArena(1, maxSent);

/**
 * Reads and writes datagrams on a UDP socket that somebody else owns, each with the path it came or goes by: the
 * far address, and ours, so that on a host with several addresses the reply leaves from the one that was called.
 *
 * Node's own dgram cannot tell the local address and reads one datagram per call.
 */
export class DatagramSocket {
  readonly #fd: number;
  readonly #family: AddressFamily;
  readonly #poller: ReadinessPoller;
  readonly #onPacket: (packet: Buffer, path: Path) => void;
  #open = true;

  /**
   * Starts to watch a bound UDP socket.
   *
   * @param onPacket gets each datagram of up to 4096 bytes; longer ones are dropped. The buffer is the callee's
   */
  constructor(fd: number, poller: ReadinessPoller, onPacket: (packet: Buffer, path: Path) => void) {
    this.#fd = fd;
    this.#family = getsockname(fd).readUInt16LE(0) === AF_INET6 ? AF_INET6 : AF_INET;
    this.#poller = poller;
    this.#onPacket = onPacket;
    // A socket that an earlier process opened may not have it set.
    tellLocalAddress(fd, this.#family);
    poller.add(fd, () => this.#receive());
  }

  /**
   * Sends a datagram by a path, from `path.local` if that is known and still ours; else from the address that routing
   * chooses, as the driver does with data packets (drivers/net/ovpn/udp.c, ovpn_udp4_output).
   *
   * @returns false when the kernel would not take it: its buffer is full, or there is no route. What must arrive is
   *   repeated anyway, as with a datagram that is lost on its way
   */
  send(packet: Buffer, path: Path): boolean {
    if (!this.#open || packet.length > maxSent || !this.#carries(path)) return false;
    this.#writeHeader(packet, path);
    // An earlier datagram's error (ICMP) is told to whoever calls next, who then has not sent anything.
    if (this.#trySend() || this.#trySend()) return true;
    if (path.local === undefined) return false;
    this.#writeHeader(packet, { ...path, local: undefined });
    return this.#trySend();
  }

  /** Stops watching; the descriptor stays its owner's. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#poller.remove(this.#fd);
  }

  #carries({ remote, local }: Path): boolean {
    return this.#family === AF_INET6 || !(isIpv6(remote.address) || (local !== undefined && isIpv6(local)));
  }

  #receive(): void {
    const count = this.#receiveBatch();
    for (let i = 0; i < count && this.#open; i++) {
      const path = this.#pathOf(i);
      if (path !== undefined) this.#deliver(this.#copy(i), path);
    }
    receiving.prepare(count);
  }

  #copy(i: number): Buffer {
    const length = receiving.field(i, mmsghdr.got);
    const packet = Buffer.allocUnsafe(length);
    receiving.memory.copy(packet, 0, receiving.data(i), receiving.data(i) + length);
    return packet;
  }

  /** What the callback throws becomes an uncaught exception, without costing those behind it in the batch. */
  #deliver(packet: Buffer, path: Path): void {
    try {
      this.#onPacket(packet, path);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  #receiveBatch(): number {
    try {
      return recvmmsgNow(this.#fd, receiving.memory, batch);
    } catch (error) {
      // An error of an earlier datagram, which is fetched with that: what is queued behind it comes next round.
      if (error instanceof SystemError) return 0;
      throw error;
    }
  }

  /** Where the datagram came by; undefined when it did not fit. */
  #pathOf(i: number): Path | undefined {
    const flags = receiving.field(i, mmsghdr.flags);
    if ((flags & MSG_TRUNC) !== 0) return undefined;
    const remote = readSockaddr(receiving.memory, receiving.name(i));
    return { remote, local: (flags & MSG_CTRUNC) !== 0 ? undefined : this.#localOf(i, remote.scopeId) };
  }

  #localOf(i: number, scopeId: number | undefined): string | undefined {
    const { memory } = receiving;
    const control = receiving.control(i);
    // One option is set, so there is one control message or none.
    if (receiving.field(i, mmsghdr.controlLength) < cmsghdrBytes) return undefined;
    const level = memory.readInt32LE(control + 8);
    const type = memory.readInt32LE(control + 12);
    if (level === IPPROTO_IP && type === IP_PKTINFO) {
      // struct in_pktinfo: ifindex, spec_dst (ours, also for a broadcast), addr.
      return readAddress(memory, AF_INET, control + cmsghdrBytes + 4);
    }
    if (level !== IPPROTO_IPV6 || type !== IPV6_PKTINFO) return undefined;
    // struct in6_pktinfo: the destination address as it was, ifindex.
    if (memory[control + cmsghdrBytes] === 0xff) return undefined;
    const local = readAddress(memory, AF_INET6, control + cmsghdrBytes);
    // Without an interface the address could not be used for the reply.
    return isLinkLocal(local) && scopeId === undefined ? undefined : local;
  }

  #writeHeader(packet: Buffer, { remote, local }: Path): void {
    const { memory } = sending;
    packet.copy(memory, sending.data(0));
    sending.setLength(0, packet.length);
    sending.setField(0, mmsghdr.nameLength, writeSockaddr(remote, this.#family, memory, sending.name(0)));
    sending.setField(
      0,
      mmsghdr.controlLength,
      local === undefined ? 0 : this.#writeLocal(local, remote.scopeId, sending.control(0)),
    );
  }

  /** Writes the control message with the address to send from; returns its length with padding. */
  #writeLocal(local: string, scopeId: number | undefined, at: number): number {
    const { memory } = sending;
    const info = at + cmsghdrBytes;
    const v6 = this.#family === AF_INET6;
    const bytes = cmsghdrBytes + (v6 ? 20 : 12);
    memory.writeUInt32LE(bytes, at);
    memory.writeUInt32LE(0, at + 4);
    memory.writeInt32LE(v6 ? IPPROTO_IPV6 : IPPROTO_IP, at + 8);
    memory.writeInt32LE(v6 ? IPV6_PKTINFO : IP_PKTINFO, at + 12);
    if (v6) {
      writeAddress(local, AF_INET6, memory, info);
      // Elsewhere routing chooses the interface, as it does for data packets.
      memory.writeUInt32LE(isLinkLocal(local) ? (scopeId ?? 0) : 0, info + 16);
    } else {
      memory.writeUInt32LE(0, info);
      writeAddress(local, AF_INET, memory, info + 4);
      memory.writeUInt32LE(0, info + 8);
    }
    return (bytes + 7) & ~7;
  }

  #trySend(): boolean {
    try {
      return sendmsgNow(this.#fd, sending.memory);
    } catch (error) {
      if (error instanceof SystemError) return false;
      throw error;
    }
  }
}
