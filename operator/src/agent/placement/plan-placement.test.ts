import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Holder } from '../../api/types.ts';
import { nextPlacement, type PlacementView, rankOf, staggerOf } from './plan-placement.ts';

const uid = 'a7d2';
const nodes = ['a', 'b', 'c'];
const ranked = [...nodes].sort((one, other) => rankOf(one, uid, nodes) - rankOf(other, uid, nodes));
const [first = '', second = '', third = ''] = ranked;
const holder = (node: string, reason?: string): Holder => ({
  ...{ node, epoch: 4, since: '2026-01-01T00:00:00Z' },
  ...(reason === undefined ? {} : { reason }),
});

describe('what a node does about a placed peer', () => {
  test.each<[string, Partial<PlacementView>, string]>([
    ['the first takes what nobody has at once', { self: first }, 'take 1 Placed after 0'],
    ['the second leaves the first some time', { self: second }, 'take 1 Placed after 500'],
    ['the last waits longest', { self: third }, 'take 1 Placed after 1000'],
    ['who may not have it takes nothing', { self: first, mayTake: false }, 'rest'],
    ['what it has it holds', { self: second, holder: holder(second) }, 'hold'],
    [
      'what it has it holds also when it would not take it',
      { self: first, holder: holder(first), mayTake: false },
      'hold',
    ],
    ['what another has it leaves alone', { self: first, holder: holder(second) }, 'rest'],
    [
      'of a silent node it takes over',
      { self: second, holder: holder(first), liveness: 'silent' },
      'take 5 NodeLost after 0',
    ],
    ['and the others follow', { self: third, holder: holder(first), liveness: 'silent' }, 'take 5 NodeLost after 500'],
    [
      'a node that gave up its lease is gone',
      { self: first, holder: holder(third), liveness: 'released' },
      'take 5 NodeReleased after 0',
    ],
    ['a node that gave up the peer', { self: first, holder: holder(third, 'GivenUp') }, 'take 5 NodeReleased after 0'],
    ['also itself may have it again', { self: first, holder: holder(first, 'GivenUp') }, 'take 5 NodeReleased after 0'],
    [
      'what it must not have any more it gives up',
      { self: first, holder: holder(first), mayKeep: false, mayTake: false },
      'give-up',
    ],
    ['and does so once', { self: first, holder: holder(first, 'GivenUp'), mayKeep: false, mayTake: false }, 'rest'],
    ['its own silence is no reason', { self: first, holder: holder(first), liveness: 'silent' }, 'hold'],
  ])('%s', (_, view, expected) => {
    const whole: PlacementView = {
      ...{ self: first, uid, holder: undefined, liveness: 'alive', nodes, mayTake: true, mayKeep: true },
      ...view,
    };
    const step = nextPlacement(whole);
    expect(step.do === 'take' ? `take ${step.epoch} ${step.reason} after ${step.afterMs}` : step.do).toBe(expected);
    if (step.do === 'give-up') expect(step.holder).toMatchObject({ node: first, epoch: 4, reason: 'GivenUp' });
  });
});

const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 40 });

test('every node has a rank of its own, whoever asks in whatever order', () => {
  fc.assert(
    fc.property(names, fc.uuid(), (all, id) => {
      const ranks = all.map((node) => rankOf(node, id, all));
      expect([...ranks].sort((a, b) => a - b)).toEqual(all.map((_, i) => i));
      expect(all.map((node) => rankOf(node, id, [...all].reverse()))).toEqual(ranks);
    }),
  );
});

test('a node that goes leaves the others in their order', () => {
  fc.assert(
    fc.property(names, fc.uuid(), (all, id) => {
      const order = (some: readonly string[]): string[] =>
        [...some].sort((one, other) => rankOf(one, id, some) - rankOf(other, id, some));
      const [gone, ...rest] = all;
      expect(order(rest)).toEqual(order(all).filter((node) => node !== gone));
    }),
  );
});

test('peers spread over the nodes', () => {
  const ten = Array.from({ length: 10 }, (_, i) => `node-${i}`);
  const had = new Map<string, number>();
  for (let peer = 0; peer < 1_000; peer++) {
    const winner = ten.find((node) => rankOf(node, `peer-${peer}`, ten) === 0) ?? '';
    had.set(winner, (had.get(winner) ?? 0) + 1);
  }
  expect(had.size).toBe(10);
  for (const count of had.values()) expect(count).toBeGreaterThan(50);
});

test('the last of many nodes waits no longer than two seconds', () => {
  for (const count of [1, 3, 10, 200]) expect(staggerOf(count - 1, count)).toBeLessThanOrEqual(2_000);
});
