import { describe, expect, test } from '@jest/globals';
import { formatPush, maxPushBytes } from '../../openvpn/negotiate/push.ts';
import type { DesiredDialIn, PushedToAll } from './desired-session.ts';
import { offerTo } from './offer.ts';
import { claimantNamed, refOfPeer } from './sessions.fixture.ts';

const client: DesiredDialIn = {
  kind: 'dial-in',
  ref: refOfPeer('alice'),
  claimant: claimantNamed('alice'),
  identity: { commonName: 'alice' },
  vpnIpv4: '10.80.0.10',
  vpnIpv6: 'fd80::10',
  keepalive: { interval: 10, timeout: 60 },
  routes: [],
};
const network: PushedToAll = {
  ...{ gatewayIpv4: '10.80.0.1', gatewayIpv6: 'fd80::1', lengthIpv4: 24, lengthIpv6: 64, mtu: 1400 },
  routes: ['10.81.0.0/16', 'fd81::/48', '10.96.0.0/12', '0.0.0.0/0'],
  dnsServers: ['10.96.0.10', 'fd96::a'],
  searchDomains: ['cluster.local', 'corp.example'],
};

const lines = (change: Partial<DesiredDialIn>, to: Partial<PushedToAll> = {}): string[] =>
  formatPush({ ...offerTo({ ...client, ...change }, { ...network, ...to }, 0x800000), cipher: undefined })
    .flatMap((text) => text.split(','))
    .filter((text) => text !== 'PUSH_REPLY');

describe('what a client is told', () => {
  test('everything, for both families', () => {
    const told = lines({});
    expect(told).toEqual(
      expect.arrayContaining([
        'peer-id 8388608',
        'topology subnet',
        'ifconfig 10.80.0.10 255.255.255.0',
        'ifconfig-ipv6 fd80::10/64 fd80::1',
        'route-gateway 10.80.0.1',
        'route 10.81.0.0 255.255.0.0',
        'route 10.96.0.0 255.240.0.0',
        'route 0.0.0.0 0.0.0.0',
        'route-ipv6 fd81::/48',
        'ping 10',
        'ping-restart 60',
        'tun-mtu 1400',
        'dhcp-option DNS 10.96.0.10',
        'dhcp-option DNS6 fd96::a',
        'dhcp-option DOMAIN-SEARCH cluster.local',
        'dhcp-option DOMAIN-SEARCH corp.example',
        'dns server 0 address 10.96.0.10 fd96::a',
        'dns search-domains cluster.local corp.example',
      ]),
    );
  });

  test('nothing of IPv6 without an IPv6 address', () => {
    const told = lines({ vpnIpv6: undefined });
    expect(told.filter((text) => /ipv6|DNS6|:/.test(text))).toEqual([]);
    expect(told).toContain('dns server 0 address 10.96.0.10');
  });

  test('nothing of IPv4 without an IPv4 address', () => {
    const told = lines({ vpnIpv4: undefined });
    expect(told.filter((text) => /^(ifconfig|route) |DNS |10\./.test(text))).toEqual([]);
    expect(told).toEqual(expect.arrayContaining(['route-ipv6 fd81::/48', 'dns server 0 address fd96::a']));
  });

  test('no DNS server when none is of its family', () => {
    expect(
      lines({ vpnIpv6: undefined }, { dnsServers: ['fd96::a'] }).filter((text) => text.includes('server')),
    ).toEqual([]);
  });

  test('what it reaches of the cluster, whose DNS goes before that of the network', () => {
    const cluster = {
      routes: ['10.96.0.0/12', '10.244.0.0/16', 'fd44::/48'],
      dnsServers: ['10.96.0.53', 'fd96::53'],
      dnsDomains: ['cluster.local'],
    };
    const told = lines({ cluster });
    expect(told.filter((text) => text === 'route 10.96.0.0 255.240.0.0')).toHaveLength(1);
    expect(told).toEqual(
      expect.arrayContaining([
        'route 10.244.0.0 255.255.0.0',
        'route-ipv6 fd44::/48',
        'dhcp-option DNS 10.96.0.53',
        'dns server 0 address 10.96.0.53 fd96::53',
        'dns server 0 resolve-domains cluster.local',
      ]),
    );
    expect(told.join()).not.toMatch(/10\.96\.0\.10|fd96::a/);
    const ofIpv4 = lines({ cluster, vpnIpv6: undefined });
    expect(ofIpv4.filter((text) => /ipv6|DNS6|:/.test(text))).toEqual([]);
    expect(ofIpv4).toContain('dns server 0 address 10.96.0.53');
    // One that reaches the cluster and no DNS there asks the network's.
    expect(lines({ cluster: { ...cluster, dnsServers: [] } })).toContain('dns server 0 address 10.96.0.10 fd96::a');
  });

  test('not what is behind itself', () => {
    const told = lines({ routes: [{ destination: '10.96.0.0/12', gateway: '10.80.0.10' }] });
    expect(told).not.toContain('route 10.96.0.0 255.240.0.0');
    expect(told).toContain('route 10.81.0.0 255.255.0.0');
  });

  test('a pool without an address of the node has no gateway', () => {
    const told = lines({}, { gatewayIpv4: undefined, gatewayIpv6: undefined });
    expect(told).toContain('ifconfig-ipv6 fd80::10/64');
    expect(told.some((text) => text.startsWith('route-gateway'))).toBe(false);
  });

  test('as many routes as there are, in several messages', () => {
    const routes = Array.from({ length: 300 }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.0/24`);
    const parts = formatPush({ ...offerTo(client, { ...network, routes }, 0x800000), cipher: undefined });
    expect(parts.length).toBeGreaterThan(5);
    for (const part of parts) expect(Buffer.byteLength(part) + 1).toBeLessThanOrEqual(maxPushBytes);
    expect(parts.join(',').match(/route 10\./g)).toHaveLength(300);
  });
});
