import { describe, expect, test } from '@jest/globals';
import type { ObjectRef } from '../../api/types.ts';
import { Neighbours } from './neighbours.ts';
import { nodesOf } from './network-nodes.ts';
import { parseResource } from '../../api/parse.ts';
import { networkManifest } from '../../cluster/testing/objects.ts';

const ref = (name: string): ObjectRef => ({ kind: 'Node', name });
const planned = (...names: readonly string[]) =>
  names.map((name) => ({ ref: ref(name), routes: [], session: undefined }));

describe('the other nodes of a mesh', () => {
  test('that are planned no more are told', () => {
    const neighbours = new Neighbours();
    expect(neighbours.replace(planned('a', 'b', 'c'))).toEqual([]);
    expect(neighbours.replace(planned('b', 'd'))).toEqual([ref('a'), ref('c')]);
    expect([...neighbours.all.values()].map(({ ref: of }) => of)).toEqual([ref('b'), ref('d')]);
  });

  test('are counted again when one came or went, or others are planned, and else not', () => {
    const neighbours = new Neighbours();
    const connected = new Set(['a']);
    let asked = 0;
    const count = () =>
      neighbours.count(({ name }) => {
        asked++;
        return connected.has(name);
      });
    neighbours.replace(planned('a', 'b'));
    expect([count(), count(), asked]).toEqual([1, 1, 2]);
    connected.add('b');
    neighbours.changed();
    expect([count(), count(), asked]).toEqual([2, 2, 4]);
    neighbours.replace(planned('a'));
    expect([count(), asked]).toEqual([1, 5]);
  });
});

test('the nodes of a network are found by name, and anew for a network that has changed', () => {
  const networkOf = (...names: readonly string[]) => {
    const nodes = names.map((name, index) => ({ name, addresses: [`10.8.0.${index + 1}`] }));
    const result = parseResource(networkManifest('offices', { nodes }), 'test');
    if (!result.ok || result.resource.kind !== 'VpnNetwork') throw new Error('not a network');
    return result.resource;
  };
  const network = networkOf('n2', 'n1');
  expect(nodesOf(network)).toMatchObject({ names: ['n2', 'n1'], first: 'n1' });
  expect(nodesOf(network).byName.get('n1')?.addresses).toEqual(['10.8.0.2']);
  expect(nodesOf(network)).toBe(nodesOf(network));
  expect(nodesOf(networkOf('n3')).names).toEqual(['n3']);
  expect(nodesOf(networkOf()).first).toBeUndefined();
});
