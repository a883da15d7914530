import { expect, test } from '@jest/globals';
import { parseResource } from './parse.ts';
import { isDialInPeer, isDialOutPeer, isStaticPeer, listenerOf, peerKind } from './peer-kind.ts';
import { baseManifests, type Manifest } from './rule-cases.ts';
import type { VpnNetwork, VpnPeer } from './types.ts';

function parsed<K extends 'VpnPeer' | 'VpnNetwork'>(kind: K, manifest: Manifest, spec: Manifest = {}) {
  const result = parseResource({ ...manifest, spec: { ...(manifest['spec'] as Manifest), ...spec } }, 'test');
  if (!result.ok || result.resource.kind !== kind) throw new Error(JSON.stringify(result));
  return result.resource as { VpnPeer: VpnPeer; VpnNetwork: VpnNetwork }[K];
}

test.each([
  ['static', baseManifests.VpnPeer, [true, false, false]],
  ['dial-in', baseManifests.dialIn, [false, true, false]],
  ['dial-out', baseManifests.dialOut, [false, false, true]],
])('a peer is %s', (kind, manifest, expected) => {
  const peer = parsed('VpnPeer', manifest);
  expect(peerKind(peer)).toBe(kind);
  expect([isStaticPeer(peer), isDialInPeer(peer), isDialOutPeer(peer)]).toEqual(expected);
});

test('a static key is used on the listener that is named, else on the first of UDP', () => {
  const network = parsed('VpnNetwork', baseManifests.VpnNetwork, {
    listeners: [
      { name: 'tcp', port: 1, protocol: 'TCP' },
      { name: 'first', port: 1 },
      { name: 'second', port: 2 },
    ],
  });
  const from = (listener?: string) => {
    const endpoint = { address: '192.0.2.1', port: 1194, ...(listener === undefined ? {} : { listener }) };
    const peer = parsed('VpnPeer', baseManifests.VpnPeer, { endpoint });
    if (!isStaticPeer(peer)) throw new Error('not a static peer');
    return listenerOf(network, peer)?.name;
  };
  expect(from()).toBe('first');
  expect(from('second')).toBe('second');
  expect(from('tcp')).toBeUndefined();
  expect(from('none')).toBeUndefined();
});
