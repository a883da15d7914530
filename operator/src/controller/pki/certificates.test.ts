import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { factsOf, isSignedBy, issue, type KeyPair, newCa } from './certificates.ts';

const day = 86_400_000;
const folder = mkdtempSync(join(tmpdir(), 'ovpn-issue-'));
const now = Date.now();
let ca: KeyPair;
let server: KeyPair;
let client: KeyPair;

beforeAll(async () => {
  ca = await newCa('corp', 1, now, 30 * day);
  server = await issue(ca, { commonName: 'corp', usage: 'serverAuth', now, lifetimeMs: 10 * day });
  client = await issue(ca, { commonName: 'alice.team-a', usage: 'clientAuth', now, lifetimeMs: 99 * day });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** OpenSSL's own opinion. */
function openssl(...args: string[]): string {
  return execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' });
}

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe('OpenSSL', () => {
  test.each([
    ['sslserver', () => server],
    ['sslclient', () => client],
  ])('takes a certificate as an %s, strictly', (purpose, of) => {
    const args = ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', file('ca.pem', ca.cert)];
    expect(openssl(...args, file('cert.pem', of().cert))).toContain('OK');
  });

  test.each([
    ['sslclient', () => server],
    ['sslserver', () => client],
  ])('does not take the other one as an %s', (purpose, of) => {
    const args = ['verify', '-purpose', purpose, '-CAfile', file('ca.pem', ca.cert)];
    expect(() => openssl(...args, file('cert.pem', of().cert))).toThrow('unsuitable certificate purpose');
  });

  test('takes no certificate that a client signed', async () => {
    const forged = await issue(client, { commonName: 'bob.team-a', usage: 'clientAuth', now, lifetimeMs: day });
    const args = ['verify', '-CAfile', file('ca.pem', ca.cert), '-untrusted', file('client.pem', client.cert)];
    expect(() => openssl(...args, file('forged.pem', forged.cert))).toThrow('invalid CA certificate');
  });
});

test('key and certificate belong together, and the key has no passphrase', () => {
  for (const { cert, key } of [ca, server, client])
    expect(new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))).toBe(true);
});

test('no certificate outlives its CA', () => {
  expect(factsOf(client.cert)?.notAfter).toBe(factsOf(ca.cert)?.notAfter);
});

test('facts are those that identities go by', () => {
  const certificate = new X509Certificate(client.cert);
  expect(factsOf(client.cert)).toMatchObject({
    commonName: 'alice.team-a',
    fingerprint: certificate.fingerprint256.replaceAll(':', ''),
    serialNumber: certificate.serialNumber,
  });
  expect(factsOf('no certificate')).toBeUndefined();
});

test('of two CAs the issuer is told by its key, not by its name', async () => {
  const other = await newCa('corp', 1, now, 30 * day);
  expect(isSignedBy(client.cert, [other])).toBe(false);
  expect(isSignedBy(client.cert, [other, ca])).toBe(true);
  expect(isSignedBy('no certificate', [ca])).toBe(false);
});

test('serial numbers are positive, long and not repeated', async () => {
  const serials = new Set<string>();
  for (let i = 0; i < 50; i++) {
    const { cert } = await issue(ca, { commonName: 'a.b', usage: 'clientAuth', now, lifetimeMs: day });
    const serial = factsOf(cert)?.serialNumber ?? '';
    expect(serial).toMatch(/^[4-7][0-9A-F]{31}$/);
    serials.add(serial);
  }
  expect(serials.size).toBe(50);
});
