import { describe, expect, test } from '@jest/globals';
import { NameGone, type NameAnswer, RemoteNames } from './remote-names.ts';

/** A source that answers what it is told to, and counts the questions. */
function scene() {
  const it = {
    now: 0,
    asked: [] as string[],
    /** Ends the patience of who waits. */
    patience: undefined as (() => void) | undefined,
    answer: undefined as NameAnswer | Error | Promise<NameAnswer> | undefined,
    resolve: (host = 'vpn.example'): Promise<readonly string[]> => names.resolve(host),
  };
  const names = new RemoteNames(
    async (host) => {
      it.asked.push(host);
      const answer = await it.answer;
      if (answer === undefined || answer instanceof Error) throw answer ?? new Error('no answer is set');
      return answer;
    },
    {
      now: () => it.now,
      after: (milliseconds, task) => {
        expect(milliseconds).toBe(1_800);
        it.patience = task;
        return () => (it.patience = undefined);
      },
    },
  );
  return it;
}

const first: NameAnswer = { addresses: ['2001:db8::1', '192.0.2.1'], ttlSeconds: 30 };
const second: NameAnswer = { addresses: ['192.0.2.2'], ttlSeconds: 30 };

describe('names of remotes', () => {
  test('are asked for again when the time to live is over, and not before', async () => {
    const it = scene();
    it.answer = first;
    expect(await it.resolve()).toEqual(first.addresses);
    it.answer = second;
    it.now = 29_999;
    expect(await it.resolve()).toEqual(first.addresses);
    expect(it.asked).toHaveLength(1);
    it.now = 30_000;
    expect(await it.resolve()).toEqual(second.addresses);
    expect(it.asked).toHaveLength(2);
  });

  test('whose time to live nobody tells are asked for each time', async () => {
    const it = scene();
    it.answer = { ...first, ttlSeconds: undefined };
    await it.resolve();
    await it.resolve();
    expect(it.asked).toHaveLength(2);
  });

  test('are asked for once for all who wait', async () => {
    const it = scene();
    const gate = Promise.withResolvers<NameAnswer>();
    it.answer = gate.promise;
    const both = Promise.all([it.resolve(), it.resolve(), it.resolve('other.example')]);
    gate.resolve(first);
    expect(await both).toEqual([first.addresses, first.addresses, first.addresses]);
    expect(it.asked).toEqual(['vpn.example', 'other.example']);
  });

  test('keep their last addresses for a day while there is no answer, and half a minute passes between questions', async () => {
    const it = scene();
    it.answer = first;
    await it.resolve();
    it.answer = new Error('EAI_AGAIN');
    it.now = 40_000;
    expect(await it.resolve()).toEqual(first.addresses);
    it.now = 69_999;
    expect(await it.resolve()).toEqual(first.addresses);
    expect(it.asked).toHaveLength(2);
    it.now = 70_000;
    it.answer = second;
    expect(await it.resolve()).toEqual(second.addresses);
    it.answer = new Error('EAI_AGAIN');
    it.now += 86_400_000 + 30_000;
    await expect(it.resolve()).rejects.toThrow('EAI_AGAIN');
  });

  test('have their last addresses when the answer takes long; it counts for who comes later', async () => {
    const it = scene();
    it.answer = first;
    await it.resolve();
    expect(it.patience).toBeUndefined();
    it.now = 30_000;
    const gate = Promise.withResolvers<NameAnswer>();
    it.answer = gate.promise;
    const waiting = it.resolve();
    it.patience?.();
    expect(await waiting).toEqual(first.addresses);
    const later = it.resolve();
    gate.resolve(second);
    expect(await later).toEqual(second.addresses);
    expect(it.asked).toHaveLength(2);
    expect(it.patience).toBeUndefined();
  });

  test('that are there no more have no address, whatever they had', async () => {
    const it = scene();
    it.answer = first;
    await it.resolve();
    it.now = 30_000;
    it.answer = new NameGone('ENOTFOUND');
    await expect(it.resolve()).rejects.toThrow('ENOTFOUND');
    it.answer = new Error('EAI_AGAIN');
    await expect(it.resolve()).rejects.toThrow('EAI_AGAIN');
  });

  test('that never had an answer fail with what the resolver says, and are asked for again', async () => {
    const it = scene();
    it.answer = new Error('EAI_AGAIN');
    await expect(it.resolve()).rejects.toThrow('EAI_AGAIN');
    it.answer = first;
    expect(await it.resolve()).toEqual(first.addresses);
  });

  test('are kept in bounds', async () => {
    const it = scene();
    it.answer = first;
    for (let n = 0; n < 5_000; n++) await it.resolve(`vpn${n}.example`);
    await it.resolve('vpn4999.example');
    expect(it.asked).toHaveLength(5_000);
    await it.resolve('vpn0.example');
    expect(it.asked).toHaveLength(5_001);
  });
});
