import { describe, expect, test } from '@jest/globals';
import { addressOf, addressOfPeer, addressOfService, parseDestination } from './destination.ts';

describe('a destination', () => {
  test.each([
    ['10.0.0.1', { address: '10.0.0.1' }],
    ['2001:DB8:0::1', { address: '2001:db8::1' }],
    ['svc/shop', { kind: 'Service', name: 'shop' }],
    ['service/kube-dns.kube-system', { kind: 'Service', namespace: 'kube-system', name: 'kube-dns' }],
    ['VpnPeer/office', { kind: 'VpnPeer', name: 'office' }],
    ['vpnpeer/office.west.team-a', { kind: 'VpnPeer', namespace: 'team-a', name: 'office.west' }],
  ])('is %s', (text, destination) => expect(parseDestination(text)).toEqual(destination));

  test.each(['intranet.example', 'pod/shop', 'svc/', 'svc/shop.', 'svc/a/b', '10.0.0.0/8', ''])('is not %j', (text) => {
    expect(() => parseDestination(text)).toThrow('the destination is no IP address');
  });

  test('has an address that stays', async () => {
    const cluster = { client: undefined as never, timeoutMs: 1, namespace: 'shop' };
    expect(await addressOf(cluster, { address: '10.0.0.1' })).toBe('10.0.0.1');
  });
});

describe('the address', () => {
  test.each([
    [{ spec: { type: 'ClusterIP', clusterIP: '10.96.0.10' } }, '10.96.0.10'],
    [{ spec: { type: 'ClusterIP', clusterIP: 'FD00:0::1' } }, 'fd00::1'],
    [{ spec: { clusterIP: 'None' } }, { problem: expect.stringContaining('headless') }],
    [{ spec: { type: 'ExternalName', externalName: 'db.example' } }, { problem: 'stands for the name "db.example"' }],
    [{}, { problem: expect.stringContaining('no address of its own') }],
  ])('of the Service %j is %j', (service, address) => {
    const found = addressOfService(service);
    if (typeof address === 'string') expect(found).toBe(address);
    else expect(found).toMatchObject(address);
  });

  test.each([
    [{ status: { addresses: ['10.80.0.7', 'fd00::7'] } }, '10.80.0.7'],
    [{ status: { addresses: ['10.80.0.7/32'] } }, '10.80.0.7'],
    [{ status: { addresses: [] } }, { problem: 'has no address in its network' }],
    [{}, { problem: 'has no address in its network' }],
  ])('of the VpnPeer %j is %j', (peer, address) => {
    const found = addressOfPeer(peer);
    if (typeof address === 'string') expect(found).toBe(address);
    else expect(found).toMatchObject(address);
  });
});
