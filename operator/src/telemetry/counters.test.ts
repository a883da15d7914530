import { describe, expect, test } from '@jest/globals';
import { Counters } from './counters.ts';

describe('Counters', () => {
  test('count by name and labels, whatever the order of the labels', () => {
    const counters = new Counters();
    counters.increment('netlink_writes', { family: 'ovpn', op: 'new' });
    counters.increment('netlink_writes', { op: 'new', family: 'ovpn' });
    counters.increment('netlink_writes', { family: 'ovpn', op: 'del' }, 3);
    counters.increment('loops');
    expect(counters.value('netlink_writes', { family: 'ovpn', op: 'new' })).toBe(2);
    expect(counters.read()).toEqual([
      { name: 'loops', type: 'counter', labels: {}, value: 1 },
      { name: 'netlink_writes', type: 'counter', labels: { family: 'ovpn', op: 'del' }, value: 3 },
      { name: 'netlink_writes', type: 'counter', labels: { family: 'ovpn', op: 'new' }, value: 2 },
    ]);
  });

  test('gauges are set and dropped', () => {
    const counters = new Counters();
    counters.set('peers', { network: 'a' }, 7);
    counters.set('peers', { network: 'a' }, 5);
    expect(counters.value('peers', { network: 'a' })).toBe(5);
    counters.drop('peers', { network: 'a' });
    expect(counters.read()).toEqual([]);
    expect(counters.value('peers', { network: 'a' })).toBe(0);
  });

  test('a counter neither shrinks nor becomes a gauge', () => {
    const counters = new Counters();
    counters.increment('n');
    expect(() => counters.increment('n', {}, -1)).toThrow('only grow');
    expect(() => counters.increment('n', {}, Number.NaN)).toThrow('only grow');
    expect(() => counters.set('n', {}, 3)).toThrow('is a counter');
  });

  test('what was read does not change afterwards', () => {
    const counters = new Counters();
    counters.increment('n');
    const before = counters.read();
    counters.increment('n');
    expect(before[0]?.value).toBe(1);
  });
});
