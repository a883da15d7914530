import { describe, expect, test } from '@jest/globals';
import type { Attachment } from '@ovpn-operator/operator/attach-protocol';
import { appendAttachment, formatResult, parsePrevResult } from './result.ts';

const netns = '/run/netns/pod';
const attachment: Attachment = {
  containerId: 'abc123',
  ifname: 'vpn0',
  network: 'office',
  netns,
  mac: '02:00:00:00:00:02',
  mtu: 1400,
  hostInterface: { name: 'pod1', mac: '02:00:00:00:00:01', netns: '/run/netns/ovpn-office' },
  addresses: [
    { address: '10.81.1.5/32', gateway: '10.81.1.1' },
    { address: 'fd81::5/128', gateway: 'fd81::1' },
  ],
  routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1', mtu: 1380 }],
};

describe('the result of one plugin', () => {
  const result = appendAttachment(parsePrevResult(undefined), attachment);

  test('in 1.1.0 has the MTU of interface and route', () => {
    expect(formatResult(result, '1.1.0')).toEqual({
      cniVersion: '1.1.0',
      interfaces: [
        { name: 'pod1', mac: '02:00:00:00:00:01' },
        { name: 'vpn0', mac: '02:00:00:00:00:02', mtu: 1400, sandbox: netns },
      ],
      ips: [
        { address: '10.81.1.5/32', gateway: '10.81.1.1', interface: 1 },
        { address: 'fd81::5/128', gateway: 'fd81::1', interface: 1 },
      ],
      routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1', mtu: 1380 }],
      dns: {},
    });
  });

  test('in 1.0.0 has neither', () => {
    expect(formatResult(result, '1.0.0')).toEqual({
      cniVersion: '1.0.0',
      interfaces: [
        { name: 'pod1', mac: '02:00:00:00:00:01' },
        { name: 'vpn0', mac: '02:00:00:00:00:02', sandbox: netns },
      ],
      ips: [
        { address: '10.81.1.5/32', gateway: '10.81.1.1', interface: 1 },
        { address: 'fd81::5/128', gateway: 'fd81::1', interface: 1 },
      ],
      routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1' }],
      dns: {},
    });
  });

  test.each(['0.4.0', '0.3.1', '0.3.0'] as const)('in %s says which IP version an address has', (cniVersion) => {
    expect(formatResult(result, cniVersion)).toEqual({
      cniVersion,
      interfaces: [
        { name: 'pod1', mac: '02:00:00:00:00:01' },
        { name: 'vpn0', mac: '02:00:00:00:00:02', sandbox: netns },
      ],
      ips: [
        { version: '4', address: '10.81.1.5/32', gateway: '10.81.1.1', interface: 1 },
        { version: '6', address: 'fd81::5/128', gateway: 'fd81::1', interface: 1 },
      ],
      routes: [{ dst: '192.168.10.0/24', gw: '10.81.1.1' }],
      dns: {},
    });
  });
});

describe('the result after a chain', () => {
  const earlier = {
    interfaces: [{ name: 'cni0', mac: '02:00:00:00:01:00' }, { name: 'veth1' }, { name: 'eth0', sandbox: netns }],
    routes: [{ dst: '0.0.0.0/0', gw: '10.1.0.1' }],
    dns: { nameservers: ['10.96.0.10'], search: ['svc.cluster.local'], domain: 'cluster.local' },
  };

  test('has the earlier entries first and unchanged, and ours with the right index', () => {
    const previous = parsePrevResult({
      ...earlier,
      cniVersion: '1.0.0',
      ips: [{ address: '10.1.0.5/16', gateway: '10.1.0.1', interface: 2 }],
    });
    expect(formatResult(appendAttachment(previous, attachment), '1.0.0')).toEqual({
      cniVersion: '1.0.0',
      interfaces: [
        ...earlier.interfaces,
        { name: 'pod1', mac: '02:00:00:00:00:01' },
        { name: 'vpn0', mac: '02:00:00:00:00:02', sandbox: netns },
      ],
      ips: [
        { address: '10.1.0.5/16', gateway: '10.1.0.1', interface: 2 },
        { address: '10.81.1.5/32', gateway: '10.81.1.1', interface: 4 },
        { address: 'fd81::5/128', gateway: 'fd81::1', interface: 4 },
      ],
      routes: [...earlier.routes, { dst: '192.168.10.0/24', gw: '10.81.1.1' }],
      dns: earlier.dns,
    });
  });

  test('written in 0.4.0 from 1.1.0 loses what 0.4.0 lacks and gains the IP version', () => {
    const previous = parsePrevResult({
      cniVersion: '1.1.0',
      interfaces: [{ name: 'eth0', sandbox: netns, mtu: 1500, pciID: '0000:00:1f.6', socketPath: '/run/x' }],
      ips: [{ address: 'fd00::5/64', interface: 0 }],
      routes: [{ dst: '::/0', gw: 'fd00::1', mtu: 1400, priority: 10, table: 7, scope: 0, advmss: 1300 }],
    });
    const { interfaces, ips, routes } = formatResult(previous, '0.4.0') as Record<string, unknown[]>;
    expect({ interfaces, ips, routes }).toEqual({
      interfaces: [{ name: 'eth0', sandbox: netns }],
      ips: [{ version: '6', address: 'fd00::5/64', interface: 0 }],
      routes: [{ dst: '::/0', gw: 'fd00::1' }],
    });
    expect(formatResult(previous, '1.1.0')).toMatchObject({
      interfaces: [{ mtu: 1500, pciID: '0000:00:1f.6', socketPath: '/run/x' }],
      routes: [{ mtu: 1400, priority: 10, table: 7, scope: 0, advmss: 1300 }],
    });
  });

  test('written in 1.0.0 from 0.4.0 loses the IP version', () => {
    const previous = parsePrevResult({ cniVersion: '0.4.0', ips: [{ version: '4', address: '10.1.0.5/16' }] });
    expect(formatResult(previous, '1.0.0')).toMatchObject({ ips: [{ address: '10.1.0.5/16' }] });
    expect((formatResult(previous, '1.0.0') as { ips: object[] }).ips[0]).not.toHaveProperty('version');
  });
});
