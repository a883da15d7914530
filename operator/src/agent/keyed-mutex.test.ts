import { describe, expect, test } from '@jest/globals';
import { KeyedMutex } from './keyed-mutex.ts';

/** A task that ends when told, and says when it started. */
function manual(): { task: () => Promise<string>; started: () => boolean; end: (error?: Error) => void } {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let started = false;
  return {
    task: () => {
      started = true;
      return promise;
    },
    started: () => started,
    end: (error) => (error === undefined ? resolve('done') : reject(error)),
  };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('KeyedMutex', () => {
  test('runs tasks of one key in order, one at a time', async () => {
    const mutex = new KeyedMutex();
    const [first, second] = [manual(), manual()];
    const runs = [mutex.run('a', first.task), mutex.run('a', second.task)];
    await settle();
    expect([first.started(), second.started()]).toEqual([true, false]);
    first.end();
    await settle();
    expect(second.started()).toBe(true);
    second.end();
    await expect(Promise.all(runs)).resolves.toEqual(['done', 'done']);
  });

  test('runs tasks of different keys side by side', async () => {
    const mutex = new KeyedMutex();
    const [first, second] = [manual(), manual()];
    const runs = [mutex.run('a', first.task), mutex.run('b', second.task)];
    await settle();
    expect([first.started(), second.started()]).toEqual([true, true]);
    first.end();
    second.end();
    await Promise.all(runs);
  });

  test('goes on after a failed task, and forgets keys with nothing to do', async () => {
    const mutex = new KeyedMutex();
    const [first, second] = [manual(), manual()];
    const failed = mutex.run('a', first.task);
    const next = mutex.run('a', second.task);
    first.end(new Error('no'));
    second.end();
    await expect(failed).rejects.toThrow('no');
    await expect(next).resolves.toBe('done');
    expect(mutex.size).toBe(0);
  });

  test('a task that throws before its first await rejects its own run only', async () => {
    const mutex = new KeyedMutex();
    const thrower = (): Promise<string> => {
      throw new Error('at once');
    };
    await expect(mutex.run('a', thrower)).rejects.toThrow('at once');
    expect(mutex.size).toBe(0);
  });
});
