import { constants } from 'node:os';
import { expect, test } from '@jest/globals';
import { NetlinkError } from '../kernel/netlink/error.ts';
import { peerRefused } from './peer-refused.ts';

const ref = { kind: 'VpnPeer', namespace: 'team-a', name: 'site' } as const;
const refusal = (code: 'EINVAL' | 'EEXIST', text?: string): NetlinkError =>
  new NetlinkError('ovpn PEER_NEW 7', constants.errno[code], text === undefined ? {} : { text });

test('a driver without transmit ids is told from a peer that needs one, with the way out', () => {
  const error = peerRefused({ ref, id: 7, txId: 9 }, refusal('EINVAL', 'Unknown attribute type'));
  expect(error.name).toBe('KernelRefused');
  expect(error.where).toMatchObject({ field: 'spec.static.remotePeerID' });
  expect(error.message).toMatch(/is 9, another id than peerID \(7\).*Linux 7\.1/s);
});

test.each([
  ['the same id', { ref, id: 7, txId: 7 }, refusal('EINVAL', 'Unknown attribute type')],
  ['another refusal', { ref, id: 7, txId: 9 }, refusal('EEXIST')],
  ['another value', { ref, id: 7, txId: 9 }, refusal('EINVAL', 'VPN address is not unicast')],
])("%s: the kernel's own words", (_name, peer, refused) => {
  const error = peerRefused(peer, refused);
  expect(error.name).toBe('KernelRefused');
  expect(error.where.field).toBeUndefined();
  expect(error.message).toContain(refused.message);
});
