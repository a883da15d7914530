import { AF_UNIX, bind, close, connect, listen, setsockoptTimeout, SOCK_SEQPACKET, socket } from './libc.ts';

/**
 * Blocking SOCK_SEQPACKET sockets: packets keep their borders and may carry a descriptor, which Node's own
 * streams cannot receive.
 */

/** struct sockaddr_un. The path is limited to 107 bytes (unix(7)). */
function unixAddress(path: string): Buffer {
  const bytes = Buffer.from(path);
  if (bytes.length > 107) throw new RangeError(`socket path ${path} is longer than 107 bytes`);
  const address = Buffer.alloc(2 + bytes.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  address.set(bytes, 2);
  return address;
}

/** Listens at `path`, which must not exist. @throws SystemError EADDRINUSE */
export function listenSeqpacket(path: string): number {
  return openSeqpacket((fd) => {
    bind(fd, unixAddress(path), path);
    listen(fd, 16);
  });
}

/** Connects to `path`; each later call on the socket waits no longer than the timeout. @throws SystemError */
export function connectSeqpacket(path: string, timeoutMs: number): number {
  return openSeqpacket((fd) => {
    setsockoptTimeout(fd, timeoutMs);
    connect(fd, unixAddress(path), path);
  });
}

function openSeqpacket(prepare: (fd: number) => void): number {
  const fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  try {
    prepare(fd);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}
