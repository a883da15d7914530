import { createHash } from 'node:crypto';
import { formatOptionsString } from '../negotiate/options-string.ts';
import { type ClientOptions, ClientSession } from '../session/client-session.ts';
import { World } from '../session/world.fixture.ts';
import type { Offer } from '../session/server-session.ts';
import type { AuthenticatedClient, Established, SessionEvent } from '../session/session-event.ts';
import type { Certificate, TestPki } from '../tls/pki.fixture.ts';
import { tlsClient } from '../tls/tls-endpoint.ts';
import { frame, FrameReader } from '../wire/frame.ts';
import { SessionWrapper, type WrapConfig } from '../wrap/session-wrapper.ts';
import type { Path } from './path.ts';
import { type DatagramEndpoint, OpenvpnServer, type StreamEndpoint } from './server.ts';
import type { ClientEnd, ServedClient, ServerOwner, ServerSettings } from './server-settings.ts';

/** A server, clients and the network between them, in memory. Not for other code than tests. */

export const testOffer: Offer = {
  peerId: 5,
  topology: 'subnet',
  routeGateway: '10.8.0.1',
  ifconfig: { address: '10.8.0.2', second: '255.255.255.0' },
  pingSeconds: 10,
  pingRestartSeconds: 60,
};

/** What the server's owner was told, in order. */
export interface Told {
  readonly what: 'authenticated' | 'established' | 'rekeyed' | 'rekey-failed' | 'ended';
  readonly client: ServedClient;
  readonly end?: ClientEnd;
  readonly established?: Established;
}

/** Takes in every client, unless told otherwise. */
export class Owner implements ServerOwner {
  readonly told: Told[] = [];
  readonly failures: { path: Path; listener: string; reason: string; commonName: string | undefined }[] = [];
  decide: (client: ServedClient, who: AuthenticatedClient) => void = (client) => client.accept(testOffer);
  programKernel: (client: ServedClient) => void = (client) => client.confirm();
  unwelcome: (commonName: string) => string | undefined = () => undefined;
  readonly asked: ServedClient[] = [];
  displaced: (client: ServedClient) => void = (client) => this.asked.push(client);

  authenticated(client: ServedClient, who: AuthenticatedClient): void {
    this.told.push({ what: 'authenticated', client });
    this.decide(client, who);
  }

  established(client: ServedClient, established: Established): void {
    this.told.push({ what: 'established', client, established });
    this.programKernel(client);
  }

  rekeyed(client: ServedClient): void {
    this.told.push({ what: 'rekeyed', client });
  }

  rekeying(): void {
    // Matters to the kernel's key slots alone, which there are none of here.
  }

  keyConfirmed(): void {
    // The same.
  }

  rekeyFailed(client: ServedClient): void {
    this.told.push({ what: 'rekey-failed', client });
  }

  ended(client: ServedClient, end: ClientEnd): void {
    this.told.push({ what: 'ended', client, end });
  }

  failed(path: Path, listener: string, reason: string, identity: { commonName: string } | undefined): void {
    this.failures.push({ path, listener, reason, commonName: identity?.commonName });
  }

  recheck({ commonName }: { commonName: string }): string | undefined {
    return this.unwelcome(commonName);
  }

  count(what: Told['what']): number {
    return this.told.filter((event) => event.what === what).length;
  }

  get ends(): ClientEnd[] {
    return this.told.flatMap(({ end }) => (end === undefined ? [] : [end]));
  }

  get clients(): ServedClient[] {
    return this.told.flatMap(({ what, client }) => (what === 'established' ? [client] : []));
  }
}

let seed = 1;
export function testRandom(bytes: number): Buffer {
  const blocks: Buffer[] = [];
  while (blocks.length * 32 < bytes) {
    blocks.push(createHash('sha256').update(`${seed++}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, bytes);
}

export interface ClientSetup {
  readonly pki: TestPki;
  readonly certificate: Certificate;
  readonly wrap?: WrapConfig;
  readonly options?: Partial<ClientOptions>;
}

/** A client that somebody else connects to a server. */
export class TestClient {
  readonly events: SessionEvent[] = [];
  readonly session: ClientSession;
  /** Every packet it sent. */
  readonly sent: Buffer[] = [];

  constructor(world: World, transport: 'udp' | 'tcp', setup: ClientSetup, send: (packet: Buffer) => void) {
    const wrap = setup.wrap ?? { kind: 'none' };
    this.session = new ClientSession({
      wrapper: new SessionWrapper(wrap, { role: 'client', transport, clock: world.clock }),
      scheduler: world,
      random: testRandom,
      send: (packet) => {
        this.sent.push(packet);
        send(packet);
      },
      notify: (event) => this.events.push(event),
      ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
      optionsString: formatOptionsString({ role: 'client', transport, family: 4, tunMtu: 1400 }),
      tls: tlsClient({ ca: setup.pki.ca, ...setup.certificate }, { remoteCertTls: 'server' }),
      version: '2.6.0-test',
      maxTunMtu: 1600,
      tlsCryptV2: wrap.kind === 'tls-crypt-v2-client',
      ...setup.options,
    });
  }

  had(type: SessionEvent['type']): boolean {
    return this.events.some((event) => event.type === type);
  }

  event<Type extends SessionEvent['type']>(type: Type): (SessionEvent & { type: Type }) | undefined {
    return this.events.find((event): event is SessionEvent & { type: Type } => event.type === type);
  }
}

export class TestNetwork {
  readonly world = new World();
  readonly owner = new Owner();
  readonly server: OpenvpnServer;
  readonly udp: DatagramEndpoint;
  /** Every datagram of the server. */
  readonly sent: { packet: Buffer; path: Path }[] = [];
  readonly #moved = new Map<TestClient, Path>();
  readonly #receivers = new Map<string, (packet: Buffer) => void>();

  constructor(settings: ServerSettings) {
    const { world } = this;
    this.server = new OpenvpnServer(settings, this.owner, { scheduler: world, random: testRandom, clock: world.clock });
    this.udp = this.server.openDatagram('udp', (packet, path) => {
      this.sent.push({ packet, path });
      world.carry(() => this.#receivers.get(portKey(path))?.(packet));
    });
  }

  /**
   * A client at this address; one that was there before does not hear anything any more.
   *
   * @param line carries a packet of either direction; loses nothing and takes no time by default
   */
  udpClient(path: Path, setup: ClientSetup, line: (deliver: () => void) => void = (deliver) => deliver()): TestClient {
    const client = new TestClient(this.world, 'udp', setup, (packet) => {
      this.world.carry(() => line(() => this.deliver(packet, this.#moved.get(client) ?? path)));
    });
    this.#receivers.set(portKey(path), (packet) => line(() => void client.session.receive(packet)));
    return client;
  }

  /** What is sent there reaches this client from now on. */
  route(path: Path, client: TestClient): void {
    this.#receivers.set(portKey(path), (packet) => void client.session.receive(packet));
  }

  /** The client's packets come from elsewhere now, and it hears only what is sent there. */
  roam(client: TestClient, from: Path, to: Path): Path {
    this.#receivers.delete(portKey(from));
    this.route(to, client);
    this.#moved.set(client, to);
    return to;
  }

  /** A datagram for the server, from wherever. */
  deliver(packet: Buffer, path: Path): void {
    // As a socket's reader would: in a buffer that is used again.
    const reused = Buffer.from(packet);
    this.udp.receive(reused, path);
    reused.fill(0xee);
  }

  /** @param cut into how many bytes the server's reads are cut at most */
  tcpClient(path: Path, setup: ClientSetup, cut = 65536): TestStream {
    return new TestStream(this, path, setup, cut);
  }
}

/** A client on a TCP connection. */
export class TestStream {
  readonly client: TestClient;
  readonly endpoint: StreamEndpoint;
  /** What waits in the server's socket to be read. */
  waiting = Buffer.alloc(0);
  /** The most bytes that one read of the server got, and what it wanted then. */
  readonly reads: { bytes: Buffer; wanted: number }[] = [];
  /** Each of the server's writes. */
  readonly writes: Buffer[] = [];
  idle = true;
  closed = false;
  /** The kernel has the socket: frames come whole. */
  handedOver = false;
  readonly #network: TestNetwork;
  readonly #cut: number;
  readonly #reader = new FrameReader();

  constructor(network: TestNetwork, path: Path, setup: ClientSetup, cut: number) {
    this.#network = network;
    this.#cut = cut;
    const { world } = network;
    this.client = new TestClient(world, 'tcp', setup, (packet) => this.put(frame(packet)));
    const isIdle = (): boolean => this.idle;
    this.endpoint = network.server.openStream('tcp', path, {
      send: (bytes) => {
        this.writes.push(bytes);
        world.carry(() => this.#toClient(bytes));
      },
      close: () => (this.closed = true),
      get idle() {
        return isIdle();
      },
    });
  }

  /** Bytes from the client's side. */
  put(bytes: Buffer): void {
    this.waiting = Buffer.concat([this.waiting, bytes]);
    this.#network.world.carry(() => this.#read());
  }

  #read(): void {
    while (this.waiting.length > 0 && !this.closed) {
      const { wanted } = this.endpoint;
      const whole = this.handedOver ? 2 + this.waiting.readUInt16BE() : Math.min(wanted, this.#cut);
      const bytes = Buffer.from(this.waiting.subarray(0, whole));
      this.waiting = this.waiting.subarray(whole);
      this.reads.push({ bytes, wanted });
      this.endpoint.receive(bytes);
      bytes.fill(0xee);
    }
  }

  #toClient(bytes: Buffer): void {
    let rest = bytes;
    while (rest.length > 0) {
      const { consumed, packet } = this.#reader.take(rest);
      rest = rest.subarray(consumed);
      if (packet !== undefined) {
        this.client.session.receive(packet);
      }
    }
  }
}

function portKey({ remote }: Path): string {
  return `${remote.address} ${remote.port}`;
}
