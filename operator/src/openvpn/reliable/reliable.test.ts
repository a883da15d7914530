import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { AckQueue } from './ack-queue.ts';
import { converse, type Line, randomNumbers, softReset } from './handshake.fixture.ts';
import { ReceiveBuffer, receiveBufferSize } from './receive-buffer.ts';
import { type Message, ReliableKey, type ReliablePacket } from './reliable-key.ts';
import { datagramResends, RoundTrip, streamResends } from './round-trip.ts';
import { SendWindow, sendWindowSize } from './send-window.ts';

const text = (value: string): Message => ({ opcode: 'control-v1', payload: Buffer.from(value) });
const ids = (sent: readonly { id: number }[]): number[] => sent.map(({ id }) => id);

describe('the send window', () => {
  test('takes six messages and no more until one is acknowledged', () => {
    const window = new SendWindow<string>(0);
    for (let i = 0; i < sendWindowSize; i++) {
      expect(window.push(`${i}`, 0)).toBe(true);
    }
    expect(window.push('too many', 0)).toBe(false);
    window.acknowledge(3, 0);
    expect(window.room).toBe(1);
    expect(window.push('6', 0)).toBe(true);
    expect(ids(window.takeDue(0))).toEqual([0, 1, 2, 4, 5, 6]);
  });

  /** The pauses between the sendings of a message that nobody acknowledges. */
  function pausesOf(roundTrip: RoundTrip, times: number): number[] {
    const window = new SendWindow<string>(0, sendWindowSize, roundTrip);
    window.push('a', 0);
    const pauses: number[] = [];
    let now = 0;
    window.takeDue(now);
    for (let i = 0; i < times; i++) {
      const next = window.nextDueAt() ?? NaN;
      expect(window.takeDue(next - 1)).toEqual([]);
      expect(ids(window.takeDue(next))).toEqual([0]);
      pauses.push(next - now);
      now = next;
    }
    return pauses;
  }

  test('repeats after 2 s while no round trip is known, then twice as long each time, up to 4 s', () => {
    expect(pausesOf(new RoundTrip(), 5)).toEqual([2000, 4000, 4000, 4000, 4000]);
  });

  test('over a stream it repeats like OpenVPN, whatever the round trips are', () => {
    const roundTrip = new RoundTrip(streamResends);
    roundTrip.measured(10);
    expect(pausesOf(roundTrip, 9)).toEqual([2000, 4000, 8000, 16000, 32000, 64000, 128000, 128000, 128000]);
  });

  test('repeats at once when three later messages were acknowledged, without slowing down', () => {
    const window = new SendWindow<string>(0);
    ['a', 'b', 'c', 'd'].forEach((message) => window.push(message, 0));
    window.takeDue(0);
    window.acknowledge(1, 0);
    window.acknowledge(2, 0);
    window.acknowledge(2, 0);
    expect(window.takeDue(10)).toEqual([]);
    window.acknowledge(3, 0);
    expect(window.nextDueAt()).toBe(0);
    expect(ids(window.takeDue(10))).toEqual([0]);
    expect(window.takeDue(10)).toEqual([]);
    // The pause of the first sending, not one doubled.
    expect(window.nextDueAt()).toBe(10 + 2000);
  });

  test('acknowledgements for what is not on its way change nothing', () => {
    const window = new SendWindow<string>(1);
    window.push('a', 0);
    [0, 2, 2 ** 32 - 1].forEach((id) => window.acknowledge(id, 0));
    expect(window.unacknowledged).toBe(1);
    window.acknowledge(1, 0);
    window.acknowledge(1, 0);
    expect(window.unacknowledged).toBe(0);
    expect(window.nextDueAt()).toBeUndefined();
  });

  test('never gives an id twice: at the last one it is full', () => {
    const window = new SendWindow<string>(2 ** 32 - 2);
    expect([window.push('a', 0), window.push('b', 0), window.push('c', 0)]).toEqual([true, true, false]);
  });
});

describe('the round trip', () => {
  const pauseAfter = (...measured: number[]): number => {
    const roundTrip = new RoundTrip();
    measured.forEach((milliseconds) => roundTrip.measured(milliseconds));
    return roundTrip.pauseMs;
  };

  test.each([
    { name: 'nothing measured: what OpenVPN waits', measured: [], pause: datagramResends.firstMs },
    { name: 'the first measurement counts threefold', measured: [300], pause: 900 },
    { name: 'a steady line: little more than its round trip', measured: Array<number>(30).fill(600), pause: 600 },
    { name: 'a short line: time for a busy peer', measured: [2, 2, 3], pause: datagramResends.leastMs },
    { name: 'a very long line: never more than OpenVPN', measured: [5000, 5000], pause: datagramResends.firstMs },
  ])('$name', ({ measured, pause }) => {
    expect(Math.round(pauseAfter(...measured))).toBe(pause);
  });

  test('that varies makes the pause longer', () => {
    expect(pauseAfter(300, 700, 300, 700)).toBeGreaterThan(pauseAfter(500, 500, 500, 500));
  });
});

describe('a send window that knows the line', () => {
  test('repeats by the round trip, which only messages sent once tell', () => {
    const roundTrip = new RoundTrip();
    const window = new SendWindow<string>(0, sendWindowSize, roundTrip);
    window.push('a', 0);
    window.takeDue(0);
    window.acknowledge(0, 300);
    expect(roundTrip.pauseMs).toBe(900);
    window.push('b', 1000);
    window.takeDue(1000);
    expect(window.nextDueAt()).toBe(1900);
    window.takeDue(1900);
    expect(roundTrip.pauseMs).toBe(1800);
    // Of which of the two sendings is this the acknowledgement? Nobody knows.
    window.acknowledge(1, 1910);
    expect(roundTrip.pauseMs).toBe(1800);
    window.push('c', 2000);
    window.takeDue(2000);
    window.acknowledge(2, 2300);
    // RFC 6298, section 2.3: the same time again, 300 + 4 x 112.5.
    expect(roundTrip.pauseMs).toBe(750);
  });

  test('repeats at once what an answer should have come to, when the peer repeats itself', () => {
    const window = new SendWindow<string>(0);
    window.push('old', 0);
    window.takeDue(0);
    window.push('young', 1500);
    window.takeDue(1500);
    window.hurry(1999);
    expect(window.takeDue(1999)).toEqual([]);
    window.takeDue(2000);
    window.hurry(4100);
    expect(ids(window.takeDue(4100))).toEqual([0, 1]);
    window.hurry(4100);
    expect(window.takeDue(4100)).toEqual([]);
  });
});

describe('the receive buffer', () => {
  test('delivers in order and once', () => {
    const buffer = new ReceiveBuffer<string>(0);
    expect(buffer.offer(1, 'b')).toBe('kept');
    expect(buffer.take()).toBeUndefined();
    expect(buffer.offer(0, 'a')).toBe('kept');
    expect(buffer.offer(1, 'b again')).toBe('repeated');
    expect([buffer.take(), buffer.take(), buffer.take()]).toEqual(['a', 'b', undefined]);
    expect(buffer.offer(0, 'a again')).toBe('repeated');
  });

  test('reaches twelve messages ahead', () => {
    const buffer = new ReceiveBuffer<string>(1);
    expect(buffer.offer(receiveBufferSize, 'last')).toBe('kept');
    expect(buffer.offer(receiveBufferSize + 1, 'too far')).toBe('outside');
    expect(buffer.offer(2 ** 32 - 1, 'much too far')).toBe('outside');
    expect(buffer.offer(0, 'the reset of a stateless start')).toBe('repeated');
    expect(buffer.waiting).toBe(1);
  });
});

describe('the acknowledgements owed', () => {
  test('new ones first, then the latest again', () => {
    const queue = new AckQueue();
    [0, 1, 2].forEach((id) => queue.add(id));
    expect(queue.take(4)).toEqual([0, 1, 2]);
    queue.add(3);
    expect(queue.take(4)).toEqual([3, 2, 1, 0]);
    expect(queue.owed).toBe(0);
  });

  test('never holds or sends more than bounded', () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.nat(2 ** 32 - 1)), { maxLength: 100 }), (steps) => {
        const queue = new AckQueue();
        for (const step of steps) {
          if (step === null) {
            const taken = queue.take(8);
            expect(taken.length).toBeLessThanOrEqual(8);
            expect(new Set(taken).size).toBe(taken.length);
          } else {
            queue.add(step);
          }
          expect(queue.owed).toBeLessThanOrEqual(16);
        }
      }),
    );
  });
});

describe('one key', () => {
  test('acknowledgements ride on a message, at most four, and the rest goes alone', () => {
    const key = new ReliableKey();
    for (let id = 0; id < 6; id++) {
      key.receive({ ...text('x'), acks: [], messageId: id }, 0);
    }
    key.send(text('answer'), 0);
    expect(key.flush(0)).toEqual([
      { opcode: 'control-v1', messageId: 0, acks: [0, 1, 2, 3], payload: Buffer.from('answer') },
      { opcode: 'ack-v1', messageId: undefined, acks: [4, 5, 3, 2, 1, 0], payload: Buffer.alloc(0) },
    ]);
    expect(key.flush(0)).toEqual([]);
  });

  test('a repeated message is acknowledged again and not delivered again; one too far ahead is neither', () => {
    const key = new ReliableKey();
    const packet: ReliablePacket = { ...text('x'), acks: [], messageId: 0 };
    expect(key.receive(packet, 0)).toBe('kept');
    expect(key.take()).toEqual(text('x'));
    key.flush(0);
    expect(key.receive(packet, 0)).toBe('repeated');
    expect(key.take()).toBeUndefined();
    expect(key.flush(0)).toHaveLength(1);
    expect(key.receive({ ...packet, messageId: 13 }, 0)).toBe('outside');
    expect(key.flush(0)).toEqual([]);
  });

  test('after a stateless start both directions go on with message 1', () => {
    const key = new ReliableKey({ firstMessageId: 1 });
    key.send(text('first'), 0);
    expect(key.flush(0)[0]?.messageId).toBe(1);
    expect(key.receive({ ...text('the reset, repeated'), acks: [], messageId: 0 }, 0)).toBe('repeated');
    key.receive({ ...text('first of the peer'), acks: [1], messageId: 1 }, 0);
    expect(key.take()).toEqual(text('first of the peer'));
    expect(key.unacknowledged).toBe(0);
  });

  test('no packet makes it throw or grow', () => {
    const anyPacket = fc.record({
      opcode: fc.constantFrom('control-v1' as const, 'ack-v1' as const, 'soft-reset-v1' as const),
      acks: fc.array(fc.nat(2 ** 32 - 1), { maxLength: 8 }),
      messageId: fc.option(fc.oneof(fc.nat(20), fc.nat(2 ** 32 - 1)), { nil: undefined }),
      payload: fc.constant(Buffer.from('p')),
    });
    fc.assert(
      fc.property(fc.array(anyPacket, { maxLength: 60 }), (packets) => {
        const key = new ReliableKey();
        for (const packet of packets) {
          key.receive(packet, 0);
          expect(key.waiting).toBeLessThanOrEqual(receiveBufferSize);
        }
        expect(key.flush(0).length).toBeLessThanOrEqual(2);
      }),
    );
  });
});

/** A path that loses, doubles and delays packets as its random numbers say. */
interface Path {
  readonly loss: number;
  readonly doubled: number;
  readonly maxDelayMs: number;
}

function run(seed: number, path: Path, streams: readonly [string[], string[]]): [string[], string[]] {
  const chance = randomNumbers(seed);
  const ends = [new ReliableKey(), new ReliableKey()] as const;
  const todo: readonly [string[], string[]] = [[...streams[0]], [...streams[1]]];
  const got: [string[], string[]] = [[], []];
  let inFlight: { at: number; to: 0 | 1; packet: ReliablePacket }[] = [];
  let now = 0;
  const settled = (): boolean =>
    [0, 1].every((i) => todo[i as 0 | 1].length === 0 && ends[i as 0 | 1].unacknowledged === 0);
  for (let step = 0; !settled(); step++) {
    if (step > 20_000) {
      throw new Error('does not settle');
    }
    for (const i of [0, 1] as const) {
      const end = ends[i];
      while (todo[i].length > 0 && end.send(text(todo[i][0]!), now)) {
        todo[i].shift();
      }
      for (const packet of end.flush(now)) {
        expect(packet.acks.length).toBeLessThanOrEqual(packet.opcode === 'ack-v1' ? 8 : 4);
        const copies = (chance() < path.loss ? 0 : 1) + (chance() < path.doubled ? 1 : 0);
        for (let copy = 0; copy < copies; copy++) {
          inFlight.push({ at: now + 1 + Math.floor(chance() * path.maxDelayMs), to: i === 0 ? 1 : 0, packet });
        }
      }
      expect(end.unacknowledged).toBeLessThanOrEqual(sendWindowSize);
    }
    const wakes = [...inFlight.map(({ at }) => at), ...ends.map((end) => end.nextFlushAt() ?? Infinity)];
    now = Math.max(now, Math.min(...wakes));
    const arrived = inFlight.filter(({ at }) => at <= now).toSorted((a, b) => a.at - b.at);
    inFlight = inFlight.filter(({ at }) => at > now);
    for (const { to, packet } of arrived) {
      ends[to].receive(packet, now);
      expect(ends[to].waiting).toBeLessThanOrEqual(receiveBufferSize);
      for (let message = ends[to].take(); message !== undefined; message = ends[to].take()) {
        got[to].push(message.payload.toString());
      }
    }
  }
  return got;
}

describe('the pauses', () => {
  test('are never longer than those of OpenVPN, nor shorter than half a second, whatever was measured', () => {
    const event = fc.oneof(
      fc.record({ measured: fc.double({ min: 0, max: 1e6, noNaN: true }) }),
      fc.record({ pause: fc.double({ min: 500, max: 4000, noNaN: true }) }),
    );
    fc.assert(
      fc.property(fc.array(event), (events) => {
        const roundTrip = new RoundTrip();
        for (const each of events) {
          if ('measured' in each) roundTrip.measured(each.measured);
          else expect(roundTrip.longer(each.pause)).toBeLessThanOrEqual(2 * each.pause);
          expect(roundTrip.pauseMs).toBeGreaterThanOrEqual(datagramResends.leastMs);
          expect(roundTrip.pauseMs).toBeLessThanOrEqual(datagramResends.firstMs);
        }
      }),
    );
  });
});

describe('a renegotiation with stock OpenVPN', () => {
  const stock = (): RoundTrip => new RoundTrip(streamResends);
  const bad: Line = { loss: 0.2, delayMs: 120, jitterMs: 60 };
  const handshakeMs = 60_000;

  /** The times until the server may send with the new key, in order. */
  function confirmations(line: Line, server: () => RoundTrip, runs: number): number[] {
    const chance = randomNumbers(1);
    const options = () => [{ roundTrip: stock() }, { roundTrip: server() }] as const;
    return Array.from({ length: runs }, () => converse(softReset, line, chance, options()).confirmedMs).sort(
      (a, b) => a - b,
    );
  }

  test('fails less often on a line that loses a fifth than with the pauses of OpenVPN at both ends', () => {
    const late = (times: readonly number[]): number => times.filter((ms) => ms > handshakeMs).length / times.length;
    const runs = 3_000;
    const [theirs, ours] = [confirmations(bad, stock, runs), confirmations(bad, () => new RoundTrip(), runs)];
    // What remains are repetitions that the stock end times.
    expect(late(theirs)).toBeGreaterThan(0.006);
    expect(late(ours)).toBeLessThan(0.003);
    expect(ours[runs * 0.99]).toBeLessThan(0.75 * (theirs[runs * 0.99] ?? 0));
  });

  test('repeats nothing on a line that loses nothing, however slow', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 700 }), (seed, delayMs) => {
        const options = [{ roundTrip: stock() }, { roundTrip: new RoundTrip() }] as const;
        const line = { loss: 0, delayMs, jitterMs: delayMs / 5 };
        expect(converse(softReset, line, randomNumbers(seed), options).sent).toEqual([5, 6]);
      }),
    );
  });
});

describe('two ends over a bad path', () => {
  const anyStream = fc.array(fc.string({ maxLength: 4 }), { maxLength: 40 });

  test('deliver the same stream in order, however packets are lost, doubled and overtake each other', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.record({
          loss: fc.double({ min: 0, max: 0.6, noNaN: true }),
          doubled: fc.double({ min: 0, max: 0.5, noNaN: true }),
          maxDelayMs: fc.nat(5000),
        }),
        anyStream,
        anyStream,
        (seed, path, left, right) => {
          expect(run(seed, path, [left, right])).toEqual([right, left]);
        },
      ),
      { numRuns: 60 },
    );
  });
});
