import { describe, expect, test } from '@jest/globals';
import { type LabelSelector, matchesSelector } from './label-selector.ts';

type Requirement = LabelSelector['matchExpressions'][number];
const labels = { app: 'web', tier: '' };

const requires = (key: string, operator: Requirement['operator'], ...values: string[]): LabelSelector => ({
  matchLabels: {},
  matchExpressions: [{ key, operator, values }],
});

describe('a label selector', () => {
  test.each<[string, LabelSelector, boolean]>([
    ['nothing', { matchLabels: {}, matchExpressions: [] }, true],
    ['a label', { matchLabels: { app: 'web' }, matchExpressions: [] }, true],
    ['another value', { matchLabels: { app: 'db' }, matchExpressions: [] }, false],
    ['an empty value', { matchLabels: { tier: '' }, matchExpressions: [] }, true],
    ['an empty value of a label that is not there', { matchLabels: { zone: '' }, matchExpressions: [] }, false],
    ['one label too many', { matchLabels: { app: 'web', zone: 'a' }, matchExpressions: [] }, false],
    ['what every object has', { matchLabels: { constructor: 'x' }, matchExpressions: [] }, false],
    ['In', requires('app', 'In', 'db', 'web'), true],
    ['In, without the value', requires('app', 'In', 'db'), false],
    ['In, without the label', requires('zone', 'In', 'a'), false],
    ['NotIn', requires('app', 'NotIn', 'db'), true],
    ['NotIn, with the value', requires('app', 'NotIn', 'db', 'web'), false],
    ['NotIn, without the label', requires('zone', 'NotIn', 'a'), true],
    ['Exists', requires('tier', 'Exists'), true],
    ['Exists, without the label', requires('zone', 'Exists'), false],
    ['DoesNotExist', requires('zone', 'DoesNotExist'), true],
    ['DoesNotExist, with the label', requires('tier', 'DoesNotExist'), false],
    ['both, of which one fails', { ...requires('tier', 'Exists'), matchLabels: { app: 'db' } }, false],
  ])('with %s', (_name, selector, expected) => {
    expect(matchesSelector(selector, labels)).toBe(expected);
  });
});
