import { Dialer, type Connection, type ConnectionEvents } from '../../../operator/src/openvpn/endpoint/dialer.ts';
import type { DialedTunnel } from '../../../operator/src/openvpn/endpoint/dialer-try.ts';
import type { Path } from '../../../operator/src/openvpn/endpoint/path.ts';
import { OpenvpnServer, type StreamEndpoint } from '../../../operator/src/openvpn/endpoint/server.ts';
import type { ClientEnd, ServedClient, ServerOwner } from '../../../operator/src/openvpn/endpoint/server-settings.ts';
import { ClientSession } from '../../../operator/src/openvpn/session/client-session.ts';
import { ServerSession } from '../../../operator/src/openvpn/session/server-session.ts';
import { FrameReader } from '../../../operator/src/openvpn/wire/frame.ts';
import { require, type Target } from '../target.ts';
import { HostileTls, HostileWire, HostileWrapper } from './hostile.ts';
import { InputReader, piece } from './reader.ts';
import {
  commonOptions,
  countingRandom,
  offer,
  readSetup,
  scriptSeeds,
  scriptWords,
  type Setup,
  tlsOf,
} from './session.ts';
import { World } from './world.ts';

/** Servers and dialers as a whole, with hostile peers on the other side; the input is the peers' script. */

type Transport = 'udp' | 'tcp';

const limits = { halfOpen: 6, halfOpenPerSource: 3, repliesPerSecond: 50 };
const clock =
  (world: World): (() => number) =>
  () =>
    1_700_000_000_000 + world.time;

/** On TCP whatever is sent gets a length, even where no packet can have that one. */
function framed(packet: Buffer): Buffer {
  return piece(packet.subarray(0, 0xffff));
}

/** What a server's owner may rely on. */
class OwnerRules implements ServerOwner {
  readonly clients: ServedClient[] = [];
  readonly #ended = new Set<ServedClient>();
  readonly #setup: Setup;
  readonly #takeOver: () => boolean;

  constructor(setup: Setup, takeOver: () => boolean) {
    this.#setup = setup;
    this.#takeOver = takeOver;
  }

  get gone(): number {
    return this.#ended.size;
  }

  /** The owner closes it, and then hears no more of it. */
  forget(client: ServedClient): void {
    this.#ended.add(client);
  }

  authenticated(client: ServedClient): void {
    require(!this.clients.includes(client), 'a client authenticated twice');
    this.clients.push(client);
    const { decision } = this.#setup;
    if (decision === 'accept') {
      client.accept(offer);
    } else if (decision === 'refuse') {
      client.refuse('not you', { temporary: true });
    }
  }

  established(client: ServedClient): void {
    this.#alive(client);
    client.handOver(this.#takeOver);
    if (!this.#setup.confirmsLater) {
      client.confirm();
    }
  }

  displaced(client: ServedClient): void {
    this.#alive(client);
  }

  rekeyed(client: ServedClient): void {
    this.#alive(client);
  }

  rekeying(client: ServedClient): void {
    this.#alive(client);
  }

  keyConfirmed(client: ServedClient): void {
    this.#alive(client);
  }

  rekeyFailed(client: ServedClient, _keyId: number, reason: string): void {
    this.#alive(client);
    require(reason.length < 1000, 'a reason is as long as the client likes');
  }

  ended(client: ServedClient, { reason }: ClientEnd): void {
    this.#alive(client);
    this.#ended.add(client);
    require(reason.length < 1000, 'a reason is as long as the client likes');
  }

  failed(_path: Path, _listener: string, reason: string): void {
    require(reason.length < 1000, 'a reason is as long as the client likes');
  }

  recheck(): string | undefined {
    return undefined;
  }

  #alive(client: ServedClient): void {
    require(this.clients.includes(client), 'hears of a client that did not authenticate');
    require(!this.#ended.has(client), 'hears of a client after its end');
  }
}

/** How a hostile client's bytes come to the server. */
interface HostileClient {
  readonly session: ClientSession;
  readonly tls: HostileTls;
  readonly path: Path;
  /** Bytes as they are. */
  put(bytes: Buffer): void;
  stream?: StreamEndpoint;
}

class ServerMatch {
  readonly #world = new World();
  readonly #scheduler = this.#world.scheduler();
  readonly #transport: Transport;
  readonly #steps: InputReader;
  readonly #script: InputReader;
  readonly #setup: Setup;
  readonly #owner: OwnerRules;
  readonly #server: OpenvpnServer;
  readonly #datagrams;
  readonly #clients: HostileClient[] = [];
  /** By path: who hears what the server sends. */
  readonly #receivers = new Map<string, ClientSession>();
  readonly #clientSchedulers = this.#world.scheduler();

  constructor(input: Buffer, transport: Transport) {
    this.#transport = transport;
    this.#steps = new InputReader(input);
    this.#setup = readSetup(this.#steps);
    this.#script = new InputReader(this.#steps.piece());
    this.#owner = new OwnerRules(this.#setup, () => this.#script.below(2) === 0);
    const { wrap, version } = this.#setup;
    this.#server = new OpenvpnServer(
      {
        wrap: wrap.server,
        tls: tlsOf(version).server,
        ciphers: commonOptions('server').ciphers,
        tunMtu: 1400,
        limits,
      },
      this.#owner,
      { scheduler: this.#scheduler, random: countingRandom(), clock: clock(this.#world) },
    );
    this.#datagrams = this.#server.openDatagram('udp', (packet, path) => {
      require(packet.length <= 1250, `sends ${packet.length} bytes`);
      this.#world.carry(() => void this.#receivers.get(pathKey(path))?.receive(packet));
    });
  }

  async play(): Promise<void> {
    const steps = this.#steps;
    this.#connect(0);
    await this.#world.run(() => false, 3000);
    for (let count = 0; count < 12 && !steps.done; count++) {
      this.#step(steps);
      await this.#world.run(() => false, steps.byte() * 100);
      require(this.#server.halfOpen <= limits.halfOpen, 'more handshakes than places');
      const present = [...this.#server.clients()].length;
      require(present === this.#owner.clients.length - this.#owner.gone, 'lists other clients than there are');
    }
    this.#clients.forEach(({ session }) => session.close());
    // Handshakes that nobody goes on with give their places back by themselves.
    await this.#world.run(() => this.#server.halfOpen === 0, 70_000);
    require(this.#server.halfOpen === 0, 'a place is held for ever');
    this.#server.close();
    await this.#world.run(() => false, 10_000);
    require(this.#scheduler.timers === 0, 'timers are left after the end');
  }

  #step(steps: InputReader): void {
    const client = this.#clients[steps.below(this.#clients.length)];
    const served = this.#owner.clients[steps.below(this.#owner.clients.length)];
    switch (steps.below(16)) {
      case 0:
        this.#connect(steps.below(6));
        return;
      case 1:
        client?.session.rekey();
        return;
      case 2:
        client?.session.exit();
        return;
      case 3:
        client?.tls.say(Buffer.concat([steps.piece(), Buffer.of(0)]));
        return;
      case 4:
        client?.tls.end();
        return;
      case 5:
        client?.put(steps.piece());
        return;
      case 6:
        served?.rekey();
        return;
      case 7:
        served?.accept(offer);
        served?.confirm();
        return;
      case 8:
        served?.refuse('no');
        return;
      case 9:
        served?.restart('x', { nextRemote: true });
        return;
      case 10:
        served?.halt('x');
        return;
      case 11:
        if (served !== undefined) {
          this.#owner.forget(served);
          served.close();
        }
        return;
      case 12:
        served?.moved({ address: '192.0.2.9', port: 1000 + steps.below(4) });
        return;
      case 13:
        client?.stream?.closed(steps.below(2) === 0 ? undefined : 'reset');
        return;
      case 14:
        client?.stream?.drained();
        return;
      default:
        if (steps.byte() > 200) {
          this.#datagrams.close();
        } else if (this.#clients.length < 20) {
          for (let i = 0; i < 5; i++) {
            this.#connect(10 + i);
          }
        }
        return;
    }
  }

  #connect(place: number): void {
    if (this.#clients.length > 25) {
      return;
    }
    const world = this.#world;
    const { wrap, version, dynamicTlsCrypt } = this.#setup;
    const path: Path = { remote: { address: `192.0.2.${1 + (place >> 2)}`, port: 40_000 + place }, local: undefined };
    const tls = new HostileTls(tlsOf(version).client, this.#script);
    const wire = new HostileWire(this.#script);
    const wrapOptions = { role: 'client', transport: this.#transport, clock: clock(world) } as const;
    const session = new ClientSession({
      ...commonOptions('client'),
      tls,
      wrapper: new HostileWrapper(wrap.client, wrapOptions, this.#script),
      scheduler: this.#clientSchedulers,
      random: countingRandom(),
      dynamicTlsCrypt,
      version: '2.6.0-fuzz',
      maxTunMtu: 1600,
      tlsCryptV2: wrap.client.kind === 'tls-crypt-v2-client',
      send: (packet) => wire.send(packet).forEach((bytes) => put(this.#transport === 'udp' ? bytes : framed(bytes))),
      notify: () => undefined,
    });
    let put: (bytes: Buffer) => void;
    if (this.#transport === 'udp') {
      this.#receivers.set(pathKey(path), session);
      put = (bytes) => world.carry(() => this.#datagrams.receive(bytes, path));
      this.#clients.push({ session, tls, path, put: (bytes) => put(bytes) });
    } else {
      const stream = this.#openStream(path, session);
      put = stream.put;
      this.#clients.push({ session, tls, path, put, stream: stream.endpoint });
    }
    session.start();
  }

  #openStream(path: Path, session: ClientSession): { put: (bytes: Buffer) => void; endpoint: StreamEndpoint } {
    const world = this.#world;
    const script = this.#script;
    const reader = new FrameReader();
    let closed = false;
    const endpoint = this.#server.openStream('tcp', path, {
      send: (bytes) => {
        require(!closed, 'sends on a closed connection');
        world.carry(() => {
          const { packet } = reader.take(bytes);
          if (packet !== undefined) {
            session.receive(packet);
          }
        });
      },
      close: () => {
        closed = true;
      },
      get idle() {
        return script.below(8) !== 7;
      },
    });
    let waiting = Buffer.alloc(0);
    const put = (bytes: Buffer): void => {
      waiting = Buffer.concat([waiting, bytes]);
      world.carry(() => {
        while (waiting.length > 0 && !closed) {
          const { wanted } = endpoint;
          require(wanted > 0, 'wants nothing and is not closed');
          const length = Math.min(wanted, 1 + ((script.byte() + 255) % 256) * 16);
          const read = waiting.subarray(0, length);
          waiting = waiting.subarray(length);
          endpoint.receive(read);
        }
      });
    };
    return { put, endpoint };
  }
}

function pathKey({ remote }: Path): string {
  return `${remote.address} ${remote.port}`;
}

/** A dialer between two hostile servers, one of them on TCP. */
class DialerMatch {
  readonly #world = new World();
  readonly #scheduler = this.#world.scheduler();
  readonly #serverScheduler = this.#world.scheduler();
  readonly #steps: InputReader;
  readonly #script: InputReader;
  readonly #setup: Setup;
  readonly #dialer: Dialer;
  readonly #servers: {
    session: ServerSession;
    tls: HostileTls;
    events: ConnectionEvents;
    put: (bytes: Buffer) => void;
  }[] = [];
  #tunnel: DialedTunnel | undefined;
  #open = 0;
  #handedOver = false;

  constructor(input: Buffer) {
    const steps = new InputReader(input);
    this.#steps = steps;
    this.#setup = readSetup(steps);
    this.#script = new InputReader(steps.piece());
    const { wrap, version } = this.#setup;
    const client = wrap.client;
    if (client.kind === 'tls-crypt-v2-server') {
      throw new TypeError('a client has no server key');
    }
    const remotes = (['udp', 'tcp'] as const).map((transport) => ({ host: 'vpn.example', port: 1194, transport }));
    this.#dialer = new Dialer(
      {
        remotes,
        tls: tlsOf(version).client,
        wrap: client,
        ciphers: commonOptions('client').ciphers,
        version: '2.6.0-fuzz',
        maxTunMtu: 1600,
        tunMtu: 1400,
      },
      {
        connecting: () => undefined,
        established: (tunnel) => this.#established(tunnel),
        rekeyed: (tunnel) => require(tunnel === this.#tunnel, 'another tunnel was rekeyed'),
        rekeying: () => undefined,
        keyConfirmed: () => undefined,
        rekeyFailed: (tunnel, _keyId, reason) => {
          require(tunnel === this.#tunnel && reason.length < 1000, 'another tunnel was rekeyed');
        },
        lost: (reason, retryInMs) => {
          require(reason.length < 1500, 'a reason is as long as the server likes');
          require(retryInMs >= 0 && retryInMs <= 400_000, `comes again in ${retryInMs} ms`);
          this.#tunnel = undefined;
        },
      },
      {
        resolve: () => Promise.resolve(['192.0.2.1', '2001:db8::1']),
        connect: ({ transport }, events) => Promise.resolve(this.#serve(transport, events)),
      },
      { scheduler: this.#scheduler, random: countingRandom(), clock: clock(this.#world) },
    );
  }

  async play(): Promise<void> {
    const world = this.#world;
    const steps = this.#steps;
    this.#dialer.start();
    await world.run(() => this.#tunnel !== undefined, 40_000);
    await world.run(() => false, 0);
    for (let count = 0; count < 12 && !steps.done; count++) {
      this.#step(steps);
      await world.run(() => this.#servers.length > 30, steps.byte() * 100);
      require(this.#open <= 1, `has ${this.#open} connections open`);
    }
    this.#dialer.close();
    this.#servers.forEach(({ session }) => session.close());
    await world.run(() => false, 1000);
    require(this.#open === 0, 'leaves a connection open');
    require(this.#scheduler.timers === 0, 'timers are left after the end');
  }

  #established(tunnel: DialedTunnel): void {
    require(this.#tunnel === undefined, 'has two tunnels');
    this.#tunnel = tunnel;
    if (this.#script.below(4) !== 3) {
      tunnel.handOver(() => {
        this.#handedOver = this.#script.below(4) !== 3;
        return this.#handedOver;
      });
    }
  }

  #step(steps: InputReader): void {
    const server = this.#servers.at(-1);
    switch (steps.below(12)) {
      case 0:
        return;
      case 1:
        server?.session.rekey();
        return;
      case 2:
        server?.tls.say(Buffer.concat([steps.piece(), Buffer.of(0)]));
        return;
      case 3:
        server?.tls.end();
        return;
      case 4:
        server?.put(steps.piece());
        return;
      case 5:
        this.#tunnel?.rekey();
        return;
      case 6:
        this.#tunnel?.exit();
        return;
      case 7:
        this.#dialer.lostInKernel('expired');
        return;
      case 8:
        server?.session.restart('x', { nextRemote: steps.below(2) === 1 });
        return;
      case 9:
        server?.events.closed(steps.below(2) === 1 ? 'reset' : undefined);
        return;
      case 10:
        server?.events.drained();
        return;
      default:
        server?.session.halt('x');
        return;
    }
  }

  #serve(transport: Transport, events: ConnectionEvents): Connection {
    const world = this.#world;
    const script = this.#script;
    const { wrap, version, decision, confirmsLater } = this.#setup;
    const tls = new HostileTls(tlsOf(version).server, script);
    const wire = new HostileWire(script);
    let closed = false;
    let waiting = Buffer.alloc(0);
    this.#open += 1;
    this.#handedOver = false;
    const put = (bytes: Buffer): void => {
      if (transport === 'udp') {
        world.carry(() => {
          if (!closed) {
            events.packet(bytes);
          }
        });
        return;
      }
      waiting = Buffer.concat([waiting, bytes]);
      world.carry(() => {
        while (waiting.length > 0 && !closed) {
          const limit = this.#handedOver ? 2 + (waiting.length < 2 ? 0 : waiting.readUInt16BE()) : events.wanted();
          if (limit === 0) {
            return;
          }
          const read = waiting.subarray(0, limit);
          waiting = waiting.subarray(limit);
          events.packet(read);
        }
      });
    };
    const session: ServerSession = new ServerSession(
      {
        ...commonOptions('server'),
        tls,
        wrapper: new HostileWrapper(wrap.server, { role: 'server', transport, clock: clock(world) }, script),
        scheduler: this.#serverScheduler,
        random: countingRandom(),
        send: (packet) => wire.send(packet).forEach((bytes) => put(transport === 'udp' ? bytes : framed(bytes))),
        notify: (event) => {
          if (event.type === 'authenticated' && decision === 'accept') {
            session.accept(offer);
          }
          if (event.type === 'authenticated' && decision === 'refuse') {
            session.refuse('not you', { temporary: true, backoffSeconds: 3 });
          }
          if (event.type === 'established' && !confirmsLater) {
            session.confirm();
          }
        },
      },
      { kind: 'reset' },
    );
    const reader = new FrameReader();
    this.#servers.push({ session, tls, events, put });
    return {
      path: { remote: { address: '192.0.2.1', port: 1194 }, local: undefined },
      fd: 7,
      idle: true,
      send: (bytes) => {
        require(!closed, 'sends on a closed connection');
        const packet = transport === 'udp' ? bytes : reader.take(bytes).packet;
        if (packet !== undefined) {
          world.carry(() => void session.receive(packet));
        }
      },
      close: () => {
        require(!closed, 'closes a connection twice');
        closed = true;
        this.#open -= 1;
      },
    };
  }
}

/**
 * A server that every input comes to from another address, as it is and as a first packet. What it keeps must not
 * depend on how many there are.
 */
function flooded(transport: Transport, inputs: readonly Buffer[]): OpenvpnServer {
  const world = new World();
  const setup = readSetup(new InputReader(Buffer.alloc(0)));
  const owner = new OwnerRules(setup, () => true);
  const server = new OpenvpnServer(
    { ...commonOptions('server'), wrap: setup.wrap.server, tls: tlsOf(setup.version).server, tunMtu: 1400, limits },
    owner,
    { scheduler: world.scheduler(), random: countingRandom(), clock: clock(world) },
  );
  const datagrams = server.openDatagram('udp', () => undefined);
  for (const [i, input] of inputs.entries()) {
    const path: Path = { remote: { address: `198.51.${i >> 8}.${i & 255}`, port: 1 + (i % 5) }, local: undefined };
    const id = Buffer.alloc(8, 1);
    id.writeUInt32BE(i);
    // A hard reset, acknowledging nothing, with message id 0.
    const reset = Buffer.concat([Buffer.of(0x38), id, Buffer.of(0, 0, 0, 0, 0), input]);
    if (transport === 'udp') {
      [input, reset].forEach((packet) => datagrams.receive(packet, path));
      continue;
    }
    const sender = { send: () => undefined, close: () => undefined, idle: true };
    const stream = server.openStream('tcp', path, sender);
    stream.receive(framed(reset));
    stream.receive(framed(Buffer.concat([Buffer.of(0x20), id, Buffer.of(0, 0, 0, 0, 2), input])));
    require(server.halfOpen <= limits.halfOpen, 'more handshakes than places');
  }
  require(owner.clients.length === 0, 'somebody authenticated by noise');
  return server;
}

const shared = {
  share: 4,
  maxBytes: 1500,
  words: scriptWords,
  // Some handshakes, their repetitions and a dozen steps.
  maxMilliseconds: 3000,
};

/** A server's steps say which client they are about, so they need some of their own. */
function serverSeeds(): Readonly<Record<string, Buffer>> {
  const seeds: Record<string, Buffer> = {};
  for (const [name, script] of Object.entries(scriptSeeds())) {
    if (!name.startsWith('says') && !name.includes('rekey')) {
      seeds[name] = script;
    }
  }
  for (let what = 0; what < 16; what++) {
    const text = what === 3 || what === 5 ? piece(Buffer.from('PUSH_REQUEST')) : Buffer.of(201);
    seeds[`step-${what}`] = Buffer.concat([
      Buffer.of(0, what % 4, 0, 0, 0),
      piece(Buffer.alloc(0)),
      Buffer.of(0, 0, what),
      ...(what === 0 || what === 12 ? [Buffer.of(0)] : []),
      ...(what === 3 || what === 5 || what === 15 ? [text] : []),
      Buffer.of(50, 0, 0, 0, 1, 30),
    ]);
  }
  return seeds;
}

export const serverDatagrams: Target = {
  ...shared,
  name: 'server-datagrams',
  input: "hostile clients' script against a server on UDP",
  run: (input) => new ServerMatch(input, 'udp').play(),
  hold: (inputs) => flooded('udp', inputs),
  maxHeldBytes: 256 * 1024,
  seeds: serverSeeds,
};

export const serverStreams: Target = {
  ...shared,
  name: 'server-streams',
  input: "hostile clients' script against a server on TCP",
  run: (input) => new ServerMatch(input, 'tcp').play(),
  hold: (inputs) => flooded('tcp', inputs),
  maxHeldBytes: 1024 * 1024,
  seeds: serverSeeds,
};

export const dialer: Target = {
  ...shared,
  name: 'dialer',
  input: "a hostile server's script against a dialer",
  run: (input) => new DialerMatch(input).play(),
  seeds: scriptSeeds,
};
