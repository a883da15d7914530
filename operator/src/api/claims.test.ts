import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Claimant, compareAge, KeyClaims } from './claims.ts';

const claimant = (name: string, created: number): Claimant => ({
  ref: { kind: 'VpnPeer', namespace: 'default', name },
  key: `default/${name}`,
  created,
});

describe('KeyClaims', () => {
  test('answers as a sorted list would, for one claimant and for many', () => {
    const step = fc.record({
      add: fc.boolean(),
      key: fc.constantFrom('a', 'b'),
      name: fc.constantFrom('one', 'two', 'three', 'four'),
    });
    const ages = fc.array(fc.constantFrom(-Infinity, 1, 2, Infinity), { minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), ages, (steps, ageOf) => {
        const claims = new KeyClaims<string>();
        const model = new Map<string, Claimant[]>([
          ['a', []],
          ['b', []],
        ]);
        const known = ['one', 'two', 'three', 'four'].map((name, i) => claimant(name, ageOf[i] ?? 0));
        for (const { add, key, name } of steps) {
          const who = known.find(({ ref }) => ref.name === name) ?? claimant(name, 0);
          const list = (model.get(key) ?? []).filter(({ key: other }) => other !== who.key);
          // Nobody claims a thing twice.
          claims.remove(key, who);
          if (add) {
            claims.add(key, who);
            list.push(who);
          }
          list.sort(compareAge);
          model.set(key, list);
          expect(claims.oldest(key)).toBe(list[0]);
          for (const asked of known) {
            const younger = list.filter((other) => compareAge(other, asked) > 0);
            expect(claims.youngerThan(key, asked)).toEqual(younger);
          }
        }
      }),
    );
  });
});
