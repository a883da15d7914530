import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type CaTimes, distributionMs, planCa, renewAt } from './ca-plan.ts';

const day = 86_400_000;
const lifetimes = { caMs: 3650 * day, certificateMs: 365 * day };
const ca = (fromDay: number, days = 3650): CaTimes => ({ notBefore: fromDay * day, notAfter: (fromDay + days) * day });

describe('the plan of a CA', () => {
  test('begins with one', () => {
    expect(planCa([], 0, lifetimes)).toMatchObject({ create: true, trusted: [], signsClients: undefined });
  });

  test('lets a first one sign at once', () => {
    const first = ca(0);
    expect(planCa([first], 1, lifetimes)).toEqual({
      create: false,
      trusted: [first],
      signsClients: first,
      signsServer: first,
      nextAt: distributionMs,
    });
  });

  const [old, next] = [ca(0), ca(2920)];
  test.each([
    ['a new one is due when the old one has two lifetimes of a certificate left', [old], 2920, true, old, old],
    ['not earlier', [old], 2919, false, old, old],
    ['nodes do not know the new one yet', [old, next], 2920, false, old, old],
    ['nodes know the new one, clients do not', [old, next], 2921, false, next, old],
    ['not all clients have a new profile', [old, next], 2920 + 364, false, next, old],
    ['all clients have a new profile', [old, next], 2920 + 365, false, next, next],
    ['the old one has expired', [old, next], 3650, false, next, next],
    ['after a long time without a controller', [old], 3640, true, old, old],
  ])('%s', (_, cas, today, create, signsClients, signsServer) => {
    expect(planCa(cas, today * day, lifetimes)).toMatchObject({ create, signsClients, signsServer });
  });

  test('forgets the expired', () => {
    expect(planCa([old, next], 3651 * day, lifetimes).trusted).toEqual([next]);
  });

  test('for decades leaves no certificate without a CA that its other side knows', () => {
    const numbers = fc.record({
      certificateDays: fc.integer({ min: 1, max: 400 }),
      factor: fc.integer({ min: 3, max: 9 }),
    });
    fc.assert(
      fc.property(numbers, ({ certificateDays, factor }) => {
        const times = { caMs: factor * certificateDays * day, certificateMs: certificateDays * day };
        let cas: CaTimes[] = [];
        // What a client that renewed at the last possible moment has in its profile.
        const seen: { at: number; trusted: readonly CaTimes[] }[] = [];
        for (let now = 0; now < 40 * certificateDays * day; now += times.certificateMs / 8) {
          let plan = planCa(cas, now, times);
          if (plan.create) {
            cas = [...plan.trusted, { notBefore: now, notAfter: now + times.caMs }];
            plan = planCa(cas, now, times);
          }
          expect(plan.create).toBe(false);
          expect(plan.trusted.length).toBeLessThanOrEqual(3);
          seen.push({ at: now, trusted: plan.trusted });
          const { signsServer, signsClients } = plan;
          expect(signsClients?.notAfter).toBeGreaterThan(now);
          for (const profile of seen.filter(({ at }) => at > now - times.certificateMs))
            expect(profile.trusted).toContain(signsServer);
        }
      }),
      { numRuns: 50 },
    );
  });
});

test('a certificate is renewed after two thirds of its life', () => {
  expect(renewAt(ca(0, 90))).toBe(60 * day);
});
