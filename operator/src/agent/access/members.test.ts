import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { AccessMembers, setChanges } from './members.ts';

const sets = ['peers-0-ipv4', 'peers-1-ipv4'];
const memberships = fc
  .dictionary(fc.constantFrom(...sets), fc.uniqueArray(fc.constantFrom('10.0.0.1', '10.0.0.2', '10.0.0.3')))
  .map((found) => new Map(Object.entries(found)));
const steps = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c'), memberships), { maxLength: 30 });

/** Sets with their addresses in order, without those that are empty. */
const contents = (elements: ReadonlyMap<string, Iterable<string>>): Record<string, string[]> =>
  Object.fromEntries(
    [...elements].map(([set, addresses]) => [set, [...addresses].sort()] as const).filter(([, all]) => all.length > 0),
  );

test('what is told to change makes of the sets before the sets after, whatever peers come, change and go', () => {
  fc.assert(
    fc.property(steps, steps, (first, second) => {
      const members = new AccessMembers();
      members.replace(new Map(first));
      const kernel = new Map([...members.elements].map(([set, addresses]) => [set, new Set(addresses)]));
      for (const [index, [name, wanted]] of second.entries()) {
        members.set(name, wanted);
        if (index % 3 === 0) continue;
        for (const { set, add, remove } of members.takeTouched()) {
          const present = kernel.get(set) ?? new Set();
          kernel.set(set, present);
          // Nothing is added twice, and the kernel refuses to delete what is not there.
          for (const address of add) expect(present.has(address)).toBe(false);
          for (const address of remove) expect(present.has(address)).toBe(true);
          for (const address of add) present.add(address);
          for (const address of remove) present.delete(address);
        }
      }
      for (const { set, add, remove } of members.takeTouched()) {
        const present = kernel.get(set) ?? new Set();
        kernel.set(set, present);
        for (const address of add) present.add(address);
        for (const address of remove) present.delete(address);
      }
      const last = new Map([...first, ...second]);
      const expected = new Map(
        sets.map((set) => [set, new Set([...last.values()].flatMap((one) => one.get(set) ?? []))]),
      );
      expect(contents(kernel)).toEqual(contents(expected));
      expect(contents(members.elements)).toEqual(contents(expected));
      expect(members.takeTouched()).toEqual([]);
    }),
  );
});

test('an address that goes over from one peer to another stays, in either order', () => {
  for (const order of [
    ['old', 'new'],
    ['new', 'old'],
  ]) {
    const members = new AccessMembers();
    const has = new Map([['peers-0-ipv4', ['10.0.0.1']]]);
    members.replace(new Map([['old', has]]));
    for (const name of order) members.set(name, name === 'new' ? has : new Map());
    expect(members.takeTouched()).toEqual([]);
    expect(contents(members.elements)).toEqual({ 'peers-0-ipv4': ['10.0.0.1'] });
  }
});

test('sets of the kernel are changed where they differ', () => {
  const present = new Map([
    ['a', ['10.0.0.1', '10.0.0.2']],
    ['b', ['10.0.0.1']],
    ['c', ['10.0.0.9']],
  ]);
  const wanted = new Map([
    ['a', ['10.0.0.2', '10.0.0.3']],
    ['b', ['10.0.0.1']],
  ]);
  expect(setChanges(wanted, present)).toEqual([
    { set: 'a', add: ['10.0.0.3'], remove: ['10.0.0.1'] },
    { set: 'c', add: [], remove: ['10.0.0.9'] },
  ]);
});
