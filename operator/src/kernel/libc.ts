import { constants, endianness } from 'node:os';
import { getSystemErrorMessage } from 'node:util';
import koffi from 'koffi';

/**
 * The few libc functions that Node.js has no API for: netlink and raw socket creation, namespaces, mounts
 * and file descriptors passed between processes. Every function here is synchronous unless named so, and
 * throws {@link SystemError} instead of returning -1.
 */

if (endianness() !== 'LE') {
  // Structures are laid out by hand below; both architectures we ship for are little-endian.
  throw new Error('ovpn-operator supports little-endian machines only (x86_64, aarch64)');
}

// The running program is linked to its libc already, so this works with glibc and musl alike.
const libc = koffi.load(null);

const native = {
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, const void *address, unsigned int length)'),
  connect: libc.func('int connect(int fd, const void *address, unsigned int length)'),
  listen: libc.func('int listen(int fd, int backlog)'),
  accept4: libc.func('int accept4(int fd, void *address, void *length, int flags)'),
  getsockname: libc.func('int getsockname(int fd, void *address, void *length)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int option, void *value, void *length)'),
  setsockopt: libc.func('int setsockopt(int fd, int level, int option, const void *value, unsigned int length)'),
  send: libc.func('long send(int fd, const void *data, size_t length, int flags)'),
  recvfrom: libc.func(
    'long recvfrom(int fd, void *data, size_t length, int flags, void *address, void *addressLength)',
  ),
  sendmsg: libc.func('long sendmsg(int fd, const void *message, int flags)'),
  recvmsg: libc.func('long recvmsg(int fd, void *message, int flags)'),
  recvmmsg: libc.func('int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)'),
  close: libc.func('int close(int fd)'),
  setns: libc.func('int setns(int fd, int type)'),
  unshare: libc.func('int unshare(int flags)'),
  mount: libc.func(
    'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
  ),
  umount2: libc.func('int umount2(const char *target, int flags)'),
  poll: libc.func('int poll(void *fds, unsigned long count, int timeout)'),
  flock: libc.func('int flock(int fd, int operation)'),
  adjtimex: libc.func('int adjtimex(void *timex)'),
  eventfd: libc.func('int eventfd(unsigned int value, int flags)'),
  memfd_create: libc.func('int memfd_create(const char *name, unsigned int flags)'),
  prctl: libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)'),
};

const errnoNames = new Map<number, string>(
  Object.entries(constants.errno)
    // EAGAIN and EWOULDBLOCK, ENOTSUP and EOPNOTSUPP share a number on Linux: keep the name the kernel uses.
    .filter(([name]) => name !== 'EWOULDBLOCK' && name !== 'ENOTSUP')
    .map(([name, value]) => [value, name]),
);

/** The symbolic name of an errno value (`22` → `EINVAL`); unknown values keep their number (`E4242`). */
export function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `E${errno}`;
}

/** What an errno value means, for people: `connection refused (ECONNREFUSED)`. */
export function errnoWords(errno: number): string {
  return `${getSystemErrorMessage(-errno)} (${errnoName(errno)})`;
}

/** A system call that failed. `code` is the errno name, as Node's own errors have it. */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly syscall: string;
  readonly errno: number;
  readonly code: string;

  constructor(syscall: string, errno: number, detail = '') {
    super(`${syscall}${detail === '' ? '' : ` ${detail}`}: ${errnoName(errno)}`);
    this.syscall = syscall;
    this.errno = errno;
    this.code = errnoName(errno);
  }
}

function check(syscall: string, result: unknown, detail?: string): number {
  const value = Number(result);
  if (value < 0) throw new SystemError(syscall, koffi.errno(), detail);
  return value;
}

/** For calls that must not block: undefined when they would have. */
function checkNow(syscall: string, result: unknown, detail?: string): number | undefined {
  const value = Number(result);
  if (value >= 0) return value;
  const errno = koffi.errno();
  if (errno === constants.errno.EAGAIN) return undefined;
  throw new SystemError(syscall, errno, detail);
}

/** For calls that block: one that a signal interrupted is made again. */
function uninterrupted(syscall: string, call: () => unknown): number {
  for (;;) {
    const value = Number(call());
    if (value >= 0) return value;
    const errno = koffi.errno();
    if (errno !== constants.errno.EINTR) throw new SystemError(syscall, errno);
  }
}

/** Opens a close-on-exec socket. Arguments as in socket(2). */
export function socket(domain: number, type: number, protocol: number): number {
  return check('socket', native.socket(domain, type | SOCK_CLOEXEC, protocol));
}

export function bind(fd: number, address: Uint8Array, detail?: string): void {
  check('bind', native.bind(fd, address, address.length), detail);
}

export function connect(fd: number, address: Uint8Array, detail?: string): void {
  check('connect', native.connect(fd, address, address.length), detail);
}

/**
 * Connects a non-blocking socket. False while that is under way: the socket turns writable when it is done, and
 * SO_ERROR tells how it went.
 */
export function connectNow(fd: number, address: Uint8Array, detail?: string): boolean {
  if (Number(native.connect(fd, address, address.length)) === 0) return true;
  const errno = koffi.errno();
  if (errno === constants.errno.EINPROGRESS) return false;
  throw new SystemError('connect', errno, detail);
}

export function listen(fd: number, backlog: number): void {
  check('listen', native.listen(fd, backlog));
}

/** Accepts one connection, blocking unless the socket is non-blocking; the result is close-on-exec. */
export function accept(fd: number): number {
  return uninterrupted('accept4', () => native.accept4(fd, null, null, SOCK_CLOEXEC));
}

/**
 * Accepts one connection if there is one, as a non-blocking close-on-exec socket. The peer's raw `struct
 * sockaddr` is written to `address`.
 */
export function acceptNow(fd: number, address: Uint8Array): number | undefined {
  addressLength.writeUInt32LE(address.length);
  return checkNow('accept4', native.accept4(fd, address, addressLength, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

/** The local address of a socket as raw `struct sockaddr` bytes. */
export function getsockname(fd: number): Buffer {
  const address = Buffer.alloc(128);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(address.length);
  check('getsockname', native.getsockname(fd, address, length));
  return address.subarray(0, length.readUInt32LE());
}

export function getsockoptInt(fd: number, level: number, option: number): number {
  const value = Buffer.alloc(4);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(value.length);
  check('getsockopt', native.getsockopt(fd, level, option, value, length), `level ${level} option ${option}`);
  return value.readInt32LE();
}

export function setsockoptInt(fd: number, level: number, option: number, value: number): void {
  const data = Buffer.alloc(4);
  data.writeInt32LE(value);
  check('setsockopt', native.setsockopt(fd, level, option, data, 4), `level ${level} option ${option}`);
}

/** Bounds every blocking send and receive on the socket (SO_SNDTIMEO, SO_RCVTIMEO); they fail with EAGAIN then. */
export function setsockoptTimeout(fd: number, timeoutMs: number): void {
  // struct timeval of 64-bit machines.
  const value = Buffer.alloc(16);
  value.writeBigInt64LE(BigInt(Math.floor(timeoutMs / 1000)), 0);
  value.writeBigInt64LE(BigInt((timeoutMs % 1000) * 1000), 8);
  for (const option of [SO_RCVTIMEO, SO_SNDTIMEO]) {
    check('setsockopt', native.setsockopt(fd, SOL_SOCKET, option, value, value.length), `timeout`);
  }
}

/** Sets a socket buffer beyond the system's limit where that is permitted (CAP_NET_ADMIN), else up to it. */
export function setsockoptBuffer(fd: number, which: 'receive' | 'send', bytes: number): void {
  setsockoptInt(fd, SOL_SOCKET, which === 'receive' ? SO_RCVBUF : SO_SNDBUF, bytes);
  try {
    setsockoptInt(fd, SOL_SOCKET, which === 'receive' ? SO_RCVBUFFORCE : SO_SNDBUFFORCE, bytes);
  } catch (error) {
    if (!(error instanceof SystemError && error.code === 'EPERM')) throw error;
  }
}

/** Takes an exclusive lock that goes with the last descriptor of the open file (flock(2)). False when it is taken. */
export function tryLock(fd: number): boolean {
  if (Number(native.flock(fd, LOCK_EX | LOCK_NB)) === 0) return true;
  const errno = koffi.errno();
  if (errno === constants.errno.EAGAIN) return false;
  throw new SystemError('flock', errno);
}

export function send(fd: number, data: Uint8Array, flags: number): number {
  return check('send', native.send(fd, data, data.length, flags));
}

/** Sends what the kernel takes at once, without SIGPIPE; undefined when that is nothing. */
export function sendNow(fd: number, data: Uint8Array): number | undefined {
  // The driver refuses any other flag on a TCP socket of its own (drivers/net/ovpn/tcp.c, ovpn_tcp_sendmsg).
  return checkNow('send', native.send(fd, data, data.length, MSG_NOSIGNAL | MSG_DONTWAIT));
}

/**
 * Receives into `data` without blocking.
 *
 * @returns the datagram's whole length (which may exceed `data` when MSG_TRUNC is set), or undefined when
 *   nothing is queued. The sender's address is written to `address` when given.
 */
export function recvNow(fd: number, data: Uint8Array, flags: number, address?: Uint8Array): number | undefined {
  if (address !== undefined) addressLength.writeUInt32LE(address.length);
  return checkNow(
    'recvfrom',
    native.recvfrom(fd, data, data.length, flags | MSG_DONTWAIT, address ?? null, address && addressLength),
  );
}

/** In and out parameter of recvfrom and accept4; one for all calls, as none outlasts its own. */
const addressLength = Buffer.alloc(4);

/** Sends the datagram of a `struct msghdr`. False when the socket's buffer is full. */
export function sendmsgNow(fd: number, message: Uint8Array): boolean {
  return checkNow('sendmsg', native.sendmsg(fd, message, MSG_NOSIGNAL | MSG_DONTWAIT)) !== undefined;
}

/** Receives up to `count` queued datagrams into an array of `struct mmsghdr`; returns how many there were. */
export function recvmmsgNow(fd: number, messages: Uint8Array, count: number): number {
  return checkNow('recvmmsg', native.recvmmsg(fd, messages, count, MSG_DONTWAIT, null)) ?? 0;
}

/** Where the memory of a buffer is, for structures that point to it. Only as long as the buffer is referenced. */
export function addressOf(buffer: Uint8Array): bigint {
  return koffi.address(buffer);
}

/** Sends `data` with one file descriptor attached, by SCM_RIGHTS (unix(7)). Blocks. */
export function sendWithFd(fd: number, data: Uint8Array, passed: number | undefined): void {
  const { message, control } = messageHeader(data, passed !== undefined);
  if (control !== undefined && passed !== undefined) {
    // struct cmsghdr {size_t len; int level; int type} followed by the descriptor.
    control.writeBigUInt64LE(BigInt(CMSG_HEADER + 4), 0);
    control.writeInt32LE(SOL_SOCKET, 8);
    control.writeInt32LE(SCM_RIGHTS, 12);
    control.writeInt32LE(passed, CMSG_HEADER);
  }
  uninterrupted('sendmsg', () => native.sendmsg(fd, message, MSG_NOSIGNAL));
}

/** Receives up to `data.length` bytes and at most one file descriptor. Blocks; 0 bytes means end of stream. */
export function recvWithFd(
  fd: number,
  data: Uint8Array,
): { readonly length: number; readonly passed: number | undefined } {
  const { message, control } = messageHeader(data, true);
  const length = uninterrupted('recvmsg', () => native.recvmsg(fd, message, MSG_CMSG_CLOEXEC));
  const controlLength = Number(message.readBigUInt64LE(MSGHDR_CONTROLLEN));
  const hasFd =
    control !== undefined &&
    controlLength >= CMSG_HEADER + 4 &&
    control.readInt32LE(8) === SOL_SOCKET &&
    control.readInt32LE(12) === SCM_RIGHTS;
  return { length, passed: hasFd ? control.readInt32LE(CMSG_HEADER) : undefined };
}

const MSGHDR_SIZE = 56;
const MSGHDR_CONTROLLEN = 40;
const CMSG_HEADER = 16;

/** struct msghdr of one buffer, with room for one descriptor (64-bit layout of both architectures). */
function messageHeader(data: Uint8Array, withControl: boolean): { message: Buffer; control: Buffer | undefined } {
  const iov = Buffer.alloc(16);
  iov.writeBigUInt64LE(koffi.address(data), 0);
  iov.writeBigUInt64LE(BigInt(data.length), 8);
  const control = withControl ? Buffer.alloc(CMSG_HEADER + 8) : undefined;
  const message = Buffer.alloc(MSGHDR_SIZE);
  message.writeBigUInt64LE(koffi.address(iov), 16);
  message.writeBigUInt64LE(1n, 24);
  if (control !== undefined) {
    message.writeBigUInt64LE(koffi.address(control), 32);
    // CMSG_LEN, not CMSG_SPACE: into the padding the kernel would put a second descriptor, which nobody closes.
    message.writeBigUInt64LE(BigInt(CMSG_HEADER + 4), MSGHDR_CONTROLLEN);
  }
  // The kernel reads iov and control through bare addresses: tie their lifetime to the header's.
  keepAlive.set(message, [iov, control, data]);
  return { message, control };
}
const keepAlive = new WeakMap<Buffer, readonly unknown[]>();

export function close(fd: number): void {
  check('close', native.close(fd));
}

/** Moves the calling thread (the main one) into the namespace of `fd`. See netns.ts, the only caller. */
export function setns(fd: number, type: number): void {
  check('setns', native.setns(fd, type));
}

export function unshare(flags: number): void {
  check('unshare', native.unshare(flags));
}

export function mount(source: string, target: string, type: string, flags: number): void {
  check('mount', native.mount(source, target, type, flags, null), target);
}

export function umount(target: string, flags: number): void {
  check('umount2', native.umount2(target, flags), target);
}

/**
 * Waits for `pollfds` (an array of struct pollfd) on a thread-pool thread; resolves to the number of ready
 * entries. A failed poll (EINTR, ENOMEM) counts as none, a little later, so that a caller may just loop.
 */
export async function pollAsync(pollfds: Buffer, count: number, timeoutMs: number): Promise<number> {
  return new Promise((resolve, reject) => {
    native.poll.async(pollfds, count, timeoutMs, (error: unknown, result: unknown) => {
      const ready = Number(result);
      if (error !== null && error !== undefined)
        reject(error instanceof Error ? error : new Error('poll failed', { cause: error }));
      else if (ready >= 0) resolve(ready);
      else setTimeout(resolve, 20, 0);
    });
  });
}

/**
 * Waits for descriptors to become readable and returns those that are, or have an error to fetch. Blocks
 * the calling thread; undefined timeout waits for ever. A signal does not cut the wait short.
 */
export function pollReadable(fds: readonly number[], timeoutMs?: number): readonly number[] {
  const pollfds = Buffer.alloc(8 * fds.length);
  fds.forEach((fd, i) => {
    pollfds.writeInt32LE(fd, 8 * i);
    pollfds.writeInt16LE(POLLIN, 8 * i + 4);
  });
  const deadline = timeoutMs === undefined ? undefined : performance.now() + timeoutMs;
  uninterrupted('poll', () =>
    native.poll(
      pollfds,
      fds.length,
      deadline === undefined ? -1 : Math.max(0, Math.ceil(deadline - performance.now())),
    ),
  );
  return fds.filter((_, i) => pollfds.readInt16LE(8 * i + 6) !== 0);
}

export function eventfd(): number {
  return check('eventfd', native.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

const PR_SET_DUMPABLE = 4;

/**
 * From now on the kernel writes no memory of this process anywhere when it crashes: keys are in there. Not by
 * RLIMIT_CORE, which programs that core_pattern(5) names do not go by. See prctl(2), PR_SET_DUMPABLE.
 */
export function refuseCoreDumps(): void {
  check('prctl', native.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

/** A close-on-exec file without a place in any folder (memfd_create(2)); the name is for /proc/self/fd only. */
export function memfdCreate(name: string): number {
  try {
    return check('memfd_create', native.memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL));
  } catch (error) {
    // Linux before 6.3 does not know the second flag.
    if (!(error instanceof SystemError && error.code === 'EINVAL')) throw error;
    return check('memfd_create', native.memfd_create(name, MFD_CLOEXEC));
  }
}

// Constants of include/uapi, the same on x86_64 and aarch64.
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_SEQPACKET = 5;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_ERROR = 4;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const SCM_RIGHTS = 1;
export const IPPROTO_IP = 0;
export const IPPROTO_TCP = 6;
export const IPPROTO_IPV6 = 41;
export const IP_PKTINFO = 8;
export const TCP_NODELAY = 1;
export const IPV6_V6ONLY = 26;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
export const MSG_CTRUNC = 0x8;
export const MSG_TRUNC = 0x20;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const POLLIN = 0x1;
export const POLLOUT = 0x4;
export const POLLERR = 0x8;
export const POLLHUP = 0x10;
export const POLLNVAL = 0x20;
export const CLONE_NEWNET = 0x40000000;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_SHARED = 1 << 20;
export const MNT_DETACH = 2;
const LOCK_EX = 2;
const LOCK_NB = 4;
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const MFD_CLOEXEC = 1;
const MFD_NOEXEC_SEAL = 8;

/** struct timex of 64-bit Linux (include/uapi/linux/timex.h), and where `status` is in it. */
const [timexBytes, timexStatus] = [208, 40];
const STA_UNSYNC = 0x40;
const TIME_ERROR = 5;

/** Whether the kernel says that something keeps the clock right (NTP, PTP, chrony). Changes nothing. @throws SystemError */
export function clockSynchronized(): boolean {
  const timex = Buffer.alloc(timexBytes);
  const state = check('adjtimex', native.adjtimex(timex));
  return state !== TIME_ERROR && (timex.readUInt32LE(timexStatus) & STA_UNSYNC) === 0;
}
