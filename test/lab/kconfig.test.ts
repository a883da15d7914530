import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { missingOptions, parseConfig } from './kconfig.ts';

test('reads options that are set and options that are off', () => {
  expect([...parseConfig('# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n\nCONFIG_D=m')]).toEqual([
    ['CONFIG_A', 'y'],
    ['CONFIG_B', 'n'],
    ['CONFIG_C', '"x y"'],
    ['CONFIG_D', 'm'],
  ]);
});

test('names each option that did not survive, and only those', () => {
  const fragment =
    'CONFIG_OVPN=y\nCONFIG_TUN=y\nCONFIG_VETH=y\n# CONFIG_MODULES is not set\n# CONFIG_SOUND is not set\n';
  const config = 'CONFIG_OVPN=y\nCONFIG_TUN=m\nCONFIG_MODULES=y\n';
  expect(missingOptions(fragment, config)).toEqual([
    "CONFIG_TUN: wanted y, the kernel's configuration has m",
    "CONFIG_VETH: wanted y, the kernel's configuration has n",
    "CONFIG_MODULES: wanted n, the kernel's configuration has y",
  ]);
});

test('the fragment of the lab asks for the driver and every line of it is understood', async () => {
  const text = await readFile(join(import.meta.dirname, 'kernel/uml.config'), 'utf8');
  const options = parseConfig(text);
  expect(options.get('CONFIG_OVPN')).toBe('y');
  expect(options.get('CONFIG_SMP')).toBe('y');
  const meant = text.split('\n').filter((line) => /^(# )?CONFIG_\w+( is not set|=)/.test(line));
  expect(options.size).toBe(meant.length);
});
