import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { byteLength, digest, memberText } from './text.ts';

test('the length in bytes is that of UTF-8', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => byteLength(text) === Buffer.byteLength(text)));
  expect(byteLength('\ud800')).toBe(3);
});

test('the digest is FNV-1a', () => {
  expect([digest(''), digest('a'), digest('foobar')]).toEqual(['811c9dc5', 'e40c292c', 'bf9cf968']);
});

describe('the text of a member', () => {
  test.each([
    ['{"a":1}', 'a', '1'],
    ['{ "b" : {"a":[1,"}"]} , "a" : { "x" : [ 1.0, "]\\"," ] } }', 'a', '{ "x" : [ 1.0, "]\\"," ] }'],
    ['{"a":1,"a":2}', 'a', '2'],
    ['{"\\u0061":12345678901234567890}', 'a', '12345678901234567890'],
    ['{"b":"a","c":["a",{"a":1}]}', 'a', undefined],
    ['{"a":"a"}', 'a', '"a"'],
    ['{}', 'a', undefined],
  ])('of %j', (json, name, expected) => {
    expect(memberText(json, name)).toBe(expected);
  });

  test('is the value that JSON.parse gives, in any object however it is spaced', () => {
    const object = fc.dictionary(fc.oneof(fc.constantFrom('a', 'b', '"', '\\'), fc.string()), fc.jsonValue());
    fc.assert(
      fc.property(object, fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
        const text = JSON.stringify(value, undefined, indent);
        for (const name of ['a', ...Object.keys(value)]) {
          const found = memberText(text, name);
          const own = Object.hasOwn(value, name);
          expect(found === undefined ? undefined : (JSON.parse(found) as unknown)).toEqual(
            own ? (JSON.parse(JSON.stringify(value[name])) as unknown) : undefined,
          );
        }
      }),
    );
  });
});
