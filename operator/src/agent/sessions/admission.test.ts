import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { PeerIdentity } from '../../openvpn/tls/peer-identity.ts';
import { Admission } from './admission.ts';
import type { DesiredDialIn } from './desired-session.ts';
import { claimantNamed, refOfPeer } from './sessions.fixture.ts';

const hex = (byte: string): string => byte.repeat(32);
const withColons = (text: string): string => text.replace(/..(?=.)/g, '$&:');

function peer(name: string, identity: DesiredDialIn['identity'], created = Infinity): DesiredDialIn {
  return {
    kind: 'dial-in',
    ref: refOfPeer(name),
    claimant: claimantNamed(name, created),
    identity,
    vpnIpv4: '10.80.0.10',
    vpnIpv6: undefined,
    keepalive: { interval: 10, timeout: 60 },
    routes: [],
  };
}

function certificate(
  commonName: string,
  fingerprint = hex('AB'),
  subjectAltNames: PeerIdentity['subjectAltNames'] = [],
): PeerIdentity {
  return {
    ...{ commonName, subject: `CN=${commonName}`, subjectAltNames, fingerprint: withColons(fingerprint) },
    ...{ serialNumber: '01', notAfter: 0, extendedKeyUsage: [] },
  };
}

function admitted(...peers: readonly DesiredDialIn[]): Admission {
  const admission = new Admission();
  for (const one of peers) admission.set(one);
  return admission;
}

const nameOf = (found: DesiredDialIn | undefined): string | undefined => found?.ref.name;

describe('which VpnPeer a certificate stands for', () => {
  const altNames: PeerIdentity['subjectAltNames'] = [
    { type: 'other', value: 'alice' },
    { type: 'dns', value: 'Laptop.Example' },
    { type: 'ip', value: '192.0.2.9' },
    { type: 'email', value: 'alice@Example.org' },
    { type: 'uri', value: 'spiffe://corp/alice' },
  ];
  const alice = certificate('alice', hex('AB'), altNames);

  test.each<[string, DesiredDialIn['identity']]>([
    ['its common name', { commonName: 'alice' }],
    ['its fingerprint', { fingerprint: hex('AB') }],
    ['a DNS name, whatever its case', { subjectAltName: 'DNS:laptop.example' }],
    ['an address', { subjectAltName: 'IP:192.0.2.9' }],
    ['an e-mail address', { subjectAltName: 'email:alice@example.org' }],
    ['a URI', { subjectAltName: 'URI:spiffe://corp/alice' }],
  ])('%s', (_, identity) => expect(nameOf(admitted(peer('p', identity)).find(alice))).toBe('p'));

  test.each<[string, DesiredDialIn['identity']]>([
    ['a name of another case', { commonName: 'Alice' }],
    ['a part of the name', { commonName: 'alic' }],
    ['an alternative name that is its common name', { subjectAltName: 'DNS:alice' }],
    ['a common name that is its alternative name', { commonName: 'laptop.example' }],
    ['another fingerprint', { fingerprint: hex('AC') }],
    ['no identity at all', {}],
  ])('not %s', (_, identity) => expect(admitted(peer('p', identity)).find(alice)).toBeUndefined());

  test('a certificate without a common name stands for nobody with an empty one', () => {
    expect(admitted(peer('p', { commonName: '' })).find(certificate(''))).toBeUndefined();
  });

  test('the oldest of several, however narrow the identity of a younger one is', () => {
    const admission = admitted(
      peer('by-print', { fingerprint: hex('AB') }, 30),
      peer('by-alt-name', { subjectAltName: 'DNS:laptop.example' }, 20),
      peer('by-name', { commonName: 'alice' }, 10),
    );
    expect(admission.all(alice).map(nameOf)).toEqual(['by-name', 'by-alt-name', 'by-print']);
    expect(nameOf(admission.find(alice))).toBe('by-name');
    admission.delete(refOfPeer('by-name'));
    expect(nameOf(admission.find(alice))).toBe('by-alt-name');
    admission.delete(refOfPeer('by-alt-name'));
    expect(nameOf(admission.find(alice))).toBe('by-print');
    admission.delete(refOfPeer('by-print'));
    expect(admission.find(alice)).toBeUndefined();
    expect(admission.size).toBe(0);
  });

  test('of the same age, the first by name', () => {
    const admission = admitted(peer('b', { fingerprint: hex('AB') }), peer('a', { commonName: 'alice' }));
    expect(nameOf(admission.find(alice))).toBe('a');
  });

  test('an identity that goes over to another peer stays with that one, in whatever order', () => {
    const [was, is] = [peer('a', { commonName: 'alice' }), peer('b', { commonName: 'alice' })];
    const renamed = peer('a', { commonName: 'anna' });
    const first = admitted(was, renamed, is);
    expect([nameOf(first.find(alice)), nameOf(first.find(certificate('anna')))]).toEqual(['b', 'a']);
    const second = admitted(was, is, renamed);
    expect([nameOf(second.find(alice)), nameOf(second.find(certificate('anna')))]).toEqual(['b', 'a']);
    const third = admitted(was, is);
    third.delete(was.ref);
    expect(nameOf(third.find(alice))).toBe('b');
  });
});

test('whatever comes and goes, a certificate finds just the peer of its identity', () => {
  const names = ['a', 'b', 'c', 'd'];
  const step = fc.record({
    name: fc.constantFrom(...names),
    // No two peers at one time have one identity: the rules between peers see to that.
    identity: fc.option(fc.constantFrom('x', 'y', 'z', 'w'), { nil: undefined }),
    field: fc.constantFrom('commonName' as const, 'subjectAltName' as const, 'fingerprint' as const),
  });
  const identityOf = (field: string, value: string): DesiredDialIn['identity'] => ({
    [field]: field === 'commonName' ? value : field === 'subjectAltName' ? `DNS:${value}.example` : print(value),
  });
  const print = (value: string): string => hex(value.charCodeAt(0).toString(16).toUpperCase());
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const admission = new Admission();
      const model = new Map<string, { field: string; value: string }>();
      for (const { name, identity, field } of steps) {
        const holder = [...model].find(([, had]) => had.field === field && had.value === identity)?.[0];
        if (identity === undefined || (holder !== undefined && holder !== name)) {
          admission.delete(refOfPeer(name));
          model.delete(name);
        } else {
          admission.set(peer(name, identityOf(field, identity)));
          model.set(name, { field, value: identity });
        }
        expect(admission.size).toBe(model.size);
        for (const value of ['x', 'y', 'z', 'w']) {
          const shown = certificate(value, print(value), [{ type: 'dns', value: `${value}.example` }]);
          const wanted = [...model].flatMap(([holding, had]) => (had.value === value ? [holding] : [])).sort();
          expect(admission.all(shown).map(nameOf)).toEqual(wanted);
          expect(nameOf(admission.find(shown))).toBe(wanted[0]);
        }
      }
    }),
  );
});
