import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  emptySlots,
  type InstallationRecord,
  type KeyStep,
  planSlots,
  type SlotKey,
  type SlotPlan,
  type SlotQuestion,
} from './key-slots.ts';

const T = 60_000;
const gcm = (keyId: number): SlotKey => ({ keyId, cipher: 'AES-GCM' });
const rec = (keyId: number, installedAt: number, switchedAt?: number): InstallationRecord => ({
  keyId,
  installedAt,
  switchedAt,
});
const nobody = { primary: undefined, secondary: undefined };

const install = (slot: 'primary' | 'secondary'): KeyStep => ({ step: 'install', slot });
const remove = (slot: 'primary' | 'secondary'): KeyStep => ({ step: 'delete', slot });
const swap: KeyStep = { step: 'swap' };

/** The plan for wanting key 2 at time 1,000,000. */
const now = 1_000_000;
function plan(question: Partial<SlotQuestion>): SlotPlan {
  return planSlots({
    wanted: { ...gcm(2), transitionMs: T },
    slots: emptySlots,
    record: undefined,
    otherKeyHadId: false,
    present: nobody,
    now,
    ...question,
  });
}

describe('planSlots', () => {
  test.each<[string, Partial<SlotQuestion>, Partial<SlotPlan>]>([
    ['installs the first key where it sends', {}, { steps: [install('primary')], dueAt: undefined, installed: true }],
    [
      'installs a new key where it only receives',
      { slots: { primary: gcm(1), secondary: undefined } },
      { steps: [install('secondary')], dueAt: now + T, installed: true },
    ],
    [
      'waits until the other end can receive it',
      { slots: { primary: gcm(1), secondary: gcm(2) }, record: rec(2, now - T + 1) },
      { steps: [], dueAt: now + 1 },
    ],
    [
      'swaps when the transition is over',
      { slots: { primary: gcm(1), secondary: gcm(2) }, record: rec(2, now - T) },
      { steps: [swap], dueAt: now + T },
    ],
    [
      'swaps at once when nothing is sent',
      { slots: { primary: undefined, secondary: gcm(2) }, record: rec(2, now) },
      { steps: [swap] },
    ],
    [
      'keeps the old key while the other end may send with it',
      { slots: { primary: gcm(2), secondary: gcm(1) }, record: rec(2, now - 2 * T, now - T + 1) },
      { steps: [], dueAt: now + 1, installed: true },
    ],
    [
      'deletes the old key after that',
      { slots: { primary: gcm(2), secondary: gcm(1) }, record: rec(2, now - 2 * T, now - T) },
      { steps: [remove('secondary')], dueAt: undefined },
    ],
    [
      'keeps the old key for a whole transition when the moment of the swap was lost',
      { slots: { primary: gcm(2), secondary: gcm(1) }, record: rec(2, now - 2 * T) },
      { steps: [], dueAt: now + T, noteSwitch: true },
    ],
    [
      'is done',
      { slots: { primary: gcm(2), secondary: undefined }, record: rec(2, 0) },
      { steps: [], dueAt: undefined, installed: true },
    ],
    ['refuses a key that went away', { record: rec(2, 0, 1) }, { steps: [], spent: true, installed: false }],
    [
      'refuses a key that went away while another one sends',
      { slots: { primary: gcm(1), secondary: undefined }, record: rec(2, 0, 1) },
      { steps: [], spent: true },
    ],
    [
      'refuses a key whose id a later key took over',
      { slots: { primary: gcm(2), secondary: undefined }, record: rec(2, 0), otherKeyHadId: true },
      { steps: [], spent: true, installed: false },
    ],
    [
      'refuses a key that was installed under another id',
      { slots: { primary: gcm(2), secondary: undefined }, record: rec(5, 0) },
      { steps: [], spent: true, installed: false },
    ],
    [
      'adopts what it finds under the id when the ledger is empty',
      { slots: { primary: gcm(2), secondary: undefined } },
      { steps: [], adopt: true, installed: true, dueAt: now },
    ],
    [
      'adopts from the secondary slot',
      { slots: { primary: gcm(1), secondary: gcm(2) } },
      { steps: [], adopt: true, dueAt: now },
    ],
    [
      'refuses an id that the sending key has',
      {
        slots: { primary: gcm(2), secondary: undefined },
        otherKeyHadId: true,
        present: { primary: rec(2, 0), secondary: undefined },
      },
      { steps: [], clash: true, installed: false },
    ],
    [
      'refuses an id that the sending key has with another cipher',
      { slots: { primary: { keyId: 2, cipher: 'CHACHA20-POLY1305' }, secondary: undefined } },
      { steps: [], clash: true, adopt: false },
    ],
    [
      'drops an unknown key that nothing is known of',
      { slots: { primary: gcm(1), secondary: gcm(7) } },
      { steps: [remove('secondary'), install('secondary')], dueAt: now + T },
    ],
    [
      'sends with the new key at once when no key sends',
      { slots: { primary: undefined, secondary: gcm(7) } },
      { steps: [remove('secondary'), install('primary')] },
    ],
    [
      'deletes a key with its id by itself first, so that a crash in between cannot mix them up',
      { slots: { primary: undefined, secondary: gcm(2) }, otherKeyHadId: true },
      { steps: [remove('secondary')], dueAt: now, installed: false },
    ],
    [
      'waits for the key before it that only receives yet',
      {
        slots: { primary: gcm(0), secondary: gcm(1) },
        present: { primary: rec(0, 0), secondary: rec(1, now - T + 5) },
      },
      { steps: [], dueAt: now + 5, installed: false },
    ],
    [
      'lets the key before it send first',
      { slots: { primary: gcm(0), secondary: gcm(1) }, present: { primary: rec(0, 0), secondary: rec(1, now - T) } },
      { steps: [swap], dueAt: now + T, installed: false },
    ],
    [
      'waits until the key before the one before it is no longer received',
      {
        slots: { primary: gcm(1), secondary: gcm(0) },
        present: { primary: rec(1, now - T, now - 10), secondary: rec(0, 0) },
      },
      { steps: [], dueAt: now + T - 10, installed: false },
    ],
    [
      'takes its place then',
      {
        slots: { primary: gcm(1), secondary: gcm(0) },
        present: { primary: rec(1, now - 2 * T, now - T), secondary: rec(0, 0) },
      },
      { steps: [remove('secondary'), install('secondary')], dueAt: now + T },
    ],
    [
      'waits a whole transition when it is not known since when the key before it sends',
      {
        slots: { primary: gcm(1), secondary: gcm(0) },
        present: { primary: rec(1, now - 2 * T), secondary: rec(0, 0) },
      },
      { steps: [], dueAt: now + T, installed: false, noteSwitch: true },
    ],
    [
      'waits for a retiring key with its own id, too',
      {
        slots: { primary: gcm(1), secondary: gcm(2) },
        otherKeyHadId: true,
        present: { primary: rec(1, now - T, now), secondary: rec(2, 0, 1) },
      },
      { steps: [], dueAt: now + T, clash: false },
    ],
  ])('%s', (_name, question, expected) => {
    expect(plan(question)).toMatchObject(expected);
  });
});

/** A key of the model: what a kernel and a ledger know of it. */
interface Key extends SlotKey {
  readonly generation: number;
}

/** One end of a tunnel: the driver's two slots, the ledger, and an agent that may crash between any two steps. */
class End {
  primary: Key | undefined;
  secondary: Key | undefined;
  generation = 1;
  spent = false;
  readonly installed = new Set<number>();
  readonly #ledger = new Map<
    number,
    { readonly key: Key; readonly installedAt: number; switchedAt: number | undefined }
  >();
  readonly #last = new Map<number, number>();
  readonly receivedSince = new Map<number, number>();
  stoppedSending = new Map<number, number>();
  readonly #transition: number;

  constructor(transition: number) {
    this.#transition = transition;
  }

  plan(now: number): SlotPlan {
    const wanted = keyOf(this.generation);
    return planSlots({
      wanted: { ...wanted, transitionMs: this.#transition },
      slots: { primary: this.primary, secondary: this.secondary },
      record: this.#record(this.generation),
      otherKeyHadId: this.#last.has(wanted.keyId) && this.#last.get(wanted.keyId) !== this.generation,
      present: { primary: this.#lastOf(this.primary), secondary: this.#lastOf(this.secondary) },
      now,
    });
  }

  /** A round of the agent that dies after `survive` kernel steps, without writing the ledger any more. */
  round(now: number, survive: number): number {
    const plan = this.plan(now);
    this.spent = plan.spent || plan.clash;
    if (plan.noteSwitch && this.primary !== undefined) this.#switched(this.primary.generation, now);
    for (const step of plan.steps) if (step.step === 'install') this.#reserve(now);
    let done = 0;
    for (const step of plan.steps) {
      if (done === survive) return done;
      this.#act(step, now);
      done++;
      if (done === survive && step.step === 'swap') return done;
      if (step.step === 'swap' && this.primary !== undefined) this.#switched(this.primary.generation, now);
    }
    return done;
  }

  #act(step: KeyStep, now: number): void {
    if (step.step === 'install') {
      const key = keyOf(this.generation);
      if (this.installed.has(this.generation)) throw new Error(`generation ${this.generation} was installed twice`);
      if ([this.primary, this.secondary].some((other) => other?.keyId === key.keyId))
        throw new Error('two keys with one id');
      this.installed.add(this.generation);
      if (this[step.slot] !== undefined) throw new Error('the slot was not empty');
      this[step.slot] = key;
      this.receivedSince.set(key.generation, now);
    } else if (step.step === 'delete') {
      const going = this[step.slot];
      if (step.slot === 'primary') throw new Error('the key that sends was deleted');
      const stopped = going === undefined ? undefined : this.stoppedSending.get(going.generation);
      if (stopped !== undefined && now < stopped + this.#transition)
        throw new Error(`the old key went after ${now - stopped} ms`);
      if (going !== undefined && stopped === undefined) throw new Error('a key that never sent was thrown away');
      this[step.slot] = undefined;
    } else {
      if (this.secondary === undefined) throw new Error('the primary slot was emptied');
      const since = this.receivedSince.get(this.secondary.generation) ?? 0;
      if (this.primary !== undefined && now < since + this.#transition)
        throw new Error(`a key sends after ${now - since} ms`);
      if (this.primary !== undefined) this.stoppedSending.set(this.primary.generation, now);
      [this.primary, this.secondary] = [this.secondary, this.primary];
    }
  }

  #reserve(now: number): void {
    const key = keyOf(this.generation);
    this.#ledger.set(this.generation, { key, installedAt: now, switchedAt: undefined });
    this.#last.set(key.keyId, this.generation);
  }

  #switched(generation: number, now: number): void {
    const entry = this.#ledger.get(generation);
    if (entry !== undefined) entry.switchedAt = now;
  }

  #record(generation: number | undefined): InstallationRecord | undefined {
    const entry = generation === undefined ? undefined : this.#ledger.get(generation);
    return entry === undefined
      ? undefined
      : { keyId: entry.key.keyId, installedAt: entry.installedAt, switchedAt: entry.switchedAt };
  }

  #lastOf(slot: SlotKey | undefined): InstallationRecord | undefined {
    return slot === undefined ? undefined : this.#record(this.#last.get(slot.keyId));
  }
}

const keyOf = (generation: number): Key => ({ generation, keyId: generation % 8, cipher: 'AES-GCM' });

type Event =
  | { readonly kind: 'wait'; readonly ms: number }
  | { readonly kind: 'raise'; readonly by: number }
  | { readonly kind: 'round'; readonly survive: number };

const events = fc.array(
  fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('wait' as const),
        ms: fc.oneof(fc.nat(300), fc.constantFrom(0, 99, 100, 101)),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('raise' as const), by: fc.integer({ min: 1, max: 9 }) }) },
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant('round' as const), survive: fc.constantFrom(0, 1, 2, 9, 9, 9, 9, 9) }),
    },
  ),
  { maxLength: 60 },
) satisfies fc.Arbitrary<Event[]>;

describe('a rotation, whatever happens', () => {
  test('never installs a key twice, always can send, and breaks nothing before its time', () => {
    fc.assert(
      fc.property(events, (happenings) => {
        const end = new End(100);
        let now = 0;
        let everSent = false;
        for (const event of happenings) {
          if (event.kind === 'wait') now += event.ms;
          else if (event.kind === 'raise') end.generation += event.by;
          else end.round(now, event.survive);
          everSent ||= end.primary !== undefined;
          if (everSent) expect(end.primary).toBeDefined();
        }
      }),
      { numRuns: 3000 },
    );
  });

  test('comes to rest with the wanted key alone, or says that the key is spent', () => {
    fc.assert(
      fc.property(events, (happenings) => {
        const end = new End(100);
        let now = 0;
        for (const event of happenings) {
          if (event.kind === 'wait') now += event.ms;
          else if (event.kind === 'raise') end.generation += event.by;
          else end.round(now, event.survive);
        }
        let rounds = 0;
        for (let last: SlotPlan | undefined; last === undefined || last.steps.length > 0 || last.dueAt !== undefined;) {
          last = end.plan(now);
          end.round(now, 9);
          if (last.dueAt !== undefined) now = Math.max(now, last.dueAt);
          expect(rounds++).toBeLessThan(20);
        }
        if (!end.spent) {
          expect(end.primary).toEqual(keyOf(end.generation));
          expect(end.secondary).toBeUndefined();
        }
      }),
      { numRuns: 2000 },
    );
  });
});
