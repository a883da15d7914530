import { expect, test } from '@jest/globals';
import type { ObjectRef } from '../api/types.ts';
import { References } from './references.ts';

const peer = (name: string): ObjectRef => ({ kind: 'VpnPeer', namespace: 'a', name });
const key = (name: string): ObjectRef => ({ kind: 'VpnKey', namespace: 'a', name });

test('an object is found from what it refers to, and only from what it refers to now', () => {
  const references = new References();
  references.set(peer('one'), key('old'));
  references.set(peer('two'), key('old'));
  references.set(peer('one'), key('new'));
  expect(references.of(key('old'))).toEqual([peer('two')]);
  expect(references.of(key('new'))).toEqual([peer('one')]);
  references.delete(peer('one'));
  references.delete(peer('one'));
  expect(references.of(key('new'))).toEqual([]);
});
