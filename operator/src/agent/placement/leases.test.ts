import { describe, expect, test } from '@jest/globals';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import type { NodeLease } from '../../cluster/node-leases.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import { LeaseWatch } from './lease-watch.ts';

const durationMs = 6_000;

/** Lets promises that wait for nothing go on. */
const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
};

async function pass(clock: FakeClock, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 100) {
    clock.advance(Math.min(100, left));
    await settle();
  }
}

describe("a node's own lease", () => {
  function keeping() {
    const clock = new FakeClock();
    const writes: (Pick<NodeLease, 'durationMs' | 'released'> & { readonly at: number })[] = [];
    const counted: string[] = [];
    const server = { answers: true, delayMs: 0 };
    const log = recordingLog();
    const regained = { times: 0 };
    const keeper = new LeaseKeeper({
      ...{ clock, durationMs, log: log.log, regained: () => regained.times++ },
      meter: { increment: (_, labels) => void counted.push(Object.values(labels).join()) },
      leases: {
        write: (lease, timeoutMs) =>
          new Promise((resolve, reject) => {
            clock.after(timeoutMs, () => reject(new Error('no answer')));
            if (!server.answers) return;
            clock.after(server.delayMs, () => {
              writes.push({ ...lease, at: clock.monotonic() });
              resolve();
            });
          }),
      },
    });
    return { clock, keeper, writes, counted, server, log, regained };
  }

  test('is written while there is something to keep, every third of its time', async () => {
    const { clock, keeper, writes, counted } = keeping();
    await pass(clock, 10_000);
    expect(writes).toEqual([]);
    keeper.keep(true);
    await pass(clock, 11_000);
    expect(writes.map(({ at }) => Math.round((at - 10_000) / 1_000))).toEqual([0, 2, 4, 6, 8, 10]);
    expect(writes.every((lease) => lease.durationMs === durationMs && !lease.released)).toBe(true);
    expect(counted).toEqual(Array(6).fill('renewed'));
    keeper.keep(false);
    await pass(clock, 20_000);
    expect(writes).toHaveLength(6);
    expect(keeper.held).toBe(false);
  });

  test('is held from when the renewal was sent, not from its answer', async () => {
    const { clock, keeper, server } = keeping();
    server.delayMs = 1_100;
    keeper.keep(true);
    await pass(clock, 1_100);
    expect(keeper.held).toBe(true);
    server.answers = false;
    await pass(clock, durationMs - 1_100 - 100);
    expect(keeper.held).toBe(true);
    await pass(clock, 100);
    expect(keeper.held).toBe(false);
  });

  test('that was not renewed in time is told of when it is again; also after a sleep of the machine', async () => {
    const { clock, keeper, server, regained } = keeping();
    keeper.keep(true);
    await pass(clock, 10_000);
    expect(regained.times).toBe(0);
    server.answers = false;
    await pass(clock, durationMs + 1_000);
    server.answers = true;
    await pass(clock, 3_000);
    expect(regained.times).toBe(1);
    // The time of day goes on, and the monotonic clock has stood.
    clock.set(60_000);
    expect(keeper.held).toBe(false);
    await pass(clock, 3_000);
    expect([keeper.held, regained.times]).toEqual([true, 2]);
    clock.set(-60_000);
    expect(keeper.held).toBe(true);
  });

  test('is tried again soon after a failure, and that is said once', async () => {
    const { clock, keeper, server, counted, log } = keeping();
    keeper.keep(true);
    await pass(clock, 100);
    server.answers = false;
    await pass(clock, 20_000);
    expect(counted.filter((result) => result === 'failed').length).toBeGreaterThanOrEqual(7);
    expect(log.events().filter((event) => event === 'lease.failed').length).toBeGreaterThanOrEqual(1);
    expect(log.lines.filter(({ level }) => level === 'warn')).toHaveLength(1);
    server.answers = true;
    await pass(clock, 3_000);
    expect(keeper.held).toBe(true);
    expect(log.events()).toContain('lease.renewed');
  });

  test('tells in the end that the agent comes back, or that the node goes; and nothing after that', async () => {
    for (const how of ['release', { backWithinMs: 60_000 }] as const) {
      const { clock, keeper, writes } = keeping();
      keeper.keep(true);
      await pass(clock, 100);
      void keeper.leave(how);
      await pass(clock, 30_000);
      expect(writes).toHaveLength(2);
      expect(writes[1]).toMatchObject(how === 'release' ? { released: true } : { released: false, durationMs: 60_000 });
      expect(await keeper.renew()).toBe(false);
    }
  });

  test('that was never needed is not written in the end, either', async () => {
    const { keeper, writes } = keeping();
    await keeper.leave('release');
    expect(writes).toEqual([]);
  });
});

describe("another node's lease", () => {
  function watching() {
    const clock = new FakeClock();
    const changes: string[] = [];
    const server = { lease: undefined as NodeLease | undefined, answers: true, reads: 0 };
    let seen: (lease: NodeLease) => void = () => undefined;
    const watch: LeaseWatch = new LeaseWatch({
      ...{ clock, durationMs },
      changed: (node) => changes.push(watch.liveness(node)),
      leases: {
        follow: (tell) => (seen = tell),
        read: async () => {
          server.reads++;
          await Promise.resolve();
          if (!server.answers) throw new Error('no answer');
          return server.lease;
        },
      },
    });
    let version = 0;
    const renew = (change: Partial<NodeLease> = {}, told = true): void => {
      server.lease = { node: 'b', durationMs, released: false, version: String(++version), ...change };
      if (told) seen(server.lease);
    };
    watch.watch('b');
    return { clock, changes, server, watch, renew };
  }

  test('that is renewed costs no request, and is silent when its time is over', async () => {
    const { clock, changes, server, renew } = watching();
    for (let i = 0; i < 10; i++) {
      renew();
      await pass(clock, 2_000);
    }
    expect([server.reads, changes]).toEqual([0, []]);
    await pass(clock, 3_900);
    expect(changes).toEqual([]);
    await pass(clock, 200);
    expect(changes).toEqual(['silent']);
    expect(server.reads).toBeGreaterThanOrEqual(3);
    renew();
    expect(changes).toEqual(['silent', 'alive']);
  });

  test('of a node that has none is waited for', async () => {
    const { clock, changes } = watching();
    await pass(clock, durationMs - 100);
    expect(changes).toEqual([]);
    await pass(clock, durationMs);
    expect(changes).toEqual(['silent']);
  });

  test('that lasts longer is waited for longer, and one that is given up not at all', async () => {
    const { clock, changes, renew } = watching();
    renew({ durationMs: 60_000 });
    await pass(clock, 59_000);
    expect(changes).toEqual([]);
    renew({ released: true });
    expect(changes).toEqual(['released']);
    await pass(clock, 120_000);
    expect(changes).toEqual(['released']);
  });

  test('that was renewed unseen is seen by looking', async () => {
    const { clock, changes, renew } = watching();
    renew();
    await pass(clock, 2_000);
    renew({}, false);
    await pass(clock, 6_000);
    expect(changes).toEqual([]);
    await pass(clock, 3_500);
    expect(changes).toEqual(['silent']);
  });

  test('is looked at once more before it counts; without an answer it is judged anew', async () => {
    const { clock, changes, renew, watch, server } = watching();
    renew();
    await pass(clock, 7_000);
    expect(changes).toEqual(['silent']);
    const { reads } = server;
    expect(await watch.isStillSilent('b')).toBe(true);
    expect(await watch.isStillSilent('b')).toBe(true);
    expect(server.reads).toBe(reads + 1);
    await pass(clock, 1_000);
    server.answers = false;
    expect(await watch.isStillSilent('b')).toBe(false);
    expect(changes).toEqual(['silent', 'alive']);
    server.answers = true;
    await pass(clock, durationMs - 100);
    expect(watch.liveness('b')).toBe('alive');
    await pass(clock, 2_000);
    expect(watch.liveness('b')).toBe('silent');
    renew({}, false);
    await pass(clock, 1_000);
    expect(await watch.isStillSilent('b')).toBe(false);
    expect(watch.liveness('b')).toBe('alive');
  });

  test('counts only while the API server answers', async () => {
    const { clock, changes, renew, server } = watching();
    renew();
    server.answers = false;
    await pass(clock, 60_000);
    expect(changes).toEqual([]);
    server.answers = true;
    await pass(clock, durationMs - 100);
    expect(changes).toEqual([]);
    await pass(clock, 1_200);
    expect(changes).toEqual(['silent']);
  });

  test('that nobody needs to know of any more is left alone', async () => {
    const { clock, watch, server } = watching();
    watch.unwatch('b');
    await pass(clock, 60_000);
    expect(server.reads).toBe(0);
    watch.watch('b');
    watch.close();
    await pass(clock, 60_000);
    expect([server.reads, clock.pending]).toEqual([0, undefined]);
  });
});
