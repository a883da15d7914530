import { execFile } from 'node:child_process';
import { closeSync, readSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { eventfd } from './libc.ts';
import { ReadinessPoller } from './poller.ts';

const one = Buffer.alloc(8);
one.writeBigUInt64LE(1n);

let poller: ReadinessPoller;
let fds: number[];
beforeEach(() => {
  poller = new ReadinessPoller();
  fds = [];
});
afterEach(async () => {
  await poller.close();
  for (const fd of fds) closeSync(fd);
});

const makeFd = (): number => {
  const fd = eventfd();
  fds.push(fd);
  return fd;
};
const signal = (fd: number): void => {
  writeSync(fd, one);
};
const drain = (fd: number): void => {
  readSync(fd, Buffer.alloc(8));
};
async function until(probe: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !probe(); i++) await sleep(10);
  expect(probe()).toBe(true);
}

describe('ReadinessPoller', () => {
  test('calls back for what is readable, at once and later, and for descriptors added meanwhile', async () => {
    const calls: number[] = [];
    const a = makeFd();
    const b = makeFd();
    signal(a);
    for (const fd of [a, b]) {
      poller.add(fd, () => {
        drain(fd);
        calls.push(fd);
      });
    }
    await until(() => calls.length === 1);
    expect(calls).toStrictEqual([a]);
    signal(b);
    await until(() => calls.length === 2);
    expect(calls).toStrictEqual([a, b]);
  });

  test('a descriptor removed by another callback of the same round is not called', async () => {
    const [a, b] = [makeFd(), makeFd()];
    const calls: string[] = [];
    const once = (name: string, other: number) => (): void => {
      calls.push(name);
      poller.remove(other);
      poller.remove(name === 'a' ? a : b);
    };
    signal(a);
    signal(b);
    poller.add(a, once('a', b));
    poller.add(b, once('b', a));
    await until(() => calls.length > 0);
    await sleep(50);
    expect(calls).toHaveLength(1);
  });

  test('tells once that a descriptor takes data, and beside that goes on telling what is readable', async () => {
    const fd = makeFd();
    const calls: string[] = [];
    poller.add(fd, () => {
      drain(fd);
      calls.push('readable');
    });
    await sleep(20);
    poller.onceWritable(fd, () => void calls.push('writable'));
    await until(() => calls.length === 1);
    await sleep(50);
    expect(calls).toStrictEqual(['writable']);
    signal(fd);
    await until(() => calls.length === 2);
    expect(calls).toStrictEqual(['writable', 'readable']);
  });

  test('waits for a descriptor to take data, and can be asked again by the callback', async () => {
    const fd = makeFd();
    // The counter is full.
    const full = Buffer.alloc(8);
    full.writeBigUInt64LE(0xffff_ffff_ffff_fffen);
    writeSync(fd, full);
    let calls = 0;
    const again = (): void => {
      if (++calls < 3) poller.onceWritable(fd, again);
    };
    poller.onceWritable(fd, again);
    await sleep(50);
    expect(calls).toBe(0);
    drain(fd);
    await until(() => calls === 3);
    await sleep(50);
    expect(calls).toBe(3);
  });

  test('a descriptor removed and added again by another callback of the same round counts as another one', async () => {
    const [a, b] = [makeFd(), makeFd()];
    const calls: string[] = [];
    signal(a);
    signal(b);
    poller.add(a, () => {
      drain(a);
      calls.push('first');
      poller.remove(b);
      poller.add(b, () => {
        drain(b);
        calls.push('fresh');
      });
    });
    poller.add(b, () => void calls.push('stale'));
    poller.onceWritable(b, () => void calls.push('stale'));
    await until(() => calls.length > 1);
    await sleep(50);
    expect(calls).toStrictEqual(['first', 'fresh']);
  });

  test('closing twice and removing after closing touch no descriptor', async () => {
    const fd = makeFd();
    poller.add(fd, () => undefined);
    await poller.close();
    // The number of the poller's own descriptor is free now; whoever gets it must not be written to.
    const next = makeFd();
    poller.remove(fd);
    await poller.close();
    expect(() => readSync(next, Buffer.alloc(8))).toThrow('EAGAIN');
    expect(() => {
      poller.add(fd, () => undefined);
    }).toThrow('closed');
  });

  test('may be closed by a callback', async () => {
    const fd = makeFd();
    signal(fd);
    let closing: Promise<void> | undefined;
    poller.add(fd, () => {
      drain(fd);
      closing = poller.close();
    });
    await until(() => closing !== undefined);
    await closing;
  });
});

describe('a process with a poller', () => {
  const run = async (code: string): Promise<{ readonly said: unknown; readonly ms: number }> => {
    const program = `
      import { closeSync, readSync, writeSync } from 'node:fs';
      import { eventfd } from ${JSON.stringify(import.meta.resolve('./libc.ts'))};
      import { ReadinessPoller } from ${JSON.stringify(import.meta.resolve('./poller.ts'))};
      const poller = new ReadinessPoller();
      const fd = eventfd();
      poller.add(fd, () => undefined);
      await new Promise((resolve) => setTimeout(resolve, 100));
      const one = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]);
      const start = Date.now();
      process.on('exit', () => { process.stdout.write('start ' + start); });
      ${code}`;
    const { stdout } = await promisify(execFile)(process.execPath, [
      '--no-warnings',
      '--input-type=module',
      '-e',
      program,
    ]);
    const [said = '', start] = stdout.split('start ');
    return { said: said === '' ? undefined : JSON.parse(said), ms: Date.now() - Number(start) };
  };

  test('ends at once by process.exit', async () => {
    const { ms } = await run('process.exit(0);');
    expect(ms).toBeLessThan(2_000);
  });

  test('ends by itself when nothing is waited for', async () => {
    const { ms } = await run('poller.remove(fd);');
    expect(ms).toBeLessThan(2_000);
  });

  test('ends by itself after the one call that was waited for', async () => {
    const { ms } = await run('poller.remove(fd); poller.onceWritable(fd, () => undefined);');
    expect(ms).toBeLessThan(2_000);
  });

  test('ends when the poller is closed', async () => {
    const { ms } = await run('await poller.close();');
    expect(ms).toBeLessThan(2_000);
  });

  const handler = `
    const errors = [];
    process.on('uncaughtException', (error) => errors.push(error.message));
    let calls = 0;
    const good = eventfd();
    poller.add(good, () => { readSync(good, Buffer.alloc(8)); calls++; });
    const settle = () => new Promise((resolve) => setTimeout(resolve, 200));`;

  test('sees an exception of a callback as uncaught, and the other descriptors go on', async () => {
    const { said } = await run(`${handler}
      const bad = eventfd();
      poller.add(bad, () => { readSync(bad, Buffer.alloc(8)); throw new Error('callback failed'); });
      writeSync(bad, one);
      writeSync(good, one);
      await settle();
      writeSync(good, one);
      await settle();
      console.log(JSON.stringify({ errors, calls }));
      await poller.close();`);
    expect(said).toStrictEqual({ errors: ['callback failed'], calls: 2 });
  });

  test('without a handler ends by an exception of a callback', async () => {
    await expect(
      run(`poller.add(fd, () => { throw new Error('callback failed'); }); writeSync(fd, one);`),
    ).rejects.toThrow('callback failed');
  });

  test('is told once of a descriptor that was closed without being removed', async () => {
    const { said } = await run(`${handler}
      closeSync(fd);
      writeSync(good, one);
      await settle();
      console.log(JSON.stringify({ errors, calls, fd }));
      await poller.close();`);
    const { fd } = said as { fd: number };
    expect(said).toStrictEqual({
      errors: [`descriptor ${fd} was closed before it was removed from the poller`],
      calls: 1,
      fd,
    });
  });
});
