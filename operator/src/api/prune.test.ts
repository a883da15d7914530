import { describe, expect, test } from '@jest/globals';
import { parseResource } from './parse.ts';
import { prune } from './prune.ts';
import { baseManifests, ruleCases, type Manifest } from './rule-cases.ts';

const schema = {
  properties: {
    name: {},
    labels: { patternProperties: { '.*': {} } },
    list: { items: { properties: { a: {} } } },
    words: { items: {} },
  },
};

describe('fields that a schema does not know', () => {
  test.each([
    [{ name: 'n', labels: { any: 'x' }, list: [{ a: 1 }], words: ['w'] }, undefined, []],
    [{ name: 'n', more: 1 }, { name: 'n' }, ['spec.more']],
    [{ list: [{ a: 1, b: 2 }, { b: 3 }] }, { list: [{ a: 1 }, {}] }, ['spec.list[0].b', 'spec.list[1].b']],
    [{ list: 'no list', name: null }, undefined, []],
    [JSON.parse('{"__proto__":{"a":1}}'), {}, ['spec.__proto__']],
  ] as [unknown, unknown, string[]][])('%j', (value, kept, told) => {
    const seen: string[] = [];
    expect(prune(schema, value, 'spec', (path) => void seen.push(path))).toEqual(kept ?? value);
    expect(seen).toEqual(told);
  });
});

describe('an object of an API server whose CRDs are newer', () => {
  const peer = baseManifests.dialIn;
  const spec = peer['spec'] as Manifest;
  const newer = {
    ...peer,
    spec: { ...spec, weight: 3, identity: { commonName: 'alice', issuer: 'ca' } },
    status: { conditions: [], trust: 'full' },
    quota: {},
  };

  test('is what it is without the newer fields, which are told', () => {
    const told: string[] = [];
    const result = parseResource(newer, 'server', { onNewerField: (field) => void told.push(field) });
    expect(result).toEqual(parseResource({ ...peer, status: { conditions: [] } }, 'server'));
    expect(told.sort()).toEqual(['quota', 'spec.identity.issuer', 'spec.weight', 'status.trust']);
  });

  test('is refused where nobody says that its fields are newer: in a file they are mistakes', () => {
    expect(parseResource(newer, 'file').ok).toBe(false);
  });

  test.each(ruleCases.filter(({ apiServer }) => apiServer !== 'prunes').map((rule) => [rule.rule, rule] as const))(
    'still keeps the rule: %s',
    (_, { accepted, rejected, before }) => {
      const onNewerField = (field: string): never => {
        throw new Error(`${field} is known`);
      };
      expect(parseResource(accepted, 'server', { onNewerField }).ok).toBe(true);
      if (before === undefined) expect(parseResource(rejected, 'server', { onNewerField }).ok).toBe(false);
    },
  );
});
