import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { cacheFolder, cacheKey, exists, needSpace, publish } from './cache.ts';
import { LabError } from './errors.ts';

describe('the cache folder', () => {
  test('is where the environment says, first the own variable, then the common one', () => {
    expect(cacheFolder({ OVPN_LAB_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a');
    expect(cacheFolder({ OVPN_LAB_CACHE: '', XDG_CACHE_HOME: '/b' })).toBe('/b/ovpn-operator/lab');
    expect(cacheFolder({})).toMatch(/\/\.cache\/ovpn-operator\/lab$/);
  });
});

describe('cache keys', () => {
  test('do not depend on the order of the inputs', () => {
    expect(cacheKey({ a: '1', b: '2' })).toBe(cacheKey({ b: '2', a: '1' }));
  });

  test('differ when any input does, and do not mix up names and values', () => {
    const keys = [{ a: '1' }, { a: '2' }, { b: '1' }, { a: '1', b: '' }, { a: '1,b' }].map(cacheKey);
    expect(new Set(keys).size).toBe(keys.length);
  });
});

describe('publishing', () => {
  let cache: string;
  beforeEach(async () => {
    cache = await mkdtemp(join(tmpdir(), 'lab-cache-test-'));
  });
  afterEach(() => rm(cache, { recursive: true }));

  test('shows a folder only when it is whole', async () => {
    const target = join(cache, 'thing');
    await publish(target, async (temporary) => {
      await writeFile(join(temporary, 'file'), 'whole');
      expect(await exists(target)).toBe(false);
    });
    expect(await readFile(join(target, 'file'), 'utf8')).toBe('whole');
  });

  test('leaves nothing behind when filling fails', async () => {
    const target = join(cache, 'thing');
    const failing = publish(target, async (temporary) => {
      await writeFile(join(temporary, 'file'), 'half');
      throw new Error('interrupted');
    });
    await expect(failing).rejects.toThrow('interrupted');
    expect(await exists(target)).toBe(false);
    expect(await readdir(join(cache, 'tmp'))).toEqual([]);
  });

  test('a disk that is too small is noticed before the work', async () => {
    await needSpace(cache, 1, 'a test');
    await expect(needSpace(cache, 2 ** 60, 'a test')).rejects.toThrow(LabError);
  });
});
