import { describe as suite, expect, test } from '@jest/globals';
import { describe, errorTable, OvpnError } from './errors.ts';

suite('the table of errors', () => {
  test('gives each error a code of its own', () => {
    const codes = Object.values(errorTable).map(({ code }) => code);
    expect(new Set(codes).size).toBe(codes.length);
    for (const code of codes) expect(code).toMatch(/^OVPN[1-6]\d\d$/);
  });

  test.each(Object.entries(errorTable))(
    'says in a sentence what %s means, and what to do',
    (_, { meaning, remedy }) => {
      expect(meaning).toMatch(/^[A-Z].*\.$/);
      expect(remedy).toMatch(/^\S.*[^.]$/);
    },
  );
});

suite('an error', () => {
  test('says where, what, what to do, and its code', () => {
    const error = new OvpnError('KeySpent', 'generation 1 is spent', { object: 'VpnKey a/b', field: 'spec.static' });
    expect(error.message).toBe(
      'VpnKey a/b: spec.static: generation 1 is spent; to mend it: raise spec.static.generation by one on both ends [OVPN203]',
    );
    expect(error).toMatchObject({ name: 'KeySpent', code: 'OVPN203' });
  });

  test('can stand without a place, and with a remedy of its own', () => {
    const error = new OvpnError('AgentInternal', 'broken', {}, { remedy: 'wait' });
    expect(error.message).toBe('broken; to mend it: wait [OVPN406]');
  });

  test.each([
    [new Error('text'), 'text'],
    ['text', 'text'],
    [undefined, 'undefined'],
  ])('anything thrown has a description: %p', (thrown, text) => {
    expect(describe(thrown)).toBe(text);
  });
});
