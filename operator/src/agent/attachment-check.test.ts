import { describe, expect, test } from '@jest/globals';
import type { Link } from '../kernel/rtnetlink/links.ts';
import { deviations, type ObservedAttachment } from './attachment-check.ts';
import type { DesiredAttachment } from './desired.ts';
import { vethName } from './names.ts';
import { farRoutes, insideRoutes } from './sandbox.ts';

const attachment: DesiredAttachment = {
  containerId: 'abc',
  ifname: 'vpn0',
  network: 'corp',
  netns: '/run/netns/pod',
  sandbox: 'boot/4:1',
  addresses: ['10.81.1.2', 'fd81::2'],
  mac: '02:00:00:00:00:02',
};
const settings = {
  gateways: ['10.81.1.1', 'fd81::1'],
  destinations: ['10.80.0.0/24', 'fd80::/64', '0.0.0.0/0'],
  mtu: 1416,
};
const far = vethName(attachment);

const link = (index: number, peerIndex: number, mac: string): Link => ({
  ...{ index, peerIndex, mac, name: '', up: true, mtu: 1416, kind: 'veth' },
  ...{ ovpnMode: undefined, alias: undefined, carrier: true, loopback: false },
});
const inside = link(2, 0x200000, '02:00:00:00:00:02');
const whole: ObservedAttachment = {
  inside,
  insideAddresses: ['10.81.1.2/32', 'fd81::2/128'],
  insideRoutes: insideRoutes(settings, 2),
  far: link(0x200000, 2, '02:00:00:00:00:03'),
  farAddresses: ['10.81.1.1/32', 'fd81::1/128'],
  farRoutes: farRoutes(attachment, 0x200000),
};

describe('deviations of an attachment', () => {
  test('are none of one that is as it should be, whatever else there is', () => {
    const more = { destination: '10.99.0.0/16', type: 'unicast', index: 7, metric: 0 } as const;
    const observed = { ...whole, insideRoutes: [...whole.insideRoutes, more], farRoutes: [more, ...whole.farRoutes] };
    expect(deviations(attachment, settings, observed)).toEqual([]);
  });

  test.each<[string, Partial<ObservedAttachment> | undefined, string[]]>([
    ['no sandbox', undefined, ['the network namespace of the sandbox is gone, or another one has its path']],
    ['no interface', { inside: undefined }, ['vpn0 is not there']],
    ['no far end', { far: undefined }, [`the far end ${far} is not there`]],
    ['an interface of another kind', { inside: { ...inside, kind: 'dummy' } }, ['vpn0 is no veth but dummy']],
    ['an interface that is down', { inside: { ...inside, up: false } }, ['vpn0 is down']],
    ['another MTU', { inside: { ...inside, mtu: 1500 } }, ['vpn0 has MTU 1500, not 1416']],
    [
      'another MAC address',
      { inside: { ...inside, mac: '02:00:00:00:00:09' } },
      ['vpn0 has MAC 02:00:00:00:00:09, not 02:00:00:00:00:02'],
    ],
    ['the end of another pair', { inside: { ...inside, peerIndex: 7 } }, [`vpn0 is not the other end of ${far}`]],
    ['a far end that is down', { far: { ...whole.far!, up: false } }, [`the far end ${far} is down`]],
    ['an address too few', { insideAddresses: ['10.81.1.2/32'] }, ['vpn0 lacks address fd81::2/128']],
    [
      'an address too many',
      { insideAddresses: [...whole.insideAddresses, '10.9.9.9/32'] },
      ['vpn0 has address 10.9.9.9/32 beside its own'],
    ],
    ['no gateway', { farAddresses: ['10.81.1.1/32'] }, [`the far end ${far} lacks address fd81::1/128`]],
    [
      'no route',
      {
        insideRoutes: whole.insideRoutes.filter(
          ({ type, destination }) => type !== 'unicast' || destination !== '10.80.0.0/24',
        ),
      },
      ['there is no route 10.80.0.0/24 via 10.81.1.1 dev 2 in the sandbox'],
    ],
    [
      'nothing that refuses below the routes',
      { insideRoutes: whole.insideRoutes.filter(({ type }) => type === 'unicast') },
      [
        'there is no route unreachable 10.80.0.0/24 metric 4294967294 in the sandbox',
        'there is no route unreachable fd80::/64 metric 4294967294 in the sandbox',
      ],
    ],
    [
      'a route by another interface',
      {
        insideRoutes: whole.insideRoutes.map((route) =>
          route.destination === 'fd80::/64' && route.type === 'unicast' ? { ...route, index: 9 } : route,
        ),
      },
      ['there is no route fd80::/64 via fd81::1 dev 2 metric 1024 in the sandbox'],
    ],
    [
      'no way back',
      { farRoutes: whole.farRoutes.slice(1) },
      ["there is no route 10.81.1.2/32 dev 2097152 in the network's namespace"],
    ],
  ])('with %s', (_name, change, expected) => {
    expect(deviations(attachment, settings, change === undefined ? undefined : { ...whole, ...change })).toEqual(
      expected,
    );
  });
});
