import { X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type TestPki, testPki } from '../../openvpn/tls/pki.fixture.ts';
import { judgeExpiry, longestWarningMs, validitiesOf, warnAt, type Validity } from './validity.ts';

const day = 86_400_000;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('what OpenSSL made', () => {
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

  test('has the end of the certificate, of the CA and of the CRL', () => {
    const { cert } = pki.issue('server', { usage: 'serverAuth' });
    const found = validitiesOf({ 'tls.crt': bytes(cert), 'ca.crt': bytes(pki.ca), 'ca.crl': bytes(pki.crl()) });
    expect(found.map(({ what }) => what)).toEqual([
      'the certificate in tls.crt',
      'the CA in ca.crt',
      'the CRL in ca.crl',
    ]);
    expect(found.slice(0, 2).map(({ notAfter }) => notAfter)).toEqual(
      [cert, pki.ca].map((text) => new X509Certificate(text).validToDate.getTime()),
    );
    const crl = found[2]!;
    expect(crl.notAfter - crl.notBefore).toBe(365 * day);
  });

  test('counts each certificate of a chain, and of several CAs the one that lasts', () => {
    const server = pki.issue('leaf', { usage: 'serverAuth' }).cert;
    const expired = pki.issue('old', { expired: true }).cert;
    const chain = validitiesOf({ 'tls.crt': bytes(`${server}${expired}`) });
    expect(judgeExpiry(chain, Date.now())?.expiry).toBe('Expired');
    const cas = validitiesOf({ 'ca.crt': bytes(`${expired}${pki.ca}`) });
    expect(cas).toHaveLength(1);
    expect(judgeExpiry(cas, Date.now())?.expiry).toBe('Valid');
  });

  test('needs a CRL of every issuer, and the newest of each', () => {
    const crls = validitiesOf({ 'ca.crl': bytes(`${pki.crl()}${other.crl()}${pki.crl()}`) });
    expect(crls).toHaveLength(2);
  });

  test('is passed over when its dates are none', () => {
    const der = Buffer.from(new X509Certificate(pki.ca).raw);
    // UTCTime (RFC 5280, 4.1.2.5.1): the month of the second one, notAfter, is damaged.
    const dates = der.indexOf(Buffer.from([0x17, 0x0d]));
    const notAfter = der.indexOf(Buffer.from([0x17, 0x0d]), dates + 2);
    der.write('99', notAfter + 4, 'latin1');
    const pem = `-----BEGIN CERTIFICATE-----\n${der.toString('base64')}\n-----END CERTIFICATE-----\n`;
    expect(validitiesOf({ 'tls.crt': bytes(pem), 'ca.crt': bytes(pki.ca) }).map(({ what }) => what)).toEqual([
      'the CA in ca.crt',
    ]);
  });

  test('is passed over when it cannot be read', () => {
    const broken = pki.ca.replace(/[A-Z]{3}/, 'xyz=').slice(0, 300);
    fc.assert(
      fc.property(fc.constantFrom('tls.crt', 'ca.crt', 'ca.crl'), fc.string(), (entry, text) => {
        for (const material of [text, `${broken}${text}`, pki.ca.replaceAll('CERTIFICATE', 'X509 CRL')])
          expect(() => validitiesOf({ [entry]: bytes(material) })).not.toThrow();
      }),
    );
  });
});

const validity = (what: string, fromDay: number, toDay: number): Validity => ({
  what,
  isCrl: false,
  notBefore: fromDay * day,
  notAfter: toDay * day,
});

describe('the judgement', () => {
  const year = validity('cert', 0, 365);
  const week = validity('crl', 300, 307);
  test.each<[string, Validity[], number, string, string, number | undefined]>([
    ['long before', [year], 100, 'Valid', 'cert expires at 1971-01-01T00:00:00Z', 335],
    ['thirty days before', [year], 335, 'ExpiresSoon', 'cert expires at 1971-01-01T00:00:00Z; renew it before', 365],
    ['at the end', [year], 365, 'Expired', 'cert expired at 1971-01-01T00:00:00Z', undefined],
    ['in the last quarter of a week', [week, year], 305.25, 'ExpiresSoon', 'crl expires at 1970-11-04', 307],
    ['before that', [week, year], 305, 'Valid', 'crl expires at 1970-11-04', 305.25],
    [
      'when one has expired and the other soon will',
      [week, year],
      340,
      'Expired',
      'crl expired at 1970-11-04',
      undefined,
    ],
    ['when what ends later has its warning first', [validity('crl', 330, 340), year], 336, 'ExpiresSoon', 'cert', 340],
  ])('%s', (_, validities, today, expiry, message, nextDay) => {
    const judgement = judgeExpiry(validities, today * day);
    expect(judgement).toMatchObject({ expiry, message: expect.stringContaining(message) as unknown });
    expect(judgement?.nextAt).toBe(nextDay === undefined ? undefined : nextDay * day);
  });

  test('of nothing is none', () => {
    expect(judgeExpiry([], 0)).toBeUndefined();
  });

  test('warns before the end, not more than thirty days, and goes on to its end by its own times', () => {
    const times = fc.tuple(fc.nat(5000), fc.nat(5000)).map(([from, life]) => validity('x', from, from + life));
    fc.assert(
      fc.property(fc.array(times, { minLength: 1, maxLength: 5 }), (validities) => {
        for (const each of validities) {
          expect(warnAt(each)).toBeLessThanOrEqual(each.notAfter);
          expect(each.notAfter - warnAt(each)).toBeLessThanOrEqual(longestWarningMs);
        }
        const seen: string[] = [];
        let judgement = judgeExpiry(validities, 0);
        for (let now = 0; judgement?.nextAt !== undefined; judgement = judgeExpiry(validities, now)) {
          seen.push(judgement.expiry);
          expect(judgement.nextAt).toBeGreaterThan(now);
          now = judgement.nextAt;
        }
        expect(judgement?.expiry).toBe('Expired');
        expect(seen.length).toBeLessThanOrEqual(2);
      }),
    );
  });
});
