import http from 'node:http';
import https from 'node:https';
import type { AddressInfo, Socket } from 'node:net';

/** A way to an API server that counts the bytes of HTTP both ways, headers among them, watches too. */
export class CountingProxy {
  readonly #agent: https.Agent;
  readonly #server: http.Server;
  readonly #open = new Set<Socket>();
  #ended = 0;

  private constructor(target: string, ca: string) {
    this.#agent = new https.Agent({ ca, keepAlive: true });
    this.#server = http.createServer((request, response) => {
      const { method, headers, url = '/' } = request;
      const onward = https.request(`${target}${url}`, { method, headers, agent: this.#agent }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        response.flushHeaders();
        answer.pipe(response);
        answer.on('error', () => response.destroy());
      });
      onward.on('error', () => response.destroy());
      response.on('close', () => onward.destroy());
      request.pipe(onward);
    });
    this.#server.on('connection', (socket) => {
      this.#open.add(socket);
      socket.on('close', () => {
        this.#open.delete(socket);
        this.#ended += socket.bytesRead + socket.bytesWritten;
      });
    });
  }

  /** @param way the server's address and CA; clients bring their own token */
  static async start(way: { readonly server: string; readonly ca: string }): Promise<CountingProxy> {
    const proxy = new CountingProxy(way.server, way.ca);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get bytes(): number {
    return [...this.#open].reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, this.#ended);
  }

  close(): void {
    this.#agent.destroy();
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
