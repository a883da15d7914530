import { describe, expect, test } from '@jest/globals';
import { closeSync, fstatSync, openSync } from 'node:fs';
import fc from 'fast-check';
import { MemoryFile } from '../../kernel/memory-file.ts';
import { type FileKeeper, SessionStore } from './session-store.ts';

/** A holder in this process, with descriptors of its own as the real one. */
class Holder implements FileKeeper {
  away = false;
  kept: MemoryFile | undefined;
  puts = 0;

  take(): number | undefined {
    return this.kept === undefined ? undefined : duplicate(this.kept.fd);
  }

  keep(fd: number): boolean {
    if (this.away) return false;
    this.kept?.close();
    this.kept = new MemoryFile(duplicate(fd));
    this.puts++;
    return true;
  }
}

const duplicate = (fd: number): number => openSync(`/proc/self/fd/${fd}`, 'r+');

function opened(holder: Holder): SessionStore {
  const store = new SessionStore(holder);
  store.open();
  return store;
}

const contentOf = (store: SessionStore): Record<string, unknown> => Object.fromEntries(store.values);
const left = (holder: Holder): Record<string, unknown> => contentOf(opened(holder));

describe('the store of sessions', () => {
  test('makes no file before there is something to keep', () => {
    const holder = new Holder();
    const store = opened(holder);
    store.delete('a');
    expect(holder.puts).toBe(0);
    store.set('a', { n: 1 });
    expect(holder.puts).toBe(1);
  });

  test('gives the next process what counts', () => {
    const holder = new Holder();
    const store = opened(holder);
    store.set('a', { n: 1 });
    store.set('b', { text: 'ü\n"' });
    store.set('a', { n: 2 });
    store.set('c', {});
    store.delete('c');
    expect(left(holder)).toEqual({ a: { n: 2 }, b: { text: 'ü\n"' } });
    expect(contentOf(store)).toEqual({ a: { n: 2 }, b: { text: 'ü\n"' } });
  });

  test('reads once, and keeps the file of before', () => {
    const holder = new Holder();
    opened(holder).set('a', { n: 1 });
    const next = opened(holder);
    next.set('a', { n: 2 });
    next.open();
    expect(contentOf(next)).toEqual({ a: { n: 2 } });
    expect(holder.puts).toBe(1);
    expect(left(holder)).toEqual({ a: { n: 2 } });
  });

  test('leaves out a line that was cut short, and goes on behind the last whole one', () => {
    const holder = new Holder();
    const first = opened(holder);
    first.set('a', { n: 1 });
    const { size } = holder.kept!;
    first.set('b', { long: 'x'.repeat(100) });
    holder.kept!.truncate(size + 40);
    const second = opened(holder);
    expect(contentOf(second)).toEqual({ a: { n: 1 } });
    second.set('c', { n: 3 });
    expect(left(holder)).toEqual({ a: { n: 1 }, c: { n: 3 } });
  });

  test('leaves out lines that are none', () => {
    const holder = new Holder();
    opened(holder).set('a', { n: 1 });
    const { size } = holder.kept!;
    holder.kept!.write(Buffer.from('\0\0\0\n{}\n7\n{"key":7,"value":1}\n{"key":"b","value":{"n":2}}\n'), size);
    expect(left(holder)).toEqual({ a: { n: 1 }, b: { n: 2 } });
  });

  test('a change costs as much as it is long, and the file does not grow without end', () => {
    const holder = new Holder();
    const store = opened(holder);
    const value = (n: number) => ({ n: String(n).padStart(1000, '0') });
    for (let i = 0; i < 1000; i++) store.set(`peer ${i}`, value(i));
    const puts = holder.puts;
    let before = holder.kept!.size;
    store.set('peer 7', value(0));
    expect(holder.kept!.size - before).toBeLessThan(1100);
    for (let i = 0; i < 20_000; i++) store.set(`peer ${i % 1000}`, value(i));
    expect(holder.kept!.size).toBeLessThan(3 * 1_100_000);
    // Every rewriting is paid for by as many lines as it writes.
    expect(holder.puts - puts).toBeLessThanOrEqual(20);
    before = Object.keys(left(holder)).length;
    expect(before).toBe(1000);
    expect(left(holder)['peer 999']).toEqual(value(19_999));
  });

  test('goes on in the old file while the holder does not take a new one', () => {
    const holder = new Holder();
    const store = opened(holder);
    store.set('a', { n: -1 });
    holder.away = true;
    for (let n = 0; n < 2_000; n++) store.set('a', { n });
    expect(left(holder)).toEqual({ a: { n: 1_999 } });
    const { size } = holder.kept!;
    holder.away = false;
    for (let n = 0; n < 600; n++) store.set('a', { n });
    expect(holder.puts).toBeGreaterThan(1);
    expect(holder.kept!.size).toBeLessThan(size);
    expect(left(holder)).toEqual({ a: { n: 599 } });
  });

  test('says nothing to a holder that was away from the start, and loses nothing itself', () => {
    const holder = new Holder();
    holder.away = true;
    const store = opened(holder);
    store.set('a', { n: 1 });
    store.set('b', { n: 2 });
    expect(contentOf(store)).toEqual({ a: { n: 1 }, b: { n: 2 } });
    expect(holder.puts).toBe(0);
  });

  test('closes its own descriptor only', () => {
    const holder = new Holder();
    const store = opened(holder);
    store.set('a', { n: 1 });
    store.close();
    expect(fstatSync(holder.kept!.fd).size).toBeGreaterThan(0);
    expect(left(holder)).toEqual({ a: { n: 1 } });
  });

  test('killed after any byte, the next process has a state that was true', () => {
    const step = fc.record({
      key: fc.constantFrom('a', 'b', 'c'),
      value: fc.option(fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 3 }), { nil: undefined }),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), fc.nat(), (steps, cut) => {
        const holder = new Holder();
        const store = opened(holder);
        const history: string[] = [JSON.stringify({})];
        const sizes: number[] = [0];
        for (const { key, value } of steps) {
          if (value === undefined) store.delete(key);
          else store.set(key, value);
          const last = JSON.stringify(sorted(contentOf(store)));
          history.push(last);
          sizes.push(holder.kept?.size ?? 0);
        }
        if (holder.kept === undefined) return;
        const size = cut % (holder.kept.size + 1);
        holder.kept.truncate(size);
        const whole = sizes.findLastIndex((each) => each <= size);
        expect(JSON.stringify(sorted(left(holder)))).toBe(history[whole]);
        store.close();
        closeSync(holder.kept.fd);
      }),
    );
  });
});

/** As JSON gives it back, keys in order. */
function sorted(values: Record<string, unknown>): unknown {
  const plain = JSON.parse(JSON.stringify(values)) as Record<string, unknown>;
  return Object.fromEntries(Object.entries(plain).sort(([a], [b]) => (a < b ? -1 : 1)));
}
