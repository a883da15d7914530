import { expect, test } from '@jest/globals';
import { findCondition, isTrue, setCondition, type ConditionUpdate } from './conditions.ts';

const at = (seconds: number) => () => seconds * 1000;
const ready: ConditionUpdate = { type: 'Ready', status: 'True', reason: 'Ready', message: 'works' };

test('a new condition is stamped with the time and the generation', () => {
  expect(setCondition([], ready, 3, at(5))).toEqual([
    { ...ready, observedGeneration: 3, lastTransitionTime: '1970-01-01T00:00:05Z' },
  ]);
});

test('the time of transition moves with the status only', () => {
  const first = setCondition([], ready, 1, at(5));
  const reworded = setCondition(first, { ...ready, message: 'still works' }, 2, at(6));
  expect(reworded[0]).toMatchObject({
    message: 'still works',
    observedGeneration: 2,
    lastTransitionTime: '1970-01-01T00:00:05Z',
  });
  const lost = setCondition(reworded, { ...ready, status: 'False', reason: 'PeerLost' }, 2, at(7));
  expect(lost[0]).toMatchObject({ status: 'False', lastTransitionTime: '1970-01-01T00:00:07Z' });
});

test('setting what is there already hands back the same list', () => {
  const first = setCondition([], ready, 1, at(5));
  expect(setCondition(first, ready, 1, at(9))).toBe(first);
});

test('other conditions stay, in the order of their types', () => {
  const accepted: ConditionUpdate = { type: 'Accepted', status: 'False', reason: 'Conflict', message: 'x' };
  const both = setCondition(setCondition([], ready, undefined, at(1)), accepted, undefined, at(2));
  expect(both.map(({ type }) => type)).toEqual(['Accepted', 'Ready']);
  expect(isTrue(both, 'Ready')).toBe(true);
  expect(isTrue(both, 'Accepted')).toBe(false);
  expect(findCondition(both, 'Programmed')).toBeUndefined();
  expect(findCondition(undefined, 'Ready')).toBeUndefined();
});

test('a message is cut to what the API server takes', () => {
  expect(setCondition([], { ...ready, message: 'x'.repeat(40000) }, 1, at(1))[0]!.message).toHaveLength(32768);
});
