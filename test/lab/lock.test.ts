import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { withLock } from './lock.ts';

test('only one at a time works under the lock, also after one failed', async () => {
  const cache = await mkdtemp(join(tmpdir(), 'lab-lock-test-'));
  const silent = { step: () => undefined, detail: () => undefined };
  let inside = 0;
  let most = 0;
  const work = async (): Promise<void> => {
    inside += 1;
    most = Math.max(most, inside);
    await sleep(30);
    inside -= 1;
    throw new Error('work failed');
  };
  const results = await Promise.allSettled([1, 2, 3].map(() => withLock(cache, silent, work)));
  expect(results.map((result) => result.status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(most).toBe(1);
  await rm(cache, { recursive: true });
});
