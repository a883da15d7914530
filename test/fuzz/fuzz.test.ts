import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseFuzzArgs } from './args.ts';
import { Loop, shrink } from './loop.ts';
import { mutate } from './mutate.ts';
import { Random, seedFor } from './random.ts';
import { runTarget } from './runner.ts';
import { parsed, type Target } from './target.ts';
import { targets } from './targets/index.ts';
import { readCorpus } from './corpus.ts';

const loopOf = (target: Target, corpus: readonly Buffer[], seconds: number, inputs: Buffer[] = []): Loop =>
  new Loop(target, {
    seed: 1,
    seconds,
    corpus,
    running: (input) => void inputs.push(input),
    progress: () => undefined,
  });

describe('mutants', () => {
  test('are the same for the same seed, no longer than allowed, and leave their parents alone', () => {
    const parents = fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 5 });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), parents, (seed, bytes) => {
        const pool = bytes.map((one) => Buffer.from(one));
        const options = { maxBytes: 60, words: [Buffer.from('WORD')] };
        const many = (): Buffer[] => {
          const random = new Random(seed);
          return Array.from({ length: 50 }, () => mutate(random, pool, options));
        };
        const first = many();
        expect(many()).toEqual(first);
        expect(first.every(({ length }) => length <= 60)).toBe(true);
        expect(pool.map((one) => new Uint8Array(one))).toEqual(bytes);
      }),
    );
  });

  test('differ with the seed and with the name of the target', () => {
    const of = (seed: number, name: string): string => {
      const random = new Random(seedFor(seed, name));
      const one = (): string => mutate(random, [Buffer.alloc(40)], { maxBytes: 100, words: [] }).toString('hex');
      return Array.from({ length: 20 }, one).join(' ');
    };
    expect(new Set([of(1, 'a'), of(2, 'a'), of(1, 'b')]).size).toBe(3);
  });
});

describe('the loop', () => {
  test('finds an error, says with which input, and makes that shorter', async () => {
    const target: Target = {
      name: 'planted',
      input: '',
      run: (input) => {
        if (input.includes(7)) {
          throw new TypeError('a seven');
        }
      },
    };
    const finding = await loopOf(target, [Buffer.alloc(100, 6)], 20).run();
    expect(finding).toMatchObject({ kind: 'error', message: expect.stringContaining('a seven') });
    expect(finding?.input?.includes(7)).toBe(true);
    expect((await shrink(target, finding!)).input).toEqual(Buffer.of(7));
  });

  test('finds an error in the corpus before it makes anything up', async () => {
    const inputs: Buffer[] = [];
    const run = (input: Buffer): Promise<void> =>
      input.length === 3 ? Promise.reject(new Error('three')) : Promise.resolve();
    const target = { name: 'planted', input: '', run };
    const finding = await loopOf(target, [Buffer.alloc(2), Buffer.alloc(3)], 20, inputs).run();
    expect(finding).toMatchObject({ kind: 'error', input: Buffer.alloc(3) });
    expect(inputs).toHaveLength(3);
  });

  test('finds what is thrown outside of a run', async () => {
    const target: Target = { name: 'planted', input: '', run: () => sleep(1) };
    const loop = loopOf(target, [], 20);
    loop.stray(new Error('from a timer'));
    expect(await loop.run()).toMatchObject({ kind: 'error', message: expect.stringContaining('from a timer') });
  });

  test('finds what takes too long, by CPU time', async () => {
    const target: Target = {
      name: 'planted',
      input: '',
      run: (input) => {
        const start = process.threadCpuUsage();
        while (input.length > 5 && process.threadCpuUsage(start).user < 80_000);
      },
    };
    expect(await loopOf(target, [Buffer.alloc(2), Buffer.alloc(6)], 0).run()).toMatchObject({ kind: 'slow' });
    const idle = { name: 'planted', input: '', run: () => sleep(80) };
    expect(await loopOf(idle, [Buffer.alloc(6)], 0).run()).toBeUndefined();
  });

  test('finds what one object holds on to, and what everything does', async () => {
    const hold = (inputs: readonly Buffer[]): Buffer[] => inputs.map(() => Buffer.alloc(1024));
    const hoarder: Target = { name: 'planted', input: '', run: () => undefined, hold };
    expect(await loopOf(hoarder, [Buffer.alloc(1)], 0).run()).toMatchObject({ kind: 'memory' });
    expect(await loopOf({ ...hoarder, maxHeldBytes: 2500 * 1024 }, [Buffer.alloc(1)], 0).run()).toBeUndefined();
  });
});

test('only documented errors are results', () => {
  const fail =
    (error: Error): (() => string) =>
    () => {
      throw error;
    };
  expect(parsed(() => 5, RangeError)).toBe(5);
  expect(parsed(fail(new RangeError('x')), TypeError, RangeError)).toBeUndefined();
  expect(() => {
    parsed(fail(new TypeError('x')), RangeError);
  }).toThrow(TypeError);
});

describe('the runner', () => {
  const program = (source: string): URL => new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  const preamble = `import { workerData, parentPort } from 'node:worker_threads';
    const header = new Int32Array(workerData.current, 0, 2);
    new Uint8Array(workerData.current, 8).set([1, 2, 3]); header[1] = 3; header[0] = 1;`;
  const run = async (source: string, options: { hangMs?: number; heapMegabytes?: number } = {}) =>
    runTarget({ name: 'x' }, { seed: 1, seconds: 0, inputs: [], program: program(preamble + source), ...options });

  test('ends an input that does not end, and says which it was', async () => {
    const { finding } = await run('for (;;);', { hangMs: 400 });
    expect(finding).toMatchObject({ kind: 'hang', input: Buffer.of(1, 2, 3) });
  });

  test('ends an input that takes all memory', async () => {
    const { finding } = await run('const all = []; for (;;) all.push({ a: all.length });', { heapMegabytes: 16 });
    expect(finding).toMatchObject({ kind: 'memory', input: Buffer.of(1, 2, 3) });
  });

  test('tells of a thread that broke', async () => {
    const { finding } = await run('throw new Error("broke")');
    expect(finding).toMatchObject({ kind: 'error', message: expect.stringContaining('broke') });
  });
});

describe('targets', () => {
  test('have names of their own and a corpus', () => {
    expect(new Set(targets.map(({ name }) => name)).size).toBe(targets.length);
    expect(targets.filter(({ name }) => readCorpus(name).length === 0)).toEqual([]);
  });
});

describe('arguments', () => {
  const parse = (...args: string[]) => parseFuzzArgs(args, ['a', 'b'], () => 77);

  test('have defaults', () => {
    expect(parse()).toMatchObject({ targets: ['a', 'b'], seconds: 180, seed: 77, replay: undefined });
    expect(parse('--target', 'b', '--seconds', '0.5', '--seed', '0')).toMatchObject({
      targets: ['b'],
      seconds: 0.5,
      seed: 0,
    });
  });

  test.each([
    [['--target', 'c'], 'no target "c"; there are a, b'],
    [['--replay', 'x'], 'exactly one --target'],
    [['--seed', '1.5'], '--seed takes a number'],
    [['--seed', '4294967296'], '--seed takes a number'],
    [['--seconds', 'x'], '--seconds takes a number'],
    [['--wrong'], "'--wrong'"],
  ])('%j is refused in words', (args, words) => {
    expect(() => parse(...args)).toThrow(words);
  });
});
