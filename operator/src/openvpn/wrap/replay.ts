import { PacketError } from '../wire/packet.ts';
import type { Clock } from './wrapper.ts';

/**
 * Replay protection of wrapped packets: each carries a number and the second in which the count began
 * (OpenVPN RFC draft; openvpn(8), "--replay-window"). Retransmissions take a new number.
 */

export interface ReplayId {
  readonly id: number;
  /** Seconds since 1970. */
  readonly time: number;
}

export const replayIdBytes = 8;
const maxId = 0xffff_ffff;

export function readReplayId(bytes: Buffer, offset: number): ReplayId {
  return { id: bytes.readUInt32BE(offset), time: bytes.readUInt32BE(offset + 4) };
}

export function writeReplayId({ id, time }: ReplayId, bytes: Buffer, offset: number): void {
  bytes.writeUInt32BE(time, bytes.writeUInt32BE(id, offset));
}

/**
 * The first number of a tls-crypt-v2 client that understands early negotiation (OpenVPN 2.6 and newer): a server may
 * answer it without keeping state, because the client will send its key again.
 */
export const earlyNegotiationStart = 0x0f00_0000;

export function showsEarlyNegotiation({ id }: ReplayId): boolean {
  return id >>> 24 === earlyNegotiationStart >>> 24;
}

/** Both directions' counters, as they outlive a restart of this program. */
export interface ReplayState {
  readonly sent: number;
  readonly received: ReplayId;
  /** Bit n: `received.id - n` was seen; 16 hexadecimal digits. */
  readonly window: string;
}

/**
 * Numbers what we send. A resumed sender begins a new count in a later second than any before, so a state that was
 * saved some packets ago is as good as a fresh one, and a clock set back does no harm.
 */
export class ReplaySender {
  readonly #clock: Clock;
  #time: number;
  #id: number;
  #begun = false;

  /**
   * @param after the number before the first
   * @param lastTime the time of the count before this one
   */
  constructor(clock: Clock, { after = 0, lastTime = 0 }: { after?: number; lastTime?: number } = {}) {
    this.#clock = clock;
    this.#time = lastTime;
    this.#id = after;
    // A resumed count has its time at once, for a state that is saved before the first number.
    if (lastTime > 0) this.#begin();
  }

  /** The time of the count, to give to the sender that comes after this one. */
  get time(): number {
    return this.#time;
  }

  next(): ReplayId {
    if (this.#id === maxId) {
      this.#id = 0;
      this.#begin();
    } else if (!this.#begun) {
      this.#begin();
    }
    this.#id += 1;
    return { id: this.#id, time: this.#time };
  }

  #begin(): void {
    this.#time = Math.max(Math.floor(this.#clock() / 1000), this.#time + 1);
    this.#begun = true;
  }
}

export type Transport = 'udp' | 'tcp';

const windowBits = 64;

/**
 * Judges what we receive. On UDP, packets may come out of order by less than 64 numbers; a later time begins a new
 * count. On TCP nothing gets lost or overtaken, so only the very next number will do, or the first of a later count.
 */
export class ReplayWindow {
  readonly #transport: Transport;
  #highest: ReplayId = { id: 0, time: 0 };
  #seen = 0n;
  /** The state was saved some time ago: what came since is not in it. */
  #resumed = false;

  constructor(transport: Transport, state?: Pick<ReplayState, 'received' | 'window'>) {
    this.#transport = transport;
    if (state !== undefined) {
      this.#highest = state.received;
      this.#seen = BigInt.asUintN(windowBits, BigInt(`0x${state.window}`));
      this.#resumed = true;
    }
  }

  get state(): Pick<ReplayState, 'received' | 'window'> {
    return { received: this.#highest, window: this.#seen.toString(16).padStart(16, '0') };
  }

  /**
   * Counts an authentic packet as seen.
   *
   * @throws PacketError replayed
   */
  accept(received: ReplayId): void {
    if (!(this.#transport === 'udp' ? this.#acceptsOnUdp(received) : this.#acceptsOnTcp(received))) {
      throw new PacketError('replayed', 'was seen before, or is older than what may still come');
    }
    this.#resumed = false;
    const ahead = received.id - this.#highest.id;
    if (received.time > this.#highest.time) {
      this.#seen = 1n;
    } else if (ahead > 0) {
      this.#seen = ahead < windowBits ? BigInt.asUintN(windowBits, this.#seen << BigInt(ahead)) | 1n : 1n;
    } else {
      this.#seen |= 1n << BigInt(-ahead);
      return;
    }
    this.#highest = received;
  }

  #acceptsOnUdp({ id, time }: ReplayId): boolean {
    if (time !== this.#highest.time) {
      return time > this.#highest.time && id > 0;
    }
    const behind = this.#highest.id - id;
    return id > 0 && (behind < 0 || (behind < windowBits && ((this.#seen >> BigInt(behind)) & 1n) === 0n));
  }

  #acceptsOnTcp({ id, time }: ReplayId): boolean {
    if (this.#resumed) {
      return time > this.#highest.time || (time === this.#highest.time && id > this.#highest.id);
    }
    return time === this.#highest.time
      ? id === this.#highest.id + 1
      : time > this.#highest.time && (id === 1 || id === earlyNegotiationStart + 1);
  }
}
