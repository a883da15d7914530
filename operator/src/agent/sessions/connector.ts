import { describe } from '../../errors.ts';
import { isIpv6 } from '../../kernel/address.ts';
import { DatagramSocket } from '../../kernel/datagram-socket.ts';
import { close } from '../../kernel/libc.ts';
import type { ReadinessPoller } from '../../kernel/poller.ts';
import { connectTcp, StreamSocket } from '../../kernel/stream-socket.ts';
import { openUdpSocket } from '../../kernel/transport-socket.ts';
import type { Connection, ConnectionEvents, Connector } from '../../openvpn/endpoint/dialer.ts';
import type { Path } from '../../openvpn/endpoint/path.ts';
import type { RemoteNames } from '../../openvpn/endpoint/remote-names.ts';

/** A connection whose socket the kernel may take over. */
export interface KernelConnection extends Connection {
  /** TCP: to be called when the driver has the socket. */
  handedOver(): void;
}

/**
 * Connections of this host's own network namespace, by sockets that the `ovpn` driver can take over.
 *
 * @param opened told of every connection before its first packet
 */
export function kernelConnector(
  poller: ReadinessPoller,
  names: Pick<RemoteNames, 'resolve'>,
  opened: (connection: KernelConnection) => void,
): Connector {
  return {
    connect: async ({ address, port, transport }, events) => {
      const connect = transport === 'udp' ? connectUdp : connectStream;
      const connection = await connect(poller, { address, port }, events);
      opened(connection);
      return connection;
    },
    resolve: (host) => names.resolve(host),
  };
}

interface Target {
  readonly address: string;
  readonly port: number;
}

/**
 * A connection of an earlier process, whose socket the driver has.
 *
 * @param fd owned by the connection from now on
 */
export function resumedConnection(
  poller: ReadinessPoller,
  fd: number,
  { transport, path }: { readonly transport: 'udp' | 'tcp'; readonly path: Path },
  events: ConnectionEvents,
): KernelConnection {
  if (transport === 'udp') return onDatagrams(poller, fd, path.remote, events);
  const connection = onStream(poller, fd, path, events);
  connection.handedOver();
  return connection;
}

/** Not connected: the driver sends to the peer's address by itself, and the peer may float. */
function connectUdp(poller: ReadinessPoller, remote: Target, events: ConnectionEvents): Promise<KernelConnection> {
  const fd = openUdpSocket({ address: isIpv6(remote.address) ? '::' : '0.0.0.0', port: 0 });
  return Promise.resolve(onDatagrams(poller, fd, remote, events));
}

function onDatagrams(poller: ReadinessPoller, fd: number, remote: Target, events: ConnectionEvents): KernelConnection {
  const path = { remote, local: undefined };
  const socket = new DatagramSocket(fd, poller, (packet, from) => {
    if (from.remote.address === remote.address && from.remote.port === remote.port) events.packet(packet);
  });
  let open = true;
  return {
    path,
    fd,
    idle: true,
    send: (packet) => void socket.send(packet, path),
    handedOver: () => undefined,
    close: () => {
      if (!open) return;
      open = false;
      socket.close();
      close(fd);
    },
  };
}

function connectStream(poller: ReadinessPoller, remote: Target, events: ConnectionEvents): Promise<KernelConnection> {
  return new Promise((resolve, reject) => {
    connectTcp(remote, poller, (result) => {
      if ('error' in result) {
        reject(new Error(result.error));
        return;
      }
      const { fd, local } = result;
      try {
        resolve(onStream(poller, fd, { remote, local: local.address }, events));
      } catch (error) {
        close(fd);
        reject(new Error(describe(error)));
      }
    });
  });
}

function onStream(poller: ReadinessPoller, fd: number, path: Path, events: ConnectionEvents): KernelConnection {
  const stream = new StreamSocket(fd, poller, () => events.wanted(), {
    data: (bytes) => events.packet(bytes),
    closed: (reason) => events.closed(reason),
    drained: () => events.drained(),
  });
  return {
    path,
    fd,
    get idle() {
      return stream.idle;
    },
    send: (bytes) => stream.send(bytes),
    handedOver: () => stream.handedOver(),
    close: () => stream.close(),
  };
}
