import { describe, expect, test } from '@jest/globals';
import { peerManifest } from '../../cluster/testing/objects.ts';
import { age } from '../units.ts';
import { changesSince, printer } from './peers.ts';
import { type PeerState, peerState } from './peer-state.ts';
import { seen } from './read.ts';

const began = '2026-01-02T03:04:05Z';
const now = (): number => Date.parse('2026-01-02T05:04:05Z');
const is = (type: string, status: string, reason: string, message = '') => ({
  ...{ type, status, reason, message },
  lastTransitionTime: began,
});
const dialIn = { endpoint: undefined, keyRef: undefined, static: undefined, identity: { commonName: 'alice' } };
const peer = (name: string, spec: object, status: object): PeerState =>
  peerState(seen('VpnPeer', { ...peerManifest(name, { networkRef: { name: 'corp' }, ...spec }), status }));

const alice = peer(
  'alice',
  { ...dialIn, addresses: [] },
  {
    conditions: [is('Connected', 'True', 'Connected'), is('Ready', 'True', 'Ready')],
    ...{ node: 'node-a', since: began, addresses: ['10.8.0.9'], endpoint: '192.0.2.7:40000', peerID: 8_388_608 },
    ...{ cipher: 'AES-256-GCM', tlsVersion: 'TLSv1.3', lastHandshake: '2026-01-02T05:00:05Z' },
    traffic: { rxBytes: 2048, txBytes: 5, rxPackets: 2, txPackets: 1 },
  },
);
const office = peer(
  'office',
  { routes: ['10.20.0.0/24'] },
  {
    conditions: [is('Ready', 'False', 'KeySpent', 'the key is spent')],
  },
);

describe('a peer', () => {
  test('that is connected says where and since when', () => {
    expect(alice).toEqual({
      ...{ namespace: 'team-a', name: 'alice', network: 'corp', kind: 'dial-in', state: 'Connected', node: 'node-a' },
      ...{ addresses: ['10.8.0.9'], endpoint: '192.0.2.7:40000', connectedSince: began, peerID: 8_388_608, routes: [] },
      ...{ cipher: 'AES-256-GCM', tlsVersion: 'TLSv1.3', lastHandshake: '2026-01-02T05:00:05Z' },
      ...{ rxBytes: 2048, txBytes: 5 },
    });
  });

  test('that is not says why', () => {
    expect(office).toMatchObject({
      kind: 'static',
      state: 'KeySpent',
      message: 'the key is spent',
      addresses: ['10.8.0.7'],
    });
    expect(office).not.toHaveProperty('connectedSince');
    expect(peer('new', dialIn, {})).toMatchObject({ state: 'Pending' });
    expect(peerState(seen('VpnPeer', { ...peerManifest('odd'), spec: 5 }))).toMatchObject({
      name: 'odd',
      state: 'NotUnderstood',
    });
  });
});

describe('the table', () => {
  test('has the columns that fit, and more by -o wide', () => {
    expect(printer('text', false, now)([alice, office])).toBe(
      `NAME     NETWORK   KIND      STATE       NODE     ADDRESSES   ENDPOINT          SINCE   RX        TX
alice    corp      dial-in   Connected   node-a   10.8.0.9    192.0.2.7:40000   120m    2.0 KiB   5 B
office   corp      static    KeySpent    -        10.8.0.7    -                 -       -         -
`,
    );
    const wide = printer('wide', true, now)([alice, office]).split('\n');
    expect(wide[0]).toMatch(/^NAMESPACE {3}NAME .* HANDSHAKE {3}CIPHER {8}TLS {7}ID {8}ROUTES {9}MESSAGE$/);
    expect(wide[1]).toMatch(/^team-a .* 4m0?s? +AES-256-GCM +TLSv1.3 +8388608 +- +-$/);
    expect(wide[2]).toMatch(/10\.20\.0\.0\/24 +the key is spent$/);
  });

  test('goes on below its columns', () => {
    const print = printer('text', false, now);
    const [header = '', row = ''] = print([alice]).split('\n');
    const [again = ''] = print([{ ...alice, rxBytes: 10 }]).split('\n');
    expect(again.indexOf('192.0.2.7')).toBe(header.indexOf('ENDPOINT'));
    expect(again.length).toBe(row.length);
    expect(print([])).toBe('');
  });

  test('goes on in JSON and YAML as one document for each change', () => {
    const json = printer('json', false, now);
    expect(JSON.parse(json([alice]))).toEqual(alice);
    expect(printer('yaml', false, now)([alice, office]).match(/^---$/gm)).toHaveLength(2);
  });

  test('does nothing to a terminal', () => {
    const evil = { ...office, state: 'Evil\u001b[2J\u0007', message: 'x\u009b31m' };
    expect(printer('wide', false, now)([evil])).toMatch(/Evil\?\[2J\? .*x\?31m/);
  });
});

test('a watch tells of what changed, once, and of what is gone', () => {
  const changes = changesSince([alice, office]);
  expect(changes([alice, office], [])).toEqual([]);
  const ready = { ...office, state: 'Ready' };
  expect(changes([alice, ready], [])).toEqual([ready]);
  expect(changes([ready], ['team-a/alice', 'team-a/never'])).toEqual([{ ...alice, state: 'Deleted' }]);
  expect(changes([alice], [])).toEqual([alice]);
});

test.each([
  [-5, '0s'],
  [119, '119s'],
  [300, '5m'],
  [330, '5m30s'],
  [7200, '120m'],
  [10_800, '3h'],
  [11_400, '3h10m'],
  [90_000, '25h'],
  [183_600, '2d3h'],
  [950_400, '11d'],
])('%i s ago is %s', (seconds, text) => expect(age(seconds * 1000)).toBe(text));
