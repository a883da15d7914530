import { expect } from '@jest/globals';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Outcome, Request } from '../../kernel/netlink/socket.ts';
import type { NewKey } from '../../kernel/ovpn/codec.ts';
import { formatOptionsString } from '../../openvpn/negotiate/options-string.ts';
import { ClientSession } from '../../openvpn/session/client-session.ts';
import { type Offer, ServerSession, type ServerStart } from '../../openvpn/session/server-session.ts';
import type { SessionDrop, SessionOptions } from '../../openvpn/session/session.ts';
import type { SessionEvent } from '../../openvpn/session/session-event.ts';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import { World } from '../../openvpn/session/world.fixture.ts';
import type { Certificate, TestPki } from '../../openvpn/tls/pki.fixture.ts';
import { tlsClient, tlsServer } from '../../openvpn/tls/tls-endpoint.ts';
import { SessionWrapper, type WrapConfig, type WrapperState } from '../../openvpn/wrap/session-wrapper.ts';
import { silentLog } from '../../telemetry/log.ts';
import { PeerMemory } from '../peer-memory.ts';
import { LivePeers, type LivePeer } from './live-peers.ts';
import { withKernelKeys } from './session-memory.ts';
import { FakeLiveKernel, refOfPeer } from './sessions.fixture.ts';
import { TunnelKeys } from './tunnel-keys.ts';

/**
 * A dialled tunnel and the client at its other end as our agent runs both: session, key slots, a kernel, and a state
 * that outlives the process; between them a line that loses, doubles and delays what it is told to. What must hold at
 * every moment is checked at every moment, here; tests only say what happens.
 */

export type Side = 'client' | 'server';
export const sides = ['client', 'server'] as const;

export interface PairSetup {
  readonly wrap: Readonly<Record<Side, WrapConfig>>;
  readonly renegotiateSeconds: Readonly<Record<Side, number>>;
  readonly transitionMs: number;
  readonly pki: TestPki;
  readonly certificates: Readonly<Record<Side, Certificate>>;
  /** For the agents' notes about peers. */
  readonly folder: string;
  readonly seed: number;
}

/** `starting` until there are keys, `killed` while no process has it, `over` with a reason. */
type Life = 'starting' | 'up' | 'killed' | 'over';

const handshakeMs = 60_000;
const farewellMs = 5_000;
/** A resumed session renegotiates after that (network-server.ts, dialed-peer.ts). */
const firstRekeyMs = 5_000;
/** An old key is received with for 90 s (tunnel-keys.ts), of which the other end may have known of the new one for some. */
const longestAwayMs = 60_000;
const latencyMs = 10;
const deviceIndex = 20;
const peerId = 5;
const historyLength = 64;
/** Of a session and its key slots: resend, deadline, retiring, rekey, push request; swap, retire; the first rekey. */
const mostTimersPerSide = 8;

const offer: Offer = {
  peerId,
  topology: 'subnet',
  routeGateway: '10.8.0.1',
  ifconfig: { address: '10.8.0.2', second: '255.255.255.0' },
  pingSeconds: 10,
  pingRestartSeconds: 60,
};

export function otherSide(side: Side): Side {
  return side === 'client' ? 'server' : 'client';
}

interface Slots {
  readonly primary: NewKey | undefined;
  readonly secondary: NewKey | undefined;
}

/** Tells what each request made of the slots. */
class WatchedKernel extends FakeLiveKernel {
  changed: (before: Slots | undefined, after: Slots | undefined) => void = () => undefined;

  override ovpnBatch(requests: readonly Request[]): Outcome[] {
    return requests.flatMap((request) => {
      const before = this.slotsNow;
      const outcomes = super.ovpnBatch([request]);
      this.changed(before, this.slotsNow);
      return outcomes;
    });
  }

  get slotsNow(): Slots | undefined {
    const peer = this.peers.get(`${deviceIndex}/${peerId}`);
    return peer === undefined ? undefined : { primary: peer.primary, secondary: peer.secondary };
  }
}

/** What the line does to the next packets of one side. */
interface Faults {
  lose: number;
  double: number;
  delay: number;
  delayMs: number;
}

class End {
  readonly side: Side;
  readonly kernel = new WatchedKernel();
  readonly live: LivePeers;
  readonly faults: Faults = { lose: 0, double: 0, delay: 0, delayMs: 0 };
  /** Packets that it sent, the newest last. */
  readonly sent: Buffer[] = [];
  sentCount = 0;
  eventCount = 0;
  life: Life = 'starting';
  /** Why it is over. */
  ending: string | undefined;
  session: ClientSession | ServerSession | undefined;
  peer: LivePeer | undefined;
  keys: TunnelKeys | undefined;
  /** What the next process finds. */
  saved: SessionState | undefined;
  since = 0;
  renegotiatingSince: number | undefined;
  farewellSince: number | undefined;
  /** Its process dies between the kernel's having a new key and the state's saying so. */
  diesAtInstall = false;
  /** The line carries nothing for so long from the moment when its kernel has a new key. Milliseconds. */
  cutAtInstall = 0;
  /** When the first packet came through. */
  heardAt = 0;
  /** What its session has taken in: none of it may count again. */
  taken = new WeakSet<Buffer>();
  killedAt = 0;
  /** It was away for so long that the other end may have given up the key that its kernel still sends with. */
  overdue = false;
  /** Every key that its kernel ever got, in order. */
  readonly installed: string[] = [];
  cancelFirstRekey: () => void = () => undefined;

  constructor(side: Side, folder: string) {
    this.side = side;
    const memory = new PeerMemory(join(folder, `${side}.json`));
    this.live = new LivePeers({ network: 'corp', kernel: () => this.kernel, memory, log: silentLog });
  }
}

export class SessionPair {
  readonly world = new World();
  readonly #setup: PairSetup;
  readonly ends: Readonly<Record<Side, End>>;
  #inFlight = 0;
  #silentUntil = 0;
  #seed: number;
  /** The first thing that did not hold: whoever is called in between may take it for a refusal of the kernel. */
  #fault: Error | undefined;

  constructor(setup: PairSetup) {
    this.#setup = setup;
    this.#seed = setup.seed;
    this.ends = { client: new End('client', setup.folder), server: new End('server', setup.folder) };
    for (const side of sides)
      this.ends[side].kernel.changed = (before, after) =>
        this.#guard(() => this.#slotsChanged(this.ends[side], before, after));
    const server = this.#serverSession({ kind: 'reset' }, undefined);
    const client = this.#clientSession(undefined);
    this.ends.server.session = server;
    this.ends.client.session = client;
    client.start();
  }

  // What happens.

  async pass(milliseconds: number): Promise<void> {
    await this.world.settle(milliseconds);
    this.check();
  }

  lose(side: Side, packets: number): void {
    this.ends[side].faults.lose += packets;
  }

  double(side: Side, packets: number): void {
    this.ends[side].faults.double += packets;
  }

  /** These overtake nothing any more: what is sent after them comes before. */
  delay(side: Side, packets: number, milliseconds: number): void {
    const { faults } = this.ends[side];
    faults.delay += packets;
    faults.delayMs = milliseconds;
  }

  /** The line carries nothing for so long. */
  cut(milliseconds: number): void {
    this.#silentUntil = Math.max(this.#silentUntil, this.world.time + milliseconds);
  }

  /** A renegotiation is begun by a side's owner; whether it was the time for one. */
  rekey(side: Side): boolean {
    return this.ends[side].session?.rekey() ?? false;
  }

  /** A packet that this side sent comes once more. */
  replay(side: Side, index: number): void {
    const { sent } = this.ends[side];
    const packet = sent[index % Math.max(1, sent.length)];
    if (packet === undefined) return;
    const to = this.ends[otherSide(side)];
    const again = to.taken.has(packet);
    const { eventCount } = to;
    const drop = this.#deliver(otherSide(side), packet);
    // A new process has forgotten what came since its state was saved.
    if (again) expect({ drop, events: to.eventCount }).toEqual({ drop: expect.any(String), events: eventCount });
  }

  /**
   * Something comes that this side seems to have sent: a packet of its own, changed, or one under another key.
   * Nothing may come of it.
   */
  async forge(side: Side, kind: 'bits' | 'cut' | 'key', index: number, place: number): Promise<void> {
    const packet = this.#forged(side, kind, index, place);
    const to = this.ends[otherSide(side)];
    if (packet === undefined || to.session === undefined) return;
    await this.world.settle();
    const state = JSON.stringify(to.session.exportState());
    const { eventCount, sentCount } = to;
    const drop = to.session.receive(packet);
    expect({ kind, drop }).toEqual({ kind, drop: expect.any(String) });
    await this.world.settle();
    expect(JSON.stringify(to.session.exportState())).toBe(state);
    expect({ eventCount: to.eventCount, sentCount: to.sentCount }).toEqual({ eventCount, sentCount });
  }

  /** The process ends without a word; its kernel stays. */
  kill(side: Side): void {
    const end = this.ends[side];
    end.session?.close();
    end.keys?.close();
    end.cancelFirstRekey();
    end.session = end.keys = undefined;
    end.taken = new WeakSet();
    end.renegotiatingSince = end.farewellSince = undefined;
    if (end.life !== 'over') end.life = 'killed';
    end.killedAt = this.world.time;
  }

  /** A new process finds what the last one left. */
  resume(side: Side): void {
    const end = this.ends[side];
    const found = end.live.look(deviceIndex, peerId);
    if (end.saved === undefined || found === undefined || end.peer === undefined) {
      this.#over(end, 'nothing was left to go on with');
      return;
    }
    const state = withKernelKeys(JSON.parse(JSON.stringify(end.saved)) as SessionState, found.keys);
    const session =
      side === 'client' ? this.#clientSession(state) : this.#serverSession({ kind: 'state', state }, state.wrapper);
    end.session = session;
    end.life = 'up';
    end.keys = this.#keysOf(end, end.peer);
    this.#save(end);
    end.keys.resume(found.keys, state, Infinity);
    end.cancelFirstRekey = this.world.after(firstRekeyMs, () => void session.rekey());
  }

  leave(side: Side): void {
    const { session } = this.ends[side];
    if (session instanceof ClientSession) session.exit();
    else session?.restart('the server goes');
    this.#farewell(this.ends[side]);
  }

  // What must hold.

  check(): void {
    if (this.#fault !== undefined) throw this.#fault;
    const { time } = this.world;
    for (const side of sides) {
      const end = this.ends[side];
      const { life, session, since, renegotiatingSince, farewellSince } = end;
      end.overdue ||= life === 'killed' && time - end.killedAt > longestAwayMs;
      const late = (from: number | undefined, most: number): boolean => from !== undefined && time - from > most;
      // A server knows of its client from the first packet on.
      if (life === 'starting' && session?.phase === 'negotiating' && (side === 'client' || end.heardAt > 0))
        expect({ side, starting: late(Math.max(since, side === 'server' ? end.heardAt : 0), handshakeMs) }).toEqual({
          side,
          starting: false,
        });
      expect({ side, renegotiating: late(renegotiatingSince, handshakeMs) }).toEqual({ side, renegotiating: false });
      expect({ side, leaving: late(farewellSince, farewellMs) }).toEqual({ side, leaving: false });
    }
    expect(this.world.timers - this.#inFlight).toBeLessThanOrEqual(2 * mostTimersPerSide);
    this.#expectHeard('client');
    this.#expectHeard('server');
  }

  #guard(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#fault ??= error instanceof Error ? error : new Error(String(error));
      throw error;
    }
  }

  /** What this side's kernel sends, the other one's can read. */
  #expectHeard(side: Side): void {
    const sending = this.ends[side].kernel.slotsNow?.primary;
    const receiving = this.ends[otherSide(side)].kernel.slotsNow;
    if (sending === undefined || receiving === undefined || this.ends[otherSide(side)].life === 'over') return;
    if (this.ends[side].overdue) return;
    expect({ side, sends: sending.keyId, heard: holds(receiving, sending), ...this.#told() }).toMatchObject({
      heard: true,
    });
  }

  #slotsChanged(end: End, before: Slots | undefined, after: Slots | undefined): void {
    if (after === undefined) return;
    const { side } = end;
    const earlier = [before?.primary, before?.secondary].map(nameOf);
    for (const slot of ['primary', 'secondary'] as const) {
      const key = after[slot];
      const name = nameOf(key);
      if (key === undefined || name === undefined || earlier.includes(name)) continue;
      // New in this kernel.
      expect({ side, again: end.installed.includes(name) }).toEqual({ side, again: false });
      const isFirst = end.installed.length === 0;
      end.installed.push(name);
      expect({ side, slot, id: key.keyId }).toEqual(
        isFirst ? { side, slot: 'primary', id: 0 } : { side, slot: 'secondary', id: expect.any(Number) },
      );
      if (!isFirst) expect([0, after.primary?.keyId]).not.toContain(key.keyId);
    }
    if (nameOf(before?.primary) === nameOf(after.primary) || before?.primary === undefined) return;
    // A swap: to a key that waited, that is newer, and that the other end can read.
    expect({ side, sends: nameOf(after.primary) }).toEqual({ side, sends: nameOf(before.secondary) });
    expect(end.installed.indexOf(nameOf(after.primary) ?? '')).toBeGreaterThan(
      end.installed.indexOf(nameOf(before.primary) ?? ''),
    );
    end.overdue = false;
    this.#expectHeard(side);
  }

  /** The line is sound from now on, and every process runs: it has to end in one way or the other. */
  async finish(): Promise<void> {
    this.#silentUntil = 0;
    for (const side of sides) {
      Object.assign(this.ends[side].faults, { lose: 0, double: 0, delay: 0 });
      this.ends[side].diesAtInstall = false;
      this.ends[side].cutAtInstall = 0;
      if (this.ends[side].life === 'killed') this.resume(side);
    }
    // What was begun may have to run into its time-out, and the next try comes as long after that.
    for (let i = 0; i < 30; i++) await this.pass(10_000);
    for (const side of sides) {
      const { life, ending } = this.ends[side];
      expect([life, typeof ending]).toEqual(life === 'up' ? ['up', 'undefined'] : ['over', 'string']);
    }
    if (sides.every((side) => this.ends[side].life === 'up')) await this.#expectNewKeys();
    const told = this.#told();
    for (const side of sides) {
      this.kill(side);
      // Nothing that was put off is left.
      this.ends[side].peer = undefined;
    }
    await this.world.settle(20_000);
    expect({ timers: this.world.timers, ...told }).toMatchObject({ timers: 0 });
  }

  /** Each side gets a new key by asking once; in the end both send with the same one, and have no other. */
  async #expectNewKeys(): Promise<void> {
    for (const side of sides) {
      const counts = sides.map((it) => this.ends[it].installed.length);
      if (!this.rekey(side)) {
        await this.pass(120_000);
        continue;
      }
      await this.pass(60_000);
      expect({ side, got: sides.map((it, i) => this.ends[it].installed.length > (counts[i] ?? 0)) }).toEqual({
        side,
        got: [true, true],
      });
    }
    const periods = sides.map((it) => this.#setup.renegotiateSeconds[it]).filter((seconds) => seconds > 0);
    if (periods.length > 0) {
      // By themselves, too, and again and again.
      const counts = sides.map((it) => this.ends[it].installed.length);
      await this.pass((Math.min(...periods) + 130) * 1000);
      expect(sides.map((it, i) => this.ends[it].installed.length > (counts[i] ?? 0))).toEqual([true, true]);
      return;
    }
    await this.pass(400_000);
    const { client, server } = this.ends;
    const [one, two] = [client.kernel.slotsNow, server.kernel.slotsNow];
    expect(one?.primary?.encrypt.cipherKey).toEqual(two?.primary?.decrypt.cipherKey);
    expect(one?.primary?.decrypt.cipherKey).toEqual(two?.primary?.encrypt.cipherKey);
    expect(one?.primary?.keyId).toBe(client.session?.keyId);
    expect(two?.primary?.keyId).toBe(server.session?.keyId);
    expect([one?.secondary, two?.secondary]).toEqual([undefined, undefined]);
  }

  /** For what a test says when it fails. */
  #told(): Record<string, unknown> {
    return {
      at: this.world.time,
      ...Object.fromEntries(
        sides.map((side) => [side, `${this.ends[side].life} ${this.ends[side].kernel.slots(deviceIndex, peerId)}`]),
      ),
    };
  }

  // The ends.

  #clientSession(state: SessionState | undefined): ClientSession {
    const { certificates, pki, wrap } = this.#setup;
    return new ClientSession(
      {
        ...this.#common('client', state?.wrapper),
        tls: tlsClient({ ca: pki.ca, ...certificates.client }, { remoteCertTls: 'server' }),
        version: '2.6.0-test',
        maxTunMtu: 1600,
        tlsCryptV2: wrap.client.kind === 'tls-crypt-v2-client',
      },
      state,
    );
  }

  #serverSession(start: ServerStart, state: WrapperState | undefined): ServerSession {
    const { certificates, pki } = this.#setup;
    const tls = tlsServer({ ca: pki.ca, ...certificates.server });
    return new ServerSession({ ...this.#common('server', state), tls }, start);
  }

  #common(side: Side, state: WrapperState | undefined): Omit<SessionOptions, 'tls'> {
    const { wrap, renegotiateSeconds } = this.#setup;
    const { clock } = this.world;
    return {
      wrapper: new SessionWrapper(wrap[side], { role: side, transport: 'udp', clock, state }),
      scheduler: this.world,
      random: (bytes) => this.#random(bytes),
      send: (packet) => this.#guard(() => this.#send(side, packet)),
      notify: (event) => this.#guard(() => this.#heard(this.ends[side], event)),
      ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
      optionsString: formatOptionsString({ role: side, transport: 'udp', family: 4, tunMtu: 1400 }),
      renegotiateSeconds: renegotiateSeconds[side],
    };
  }

  #heard(end: End, event: SessionEvent): void {
    end.eventCount += 1;
    const { side, session } = end;
    switch (event.type) {
      case 'authenticated':
        if (session instanceof ServerSession) session.accept(offer);
        return;
      case 'established': {
        const { keyId, keys, cipher } = event.established;
        const settings = { id: peerId, socket: 5, remote: { address: '198.51.100.10', port: 1194 } };
        end.peer = end.live.create(
          { ref: refOfPeer(side), ifindex: deviceIndex, settings, routes: [] },
          { keyId, keys, cipher },
        );
        end.life = 'up';
        end.keys = this.#keysOf(end, end.peer);
        this.#save(end);
        if (session instanceof ServerSession) session.confirm();
        // The client has keys last, and so hears all that the server may have sent.
        if (side === 'client') this.#expectHeard('client');
        return;
      }
      case 'rekeying':
        // One at a time.
        expect({ side, since: end.renegotiatingSince }).toEqual({ side, since: undefined });
        end.renegotiatingSince = this.world.time;
        end.keys?.rekeying();
        this.#save(end);
        return;
      case 'rekeyed': {
        const slots = end.kernel.slotsNow;
        expect({ side, id: event.keyId }).not.toMatchObject({ id: 0 });
        expect(slots?.primary?.keyId).not.toBe(event.keyId);
        end.renegotiatingSince = undefined;
        end.cancelFirstRekey();
        end.keys?.add({ keyId: event.keyId, cipher: 'AES-256-GCM', keys: event.keys }, event);
        if (end.cutAtInstall > 0) {
          this.cut(end.cutAtInstall);
          end.cutAtInstall = 0;
        }
        if (end.diesAtInstall) {
          end.diesAtInstall = false;
          this.kill(side);
        } else this.#save(end);
        return;
      }
      case 'key-confirmed':
        end.keys?.confirmed();
        this.#save(end);
        return;
      case 'rekey-failed':
        end.renegotiatingSince = undefined;
        this.#save(end);
        return;
      case 'exit':
      case 'restart':
      case 'halt':
      case 'auth-failed':
        this.#farewell(end);
        this.#over(end, event.type);
        return;
      case 'refused':
        this.#farewell(end);
        this.#over(end, event.reason);
        return;
      case 'failed':
        end.renegotiatingSince = end.farewellSince = undefined;
        this.#over(end, event.reason);
        return;
      case 'closed':
        end.farewellSince = undefined;
        this.#over(end, 'closed');
        return;
      case 'info':
        return;
    }
  }

  #farewell(end: End): void {
    end.renegotiatingSince = undefined;
    if (end.session !== undefined && end.session.phase === 'leaving') end.farewellSince ??= this.world.time;
  }

  /** As the agent does: whoever is not there any more has no peer. */
  #over(end: End, reason: string): void {
    end.life = 'over';
    end.ending ??= reason;
    end.saved = undefined;
    end.cancelFirstRekey();
    end.keys?.close();
    if (end.peer !== undefined) end.live.remove(end.peer);
    end.peer = end.keys = undefined;
  }

  #keysOf(end: End, peer: LivePeer): TunnelKeys {
    return new TunnelKeys({
      ...{ live: end.live, peer, scheduler: this.world, log: silentLog },
      transitionMs: () => this.#setup.transitionMs,
      refused: (reason) => {
        this.#fault ??= new Error(`the kernel refused: ${reason}`);
      },
    });
  }

  #save(end: End): void {
    const state = end.session?.exportState();
    if (state !== undefined) end.saved = state;
  }

  // The line.

  #send(side: Side, packet: Buffer): void {
    expect(packet.length).toBeLessThanOrEqual(1250);
    const end = this.ends[side];
    const { faults } = end;
    end.sentCount += 1;
    end.sent.push(packet);
    if (end.sent.length > historyLength) end.sent.shift();
    if (this.world.time < this.#silentUntil) return;
    if (faults.lose > 0) {
      faults.lose -= 1;
      return;
    }
    const copies = faults.double > 0 ? 2 : 1;
    faults.double = Math.max(0, faults.double - 1);
    const late = faults.delay > 0 ? faults.delayMs : 0;
    faults.delay = Math.max(0, faults.delay - 1);
    for (let copy = 0; copy < copies; copy++) {
      this.#inFlight += 1;
      this.world.after(latencyMs * (1 + copy) + late, () => {
        this.#inFlight -= 1;
        this.#deliver(otherSide(side), packet);
      });
    }
  }

  #deliver(side: Side, packet: Buffer): SessionDrop | undefined {
    const end = this.ends[side];
    const drop = end.session?.receive(Buffer.from(packet));
    if (drop === undefined && end.session !== undefined) end.taken.add(packet);
    if (drop === undefined && end.session !== undefined && end.heardAt === 0) end.heardAt = this.world.time;
    return drop;
  }

  #forged(side: Side, kind: 'bits' | 'cut' | 'key', index: number, place: number): Buffer | undefined {
    const { sent } = this.ends[side];
    const packet = sent[index % Math.max(1, sent.length)];
    if (packet === undefined) return undefined;
    switch (kind) {
      case 'bits': {
        const changed = Buffer.from(packet);
        changed.writeUInt8(changed.readUInt8(place % changed.length) ^ (1 << (index % 8)), place % changed.length);
        return changed;
      }
      case 'cut':
        return packet.subarray(0, place % packet.length);
      case 'key': {
        const key = Buffer.alloc(256, createHash('sha256').update(`${index}`).digest());
        const { clock } = this.world;
        const stranger = new SessionWrapper({ kind: 'tls-crypt', key }, { role: side, transport: 'udp', clock });
        const keyId = place % 8;
        return stranger.wrap({
          opcode: keyId === 0 ? 'control-v1' : 'soft-reset-v1',
          keyId,
          sessionId: packet.subarray(1, 9),
          acks: [],
          peerSessionId: undefined,
          messageId: 0,
          payload: Buffer.alloc(0),
        });
      }
    }
  }

  #random(bytes: number): Buffer {
    const blocks: Buffer[] = [];
    while (blocks.length * 32 < bytes) blocks.push(createHash('sha256').update(`pair ${this.#seed++}`).digest());
    return Buffer.concat(blocks).subarray(0, bytes);
  }
}

function nameOf(key: NewKey | undefined): string | undefined {
  return key === undefined ? undefined : Buffer.from(key.encrypt.cipherKey).toString('hex');
}

/** Whether one of these reads what that one writes. */
function holds({ primary, secondary }: Slots, sending: NewKey): boolean {
  return [primary, secondary].some(
    (key) =>
      key !== undefined &&
      key.keyId === sending.keyId &&
      Buffer.from(key.decrypt.cipherKey).equals(sending.encrypt.cipherKey) &&
      Buffer.from(key.decrypt.nonceTail).equals(sending.encrypt.nonceTail),
  );
}
