import { lookup } from 'node:dns/promises';
import { describe } from '../../errors.ts';
import { isIpv6 } from '../../kernel/address.ts';
import { DatagramSocket } from '../../kernel/datagram-socket.ts';
import { close } from '../../kernel/libc.ts';
import type { ReadinessPoller } from '../../kernel/poller.ts';
import { connectTcp, StreamSocket } from '../../kernel/stream-socket.ts';
import { openUdpSocket } from '../../kernel/transport-socket.ts';
import type { Connection, ConnectionEvents, Connector } from '../../openvpn/endpoint/dialer.ts';

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
export function kernelConnector(poller: ReadinessPoller, opened: (connection: KernelConnection) => void): Connector {
  return {
    connect: async ({ address, port, transport }, events) => {
      const connect = transport === 'udp' ? connectUdp : connectStream;
      const connection = await connect(poller, { address, port }, events);
      opened(connection);
      return connection;
    },
    resolve: async (host) => {
      // As the host's own resolver orders them (RFC 6724).
      const found = await lookup(host, { all: true, order: 'verbatim' });
      return found.map(({ address }) => address);
    },
  };
}

interface Target {
  readonly address: string;
  readonly port: number;
}

/** Not connected: the driver sends to the peer's address by itself, and the peer may float. */
function connectUdp(poller: ReadinessPoller, remote: Target, events: ConnectionEvents): Promise<KernelConnection> {
  const fd = openUdpSocket({ address: isIpv6(remote.address) ? '::' : '0.0.0.0', port: 0 });
  const path = { remote, local: undefined };
  const socket = new DatagramSocket(fd, poller, (packet, from) => {
    if (from.remote.address === remote.address && from.remote.port === remote.port) events.packet(packet);
  });
  let open = true;
  return Promise.resolve({
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
  });
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
        const stream = new StreamSocket(fd, poller, () => events.wanted(), {
          data: (bytes) => events.packet(bytes),
          closed: (reason) => events.closed(reason),
          drained: () => events.drained(),
        });
        resolve({
          path: { remote, local: local.address },
          fd,
          get idle() {
            return stream.idle;
          },
          send: (bytes) => stream.send(bytes),
          handedOver: () => stream.handedOver(),
          close: () => stream.close(),
        });
      } catch (error) {
        close(fd);
        reject(new Error(describe(error)));
      }
    });
  });
}
