import { describe, expect, test } from '@jest/globals';
import { shared } from './shared.ts';

describe('shared', () => {
  test('equal values become one, which nobody can change', () => {
    const value = shared({ name: 'corp', list: ['a', { deep: 1 }] });
    expect(shared({ name: 'corp', list: ['a', { deep: 1 }] })).toBe(value);
    expect(shared({ name: 'corp', list: ['a', { deep: 2 }] })).not.toBe(value);
    expect(() => value.list.push('b')).toThrow(TypeError);
    expect(() => Object.assign(value.list[1] ?? {}, { deep: 3 })).toThrow(TypeError);
  });

  test('a text is not taken for the value that it stands for', () => {
    expect(shared('{"a":1}')).toBe('{"a":1}');
    expect(shared({ a: 1 })).toEqual({ a: 1 });
  });

  test('a long value stays as it is', () => {
    const long = { text: 'x'.repeat(2000) };
    expect(shared(long)).toBe(long);
    expect(Object.isFrozen(long)).toBe(false);
  });

  test('what comes again and again is kept among many that come once', () => {
    const often = shared({ often: true });
    const once = shared({ once: true });
    for (let i = 0; i < 5000; i++) {
      shared({ i });
      if (i % 100 === 0) expect(shared({ often: true })).toBe(often);
    }
    expect(shared({ once: true })).not.toBe(once);
  });
});
