import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Wait, waitMs } from './backoff.ts';
import { afterTry, beginning, formatRemote, resolved, type RetryState, successMs, type TryEnd } from './remotes.ts';

/** What the names of the remotes resolve to; none for one that does not. */
type Names = readonly (readonly string[])[];

/** One try by the plan: which address, or none when the name has none; and what follows. */
function step(names: Names, state: RetryState, end: TryEnd): { tried: string; state: RetryState; wait: Wait } {
  const ready = state.addresses === undefined ? resolved(state, names[state.remote]!) : state;
  const address = ready.addresses![0];
  const after = afterTry(ready, names.length, address === undefined ? { kind: 'failed' } : end);
  return { tried: `${state.remote}:${address ?? '-'}`, ...after };
}

/** What is tried while this happens, each with the wait that follows. */
function play(names: Names, ends: readonly TryEnd[], from = beginning()): string[] {
  let state = from;
  return ends.map((end) => {
    const next = step(names, state, end);
    state = next.state;
    return `${next.tried} ${words(next.wait)}`;
  });
}

function words(wait: Wait): string {
  switch (wait.kind) {
    case 'none':
      return 'now';
    case 'backoff':
      return `backoff ${wait.failures}`;
    case 'longest':
      return 'longest';
    case 'asked':
      return `${wait.seconds} s`;
  }
}

const failed: TryEnd = { kind: 'failed' };
const refused: TryEnd = { kind: 'refused' };
const lostSoon: TryEnd = { kind: 'lost', success: false };
const lostLate: TryEnd = { kind: 'lost', success: true };
const deferred = (seconds?: number, advance?: 'addr' | 'remote' | 'no'): TryEnd => ({
  kind: 'deferred',
  seconds,
  advance,
});
const two: Names = [['a', 'b'], ['c']];

describe('which remote next, and when', () => {
  test.each<[string, Names, TryEnd[], string[]]>([
    [
      'addresses, then remotes, then a longer wait each round',
      two,
      [failed, failed, failed, failed, failed, failed, failed],
      ['0:a now', '0:b now', '1:c backoff 1', '0:a now', '0:b now', '1:c backoff 2', '0:a now'],
    ],
    ['a single remote', [['a']], [failed, failed, failed], ['0:a backoff 1', '0:a backoff 2', '0:a backoff 3']],
    [
      'a name without an address is passed over',
      [[], ['c']],
      [failed, failed, failed],
      ['0:- now', '1:c backoff 1', '0:- now'],
    ],
    ['an address that is there twice is tried once', [['a', 'a', 'b']], [failed, failed], ['0:a now', '0:b backoff 1']],
    [
      'a good tunnel that is lost: the same address, at once, and the back-off begins anew',
      two,
      [failed, failed, failed, failed, lostLate, failed, failed, failed],
      ['0:a now', '0:b now', '1:c backoff 1', '0:a now', '0:b now', '0:b now', '0:a now', '1:c backoff 1'],
    ],
    ['a server that leaves gets a moment', two, [{ ...lostLate, leaving: true }, failed], ['0:a backoff 1', '0:a now']],
    [
      'a tunnel that does not last: the same address once more, then the next; the wait grows',
      two,
      [lostSoon, lostSoon, lostSoon, lostSoon, lostSoon],
      ['0:a backoff 1', '0:a backoff 2', '0:b backoff 3', '0:b backoff 4', '1:c backoff 5'],
    ],
    [
      'between two tunnels that do not last, a failed try takes the second chance',
      two,
      [lostSoon, failed, failed, failed],
      ['0:a backoff 1', '0:a now', '0:b now', '1:c backoff 2'],
    ],
    [
      'sent on to the next remote: at once after a good tunnel, else with a wait',
      two,
      [
        { ...lostLate, nextRemote: true },
        { ...lostSoon, nextRemote: true },
        { ...lostSoon, nextRemote: true },
      ],
      ['0:a now', '1:c backoff 1', '0:a backoff 2'],
    ],
    [
      'a refusal: the next remote after the longest wait',
      two,
      [refused, refused, refused],
      ['0:a longest', '1:c longest', '0:a longest'],
    ],
    [
      'the wait after a refusal is followed by a whole round',
      two,
      [refused, failed, failed, failed],
      ['0:a longest', '1:c now', '0:a now', '0:b backoff 1'],
    ],
    ['TEMP: the next address', two, [deferred(), deferred(), deferred()], ['0:a now', '0:b now', '1:c backoff 1']],
    ['TEMP with a wait', two, [deferred(7), deferred(8), deferred(9)], ['0:a 7 s', '0:b 8 s', '1:c 9 s']],
    ['TEMP, advance addr', two, [deferred(7, 'addr'), failed], ['0:a 7 s', '0:b now']],
    ['TEMP, advance remote', two, [deferred(7, 'remote'), failed], ['0:a 7 s', '1:c backoff 1']],
    [
      'TEMP, advance no',
      two,
      [deferred(7, 'no'), deferred(undefined, 'no'), failed],
      ['0:a 7 s', '0:a backoff 1', '0:a now'],
    ],
  ])('%s', (_, names, ends, expected) => {
    expect(play(names, ends)).toEqual(expected);
  });

  test('the address of a lost tunnel comes first only while the name has it', () => {
    const lost = step([['a', 'b', 'c']], step([['a', 'b', 'c']], beginning(), failed).state, lostLate);
    expect(lost.tried).toBe('0:b');
    expect(resolved(lost.state, ['a', 'b', 'c']).addresses).toEqual(['b', 'a', 'c']);
    expect(resolved(lost.state, ['a', 'c']).addresses).toEqual(['a', 'c']);
  });
});

describe('whatever happens', () => {
  const names = fc.array(fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 4 }), {
    minLength: 1,
    maxLength: 5,
  });
  const end = fc.oneof<fc.Arbitrary<TryEnd>[]>(
    fc.constant(failed),
    fc.constant(refused),
    fc.record({
      kind: fc.constant('lost' as const),
      success: fc.boolean(),
      leaving: fc.boolean(),
      nextRemote: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant('deferred' as const),
      seconds: fc.option(fc.nat(1000), { nil: undefined }),
      advance: fc.constantFrom('addr' as const, 'remote' as const, 'no' as const, undefined),
    }),
  );
  const reached = (all: Names, ends: readonly TryEnd[]): RetryState =>
    ends.reduce((state, next) => step(all, state, next).state, beginning());

  test('without a success nobody is called again and again: a wait comes in every round', () => {
    const unsuccessful = end.filter((next) => next.kind !== 'lost' || !next.success);
    fc.assert(
      fc.property(names, fc.array(unsuccessful, { maxLength: 60 }), (all, ends) => {
        const round = all.reduce((sum, { length }) => sum + Math.max(1, length), 0);
        let state = beginning();
        let without = 0;
        for (const next of ends) {
          const { wait, ...after } = step(all, state, next);
          state = after.state;
          without = waitMs(wait, 0) === 0 ? without + 1 : 0;
          expect(without).toBeLessThan(round);
        }
      }),
    );
  });

  test('failures alone bring every address of every remote into the next two rounds, in order', () => {
    fc.assert(
      fc.property(names, fc.array(end, { maxLength: 40 }), (all, ends) => {
        const every = all.flatMap((addresses, remote) =>
          (addresses.length === 0 ? ['-'] : addresses).map((address) => `${remote}:${address}`),
        );
        let state = reached(all, ends);
        const tried: string[] = [];
        let rounds = 0;
        for (let i = 0; i < 3 * every.length + 3 && rounds < 2; i++) {
          const next = step(all, state, failed);
          tried.push(next.tried);
          state = next.state;
          rounds += next.wait.kind === 'none' ? 0 : 1;
        }
        expect(rounds).toBe(2);
        // The second of them is a whole one.
        const second = tried.slice(-every.length);
        expect([...second].sort()).toEqual([...every].sort());
        const start = every.indexOf(second[0]!);
        expect(second).toEqual([...every.slice(start), ...every.slice(0, start)]);
      }),
    );
  });

  test('the place is one of the list', () => {
    fc.assert(
      fc.property(names, fc.array(end, { maxLength: 40 }), (all, ends) => {
        const { remote, roundBegan } = reached(all, ends);
        expect(all[remote]).toBeDefined();
        expect(all[roundBegan]).toBeDefined();
      }),
    );
  });
});

describe('waits', () => {
  test.each<[Wait, number, number]>([
    [{ kind: 'none' }, 0, 0],
    [{ kind: 'backoff', failures: 1 }, 800, 1200],
    [{ kind: 'backoff', failures: 2 }, 1600, 2400],
    [{ kind: 'backoff', failures: 9 }, 204_800, 307_200],
    [{ kind: 'backoff', failures: 10 }, 240_000, 360_000],
    [{ kind: 'backoff', failures: 5000 }, 240_000, 360_000],
    [{ kind: 'longest' }, 240_000, 360_000],
    [{ kind: 'asked', seconds: 0 }, 1000, 1200],
    [{ kind: 'asked', seconds: 42 }, 42_000, 50_400],
    [{ kind: 'asked', seconds: 999_999 }, 3_600_000, 4_320_000],
  ])('%j', (wait, least, most) => {
    expect(waitMs(wait, 0)).toBe(least);
    expect(waitMs(wait, 1)).toBe(most);
    expect(waitMs(wait, 0.5)).toBe((least + most) / 2);
  });
});

test('a tunnel is a success when it has outlived the keepalive by far', () => {
  expect([successMs(), successMs(10), successMs(120)]).toEqual([120_000, 60_000, 240_000]);
});

test.each([
  [{ host: 'vpn.example', port: 1194, transport: 'udp' }, '203.0.113.9', 'vpn.example:1194/udp (203.0.113.9)'],
  [{ host: '203.0.113.9', port: 443, transport: 'tcp' }, '203.0.113.9', '203.0.113.9:443/tcp'],
  [{ host: '2001:db8::1', port: 443, transport: 'tcp' }, undefined, '[2001:db8::1]:443/tcp'],
] as const)('people read %j as %s: %s', (remote, address, expected) => {
  expect(formatRemote(remote, address)).toBe(expected);
});
