import { describe, expect, test } from '@jest/globals';
import { type ChaosOptions, faultKinds, formatStep, netemOf, planChaos, targetOf } from './plan.ts';

const scene: ChaosOptions = {
  ...{ nodes: ['node1', 'node2', 'node3'], clients: ['ann', 'bea'] },
  ...{ lastMs: 120_000, everyMs: 2_000 },
};
const seeds = Array.from({ length: 200 }, (_, seed) => seed);

describe('the plan of a chaos run', () => {
  test('is the same for the same seed, and another one for another', () => {
    for (const seed of seeds) {
      expect(planChaos(seed, scene)).toEqual(planChaos(seed, scene));
      expect(planChaos(seed, scene)).not.toEqual(planChaos(seed + 1, scene));
    }
  });

  test('is pinned: what a seed found stays to be found by it', () => {
    expect(planChaos(7, { ...scene, lastMs: 12_000 }).map(formatStep)).toMatchInlineSnapshot(`
     [
       "0.4 s: agent-killed for 0.8 s, node node1",
       "3.2 s: interface-down for 3.0 s, node node3",
       "6.1 s: agent-rolled-out for 2.4 s, node node3",
       "10.3 s: node-cut-off for 1.7 s, node node2",
     ]
    `);
  });

  test('never hits what is not healed, and heals everything by the end', () => {
    for (const seed of seeds) {
      const until = new Map<string, number>();
      let last = 0;
      for (const { atMs, fault } of planChaos(seed, scene)) {
        expect(atMs).toBeGreaterThanOrEqual(last);
        last = atMs;
        expect(until.get(targetOf(fault)) ?? -1).toBeLessThan(atMs);
        until.set(targetOf(fault), atMs + fault.forMs);
        expect(atMs + fault.forMs).toBeLessThanOrEqual(scene.lastMs);
      }
    }
  });

  test('has something of everything in a minute, and only what was asked for', () => {
    for (const seed of seeds) {
      const kinds = planChaos(seed, { ...scene, lastMs: 60_000 }).map(({ fault }) => fault.kind);
      expect(new Set(kinds).size).toBeGreaterThan(faultKinds.length / 2);
    }
    const some = planChaos(1, { ...scene, kinds: ['api-hangs', 'remote-ends'] }).map(({ fault }) => fault.kind);
    expect(new Set(some)).toEqual(new Set(['api-hangs', 'remote-ends']));
    const all = seeds.flatMap((seed) => planChaos(seed, scene).map(({ fault }) => fault.kind));
    expect(new Set(all)).toEqual(new Set(faultKinds));
  });

  test('needs something to break', () => {
    expect(() => planChaos(1, { ...scene, nodes: [] })).toThrow(RangeError);
  });
});

test('a bad line in the words of tc', () => {
  const line = { lossPercent: 20, delayMs: 30, jitterMs: 10, reorderPercent: 0 };
  expect(netemOf(line).join(' ')).toBe('root netem delay 30ms 10ms loss 20%');
  expect(netemOf({ ...line, reorderPercent: 25 }).join(' ')).toBe('root netem delay 30ms 10ms loss 20% reorder 25%');
});
