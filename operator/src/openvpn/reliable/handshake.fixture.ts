import { ReliableKey, type ReliableOptions, type ReliablePacket } from './reliable-key.ts';

/** For tests: the conversation of a handshake over a line that loses packets, in simulated time. */

/** One end's messages that need all that came before: end 0 is the client. */
export type Flight = readonly [end: 0 | 1, messages: number];

/**
 * A soft reset over TLS 1.3 with certificates of some size: resets, ClientHello, the server's hello and certificate,
 * the client's certificate with its key method, the server's key method and tickets. The last word is the client's
 * acknowledgement.
 */
export const softReset: readonly Flight[] = [
  [0, 1],
  [1, 1],
  [0, 1],
  [1, 3],
  [0, 3],
  [1, 2],
];

export interface Line {
  /** Of 1, each way. */
  readonly loss: number;
  /** One way, without and with the most jitter. Milliseconds. */
  readonly delayMs: number;
  readonly jitterMs: number;
}

/** Numerical Recipes' generator: a run is repeatable from its seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export interface Outcome {
  /** When the client had all of the server's messages. */
  readonly doneMs: number;
  /** When the server knew that, so that it may send with the new key. */
  readonly confirmedMs: number;
  /** Packets with a message that each end has sent. */
  readonly sent: readonly [number, number];
}

/** Runs a conversation between two ends until the server has all of its messages acknowledged. */
export function converse(
  flights: readonly Flight[],
  line: Line,
  chance: () => number,
  options: readonly [ReliableOptions, ReliableOptions],
): Outcome {
  const ends = [new ReliableKey(options[0]), new ReliableKey(options[1])] as const;
  const had: [number, number] = [0, 0];
  const sent: [number, number] = [0, 0];
  let onTheWay: { at: number; to: 0 | 1; packet: ReliablePacket }[] = [];
  const payload = Buffer.alloc(0);
  let now = 0;
  let doneMs: number | undefined;
  let next = 0;
  /** How many messages the end has to have before its next flight. */
  const needed = (end: 0 | 1): number =>
    flights.slice(0, next).reduce((sum, [from, count]) => sum + (from === end ? 0 : count), 0);
  for (;;) {
    for (
      let flight = flights[next];
      flight !== undefined && had[flight[0]] >= needed(flight[0]);
      flight = flights[next]
    ) {
      for (let n = 0; n < flight[1]; n++) ends[flight[0]].send({ opcode: 'control-v1', payload }, now);
      next += 1;
    }
    if (next === flights.length) {
      if (doneMs === undefined && had[0] >= needed(0)) doneMs = now;
      if (doneMs !== undefined && ends[1].unacknowledged === 0) return { doneMs, confirmedMs: now, sent };
    }
    for (const from of [0, 1] as const) {
      for (const packet of ends[from].flush(now)) {
        if (packet.messageId !== undefined) sent[from] += 1;
        const at = now + line.delayMs + chance() * line.jitterMs;
        if (chance() >= line.loss) onTheWay.push({ at, to: from === 0 ? 1 : 0, packet });
      }
    }
    now = Math.max(now, Math.min(...onTheWay.map(({ at }) => at), ...ends.map((end) => end.nextFlushAt() ?? Infinity)));
    if (now === Infinity) throw new Error('nothing happens any more');
    const arrived = onTheWay.filter(({ at }) => at <= now);
    onTheWay = onTheWay.filter(({ at }) => at > now);
    for (const { to, packet } of arrived) {
      ends[to].receive(packet, now);
      while (ends[to].take() !== undefined) had[to] += 1;
    }
  }
}
