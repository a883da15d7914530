import { describe, expect, test } from '@jest/globals';
import { keyManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { issue, newCa } from '../../controller/pki/certificates.ts';
import { renderProfile } from '../../controller/profile/profile.ts';
import { newClientWrapKey, newServerWrapKey } from '../../controller/profile/wrap-keys.ts';
import { ApiError } from '../../cluster/api-client.ts';
import type { Cluster } from './connection.ts';
import { readProfile } from './profile.ts';
import { maxQrBytes, qrCode } from './qr-code.ts';

/** An API server that has these objects, by their paths. */
function cluster(
  objects: Readonly<Record<string, object | number>>,
): Pick<Cluster, 'client' | 'timeoutMs' | 'namespace'> {
  const json = ({ path }: { path: string }): Promise<unknown> => {
    const found = objects[path.replace(/^.*\/namespaces\/team-a\//, '')] ?? 404;
    return typeof found === 'number' ? Promise.reject(new ApiError(found, '', 'no')) : Promise.resolve(found);
  };
  return { client: { json } as unknown as Cluster['client'], timeoutMs: 1, namespace: 'team-a' };
}

const dialIn = (identity: object) => ({ ...{ endpoint: undefined, keyRef: undefined, static: undefined }, identity });
const peer = peerManifest('alice', { ...dialIn({ key: 'alice' }), addresses: [] });
const issued = (status?: object) => ({
  ...keyManifest('alice'),
  spec: { issued: { networkRef: { name: 'offices' } } },
  ...(status && { status }),
});
const secret = (data: Readonly<Record<string, string>>) => ({ kind: 'Secret', data });
const objects = {
  'vpnpeers/alice': peer,
  'vpnkeys/alice': issued({ secretName: 'alice-vpn' }),
  'secrets/alice-vpn': secret({ 'client.ovpn': Buffer.from('client\nü\n').toString('base64') }),
};

describe('the profile of a VpnPeer', () => {
  test('is in the Secret that its VpnKey names', async () => {
    expect(await readProfile(cluster(objects), 'alice')).toBe('client\nü\n');
  });

  test.each<[string, object, RegExp]>([
    ['no key', { 'vpnkeys/alice': 404 }, /there is no VpnKey team-a\/alice; to mend it: create it/],
    ['another sort of key', { 'vpnkeys/alice': keyManifest('alice') }, /is not one of spec\.issued/],
    [
      'a key without a Secret',
      {
        'vpnkeys/alice': issued({
          conditions: [
            {
              ...{ type: 'Ready', status: 'False', reason: 'NotAllowed', message: 'VpnNetwork offices issues nothing' },
              lastTransitionTime: '2026-01-02T03:04:05Z',
            },
          ],
        }),
      },
      /has no Secret: VpnNetwork offices issues nothing/,
    ],
    ['a key that nobody looked at', { 'vpnkeys/alice': issued() }, /has not said anything of it yet/],
    ['a Secret that is gone', { 'secrets/alice-vpn': 404 }, /there is no Secret team-a\/alice-vpn/],
    [
      'a network without endpoints',
      { 'secrets/alice-vpn': secret({}) },
      /listeners name no endpoints.*VpnNetwork offices/,
    ],
    ['no right', { 'secrets/alice-vpn': 403 }, /you may not get secrets in namespace team-a/],
    ['a static peer', { 'vpnpeers/alice': peerManifest('alice') }, /no client dials in by it/],
    [
      'a certificate of another CA',
      { 'vpnpeers/alice': peerManifest('alice', { ...dialIn({ commonName: 'a' }), addresses: [] }) },
      /its certificate comes from elsewhere/,
    ],
    [
      'no peer',
      { 'vpnpeers/alice': 404, vpnpeers: { metadata: {}, items: [peerManifest('alicia')] } },
      /did you mean "alicia"/,
    ],
  ])('is not there: %s', async (_, change, why) => {
    await expect(readProfile(cluster({ ...objects, ...change }), 'alice')).rejects.toThrow(why);
  });
});

describe('a QR code', () => {
  const profile = async (cas: number): Promise<string> => {
    const now = Date.parse('2026-01-02T03:04:05Z');
    const ca = await newCa('corp', 1, now, 86_400_000);
    const { cert, key } = await issue(ca, {
      commonName: 'alice.team-a',
      usage: 'clientAuth',
      now,
      lifetimeMs: 86_400_000,
    });
    return renderProfile({
      remotes: [{ address: 'vpn.example.com', port: 1194, protocol: 'UDP' }],
      ca: ca.cert.repeat(cas),
      identity: { certificate: cert, key },
      serverName: 'corp',
      wrap: { kind: 'TLSCryptV2', key: newClientWrapKey(newServerWrapKey(), now) },
      dataCiphers: ['AES-256-GCM', 'CHACHA20-POLY1305', 'AES-128-GCM'],
      minTLSVersion: '1.2',
    });
  };

  test('holds a profile as it comes, and not one with two CAs', async () => {
    const [one, two] = [await profile(1), await profile(2)];
    const lines = qrCode(one, {}).trimEnd().split('\n');
    // Of version 38 or 39, with its margin.
    expect([177, 181]).toContain(lines[0]?.length);
    expect(lines).toHaveLength(Math.ceil((lines[0]?.length ?? 0) / 2));
    expect(() => qrCode(two, {})).toThrow(
      /^the profile has \d+ bytes, and a QR code holds 2953; to mend it: print the profile/,
    );
  });

  test('holds so many bytes and no more', () => {
    expect(() => qrCode('x'.repeat(maxQrBytes), {})).not.toThrow();
    expect(() => qrCode('ü'.repeat(maxQrBytes / 2 + 1), {})).toThrow('2954 bytes');
  });

  test('is dark on light on a terminal, and asks for the room that it needs', () => {
    const shown = qrCode('hello', { isTTY: true, columns: 29 }).split('\n');
    expect(shown[0]).toBe(`\u001b[38;5;231;48;5;16m${'█'.repeat(29)}\u001b[0m`);
    // The finder pattern: a square of seven modules, of which two rows are in one line.
    expect(shown[2]?.slice('\u001b[38;5;231;48;5;16m'.length)).toMatch(/^████ ▄▄▄▄▄ █/);
    expect(() => qrCode('hello', { isTTY: true, columns: 28 })).toThrow('29 characters wide, and the terminal has 28');
    expect(qrCode('hello', { columns: 3 })).not.toContain('\u001b');
  });
});
