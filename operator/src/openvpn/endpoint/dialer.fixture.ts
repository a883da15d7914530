import { formatOptionsString } from '../negotiate/options-string.ts';
import type { Established, SessionEvent } from '../session/session-event.ts';
import { ServerSession } from '../session/server-session.ts';
import type { SessionOptions } from '../session/session.ts';
import type { DataKeys } from '../static-key.ts';
import { type Certificate, type TestPki } from '../tls/pki.fixture.ts';
import { tlsClient, tlsServer } from '../tls/tls-endpoint.ts';
import { frame, FrameReader } from '../wire/frame.ts';
import { SessionWrapper, type WrapConfig } from '../wrap/session-wrapper.ts';
import {
  type Connection,
  type ConnectionEvents,
  type Connector,
  type DialedTunnel,
  Dialer,
  type DialerOwner,
  type DialerSettings,
  type Remote,
} from './dialer.ts';
import { World } from '../session/world.fixture.ts';
import { testOffer, testRandom } from './server.fixture.ts';

/** A dialer, servers, names and the network between them, in memory. Not for other code than tests. */

/** What becomes of a connection to an address. */
export type Host =
  | { readonly kind: 'refuses' }
  /** TCP: never connects. UDP: never answers. */
  | { readonly kind: 'silent' }
  | { readonly kind: 'server'; readonly behaviour?: Behaviour };

export interface Behaviour {
  readonly wrap?: WrapConfig;
  readonly options?: Partial<SessionOptions>;
  /** What it does with us (default: takes us in). */
  readonly decide?: (session: ServerSession) => void;
  /** TCP: follows every packet of an established session on the stream, as the data of a hasty server does. */
  readonly data?: readonly Buffer[];
}

export type Told =
  | { readonly what: 'connecting'; readonly to: string; readonly at: number }
  | { readonly what: 'established'; readonly tunnel: DialedTunnel; readonly established: Established }
  | { readonly what: 'rekeyed'; readonly keyId: number; readonly keys: DataKeys }
  | { readonly what: 'rekey-failed'; readonly keyId: number; readonly reason: string }
  | { readonly what: 'lost'; readonly reason: string; readonly retryInMs: number };

export class TestLink implements Connection {
  readonly path;
  readonly fd = 7;
  readonly to: string;
  /** How often it was closed. */
  closes = 0;
  /** What the stream of our side says of its queue. */
  idle = true;
  /** Bytes for us that nobody has read. */
  waiting = Buffer.alloc(0);
  /** How many bytes of the server's stream have been read. */
  read = 0;
  /** Every write of ours. */
  readonly writes: Buffer[] = [];
  /** Ends of the frames in the server's stream. */
  readonly frameEnds: number[] = [];
  readonly heard: SessionEvent[] = [];
  session: ServerSession | undefined;
  /** Whether packets get lost, in both directions. */
  lost = false;
  handedOver = false;
  readonly events: ConnectionEvents;
  readonly #transport: 'udp' | 'tcp';
  readonly #lab: DialerLab;
  readonly #frames = new FrameReader();
  #streamed = 0;

  constructor(
    lab: DialerLab,
    to: { address: string; port: number; transport: 'udp' | 'tcp' },
    events: ConnectionEvents,
    behaviour: Behaviour | undefined,
  ) {
    this.#lab = lab;
    this.#transport = to.transport;
    this.events = events;
    this.path = { remote: { address: to.address, port: to.port }, local: '192.0.2.200' };
    this.to = formatTarget(to);
    if (behaviour !== undefined) {
      this.session = this.#serve(behaviour);
    }
  }

  send(bytes: Buffer): void {
    if (this.closes > 0) {
      throw new Error('sent on a closed connection');
    }
    this.writes.push(bytes);
    this.#lab.world.carry(() => {
      for (const packet of this.#transport === 'udp' ? [bytes] : this.#unframe(bytes)) {
        if (!this.lost) {
          this.session?.receive(packet);
        }
      }
    });
  }

  close(): void {
    this.closes += 1;
  }

  /** Bytes for us, as the network brings them. */
  put(bytes: Buffer): void {
    this.#lab.world.carry(() => {
      if (this.#transport === 'udp') {
        this.#deliver(bytes);
        return;
      }
      this.waiting = Buffer.concat([this.waiting, bytes]);
      this.readOn();
    });
  }

  /** Reads what waits as a socket does: never more than is wanted. */
  readOn(): void {
    while (this.waiting.length > 0 && this.closes === 0) {
      const length = this.handedOver ? 2 + this.waiting.readUInt16BE() : Math.min(this.events.wanted(), this.#lab.cut);
      if (length === 0) {
        return;
      }
      const bytes = this.waiting.subarray(0, length);
      this.waiting = this.waiting.subarray(bytes.length);
      this.read += bytes.length;
      this.#deliver(bytes);
    }
  }

  #deliver(bytes: Buffer): void {
    if (this.closes === 0) {
      // As a socket's reader would: in a buffer that is used again.
      const reused = Buffer.from(bytes);
      this.events.packet(reused);
      reused.fill(0xee);
    }
  }

  #unframe(bytes: Buffer): Buffer[] {
    const packets: Buffer[] = [];
    for (let rest = bytes; rest.length > 0;) {
      const { consumed, packet } = this.#frames.take(rest);
      rest = rest.subarray(consumed);
      packets.push(...(packet === undefined ? [] : [packet]));
    }
    return packets;
  }

  #serve({ wrap = { kind: 'none' }, options = {}, decide, data = [] }: Behaviour): ServerSession {
    const { world, pki, server } = this.#lab;
    const transport = this.#transport;
    const session = new ServerSession(
      {
        tls: tlsServer({ ca: pki.ca, ...server }),
        wrapper: new SessionWrapper(wrap, { role: 'server', transport, clock: world.clock }),
        scheduler: world,
        random: testRandom,
        ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
        optionsString: formatOptionsString({ role: 'server', transport, family: 4, tunMtu: 1400 }),
        renegotiateSeconds: 0,
        send: (packet) => {
          if (this.lost) {
            return;
          }
          if (transport === 'udp') {
            this.put(packet);
            return;
          }
          const frames = [packet, ...(session.phase === 'established' ? data : [])].map(frame);
          frames.forEach(({ length }) => this.frameEnds.push((this.#streamed += length)));
          this.put(Buffer.concat(frames));
        },
        notify: (event) => {
          this.heard.push(event);
          if (event.type === 'authenticated') {
            (decide ?? ((it) => it.accept(testOffer)))(session);
          } else if (event.type === 'established') {
            session.confirm();
          }
        },
        ...options,
      },
      { kind: 'reset' },
    );
    return session;
  }
}

export class DialerLab implements DialerOwner, Connector {
  readonly world = new World();
  readonly told: Told[] = [];
  readonly links: TestLink[] = [];
  /** By "address:port/transport"; what is not there refuses. */
  readonly hosts = new Map<string, Host>();
  readonly names = new Map<string, readonly string[]>();
  readonly pki: TestPki;
  readonly server: Certificate;
  readonly dialer: Dialer;
  readonly settings: DialerSettings;
  /** The most bytes of one read on TCP. */
  cut = 65536;
  onEstablished: (tunnel: DialedTunnel) => void = () => undefined;
  onConnecting: () => void = () => undefined;
  onLost: () => void = () => undefined;
  /** Connections that are being made wait for this. */
  connectGate: Promise<void> = Promise.resolve();

  constructor(
    certificates: { pki: TestPki; server: Certificate; client: Certificate },
    remotes: readonly Remote[],
    settings: Partial<DialerSettings> = {},
  ) {
    this.pki = certificates.pki;
    this.server = certificates.server;
    this.settings = {
      remotes,
      tls: tlsClient({ ca: this.pki.ca, ...certificates.client }, { remoteCertTls: 'server' }),
      wrap: { kind: 'none' },
      ciphers: ['AES-256-GCM'],
      version: '2.6.0-test',
      maxTunMtu: 1500,
      tunMtu: 1400,
      renegotiateSeconds: 0,
      ...settings,
    };
    const { world } = this;
    this.dialer = new Dialer(this.settings, this, this, { scheduler: world, random: testRandom, clock: world.clock });
  }

  serve(target: string, behaviour: Behaviour = {}): this {
    this.hosts.set(target, { kind: 'server', behaviour });
    return this;
  }

  /** Whether a try may begin; asked only when a test says how it is answered. */
  permission: (() => Promise<boolean>) | undefined;

  // What the dialer asks for.

  mayDial(): Promise<boolean> | undefined {
    return this.permission?.();
  }

  async connect(
    to: { address: string; port: number; transport: 'udp' | 'tcp' },
    events: ConnectionEvents,
  ): Promise<Connection> {
    const host = this.hosts.get(formatTarget(to)) ?? { kind: 'refuses' };
    await this.connectGate;
    if (host.kind === 'refuses' && to.transport === 'tcp') {
      throw new Error('cannot connect: connection refused');
    }
    if (host.kind === 'silent' && to.transport === 'tcp') {
      await new Promise(() => undefined);
    }
    const link = new TestLink(this, to, events, host.kind === 'server' ? (host.behaviour ?? {}) : undefined);
    this.links.push(link);
    return link;
  }

  async resolve(name: string): Promise<readonly string[]> {
    const addresses = this.names.get(name);
    return addresses === undefined ? Promise.reject(new Error('ENOTFOUND')) : Promise.resolve(addresses);
  }

  // What the dialer tells.

  connecting(remote: Remote, address: string): void {
    const { port, transport } = remote;
    this.told.push({ what: 'connecting', to: formatTarget({ address, port, transport }), at: this.world.time });
    this.onConnecting();
  }

  established(tunnel: DialedTunnel, established: Established): void {
    this.told.push({ what: 'established', tunnel, established });
    this.onEstablished(tunnel);
  }

  rekeyed(_tunnel: DialedTunnel, keyId: number, keys: DataKeys): void {
    this.told.push({ what: 'rekeyed', keyId, keys });
  }

  rekeying(): void {
    // Of no interest here.
  }

  keyConfirmed(): void {
    // The same.
  }

  rekeyFailed(_tunnel: DialedTunnel, keyId: number, reason: string): void {
    this.told.push({ what: 'rekey-failed', keyId, reason });
  }

  lost(reason: string, retryInMs: number): void {
    this.told.push({ what: 'lost', reason, retryInMs });
    this.onLost();
  }

  // What tests look at.

  count(what: Told['what']): number {
    return this.told.filter((event) => event.what === what).length;
  }

  /** Goes on until the dialer has told this so many times. */
  async until(what: Told['what'], times = 1, milliseconds = 120_000): Promise<void> {
    await this.world.run(() => this.count(what) >= times, milliseconds);
    if (this.count(what) < times) {
      throw new Error(`told ${what} ${this.count(what)} times: ${JSON.stringify(this.told.map(summary))}`);
    }
  }

  all<What extends Told['what']>(what: What): (Told & { what: What })[] {
    return this.told.filter((event): event is Told & { what: What } => event.what === what);
  }

  get link(): TestLink {
    const link = this.links.at(-1);
    if (link === undefined) {
      throw new Error('nothing was connected');
    }
    return link;
  }

  get tunnel(): DialedTunnel {
    const last = this.all('established').at(-1);
    if (last === undefined) {
      throw new Error('nothing was established');
    }
    return last.tunnel;
  }

  /** Where it connected to, in order. */
  get dialled(): string[] {
    return this.all('connecting').map(({ to }) => to);
  }

  /** Every link is closed exactly once, and no timer of either side is left. */
  leftovers(): { open: string[]; closedTwice: string[]; timers: number } {
    this.links.forEach(({ session }) => session?.close());
    return {
      open: this.links.filter(({ closes }) => closes === 0).map(({ to }) => to),
      closedTwice: this.links.filter(({ closes }) => closes > 1).map(({ to }) => to),
      timers: this.world.timers,
    };
  }
}

export const nothingLeft = { open: [], closedTwice: [], timers: 0 };

function formatTarget({ address, port, transport }: { address: string; port: number; transport: string }): string {
  return `${address}:${port}/${transport}`;
}

function summary(event: Told): unknown {
  return event.what === 'established' ? { what: event.what } : event;
}
