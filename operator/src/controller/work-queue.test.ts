import { describe, expect, test } from '@jest/globals';
import { FakeClock } from '../cluster/testing/clock.ts';
import { WorkQueue } from './work-queue.ts';

/** A queue whose work a test ends by hand. */
function scene(workers = 2) {
  const clock = new FakeClock();
  const begun: string[] = [];
  const errors: [string, number][] = [];
  const open = new Map<string, { done: (again?: number) => void; fail: () => void }>();
  const queue = new WorkQueue({
    clock,
    random: () => 0,
    workers,
    work: (key) => {
      begun.push(key);
      return new Promise((resolve, reject) => {
        open.set(key, { done: resolve, fail: () => reject(new Error('no')) });
      });
    },
    onError: (key, _error, delayMs) => errors.push([key, delayMs]),
  });
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  const done = async (key: string, again?: number) => {
    open.get(key)!.done(again);
    await settle();
  };
  const fail = async (key: string) => {
    open.get(key)!.fail();
    await settle();
  };
  return { clock, queue, begun, errors, done, fail };
}

describe('the work queue', () => {
  test('works on as many keys at once as it has workers, in their order', async () => {
    const { queue, begun, done } = scene(2);
    for (const key of ['a', 'b', 'c', 'a']) queue.add(key);
    expect(begun).toEqual([]);
    queue.start();
    expect(begun).toEqual(['a', 'b']);
    await done('b');
    expect(begun).toEqual(['a', 'b', 'c']);
    await done('a');
    await done('c');
    expect(queue.idle).toBe(true);
  });

  test('never works on a key twice at a time, and looks once more at one that was added meanwhile', async () => {
    const { queue, begun, done } = scene(2);
    queue.start();
    queue.add('a');
    queue.add('a');
    queue.add('a');
    expect(begun).toEqual(['a']);
    await done('a');
    expect(begun).toEqual(['a', 'a']);
    await done('a');
    expect(begun).toEqual(['a', 'a']);
  });

  test('tries a failed key again with growing delays, which a success resets', async () => {
    const { queue, begun, errors, clock, done, fail } = scene();
    queue.start();
    queue.add('a');
    await fail('a');
    clock.advance(100);
    await fail('a');
    clock.advance(200);
    expect(errors).toEqual([
      ['a', 100],
      ['a', 200],
    ]);
    await done('a');
    queue.add('a');
    await fail('a');
    expect(errors.at(-1)).toEqual(['a', 100]);
    expect(begun).toHaveLength(4);
  });

  test('looks again when work asks for it, at the earliest of several times', async () => {
    const { queue, begun, clock, done } = scene();
    queue.start();
    queue.add('a');
    await done('a', 60_000);
    queue.add('a', 10_000);
    queue.add('a', 30_000);
    clock.advance(9_999);
    expect(begun).toHaveLength(1);
    clock.advance(1);
    expect(begun).toHaveLength(2);
    await done('a');
    clock.advance(120_000);
    expect(begun).toHaveLength(2);
  });

  test('a stop waits for what is in work and begins nothing more', async () => {
    const { queue, begun, clock, done } = scene(1);
    queue.start();
    queue.add('a');
    queue.add('b');
    queue.add('c', 1000);
    let stopped = false;
    const stopping = queue.stop().then(() => (stopped = true));
    clock.advance(5000);
    await Promise.resolve();
    expect(stopped).toBe(false);
    await done('a', 10);
    await stopping;
    expect(begun).toEqual(['a']);
    expect(clock.pending).toBeUndefined();
  });
});
