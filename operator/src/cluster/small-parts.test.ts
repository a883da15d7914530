import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Backoff } from './backoff.ts';
import { sleep } from './clock.ts';
import { canonical } from './json.ts';
import { LineSplitter } from './lines.ts';
import { agentFieldManager } from './status-writer.ts';
import { FakeClock } from './testing/clock.ts';
import { TokenBucket } from './token-bucket.ts';

describe('Backoff', () => {
  test('stays between half and all of a range that doubles up to the limit', () => {
    for (const [random, factor] of [
      [0, 0.5],
      [0.999999, 1],
    ] as const) {
      const backoff = new Backoff({ initialMs: 100, maxMs: 1_000, random: () => random });
      const delays = Array.from({ length: 6 }, () => backoff.next());
      [100, 200, 400, 800, 1_000, 1_000].forEach((range, index) =>
        expect(delays[index]).toBeCloseTo(range * factor, 1),
      );
    }
  });

  test('never comes back before the server asked', () => {
    const backoff = new Backoff({ initialMs: 100, maxMs: 1_000, random: () => 0 });
    expect(backoff.next(60_000)).toBe(60_000);
  });
});

describe('TokenBucket', () => {
  test('allows the burst, then the rate, and never saves up more than the burst', () => {
    const clock = new FakeClock();
    const bucket = new TokenBucket(clock, 5, 3);
    expect([bucket.take(), bucket.take(), bucket.take(), bucket.take()]).toEqual([0, 0, 0, 200]);
    clock.advance(200);
    expect([bucket.take(), bucket.take()]).toEqual([0, 200]);
    clock.advance(60_000);
    expect([bucket.take(), bucket.take(), bucket.take(), bucket.take()]).toEqual([0, 0, 0, 200]);
  });
});

describe('LineSplitter', () => {
  test('gives the same lines however the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'grapheme' })), fc.array(fc.nat({ max: 20 })), (texts, cuts) => {
        const lines = texts.map((text) => text.replace(/[\r\n]/g, '').trim()).filter((text) => text !== '');
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join('') + 'half a li');
        const splitter = new LineSplitter(1_000_000);
        const found: string[] = [];
        let from = 0;
        for (const cut of [...cuts, bytes.length]) {
          found.push(...splitter.push(bytes.subarray(from, from + cut)));
          from += cut;
        }
        expect(found).toEqual(lines);
      }),
    );
  });

  test('bounds what it keeps', () => {
    const splitter = new LineSplitter(10);
    expect(splitter.push(Buffer.from('123456789\n12345'))).toEqual(['123456789']);
    expect(() => splitter.push(Buffer.from('6789012'))).toThrow('10 bytes');
  });
});

describe('canonical', () => {
  test('does not depend on the order of fields, but on that of lists', () => {
    expect(canonical({ b: [{ d: 1, c: undefined }], a: 2 })).toBe('{"a":2,"b":[{"d":1}]}');
    expect(canonical([1, 2])).not.toBe(canonical([2, 1]));
  });
});

describe('sleep', () => {
  test('ends in time, or when aborted, and leaves no timer', async () => {
    const clock = new FakeClock();
    const { signal } = new AbortController();
    const slept = sleep(clock, 100, signal);
    clock.advance(100);
    await slept;
    const stop = new AbortController();
    const stopped = sleep(clock, 100, stop.signal);
    stop.abort();
    await stopped;
    await sleep(clock, 100, stop.signal);
    expect(clock.pending).toBeUndefined();
  });
});

describe('agentFieldManager', () => {
  test('fits into what the API server allows and stays unique', () => {
    expect(agentFieldManager('n1')).toBe('ovpn-agent/n1');
    const [one, other] = [agentFieldManager(`${'n'.repeat(240)}1`), agentFieldManager(`${'n'.repeat(240)}2`)];
    expect(one.length).toBe(128);
    expect(one).not.toBe(other);
  });
});
