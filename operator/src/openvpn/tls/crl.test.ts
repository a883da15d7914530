// First: the library's containers look for it when they load.
import 'reflect-metadata';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { X509Crl } from '@peculiar/x509';
import fc from 'fast-check';
import { crlNotAfter, crlTimes } from './crl.ts';
import { pemBlocks } from './pem.ts';
import { crlPem, type TestPki, testPki } from './pki.fixture.ts';

let pki: TestPki;
let other: TestPki;
beforeAll(() => {
  pki = testPki('CA one');
  other = testPki('CA two');
});
afterAll(() => {
  pki.remove();
  other.remove();
});

const derOf = (pem: string): Buffer => pemBlocks(pem, 'X509 CRL')[0]!.der;

describe('the times of CRLs', () => {
  test('are those that OpenSSL and a library read', () => {
    pki.issue('mallory');
    pki.revoke('mallory');
    const pem = pki.crl();
    const { thisUpdate, nextUpdate } = new X509Crl(derOf(pem));
    expect(crlTimes(pem)).toEqual([{ thisUpdate: thisUpdate.getTime(), nextUpdate: nextUpdate!.getTime() }]);
    const said = execFileSync('openssl', ['crl', '-noout', '-nextupdate'], { input: pem, encoding: 'utf8' });
    expect(crlNotAfter(pem)).toBe(Date.parse(said.trim().replace('nextUpdate=', '')));
  });

  test.each([
    ['\u0017\u000d', '491231235959Z', '2049-12-31T23:59:59Z'],
    ['\u0017\u000d', '500101000000Z', '1950-01-01T00:00:00Z'],
    ['\u0018\u000f', '20500101000000Z', '2050-01-01T00:00:00Z'],
    ['\u0018\u000f', '99991231235959Z', '9999-12-31T23:59:59Z'],
    ['\u0017\u000d', '491331235959Z', undefined],
    ['\u0017\u000d', '49123123595aZ', undefined],
    ['\u0017\u0011', '491231235959+0100', undefined],
    ['\u0016\u000d', '491231235959Z', undefined],
  ])('%j %s is %s', (head, text, time) => {
    // A list of version 2 with no algorithm and a nameless issuer.
    const wrap = (tag: number, ...parts: Buffer[]): Buffer => {
      const content = Buffer.concat(parts);
      return Buffer.concat([Buffer.from([tag, 0x81, content.length]), content]);
    };
    const begin = Buffer.from('\u0017\u000d200101000000Z', 'latin1');
    const end = Buffer.from(head + text, 'latin1');
    const tbs = wrap(0x30, Buffer.from([2, 1, 1]), wrap(0x30), wrap(0x30), begin, end);
    const nextUpdate = time === undefined ? undefined : Date.parse(time);
    expect(crlNotAfter(crlPem(wrap(0x30, tbs)))).toBe(nextUpdate);
  });

  test('are those of the newest of each issuer, and the first end counts', () => {
    const old = derOf(pki.crl());
    const dates = old.indexOf(Buffer.from([0x17, 0x0d]));
    const end = old.indexOf(Buffer.from([0x17, 0x0d]), dates + 2);
    old.write('200101000000Z', end + 2, 'latin1');
    const expired = Date.parse('2020-01-01T00:00:00Z');
    const now = pki.crl();
    expect(crlNotAfter(crlPem(old))).toBe(expired);
    for (const pem of [crlPem(old) + now, now + crlPem(old)]) expect(crlTimes(pem)).toEqual(crlTimes(now));
    expect(crlNotAfter([other.crl(), crlPem(old)])).toBe(expired);
    expect(crlNotAfter(other.crl() + now)).toBe(Math.min(crlNotAfter(other.crl())!, crlNotAfter(now)!));
  });

  test('are none of what is no CRL, whole or in part', () => {
    expect(crlNotAfter(undefined)).toBeUndefined();
    expect(crlNotAfter(pki.ca)).toBeUndefined();
    expect(crlNotAfter(pki.ca.replaceAll('CERTIFICATE', 'X509 CRL'))).toBeUndefined();
    const der = derOf(pki.crl());
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.nat(255), (at, byte) => {
        expect(crlTimes(crlPem(der.subarray(0, at)))).toEqual([]);
        const damaged = Buffer.from(der);
        damaged[at] = byte;
        for (const { nextUpdate } of crlTimes(crlPem(damaged))) expect(nextUpdate).not.toBeNaN();
      }),
    );
  });
});
