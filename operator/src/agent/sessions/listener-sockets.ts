import { DatagramSocket } from '../../kernel/datagram-socket.ts';
import type { ReadinessPoller } from '../../kernel/poller.ts';
import { StreamListener, StreamSocket } from '../../kernel/stream-socket.ts';
import { addressKey, type Path } from '../../openvpn/endpoint/path.ts';
import type { DatagramEndpoint, OpenvpnServer, StreamEndpoint } from '../../openvpn/endpoint/server.ts';
import type { ServedClient } from '../../openvpn/endpoint/server-settings.ts';
import type { StreamSender } from '../../openvpn/endpoint/stream-connection.ts';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import type { SessionRecord } from './session-memory.ts';

/** The sockets of a network's listeners, and the connections of its clients, between the kernel and the server. */

/** A transport socket of the network that is open. */
export interface OpenListener {
  readonly name: string;
  readonly transport: 'udp' | 'tcp';
  readonly fd: number;
  /** Where it listens: a descriptor's number alone may be that of the socket before. */
  readonly at: string;
}

/** An input of the server, and how to end it. */
interface Input {
  readonly fd: number;
  readonly at: string;
  /** Of a UDP socket. */
  readonly datagrams?: DatagramEndpoint;
  close(): void;
}

export class ListenerSockets {
  readonly #poller: ReadinessPoller;
  readonly #inputs = new Map<string, Input>();
  /** TCP connections by listener and remote address. */
  readonly #streams = new Map<string, StreamSocket>();

  constructor(poller: ReadinessPoller) {
    this.#poller = poller;
  }

  /** Serves on these sockets, and on no others any more. A descriptor's number may be another socket's by now. */
  serve(server: OpenvpnServer, listeners: readonly OpenListener[]): void {
    const wanted = new Map(listeners.map((listener) => [listener.name, listener]));
    for (const [name, input] of this.#inputs) {
      const listener = wanted.get(name);
      if (listener?.fd === input.fd && listener.at === input.at) continue;
      input.close();
      this.#inputs.delete(name);
    }
    for (const listener of wanted.values()) {
      if (this.#inputs.has(listener.name)) continue;
      const input = listener.transport === 'udp' ? this.#openUdp(server, listener) : this.#openTcp(server, listener);
      this.#inputs.set(listener.name, input);
    }
  }

  /** The descriptor of a listener. */
  fdOf(listener: string): number | undefined {
    return this.#inputs.get(listener)?.fd;
  }

  /** The connection of a TCP client. */
  connectionOf({ listener, path }: ServedClient): StreamSocket | undefined {
    return this.#streams.get(streamKey(listener, path));
  }

  /**
   * Goes on with a client of an earlier process.
   *
   * @param takeConnection the descriptor of a TCP client's connection
   * @throws Error when its listener or its connection is not there any more
   */
  resume(
    server: OpenvpnServer,
    { transport, listener = '', path }: Pick<SessionRecord, 'transport' | 'listener' | 'path'>,
    session: SessionState,
    takeConnection: () => number | undefined,
  ): ServedClient {
    if (transport === 'udp') {
      const input = this.#inputs.get(listener)?.datagrams;
      if (input === undefined) throw new Error(`there is no listener ${listener} any more`);
      return input.resume(session, path);
    }
    const fd = takeConnection();
    if (fd === undefined) throw new Error('the holder does not have its connection');
    let client: ServedClient | undefined;
    const stream = this.#openStream(listener, fd, path, (sender) => {
      const resumed = server.resumeStream(listener, path, sender, session);
      client = resumed.client;
      return resumed.endpoint;
    });
    stream.handedOver();
    if (client === undefined) throw new Error('a resumed connection has its client from the start');
    return client;
  }

  /** Stops serving. */
  close(): void {
    for (const input of this.#inputs.values()) input.close();
    this.#inputs.clear();
    for (const stream of this.#streams.values()) stream.close();
    this.#streams.clear();
  }

  #openUdp(server: OpenvpnServer, { name, fd, at }: OpenListener): Input {
    const input = server.openDatagram(name, (packet, path) => void socket.send(packet, path));
    const socket = new DatagramSocket(fd, this.#poller, (packet, path) => input.receive(packet, path));
    return {
      fd,
      at,
      datagrams: input,
      close: () => {
        socket.close();
        input.close();
      },
    };
  }

  #openTcp(server: OpenvpnServer, { name, fd, at }: OpenListener): Input {
    const listener = new StreamListener(fd, this.#poller, (connection, path) => {
      this.#openStream(name, connection, path, (sender) => server.openStream(name, path, sender));
    });
    return { fd, at, close: () => listener.close() };
  }

  /** @param open tells the server of the connection; when it throws, the connection is closed */
  #openStream(name: string, fd: number, path: Path, open: (sender: StreamSender) => StreamEndpoint): StreamSocket {
    const key = streamKey(name, path);
    const stream: StreamSocket = new StreamSocket(fd, this.#poller, () => input.wanted, {
      data: (bytes) => input.receive(bytes),
      closed: (reason) => input.closed(reason),
      drained: () => input.drained(),
    });
    this.#streams.set(key, stream);
    const close = (): void => {
      if (this.#streams.get(key) === stream) this.#streams.delete(key);
      stream.close();
    };
    let input: StreamEndpoint;
    try {
      input = open({
        send: (bytes) => stream.send(bytes),
        get idle() {
          return stream.idle;
        },
        close,
      });
    } catch (error) {
      close();
      throw error;
    }
    return stream;
  }
}

function streamKey(listener: string, { remote }: Path): string {
  return `${listener} ${addressKey(remote)}`;
}
