import { afterAll, describe, expect, test } from '@jest/globals';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { writeArchive } from './archive.ts';
import { holdsSecret, redactor } from './redact.ts';
import { pick, shapeOf, shapes } from './shapes.ts';

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const pem = privateKey.export({ type: 'pkcs8', format: 'pem' });
const rows = Array.from({ length: 16 }, () => randomBytes(16).toString('hex'));
const staticKey = `-----BEGIN OpenVPN Static key V1-----\n${rows.join('\n')}\n-----END OpenVPN Static key V1-----\n`;
const base64 = randomBytes(256).toString('base64');
const v2Key = `-----BEGIN OpenVPN tls-crypt-v2 client key-----\n${base64}\n-----END OpenVPN tls-crypt-v2 client key-----`;
const jwt = ['{"alg":"RS256"}', '{"sub":"x"}', 'signature-bytes']
  .map((part) => Buffer.from(part).toString('base64url'))
  .join('.');
const canary = 'Canary7f';

/** What must not be seen of a text; each of its parts counts. */
const secrets: readonly [string, string, readonly string[]][] = [
  ['a private key', pem, pem.split('\n').filter((row) => row !== '')],
  ['a private key in JSON', JSON.stringify({ msg: pem }).slice(1, -1), pem.split('\n').filter((row) => row !== '')],
  ['a key whose end is cut off', pem.slice(0, -40), pem.split('\n').slice(1, 3)],
  ['a key whose beginning is cut off', pem.slice(20), pem.split('\n').slice(1, 4)],
  ['a static key', staticKey, rows],
  ['rows of a static key alone', rows.slice(3, 6).join('\n'), rows.slice(3, 6)],
  ['a tls-crypt-v2 key', v2Key, [base64]],
  ['an inline key of a client', `<key>\n${canary}\n</key>`, [canary]],
  ['an inline file that is cut off', `<tls-crypt>\n${canary}\n`, [canary]],
  ['name and password', `<auth-user-pass>\nann\n${canary}\n</auth-user-pass>`, [canary, 'ann']],
  ['words after auth-user-pass', `auth-user-pass ann ${canary}`, [canary, 'ann']],
  ['a token of a service account', `sent ${jwt} to`, jwt.split('.')],
  ['a bearer token', `Authorization: Bearer ${canary}.xyz`, [canary]],
  ['a bootstrap token', 'join with abcdef.0123456789abcdef now', ['0123456789abcdef']],
  ['a password in an address', `https://ann:${canary}@proxy.example:3128/x`, [canary]],
  ['a password', `password=${canary} next`, [canary]],
  ['a variable', `OVPN_ADMIN_PASSWORD=${canary}`, [canary]],
  ['a password in JSON', `{"dbPassword": "${canary} with \\"words", "b": 1}`, [canary, 'words']],
  ['a password in JSON in JSON', `{"m":"{\\"token\\":\\"${canary} two\\"}"}`, [canary, 'two']],
  ['key material', `key material ${randomBytes(32).toString('base64')}`, []],
  ['base64 of a static key', Buffer.from(staticKey).toString('base64'), [Buffer.from(staticKey).toString('base64')]],
  ['base64url', base64.replaceAll('+', '-').replaceAll('/', '_').slice(0, 60), [base64.slice(0, 10)]],
];

describe('redaction', () => {
  test.each(secrets)('takes out %s', (_what, text, parts) => {
    const redact = redactor();
    const found = redact.text(`before ${text}`);
    expect(found).toMatch(/^before /);
    expect(found).toContain('[redacted');
    for (const part of parts) expect(found).not.toContain(part);
    expect(redact.count).toBeGreaterThan(0);
    expect(holdsSecret(found)).toBe(false);
  });

  test.each([
    'VpnPeer team-a/office: the route overlaps 10.20.0.0/14 of VpnPeer team-b/depot',
    'ovpn-controller-5d8f7c9b6d-x7k2p in /var/lib/ovpn-operator/attachments',
    'create the Secret team-a/office-key with the entry static.key, or correct secretRef',
    '{"level":"info","event":"session.connected","peer":"team-a/office","cipher":"AES-256-GCM","time":1764244800000}',
    `ghcr.io/x/y@sha256:${'0'.repeat(64)}`,
    '2026-06-01T12:00:00.000Z 6f1c2d3e-0000-4000-8000-123456789abc [2001:db8::1]:1194',
  ])('leaves %s', (text) => expect(redactor().text(text)).toBe(text));

  test('shows that two passages are the same', () => {
    const redact = redactor();
    const [one, other] = [randomBytes(20).toString('hex'), randomBytes(20).toString('hex')];
    expect(redact.text(`${one} ${other} ${one}`)).toBe('[redacted 1] [redacted 2] [redacted 1]');
  });

  test('goes through values at any depth, and leaves fingerprints', () => {
    const fingerprint = randomBytes(32).toString('hex');
    const value = { a: [{ b: `password=${canary}`, [`k-${rows[0] ?? ''}`]: 1, 'x.io/token': canary }], fingerprint };
    const text = JSON.stringify(redactor().value(value));
    expect(text).not.toContain(canary);
    expect(text).toContain(fingerprint);
  });

  test.each([
    ['words', 'words and more words\n'],
    ['beginnings of keys', '-----BEGIN X KEY-----\n'],
    ['ends of keys', 'abc -----END X KEY-----\n'],
    ['open files', '<key> '],
    ['names', 'password-'],
    ['random letters', 'aB3'],
    ['small letters', 'abc123.'],
  ])('takes no longer for many %s', (_what, part) => {
    const long = part.repeat(Math.ceil((512 * 1024) / part.length));
    const begun = performance.now();
    redactor().text(long);
    // It takes half a second at most; what looks at all of the rest from each place takes many minutes.
    expect(performance.now() - begun).toBeLessThan(20_000);
  });

  test('trusts no field that holds a key all the same', () => {
    expect(JSON.stringify(redactor().value({ fingerprint: pem }))).not.toContain('PRIVATE KEY');
  });
});

describe('the fields that are taken', () => {
  const planted = {
    annotations: { 'kubectl.kubernetes.io/last-applied-configuration': canary },
    managedFields: [canary],
  };

  test('are those of the schema of our kinds', () => {
    const peer = {
      kind: 'VpnPeer',
      metadata: { name: 'a', labels: { team: 'x' }, ...planted },
      spec: { networkRef: { name: 'corp' }, keyRef: { name: 'k' }, password: canary, routes: ['10.0.0.0/8'] },
      status: { conditions: [{ type: 'Ready', secret: canary }], dump: canary },
    };
    expect(pick(peer, shapeOf('VpnPeer'))).toEqual({
      kind: 'VpnPeer',
      metadata: { name: 'a', labels: { team: 'x' } },
      spec: { networkRef: { name: 'corp' }, keyRef: { name: 'k' }, routes: ['10.0.0.0/8'] },
      status: { conditions: [{ type: 'Ready' }] },
    });
  });

  test('are of variables the names, and of arguments none', () => {
    const pod = {
      metadata: { name: 'a', ...planted },
      spec: {
        containers: [
          { name: 'main', args: [`--x=${canary}`], env: [{ name: 'A', value: canary }], volumeMounts: [canary] },
        ],
        volumes: [{ name: canary }],
      },
      status: { phase: 'Running', containerStatuses: [{ name: 'main', containerID: canary }] },
    };
    expect(pick(pod, shapes.pod)).toEqual({
      metadata: { name: 'a' },
      spec: { containers: [{ name: 'main', env: [{ name: 'A' }] }] },
      status: { phase: 'Running', containerStatuses: [{ name: 'main' }] },
    });
  });

  test('are of ConfigMaps the names', () => {
    const map = { metadata: { namespace: 'a', name: 'b', ...planted }, data: { x: canary }, binaryData: { y: canary } };
    expect(pick(map, shapes.configMap)).toEqual({ metadata: { namespace: 'a', name: 'b' } });
  });

  test('are none of an object where a text is expected', () => {
    expect(pick({ note: { deep: canary } }, shapes.event)).toEqual({});
  });
});

describe('the archive', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-bundle-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  test('is its owner’s alone, and is never written over', async () => {
    const file = join(folder, 'a.tar.gz');
    const files = [{ path: 'x/y.txt', text: 'hello' }];
    await writeArchive(file, 'bundle', files, new Date(0));
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const tar = gunzipSync(readFileSync(file));
    expect(tar.subarray(0, 14).toString()).toBe('bundle/x/y.txt');
    expect(tar.subarray(512, 517).toString()).toBe('hello');
    await expect(writeArchive(file, 'bundle', files, new Date(0))).rejects.toThrow('is there already');
    await expect(writeArchive(join(folder, 'no/b'), 'bundle', files, new Date(0))).rejects.toThrow('cannot be written');
  });
});
