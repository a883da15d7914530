import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { recordingLog } from '../../cluster/testing/log.ts';
import type { LivePeer, SessionKey } from './live-peers.ts';
import { firstSessionId } from './live-peers.ts';
import { FakeLiveKernel, FakeScheduler, freshKeys, livePeers, refOfPeer } from './sessions.fixture.ts';
import { TunnelKeys } from './tunnel-keys.ts';

const key = (keyId: number): SessionKey => ({ keyId, cipher: 'AES-256-GCM', keys: freshKeys() });
const id = firstSessionId;

/** A peer whose first key, of id 0, sends. */
class Bench {
  readonly kernel = new FakeLiveKernel();
  readonly clock = new FakeScheduler();
  readonly live = livePeers(() => this.kernel);
  readonly log = recordingLog();
  readonly refusals: string[] = [];
  transitionMs = 30_000;
  readonly peer: LivePeer;
  readonly keys: TunnelKeys;

  constructor() {
    const settings = { id, socket: 5, remote: { address: '198.51.100.10', port: 1194 }, vpnIpv4: '10.80.0.10' };
    this.peer = this.live.create({ ref: refOfPeer('alice'), ifindex: 7, settings, routes: [] }, key(0));
    this.keys = new TunnelKeys({
      live: this.live,
      peer: this.peer,
      scheduler: this.clock,
      transitionMs: () => this.transitionMs,
      log: this.log.log,
      refused: (reason) => this.refusals.push(reason),
    });
    this.kernel.takeCalls();
  }

  /** A renegotiation that the other end has finished, too. */
  add(next: SessionKey): void {
    this.keys.add(next);
    this.keys.confirmed();
  }

  get slots(): string {
    return this.kernel.slots(7, id);
  }
}

describe('a renegotiation', () => {
  test('the new key receives at once, sends after the transition, and the old one goes when nobody sends with it', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    expect(bench.slots).toBe('0/1');
    bench.clock.advance(29_999);
    expect(bench.slots).toBe('0/1');
    bench.clock.advance(1);
    expect(bench.slots).toBe('1/0');
    bench.clock.advance(59_999);
    expect(bench.slots).toBe('1/0');
    bench.clock.advance(1);
    expect(bench.slots).toBe('1/-');
    expect(bench.clock.pending).toBeUndefined();
  });

  test('the old key stays twice as long as a long transition', () => {
    const bench = new Bench();
    bench.transitionMs = 60_000;
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.clock.advance(119_999);
    expect(bench.slots).toBe('1/0');
    bench.clock.advance(1);
    expect(bench.slots).toBe('1/-');
  });

  test('that comes soon after the last has half that time, and two seconds at least', () => {
    const bench = new Bench();
    bench.clock.advance(20_000);
    bench.add(key(1));
    bench.clock.advance(10_000);
    expect(bench.slots).toBe('1/0');
    bench.clock.advance(1_000);
    bench.add(key(2));
    bench.clock.advance(5_499);
    expect(bench.slots).toBe('1/2');
    bench.clock.advance(1);
    expect(bench.slots).toBe('2/1');
    bench.add(key(3));
    bench.clock.advance(2_000 + 750);
    expect(bench.slots).toBe('3/2');
  });

  test('sends with the new key only when the other end has it', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.keys.add(key(1));
    bench.keys.rekeying();
    bench.clock.advance(3_600_000);
    expect(bench.slots).toBe('0/1');
    bench.keys.confirmed();
    expect(bench.slots).toBe('1/0');
    bench.keys.confirmed();
    expect(bench.slots).toBe('1/0');
  });

  test('sends with the new key at once when this process ends, if the other end has it', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.clock.advance(2_000);
    expect(bench.keys.switching).toBe(true);
    bench.keys.hurry();
    bench.clock.advance(0);
    expect(bench.slots).toBe('1/0');
    expect(bench.keys.switching).toBe(false);
  });

  test('sends with a key that is quite new two seconds after it came, when this process ends', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.clock.advance(500);
    bench.keys.hurry();
    bench.clock.advance(1_499);
    expect(bench.slots).toBe('0/1');
    bench.clock.advance(1);
    expect(bench.slots).toBe('1/0');
  });

  test('sends with a key that comes while this process ends after two seconds, once the other end has it', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.keys.hurry();
    expect(bench.keys.switching).toBe(false);
    bench.keys.add(key(1));
    bench.clock.advance(2_000);
    expect(bench.keys.switching).toBe(false);
    expect(bench.slots).toBe('0/1');
    bench.keys.confirmed();
    expect(bench.slots).toBe('1/0');
  });

  test('sends with the new key when the next renegotiation begins: the other end has thrown the old one away', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.keys.rekeying();
    expect(bench.slots).toBe('1/0');
    bench.keys.rekeying();
    expect(bench.slots).toBe('1/0');
  });

  test('without a transition there are two seconds all the same, as the other end may not have the key yet', () => {
    const bench = new Bench();
    bench.transitionMs = 0;
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    expect(bench.slots).toBe('0/1');
    bench.clock.advance(2_000);
    expect(bench.slots).toBe('1/0');
  });

  test('while one waits for its switch: that one sends now, as the other end has only these two', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.add(key(2));
    expect(bench.slots).toBe('1/2');
    // The first one's timers are off: neither an early swap nor an early end of a key.
    bench.clock.advance(1_999);
    expect(bench.slots).toBe('1/2');
    bench.clock.advance(1);
    expect(bench.slots).toBe('2/1');
    bench.clock.advance(90_000);
    expect(bench.slots).toBe('2/-');
  });
});

test('a key that is confirmed late sends then, and the old one goes all the same', () => {
  const bench = new Bench();
  bench.clock.advance(3_600_000);
  bench.keys.add(key(1));
  bench.clock.advance(200_000);
  expect(bench.slots).toBe('0/1');
  bench.keys.confirmed();
  expect(bench.slots).toBe('1/0');
  bench.clock.advance(90_000);
  expect(bench.slots).toBe('1/-');
  expect(bench.clock.pending).toBeUndefined();
});

test('a key that the other end says it never got is not sent with: the next one takes its slot', () => {
  const bench = new Bench();
  bench.clock.advance(3_600_000);
  bench.keys.add(key(1));
  bench.clock.advance(120_000);
  bench.keys.rekeying();
  bench.keys.add(key(2), { skipsKey: true });
  expect(bench.slots).toBe('0/2');
  // The first one's timer is off.
  bench.keys.confirmed();
  bench.clock.advance(29_999);
  expect(bench.slots).toBe('0/2');
  bench.clock.advance(1);
  expect(bench.slots).toBe('2/0');
  bench.clock.advance(90_000);
  expect(bench.slots).toBe('2/-');
});

describe('a key that is used up', () => {
  test('gives way at once to one that waits', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.keys.exhausted();
    expect(bench.slots).toBe('1/0');
    bench.kernel.takeCalls();
    bench.clock.advance(30_000);
    expect(bench.kernel.takeCalls()).toEqual([]);
  });

  test('has the next one send without a wait, and only that', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.keys.exhausted();
    expect(bench.kernel.takeCalls()).toEqual([]);
    bench.add(key(1));
    expect(bench.slots).toBe('1/0');
    bench.clock.advance(3_600_000);
    bench.add(key(2));
    expect(bench.slots).toBe('1/2');
  });
});

describe('the end', () => {
  test('leaves no timer', () => {
    const bench = new Bench();
    bench.add(key(1));
    bench.keys.close();
    expect(bench.clock.pending).toBeUndefined();
    bench.kernel.takeCalls();
    bench.clock.advance(3_600_000);
    expect(bench.kernel.takeCalls()).toEqual([]);
  });

  test.each([
    ['the new key', 'KEY_NEW', 0],
    ['the swap', 'KEY_SWAP', 0],
    ['the end of the old key', 'KEY_DEL', 60_000],
  ])('a kernel that refuses %s is told once, in words, and nothing more is tried', (_, call, after) => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    if (after > 0) {
      bench.add(key(1));
      bench.clock.advance(after);
    }
    bench.kernel.refuse = (words) => (words.startsWith(call) ? 'EINVAL' : undefined);
    if (after === 0) bench.add(key(1));
    bench.clock.advance(3_600_000);
    expect(bench.refusals).toEqual([expect.stringContaining('EINVAL')]);
    expect(bench.clock.pending).toBeUndefined();
  });

  test('a kernel that fails altogether does not take the process along', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.kernel.broken = true;
    expect(() => bench.clock.advance(3_600_000)).not.toThrow();
    expect(bench.refusals).toHaveLength(1);
  });

  test('no log line holds a key', () => {
    const bench = new Bench();
    bench.clock.advance(3_600_000);
    bench.add(key(1));
    bench.clock.advance(3_600_000);
    expect(bench.log.lines).not.toEqual([]);
    for (const line of bench.log.lines) expect(line).toMatchObject({ peer: 'VpnPeer team-a/alice' });
    expect(JSON.stringify(bench.log.lines)).not.toContain('secret');
  });
});

test('whatever comes: no swap with an empty slot, the sending key stays, each key goes in once', () => {
  const steps = fc.array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 200_000 }) }),
      },
      { weight: 3, arbitrary: fc.constant({ do: 'add' as const, ms: 0 }) },
      { weight: 3, arbitrary: fc.constantFrom({ do: 'confirm' as const, ms: 0 }, { do: 'rekeying' as const, ms: 0 }) },
      { weight: 1, arbitrary: fc.constant({ do: 'exhausted' as const, ms: 0 }) },
    ),
    { maxLength: 40 },
  );
  fc.assert(
    fc.property(steps, fc.integer({ min: 0, max: 120_000 }), (what, transitionMs) => {
      const bench = new Bench();
      bench.transitionMs = transitionMs;
      let newest = 0;
      // What it throws is taken for a refusal.
      bench.kernel.refuse = (words) => {
        if (words.startsWith('KEY_SWAP')) expect(bench.kernel.peers.get(`7/${id}`)?.secondary).toBeDefined();
        if (words.startsWith('KEY_DEL')) expect(words).toContain('secondary slot');
        return undefined;
      };
      let dead = false;
      for (const step of what) {
        if (step.do === 'wait') bench.clock.advance(step.ms);
        else if (step.do === 'add') bench.keys.add(key((newest = newest === 7 ? 1 : newest + 1)));
        else if (step.do === 'confirm') bench.keys.confirmed();
        else if (step.do === 'rekeying') bench.keys.rekeying();
        else {
          // The driver takes the key away and tells of it afterwards.
          const peer = bench.kernel.peers.get(`7/${id}`);
          if (peer !== undefined) peer.primary = undefined;
          bench.keys.exhausted();
        }
        const { primary, secondary } = bench.kernel.peers.get(`7/${id}`) ?? {};
        // Nothing sends only after the newest key is used up, until there is another.
        dead = primary === undefined;
        if (dead) expect(step.do).not.toBe('add');
        else expect([primary?.keyId, secondary?.keyId]).toContain(newest);
      }
      bench.keys.confirmed();
      bench.clock.advance(1_000_000);
      expect(bench.slots).toBe(dead ? '-/-' : `${newest}/-`);
      expect([...bench.kernel.installed.values()].every((times) => times === 1)).toBe(true);
      expect(bench.refusals).toEqual([]);
      expect(bench.clock.pending).toBeUndefined();
    }),
  );
});
