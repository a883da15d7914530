import { expect, test } from '@jest/globals';
import { readdirSync } from 'node:fs';
import { OvpnFamily } from './family.ts';

test('a kernel without the family is named, with what to do, and nothing stays open', () => {
  const open = (): number => readdirSync('/proc/self/fd').length;
  const attempt = (): unknown => OvpnFamily.open(undefined, 'no-such-driver');
  expect(attempt).toThrow(expect.objectContaining({ name: 'KernelWithoutOvpn', code: 'OVPN301' }));
  const before = open();
  expect(attempt).toThrow(/no generic netlink family "no-such-driver".*modprobe ovpn/);
  expect(open()).toBe(before);
});
