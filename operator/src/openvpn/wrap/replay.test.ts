import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { PacketError } from '../wire/packet.ts';
import { earlyNegotiationStart, ReplaySender, ReplayWindow, showsEarlyNegotiation, type Transport } from './replay.ts';

/** Which of these [id, time] pairs a window accepts, in turn. */
function accepted(transport: Transport, ids: readonly (readonly [number, number])[]): boolean[] {
  const window = new ReplayWindow(transport);
  return ids.map(([id, time]) => accepts(window, id, time));
}

function accepts(window: ReplayWindow, id: number, time: number): boolean {
  try {
    window.accept({ id, time });
    return true;
  } catch (error) {
    expect(error).toMatchObject({ name: 'PacketError', reason: 'replayed' } satisfies Partial<PacketError>);
    return false;
  }
}

describe('the window on UDP', () => {
  test('accepts each number once', () => {
    expect(
      accepted('udp', [
        [1, 100],
        [1, 100],
        [2, 100],
        [1, 100],
      ]),
    ).toEqual([true, false, true, false]);
  });

  test('accepts what is overtaken by less than 64, and not the rest', () => {
    expect(
      accepted('udp', [
        [100, 7],
        [37, 7],
        [36, 7],
        [37, 7],
        [99, 7],
      ]),
    ).toEqual([true, true, false, false, true]);
  });

  test('a later time begins a new count, an earlier one is over', () => {
    expect(
      accepted('udp', [
        [500, 7],
        [3, 8],
        [501, 7],
        [3, 8],
        [2, 8],
      ]),
    ).toEqual([true, true, false, false, true]);
  });

  test('zero is no number', () => {
    expect(
      accepted('udp', [
        [0, 0],
        [0, 5],
        [1, 0],
      ]),
    ).toEqual([false, false, true]);
  });

  test('a jump ahead forgets what it leaves behind', () => {
    expect(
      accepted('udp', [
        [1, 1],
        [65, 1],
        [1, 1],
        [2, 1],
        [0xffff_ffff, 1],
        [0xffff_ffc0, 1],
        [65, 1],
      ]),
    ).toEqual([true, true, false, true, true, true, false]);
  });

  test('agrees with a list of all that was seen', () => {
    const ids = fc.array(fc.tuple(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 1, max: 3 })), {
      maxLength: 120,
    });
    fc.assert(
      fc.property(ids, (sequence) => {
        const seen = new Set<string>();
        let [highest, latest] = [0, 0];
        const model = sequence.map(([id, time]) => {
          const good = id > 0 && time >= latest && (time > latest || (highest - id < 64 && !seen.has(`${time} ${id}`)));
          if (good) {
            seen.add(`${time} ${id}`);
            highest = time > latest ? id : Math.max(highest, id);
            latest = time;
          }
          return good;
        });
        expect(accepted('udp', sequence)).toEqual(model);
      }),
    );
  });

  test('any order within 64 numbers arrives whole', () => {
    const order = fc.shuffledSubarray(
      Array.from({ length: 64 }, (_unused, index) => index + 1),
      { minLength: 64, maxLength: 64 },
    );
    fc.assert(
      fc.property(order, (ids) => {
        expect(
          accepted(
            'udp',
            ids.map((id) => [id, 9] as const),
          ).every(Boolean),
        ).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  test('goes on after a restart, at any point', () => {
    const ids = fc.array(fc.tuple(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 2 })), { maxLength: 60 });
    fc.assert(
      fc.property(ids, fc.nat(60), (sequence, at) => {
        const before = new ReplayWindow('udp');
        const first = sequence.slice(0, at).map(([id, time]) => accepts(before, id, time));
        const after = new ReplayWindow('udp', JSON.parse(JSON.stringify(before.state)) as typeof before.state);
        const second = sequence.slice(at).map(([id, time]) => accepts(after, id, time));
        expect([...first, ...second]).toEqual(accepted('udp', sequence));
      }),
    );
  });
});

describe('the window on TCP', () => {
  test('accepts the very next number only', () => {
    expect(
      accepted('tcp', [
        [2, 100],
        [1, 100],
        [1, 100],
        [3, 100],
        [2, 100],
        [3, 100],
      ]),
    ).toEqual([false, true, false, false, true, true]);
  });

  test('a later count begins with 1, or as early negotiation does', () => {
    expect(
      accepted('tcp', [
        [1, 100],
        [2, 101],
        [1, 101],
        [1, 100],
        [earlyNegotiationStart + 1, 102],
        [earlyNegotiationStart + 2, 102],
        [earlyNegotiationStart + 2, 103],
      ]),
    ).toEqual([true, false, true, false, true, true, false]);
  });

  test('after a restart passes once over what came since the state was saved', () => {
    const before = new ReplayWindow('tcp');
    before.accept({ id: 1, time: 5 });
    const after = new ReplayWindow('tcp', before.state);
    expect([
      accepts(after, 1, 5),
      accepts(after, 4, 5),
      accepts(after, 6, 5),
      accepts(after, 3, 5),
      accepts(after, 5, 5),
    ]).toEqual([false, true, false, false, true]);
  });
});

describe('the sender', () => {
  test('counts from 1 in the second of its first packet', () => {
    let now = 5_999;
    const sender = new ReplaySender(() => now);
    expect(sender.next()).toEqual({ id: 1, time: 5 });
    now = 90_000;
    expect(sender.next()).toEqual({ id: 2, time: 5 });
    expect(sender.time).toBe(5);
  });

  test('begins where it is told to', () => {
    const sender = new ReplaySender(() => 5_000, { after: earlyNegotiationStart });
    const first = sender.next();
    expect(first).toEqual({ id: 0x0f000001, time: 5 });
    expect(showsEarlyNegotiation(first)).toBe(true);
    expect(showsEarlyNegotiation({ id: 1, time: 5 })).toBe(false);
  });

  test.each([
    ['in the same second', 5_000, 6],
    ['with its clock set back', 1_000, 6],
    ['later', 9_000, 9],
  ])('resumed %s begins a later count', (_when, now, time) => {
    expect(new ReplaySender(() => now, { lastTime: 5 }).next()).toEqual({ id: 1, time });
  });

  test('has the time of a resumed count at once, so that a state saved before the first number is good', () => {
    let now = 60_000;
    const first = new ReplaySender(() => now, { lastTime: 50 });
    expect(first.time).toBe(60);
    now = 30_000;
    expect(first.next()).toEqual({ id: 1, time: 60 });
    const second = new ReplaySender(() => now, { lastTime: 60 });
    expect(second.time).toBe(61);
    expect(new ReplaySender(() => now).time).toBe(0);
  });

  test('never gives a number twice', () => {
    const sender = new ReplaySender(() => 5_000, { after: 0xffff_fffe });
    expect([sender.next(), sender.next(), sender.next()]).toEqual([
      { id: 0xffff_ffff, time: 5 },
      { id: 1, time: 6 },
      { id: 2, time: 6 },
    ]);
  });
});
