import { describe, expect, test } from '@jest/globals';
import { checkTransition, parseResource } from './parse.ts';
import { baseManifests, ruleCases, type Manifest } from './rule-cases.ts';

function problems(manifest: Manifest, before?: Manifest) {
  const next = parseResource(manifest, 'case.yaml');
  if (!next.ok) return next.errors;
  const old = before === undefined ? undefined : parseResource(before, 'case.yaml');
  return old?.ok === true ? checkTransition(old.resource, next.resource) : [];
}

describe('rules about one object', () => {
  test.each(Object.entries(baseManifests))('the base manifest of a %s is good', (_, manifest) => {
    expect(problems(manifest)).toEqual([]);
  });

  test.each(ruleCases.map((rule) => [`${String(rule.accepted['kind'])}: ${rule.rule}`, rule] as const))(
    '%s',
    (_, { accepted, rejected, before, field, says, apiServer }) => {
      expect(problems(accepted, before)).toEqual([]);
      const errors = problems(rejected, before);
      expect(errors.map((error) => error.where.field)).toEqual([field]);
      expect(errors[0]!.name).toBe(apiServer === 'prunes' ? 'UnknownField' : 'InvalidField');
      expect(errors[0]!.message).toContain(says ?? '');
      expect(errors[0]!.where.object).toContain(String((rejected['metadata'] as Manifest)['name']));
    },
  );
});
