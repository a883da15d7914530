import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ApiError, type ApiCall, type ApiClient } from './api-client.ts';
import { sleep } from './clock.ts';
import { asRecord } from './json.ts';
import { defaultElectionTiming, LeaderElection } from './leader-election.ts';
import { FakeClock } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';

/** All on a clock that is held, with the one Lease of a server whose answers take as long as a test says. */

const { leaseMs, renewDeadlineMs, retryMs } = defaultElectionTiming;
const second = 1_000;

/** How one request fares: when it reaches the server, if at all, and when its answer is back, if ever. */
interface Fate {
  readonly thereMs: number;
  readonly backMs: number;
  readonly lost?: 'request' | 'answer';
}
const quick: Fate = { thereMs: 1, backMs: 1 };

/** The server's part that election needs: one Lease, versions, and refusals of writes to older ones. */
class LeaseServer {
  readonly #clock: FakeClock;
  #lease: { readonly version: number; readonly spec: unknown } | undefined;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }

  get holder(): unknown {
    return asRecord(this.#lease?.spec)?.['holderIdentity'];
  }

  /** The way of one candidate to it. */
  client(fate: (call: ApiCall) => Fate): ApiClient {
    const json = (call: ApiCall): Promise<unknown> =>
      new Promise((resolve, reject) => {
        const { thereMs, backMs, lost } = fate(call);
        const timer = this.#clock.after(call.timeoutMs, () => reject(new Error('no answer in time')));
        const end = (act: () => void): void => {
          timer();
          act();
        };
        call.signal.addEventListener('abort', () => end(() => reject(new Error('aborted'))));
        if (lost === 'request') return;
        this.#clock.after(thereMs, () => {
          // Aborted or not: what is on its way arrives.
          let answer: () => void;
          try {
            const body = this.#serve(call);
            answer = () => resolve(body);
          } catch (error) {
            answer = () => reject(error instanceof Error ? error : new Error(String(error)));
          }
          if (lost === undefined) this.#clock.after(backMs, () => end(answer));
        });
      });
    return { json } as unknown as ApiClient;
  }

  #serve({ method = 'GET', body }: ApiCall): unknown {
    if (method === 'GET') {
      if (this.#lease === undefined) throw new ApiError(404, 'NotFound', 'no lease');
    } else {
      const sent = asRecord(JSON.parse(body?.text ?? '')) ?? {};
      const version = Number(asRecord(sent['metadata'])?.['resourceVersion'] ?? 0);
      if (version !== (this.#lease?.version ?? 0)) throw new ApiError(409, 'Conflict', 'changed meanwhile');
      this.#lease = { version: version + 1, spec: sent['spec'] };
    }
    const { version, spec } = this.#lease;
    return { metadata: { name: 'lease', resourceVersion: String(version) }, spec };
  }
}

/** Lets promises that wait for nothing go on. */
const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
};

/** One process that wants to lead. `works` says whether it would write now. */
class Candidate {
  readonly clock: FakeClock;
  readonly election: LeaderElection;
  readonly #stop = new AbortController();
  works = false;
  /** How long what it leads takes to stop. */
  stopsAfterMs = 0;
  ended: 'stopped' | 'lost' | undefined;
  fate: (call: ApiCall) => Fate = () => quick;

  constructor(identity: string, server: LeaseServer, clock: FakeClock, random = () => 0) {
    this.clock = clock;
    this.election = new LeaderElection({
      client: server.client((call) => this.fate(call)),
      clock,
      random,
      log: recordingLog().log,
      namespace: 'ovpn-system',
      name: 'lease',
      identity,
    });
    void this.election
      .run(this.#stop.signal, async (signal) => {
        this.works = true;
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        this.works = false;
        await sleep(clock, this.stopsAfterMs, new AbortController().signal);
      })
      .then((how) => (this.ended = how));
  }

  stop(): void {
    this.#stop.abort();
  }
}

async function world(): Promise<{
  clock: FakeClock;
  server: LeaseServer;
  one: Candidate;
  other: Candidate;
  pass: (ms: number, check?: () => void) => Promise<void>;
}> {
  const clock = new FakeClock();
  const server = new LeaseServer(clock);
  const pass = async (ms: number, check = (): void => undefined): Promise<void> => {
    for (let left = ms; left > 0; left -= 100) {
      clock.advance(Math.min(100, left));
      await settle();
      check();
    }
  };
  const one = new Candidate('one', server, clock);
  await pass(second);
  const other = new Candidate('other', server, clock);
  await pass(second);
  expect([one.works, other.works]).toEqual([true, false]);
  return { clock, server, one, other, pass };
}

describe('leader election', () => {
  test('who leads goes on leading, and the other waits', async () => {
    const { one, other, pass } = await world();
    await pass(120 * second, () => expect([one.works, other.works]).toEqual([true, false]));
  });

  test('a leader without an answer stops within the deadline, and only then may another begin', async () => {
    const { one, other, pass } = await world();
    one.fate = () => ({ ...quick, lost: 'request' });
    let stopped = 0;
    let began = 0;
    let at = 0;
    await pass(leaseMs + 2 * retryMs + second, () => {
      at += 100;
      expect(one.works && other.works).toBe(false);
      if (stopped === 0 && !one.works) stopped = at;
      if (began === 0 && other.works) began = at;
    });
    expect(one.ended).toBe('lost');
    expect(stopped).toBeGreaterThan(renewDeadlineMs - retryMs - 200);
    expect(stopped).toBeLessThanOrEqual(renewDeadlineMs);
    expect(began - stopped).toBeGreaterThanOrEqual(leaseMs - renewDeadlineMs - retryMs);
  });

  test('a renewal counts from when it was sent: a late answer does not make the lease longer', async () => {
    const { one, other, pass } = await world();
    // Stored at once; the answer takes most of the deadline. After that, nothing comes through.
    let slow = true;
    one.fate = ({ method = 'GET' }) => {
      if (method === 'GET') return slow ? quick : { ...quick, lost: 'request' };
      slow = false;
      return { thereMs: 1, backMs: renewDeadlineMs - retryMs - second };
    };
    await pass(3 * leaseMs, () => expect(one.works && other.works).toBe(false));
    expect(other.works).toBe(true);
  });

  test('a process that was stopped for an hour writes nothing more once it goes on', async () => {
    const { clock, one, other, pass } = await world();
    one.fate = () => ({ ...quick, lost: 'request' });
    // No turn of the event loop in between: all its timers are due at once.
    clock.advance(3_600 * second);
    await settle();
    expect(one.works).toBe(false);
    await pass(leaseMs + 2 * retryMs + second);
    expect(other.works).toBe(true);
  });

  test.each([
    ['forward', 3_600 * second],
    ['back', -3_600 * second],
  ])('a clock that is set %s by an hour changes nothing', async (_, ms) => {
    const { clock, one, other, pass } = await world();
    clock.set(ms);
    await pass(30 * second, () => expect([one.works, other.works]).toEqual([true, false]));
    one.fate = () => ({ ...quick, lost: 'request' });
    await pass(renewDeadlineMs);
    expect(one.ended).toBe('lost');
    await pass(leaseMs);
    expect(other.works).toBe(true);
  });

  test('a lease that somebody else wrote is lost at once, not at the deadline', async () => {
    const { server, one, pass } = await world();
    const thief = server.client(() => quick);
    const limits = { signal: new AbortController().signal, timeoutMs: second };
    const reading = thief.json({ path: '', ...limits });
    await pass(100);
    const lease = (await reading) as { metadata: object; spec: object };
    const stolen = { ...lease, spec: { ...lease.spec, holderIdentity: 'thief' } };
    void thief.json({ method: 'PUT', path: '', body: { type: '', text: JSON.stringify(stolen) }, ...limits });
    await pass(retryMs + 200);
    expect([one.works, one.ended]).toEqual([false, 'lost']);
  });

  test('a leader that is told to stop gives the lease away only when its work has ended', async () => {
    const { server, one, other, pass } = await world();
    one.stopsAfterMs = 3 * second;
    one.stop();
    await pass(2 * second);
    expect([server.holder, other.works]).toEqual(['one', false]);
    await pass(3 * second + 2 * retryMs);
    expect([one.ended, server.holder, other.works]).toEqual(['stopped', 'other', true]);
  });

  test('three candidates on a bad network: never two at a time, and in the end there is one', async () => {
    const fates = fc.record({
      thereMs: fc.nat(second),
      backMs: fc.nat(8 * second),
      lost: fc.option(fc.constantFrom('request' as const, 'answer' as const), { nil: undefined, freq: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.option(fates, { nil: quick, freq: 2 }), { maxLength: 60 }), async (planned) => {
        const clock = new FakeClock();
        const server = new LeaseServer(clock);
        const left = [...planned];
        let count = 0;
        const begin = (): Candidate => {
          const candidate = new Candidate(`c${count++}`, server, clock, () => (count % 3) / 3);
          candidate.fate = (): Fate => {
            const { lost, ...fate } = left.shift() ?? quick;
            return lost === undefined ? fate : { ...fate, lost };
          };
          return candidate;
        };
        const all = [begin(), begin(), begin()];
        const step = async (): Promise<void> => {
          clock.advance(500);
          for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
          expect(all.filter(({ works }) => works).length).toBeLessThanOrEqual(1);
          // The Deployment starts one anew that has ended.
          all.forEach((one, index) => one.ended !== undefined && (all[index] = begin()));
        };
        for (let steps = 0; left.length > 0 && steps < 2_000; steps++) await step();
        for (let steps = 0; steps < 100; steps++) await step();
        expect(all.filter(({ works }) => works)).toHaveLength(1);
        for (const one of all) one.stop();
        for (let steps = 0; steps < 20; steps++) await step();
      }),
      { numRuns: 100 },
    );
  }, 60_000);
});
