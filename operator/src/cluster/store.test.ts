import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseResource } from '../api/parse.ts';
import { formatRef } from '../api/types.ts';
import type { Resource } from '../api/types.ts';
import { OvpnError } from '../errors.ts';
import type { Rejection } from './source.ts';
import { ObjectStore } from './store.ts';
import type { Claim, StoreOptions } from './store.ts';
import { peerManifest, secretManifest } from './testing/objects.ts';

function make(options: Partial<StoreOptions> = {}) {
  let later: (() => void)[] = [];
  const changes: string[][] = [];
  const rejections: (readonly Rejection[])[] = [];
  const store = new ObjectStore({
    onChange: (refs) => changes.push(refs.map(formatRef)),
    onRejections: (list) => rejections.push(list),
    defer: (call) => later.push(call),
    ...options,
  });
  const flush = (): void => {
    const calls = later;
    later = [];
    for (const call of calls) call();
  };
  return { store, changes, rejections, flush };
}

function good(id: string, manifest: object): Claim {
  const outcome = parseResource(manifest, id);
  if (!outcome.ok) throw new Error(outcome.errors.join());
  return { id, origin: id, outcome };
}

const bad = (id: string, name?: string): Claim => {
  const ref = name === undefined ? undefined : ({ kind: 'VpnPeer', namespace: 'team-a', name } as const);
  return { id, origin: id, outcome: { ok: false, ref, errors: [new OvpnError('InvalidField', `bad ${id}`)] } };
};

describe('ObjectStore', () => {
  test('tells changes of one burst once', () => {
    const { store, changes, flush } = make();
    store.update((update) => update.put('f', good('a', peerManifest('p1'))));
    store.update((update) => update.put('f', good('a', peerManifest('p1', { suspend: true }))));
    store.update((update) => update.put('f', good('b', peerManifest('p2'))));
    expect(changes).toEqual([]);
    flush();
    expect(changes).toEqual([['VpnPeer team-a/p1', 'VpnPeer team-a/p2']]);
  });

  test('takes a new status or resource version without telling', () => {
    const { store, changes, flush } = make();
    const manifest = (resourceVersion: string, node: string): object => ({
      ...peerManifest('p1', {}, { namespace: 'team-a', resourceVersion }),
      status: { node },
    });
    store.update((update) => update.put('f', good('a', manifest('1', 'n1'))));
    flush();
    store.update((update) => update.put('f', good('a', manifest('2', 'n2'))));
    flush();
    expect(changes.length).toBe(1);
    expect(store.get('VpnPeer', 'team-a', 'p1')).toMatchObject({
      metadata: { resourceVersion: '2' },
      status: { node: 'n2' },
    });
  });

  test('sees changes of bytes in a Secret', () => {
    const { store, changes, flush } = make();
    for (const text of ['one', 'two', 'two']) {
      store.update((update) => update.put('f', good('a', secretManifest('s', text))));
      flush();
    }
    expect(changes.length).toBe(2);
  });

  test('an object deleted and made anew is a change, though it looks the same', () => {
    const { store, changes, flush } = make();
    for (const uid of ['u1', 'u2']) {
      store.update((update) => update.put('f', good('a', peerManifest('p1', {}, { namespace: 'team-a', uid }))));
      flush();
    }
    expect(changes.length).toBe(2);
  });

  test('whole: with a good version in force; not for what never was good, nor for what has no name', () => {
    const { store, flush, rejections } = make();
    store.update((update) => update.put('f', good('a', peerManifest('p1'))));
    store.update((update) => update.put('f', bad('a', 'p1')));
    expect(store.whole).toBe(true);
    expect(store.get('VpnPeer', 'team-a', 'p1')).toBeDefined();
    store.update((update) => update.put('f', bad('b', 'p2')));
    expect(store.whole).toBe(false);
    store.update((update) => update.drop('f', 'b'));
    expect(store.whole).toBe(true);
    store.update((update) => update.put('f', bad('c')));
    expect(store.whole).toBe(false);
    flush();
    expect(rejections.at(-1)?.map(({ origin }) => origin)).toEqual(['a', 'c']);
    store.update((update) => update.replace('f', []));
    flush();
    expect(store.whole).toBe(true);
    expect(rejections.at(-1)).toEqual([]);
    expect([...store.list('VpnPeer')]).toEqual([]);
  });

  test('rejections are told when they change, not when they are made again', () => {
    const { store, flush, rejections } = make();
    for (let round = 0; round < 3; round += 1) {
      store.update((update) => update.replace('f', [bad('a', 'p1'), bad('b')]));
      flush();
    }
    expect(rejections.length).toBe(1);
  });

  test('checks transitions against what is in force', () => {
    const checkTransition = (before: Resource, after: Resource): OvpnError[] =>
      before.metadata.labels['fixed'] === after.metadata.labels['fixed']
        ? []
        : [new OvpnError('InvalidField', 'fixed')];
    const { store } = make({ checkTransition });
    const labelled = (fixed: string): Claim =>
      good('a', peerManifest('p1', {}, { namespace: 'team-a', labels: { fixed } }));
    store.update((update) => update.put('f', labelled('1')));
    store.update((update) => update.put('f', labelled('2')));
    expect(store.get('VpnPeer', 'team-a', 'p1')?.metadata.labels).toEqual({ fixed: '1' });
    expect(store.rejections.length).toBe(1);
    store.update((update) => update.drop('f', 'a'));
    store.update((update) => update.put('f', labelled('2')));
    expect(store.rejections).toEqual([]);
  });

  test('any sequence of updates ends as if only the last claims had been made, but for last good versions', () => {
    const step = fc.record({
      feed: fc.constantFrom('f', 'g'),
      claims: fc.uniqueArray(
        fc.record({
          slot: fc.integer({ min: 0, max: 4 }),
          name: fc.constantFrom('p1', 'p2', 'p3'),
          suspend: fc.boolean(),
        }),
        { selector: ({ slot }) => slot, maxLength: 5 },
      ),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const { store, changes, flush } = make();
        const last = new Map<string, Claim[]>();
        const mirror = new Map<string, boolean>();
        for (const { feed, claims } of steps) {
          const made = claims.map(({ slot, name, suspend }) => good(`${feed}${slot}`, peerManifest(name, { suspend })));
          last.set(feed, made);
          store.update((update) => update.replace(feed, made));
          flush();
          // Whoever follows the change events alone knows the same as whoever looks at everything.
          for (const ref of changes.splice(0).flat()) {
            const name = ref.slice('VpnPeer team-a/'.length);
            const peer = store.get('VpnPeer', 'team-a', name);
            if (peer === undefined) mirror.delete(name);
            else mirror.set(name, peer.spec.suspend);
          }
        }
        const expected = new Map<string, boolean>();
        const all = [...last.values()].flat().sort((a, b) => (a.id < b.id ? -1 : 1));
        for (const { outcome } of all) {
          if (!outcome.ok || outcome.resource.kind !== 'VpnPeer') continue;
          const { name } = outcome.resource.metadata;
          if (!expected.has(name)) expected.set(name, outcome.resource.spec.suspend);
        }
        const now = new Map([...store.list('VpnPeer')].map((peer) => [peer.metadata.name, peer.spec.suspend]));
        expect(now).toEqual(expected);
        expect(mirror).toEqual(expected);
        expect(store.rejections.length).toBe(all.length - expected.size);
      }),
      { numRuns: 200 },
    );
  });
});
