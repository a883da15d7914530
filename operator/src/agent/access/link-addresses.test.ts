import { expect, test } from '@jest/globals';
import { contains, parseAddress, parseCidr } from '../../api/ip.ts';
import { linkAddresses, linkCount, linkNumber, linkRanges } from './link-addresses.ts';

test('links have addresses of their own, all inside the ranges', () => {
  const seen = new Set<string>();
  for (let number = 0; number < linkCount; number++) {
    const { hostIpv4, insideIpv4, insideIpv6 } = linkAddresses(number);
    expect(linkNumber(hostIpv4)).toBe(number);
    expect(linkNumber(insideIpv4)).toBe(number);
    for (const text of [hostIpv4, insideIpv4, insideIpv6]) {
      const address = parseAddress(text.split('/')[0] ?? '');
      const range = parseCidr(linkRanges[text.includes(':') ? 6 : 4]);
      expect(address !== undefined && range !== undefined && contains(range, address)).toBe(true);
      seen.add(text);
    }
  }
  expect(seen.size).toBe(3 * linkCount);
});

test('other addresses are of no link', () => {
  for (const address of ['169.254.111.255/16', '169.254.128.0/16', '10.0.0.1/8', '203.0.113.1/24', 'fe80::1/64'])
    expect(linkNumber(address)).toBeUndefined();
});
