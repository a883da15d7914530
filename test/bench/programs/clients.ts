/**
 * Many OpenVPN clients in one process, each with a socket and a certificate of its own, connecting at once. The
 * parent process says when; what comes back is how long each of them took.
 *
 * node clients.ts SETUP (JSON of ClientsSetup)
 */
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatOptionsString } from '../../../operator/src/openvpn/negotiate/options-string.ts';
import { ClientSession } from '../../../operator/src/openvpn/session/client-session.ts';
import { systemScheduler } from '../../../operator/src/openvpn/session/scheduler.ts';
import type { SessionEvent } from '../../../operator/src/openvpn/session/session-event.ts';
import { parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { tlsClient } from '../../../operator/src/openvpn/tls/tls-endpoint.ts';
import { SessionWrapper, type WrapConfig } from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import type { ClientsAnswer, ClientsOrder, ClientsSetup } from '../suites/handshake-load.ts';
import { clientAddress } from '../suites/handshake-load.ts';
import { clientCert } from '../suites/handshake-pki.ts';

const setup = JSON.parse(process.argv[2] ?? '') as ClientsSetup;
const { pki, server } = setup;
const read = (file: string): string => readFileSync(file, 'utf8');
const wrap: WrapConfig = setup.tlsCrypt
  ? { kind: 'tls-crypt', key: parseStaticKey(read(pki.tlsCryptKey), {}) }
  : { kind: 'none' };

/** One client, made ready before the clock starts: its certificate is read and its socket is open. */
class Client {
  readonly #session: ClientSession;
  readonly #socket: Socket;
  #done: (failure: string | undefined) => void = () => undefined;
  #gone: () => void = () => undefined;

  private constructor(socket: Socket, index: number, { ca, clientKey }: { ca: string; clientKey: string }) {
    this.#socket = socket;
    this.#session = new ClientSession({
      tls: tlsClient(
        { ca, cert: read(clientCert(pki, index)), key: clientKey, minVersion: 'TLSv1.3' },
        { remoteCertTls: 'server' },
      ),
      wrapper: new SessionWrapper(wrap, { role: 'client', transport: 'udp', clock: () => Date.now() }),
      scheduler: systemScheduler,
      random: randomBytes,
      send: (packet) => socket.send(packet, () => undefined),
      notify: (event) => this.#heard(event),
      ciphers: ['AES-256-GCM'],
      optionsString: formatOptionsString({ role: 'client', transport: 'udp', family: 4, tunMtu: 1500 }),
      handshakeSeconds: setup.handshakeSeconds,
      renegotiateSeconds: 0,
      version: '2.7.8',
      maxTunMtu: 1500,
    });
    socket.on('message', (packet) => void this.#session.receive(packet));
    // A server that is not there yet, or not any more.
    socket.on('error', () => undefined);
  }

  static async make(index: number, files: { ca: string; clientKey: string }): Promise<Client> {
    const socket = createSocket('udp4');
    socket.bind(0, clientAddress(index));
    await once(socket, 'listening');
    socket.connect(server.port, server.address);
    await once(socket, 'connect');
    return new Client(socket, index, files);
  }

  /** Milliseconds from the first packet to the pushed options; NaN when it came to nothing. */
  async connect(): Promise<{ ms: number; failure: string | undefined }> {
    const start = performance.now();
    const failure = await new Promise<string | undefined>((resolve) => {
      this.#done = resolve;
      this.#session.start();
    });
    return { ms: performance.now() - start, failure };
  }

  async leave(): Promise<void> {
    if (this.#session.phase !== 'over') {
      await new Promise<void>((resolve) => {
        this.#gone = resolve;
        this.#session.exit();
      });
    }
    this.#session.close();
    this.#socket.close();
  }

  #heard(event: SessionEvent): void {
    switch (event.type) {
      case 'established':
        this.#done(undefined);
        return;
      case 'failed':
        this.#done(event.reason);
        this.#gone();
        return;
      case 'closed':
        this.#done('closed');
        this.#gone();
        return;
      case 'auth-failed':
      case 'restart':
      case 'halt':
        this.#done(`${event.type} ${JSON.stringify(event)}`);
        return;
      default:
        return;
    }
  }
}

let clients: Client[] = [];

async function connect(first: number, count: number, withinMs: number): Promise<ClientsAnswer> {
  const files = { ca: read(pki.ca), clientKey: read(pki.clientKey) };
  const fresh: Client[] = [];
  for (let index = first; index < first + count; index++) fresh.push(await Client.make(index, files));
  clients.push(...fresh);
  const cpu = process.cpuUsage();
  const start = performance.now();
  const results = await Promise.all(
    fresh.map(async (client, index) => {
      if (withinMs > 0) await sleep((index * withinMs) / count);
      return client.connect();
    }),
  );
  const wallMs = performance.now() - start;
  const used = process.cpuUsage(cpu);
  return {
    times: results.map(({ ms }) => ms),
    failures: results.flatMap(({ failure }) => (failure === undefined ? [] : [failure])),
    wallMs,
    cpuMs: (used.user + used.system) / 1000,
  };
}

async function leave(): Promise<ClientsAnswer> {
  const start = performance.now();
  await Promise.all(clients.map((client) => client.leave()));
  clients = [];
  return { times: [], failures: [], wallMs: performance.now() - start, cpuMs: 0 };
}

process.on('message', (order: ClientsOrder) => {
  const work = order.do === 'leave' ? leave() : connect(order.first, order.count, order.withinMs);
  void work.then((answer) => process.send?.(answer));
});
process.send?.({ times: [], failures: [], wallMs: 0, cpuMs: 0 } satisfies ClientsAnswer);
