import { formatOptionsString } from '../../../operator/src/openvpn/negotiate/options-string.ts';
import { type ClientOptions, ClientSession } from '../../../operator/src/openvpn/session/client-session.ts';
import { type Offer, ServerSession } from '../../../operator/src/openvpn/session/server-session.ts';
import type { SessionEvent } from '../../../operator/src/openvpn/session/session-event.ts';
import { parseState, type SessionState } from '../../../operator/src/openvpn/session/session-state.ts';
import { parseWrapperState } from '../../../operator/src/openvpn/wrap/wrapper-state.ts';
import type { Session, SessionOptions } from '../../../operator/src/openvpn/session/session.ts';
import { testPki } from '../../../operator/src/openvpn/tls/pki.fixture.ts';
import { tlsClient, tlsServer, type TlsVersion } from '../../../operator/src/openvpn/tls/tls-endpoint.ts';
import { SessionWrapper, type WrapConfig } from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import { require, type Target } from '../target.ts';
import { HostileTls, HostileWire, HostileWrapper } from './hostile.ts';
import { InputReader, piece } from './reader.ts';
import { clientKey, serverKey, tlsAuthKey, tlsCryptKey } from './recorded.ts';
import { World } from './world.ts';

/** Whole sessions against a hostile peer; the input is the peer's script. */

export type Side = 'client' | 'server';

export interface Wraps {
  readonly client: WrapConfig;
  readonly server: WrapConfig;
}

export const wraps: readonly Wraps[] = [
  { client: { kind: 'none' }, server: { kind: 'none' } },
  { client: { kind: 'tls-crypt', key: tlsCryptKey }, server: { kind: 'tls-crypt', key: tlsCryptKey } },
  {
    client: { kind: 'tls-auth', key: tlsAuthKey, digest: 'SHA256', direction: 1 },
    server: { kind: 'tls-auth', key: tlsAuthKey, digest: 'SHA256', direction: 0 },
  },
  { client: { kind: 'tls-crypt-v2-client', ...clientKey }, server: { kind: 'tls-crypt-v2-server', serverKey } },
];

export const offer: Offer = {
  peerId: 5,
  topology: 'subnet',
  routeGateway: '10.8.0.1',
  ifconfig: { address: '10.8.0.2', second: '255.255.255.0' },
  pingSeconds: 10,
  pingRestartSeconds: 60,
  tunMtu: 1400,
};

/** Made once for a thread: certificates cost more than a thousand inputs. */
function makeCredentials() {
  const pki = testPki();
  try {
    const server = pki.issue('server', { usage: 'serverAuth' });
    const client = pki.issue('client', { usage: 'clientAuth' });
    return { server: { ca: pki.ca, ...server }, client: { ca: pki.ca, ...client } };
  } finally {
    pki.remove();
  }
}

let credentials: ReturnType<typeof makeCredentials> | undefined;
const factories = new Map<TlsVersion, Record<Side, ReturnType<typeof tlsServer>>>();

export function tlsOf(version: TlsVersion): Record<Side, ReturnType<typeof tlsServer>> {
  credentials ??= makeCredentials();
  const only = { minVersion: version, maxVersion: version };
  const made = factories.get(version) ?? {
    server: tlsServer({ ...credentials.server, ...only }),
    client: tlsClient({ ...credentials.client, ...only }, { remoteCertTls: 'server' }),
  };
  factories.set(version, made);
  return made;
}

/** The first bytes of a script. */
export interface Setup {
  readonly wrap: Wraps;
  readonly version: TlsVersion;
  /** What the server's owner does with the client. */
  readonly decision: 'accept' | 'later' | 'refuse' | 'never';
  readonly confirmsLater: boolean;
  readonly dynamicTlsCrypt: boolean;
}

export function readSetup(script: InputReader): Setup {
  const version = script.below(2) === 0 ? 'TLSv1.3' : 'TLSv1.2';
  return {
    wrap: wraps[script.below(wraps.length)] ?? wraps[0]!,
    version,
    decision: (['accept', 'accept', 'later', 'refuse', 'never'] as const)[script.below(5)] ?? 'accept',
    confirmsLater: script.below(4) === 3,
    dynamicTlsCrypt: script.below(4) !== 3,
  };
}

export function commonOptions(role: Side): Pick<SessionOptions, 'ciphers' | 'optionsString'> {
  return {
    ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
    optionsString: formatOptionsString({ role, transport: 'udp', family: 4, tunMtu: 1400 }),
  };
}

/** Bytes that are the same in every run. */
export function countingRandom(): (bytes: number) => Buffer {
  let next = 1;
  return (count) => {
    const bytes = Buffer.alloc(count);
    for (let i = 0; i < count; i++) {
      next = (Math.imul(next, 1664525) + 1013904223) >>> 0;
      bytes[i] = next >>> 24;
    }
    return bytes;
  };
}

/** What an owner may rely on of a session's events. */
export class EventRules {
  readonly events: SessionEvent[] = [];
  #over = false;

  add(event: SessionEvent): void {
    require(!this.#over, `"${event.type}" comes after the end`);
    this.events.push(event);
    this.#over = event.type === 'failed' || event.type === 'closed';
    const times = this.events.filter(({ type }) => type === event.type).length;
    require(times === 1 || !['authenticated', 'established'].includes(event.type), `"${event.type}" comes twice`);
    require(this.events.length < 20_000, 'tells too much');
    if ('reason' in event) {
      require(event.reason.length < 1000, 'a reason is as long as the peer likes');
    }
  }

  get over(): boolean {
    return this.#over;
  }

  has(type: SessionEvent['type']): boolean {
    return this.events.some((event) => event.type === type);
  }
}

class Match {
  readonly world = new World();
  /** Where the peer departs from the protocol. */
  readonly script: InputReader;
  /** What either side does once the handshake is over. */
  readonly #steps: InputReader;
  readonly setup: Setup;
  readonly victim: Side;
  readonly rules = new EventRules();
  readonly tls: HostileTls;
  readonly #wire: HostileWire;
  readonly #schedulers;
  readonly #sessions: { client: ClientSession; server: ServerSession };
  #sentByVictim = 0;
  #received = 0;

  constructor(input: Buffer, victim: Side) {
    this.#steps = new InputReader(input);
    this.setup = readSetup(this.#steps);
    this.script = new InputReader(this.#steps.piece());
    this.victim = victim;
    const attacker = victim === 'client' ? 'server' : 'client';
    this.#wire = new HostileWire(this.script);
    this.tls = new HostileTls(tlsOf(this.setup.version)[attacker], this.script);
    this.#schedulers = { client: this.world.scheduler(), server: this.world.scheduler() };
    const clientOptions: ClientOptions = {
      ...this.#options('client'),
      version: '2.6.0-fuzz',
      maxTunMtu: 1600,
      tlsCryptV2: this.setup.wrap.client.kind === 'tls-crypt-v2-client',
    };
    this.#sessions = {
      client: new ClientSession(clientOptions),
      server: new ServerSession(this.#options('server'), { kind: 'reset' }),
    };
  }

  get #victimSession(): Session {
    return this.#sessions[this.victim];
  }

  get #attackerSession(): Session {
    return this.#sessions[this.victim === 'client' ? 'server' : 'client'];
  }

  async play(): Promise<void> {
    const { world, rules } = this;
    const steps = this.#steps;
    this.#sessions.client.start();
    await world.run(() => rules.over || rules.has('established'), 90_000);
    await world.run(() => rules.over, 0);
    for (let count = 0; count < 12 && !steps.done && !rules.over; count++) {
      this.#step(steps);
      await world.run(() => rules.over, steps.byte() * 100);
    }
    // Whatever happened, a session ends when it is told to, and leaves nothing behind.
    this.#sessions.server.restart('end of the test');
    this.#sessions.client.exit();
    await world.run(() => false, 10_000);
    this.#victimSession.close();
    this.#attackerSession.close();
    require(this.#schedulers[this.victim].timers === 0, 'timers are left after the end');
    await world.run(() => false, 0);
  }

  #step(script: InputReader): void {
    const { tls } = this;
    switch (script.below(12)) {
      case 0:
        this.#attackerSession.rekey();
        return;
      case 1:
        this.#victimSession.rekey();
        return;
      case 2:
        tls.say(script.piece());
        return;
      case 3:
        tls.say(Buffer.concat([script.piece(), Buffer.of(0)]));
        return;
      case 4:
        tls.end();
        return;
      case 5:
        this.#sessions.server.accept(offer);
        this.#sessions.server.confirm();
        return;
      case 6:
        this.#sessions.server.refuse('no', { temporary: true });
        return;
      case 7:
        this.#sessions.client.exit();
        return;
      case 8:
        this.#deliver(script.piece());
        return;
      case 9: {
        const state = this.#victimSession.exportState();
        if (state !== undefined) {
          const read = JSON.parse(JSON.stringify(state)) as SessionState;
          parseState(read, this.victim);
          require(parseWrapperState(read.wrapper) !== undefined, 'a state of its own is none');
        }
        return;
      }
      case 10: {
        const bytes = script.piece();
        for (let times = script.byte(); times > 0; times--) {
          tls.say(bytes);
        }
        return;
      }
      default:
        this.#sessions.server.halt('x');
        return;
    }
  }

  #deliver(packet: Buffer): void {
    this.#received += 1;
    this.#victimSession.receive(packet);
  }

  #options(side: Side): SessionOptions {
    const { setup, world, victim } = this;
    const isVictim = side === victim;
    const wrapOptions = { role: side, transport: 'udp', clock: () => 1_700_000_000_000 + world.time } as const;
    return {
      ...commonOptions(side),
      tls: isVictim ? tlsOf(setup.version)[side] : this.tls,
      wrapper: isVictim
        ? new SessionWrapper(setup.wrap[side], wrapOptions)
        : new HostileWrapper(setup.wrap[side], wrapOptions, this.script),
      scheduler: this.#schedulers[side],
      random: countingRandom(),
      dynamicTlsCrypt: setup.dynamicTlsCrypt,
      send: (packet) => {
        if (isVictim) {
          require(packet.length <= 1250, `sends ${packet.length} bytes`);
          this.#sentByVictim += 1;
          require(this.#sentByVictim < 2000 + 10 * this.#received, 'sends without end');
          world.carry(() => void this.#attackerSession.receive(packet));
          return;
        }
        this.#wire.send(packet).forEach((bytes) => world.carry(() => this.#deliver(bytes)));
      },
      notify: (event) => {
        if (isVictim) {
          this.rules.add(event);
        }
        if (side === 'server') {
          this.#decide(event);
        }
      },
    };
  }

  #decide(event: SessionEvent): void {
    const { decision, confirmsLater } = this.setup;
    const server = (): ServerSession => this.#sessions.server;
    const scheduler = this.#schedulers.server;
    if (event.type === 'authenticated') {
      if (decision === 'accept') {
        server().accept(offer);
      } else if (decision === 'refuse') {
        server().refuse('not you', { temporary: true, backoffSeconds: 5 });
      } else if (decision === 'later') {
        scheduler.after(1000, () => server().accept(offer));
      }
    }
    if (event.type === 'established') {
      if (confirmsLater) {
        scheduler.after(1000, () => server().confirm());
      } else {
        server().confirm();
      }
    }
  }
}

/** Scripts that go to the end of a handshake, and then do one thing each. */
export function scriptSeeds(): Readonly<Record<string, Buffer>> {
  const seeds: Record<string, Buffer> = {};
  const setup = (version: number, wrap: number, decision = 0, confirmation = 0): Buffer =>
    Buffer.of(version, wrap, decision, confirmation, 0);
  const well = piece(Buffer.alloc(0));
  for (const [wrap, { client }] of wraps.entries()) {
    for (const version of [0, 1]) {
      const name = `${client.kind}-tls1.${version === 0 ? 3 : 2}`;
      seeds[name] = setup(version, wrap);
      seeds[`${name}-rekey`] = Buffer.concat([setup(version, wrap), well, Buffer.of(0, 200, 1, 200)]);
    }
  }
  for (let what = 0xc0; what <= 0xcc; what++) {
    // One departure in the very first packet, one at the place of the first packets, and one late in the handshake.
    const early = Buffer.concat([Buffer.of(0, what, 1, 7), Buffer.from('EXIT\0')]);
    const late = Buffer.concat([Buffer.alloc(14), early]);
    const first = Buffer.concat([Buffer.of(what), piece(Buffer.from('abc')), Buffer.of(0)]);
    seeds[`departs-first-${what & 15}`] = Buffer.concat([setup(0, 0), piece(first)]);
    seeds[`departs-early-${what & 15}`] = Buffer.concat([setup(0, 1), piece(early)]);
    seeds[`departs-late-${what & 15}`] = Buffer.concat([setup(1, 0), piece(late), Buffer.of(0, 100)]);
  }
  const step = (...bytes: (Buffer | number)[]): Buffer =>
    Buffer.concat([setup(0, 1), well, ...bytes.map((part) => (typeof part === 'number' ? Buffer.of(part) : part))]);
  seeds['says-exit'] = step(3, piece(Buffer.from('EXIT')), 100);
  seeds['says-restart'] = step(3, piece(Buffer.from('RESTART,[N]moved')), 100);
  seeds['says-auth-failed'] = step(3, piece(Buffer.from('AUTH_FAILED,TEMP[backoff 10]:busy')), 100);
  seeds['says-push'] = step(3, piece(Buffer.from('PUSH_REPLY,ping 1,push-continuation 2')), 100);
  seeds['says-much'] = step(10, piece(Buffer.from('INFO,x\0')), 255, 100);
  seeds['closes-tls'] = step(4, 100);
  seeds['decided-later'] = Buffer.concat([setup(0, 1, 2, 3), well]);
  seeds['refused'] = Buffer.concat([setup(0, 1, 3), well]);
  seeds['waits-in-vain'] = Buffer.concat([setup(0, 0, 4), well]);
  return seeds;
}

export const scriptWords = [
  ...['PUSH_REQUEST\0', 'PUSH_REPLY,', 'AUTH_FAILED,', 'AUTH_PENDING,timeout 9', 'RESTART,', 'HALT,', 'EXIT\0'],
  ...['peer-id 1', 'cipher AES-256-GCM', 'protocol-flags tls-ekm', ',push-continuation 2', 'IV_PROTO=990\n'],
  ...[
    '\0\0\0\0\x02',
    '\x16\x03\x01',
    '\x15\x03\x03\0\x02',
    '\x38',
    '\x18',
    '\xc0',
    '\xc3',
    '\xc4',
    '\xc6',
    '\xc8',
    '\xcb',
  ],
];

const shared = {
  share: 4,
  maxBytes: 1500,
  words: scriptWords,
  // A handshake, its repetitions and a dozen steps.
  maxMilliseconds: 1500,
  seeds: scriptSeeds,
};

export const serverSession: Target = {
  ...shared,
  name: 'server-session',
  input: "a hostile client's script: set-up, then what it does other than it should",
  run: (input) => new Match(input, 'server').play(),
};

export const clientSession: Target = {
  ...shared,
  name: 'client-session',
  input: "a hostile server's script: set-up, then what it does other than it should",
  run: (input) => new Match(input, 'client').play(),
};
