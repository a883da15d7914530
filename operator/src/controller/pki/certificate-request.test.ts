import { expect, test } from '@jest/globals';
import { answerOf, certificateObject, isAsWanted } from './certificate-request.ts';
import type { Owner } from './secret-store.ts';

const owner: Owner = { apiVersion: 'ovpn-operator.io/v1alpha1', kind: 'VpnNetwork', name: 'corp', uid: 'one' };
const issuer = { name: 'corp-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' };
const whole = ['tls.crt', 'tls.key', 'ca.crt'];
const certificate = (status: object = {}) => ({
  metadata: { generation: 2 },
  status: {
    conditions: [
      { type: 'Issuing', status: 'True' },
      { type: 'Ready', ...status },
    ],
  },
});

test.each<[string, unknown, readonly string[] | undefined, string, string]>([
  ['says nothing', {}, undefined, 'Pending', 'see that it runs'],
  ['says something of no known form', { status: { conditions: 7 } }, whole, 'Pending', 'see that it runs'],
  [
    'spoke of an earlier generation',
    certificate({ status: 'True', observedGeneration: 1 }),
    whole,
    'Pending',
    'has said nothing',
  ],
  [
    'waits',
    certificate({ status: 'False', reason: 'DoesNotExist', message: 'no Secret' }),
    undefined,
    'Pending',
    'DoesNotExist: no Secret',
  ],
  ['has a Secret that is not seen yet', certificate({ status: 'True' }), undefined, 'SecretNotFound', 'is not there'],
  ['has no CA to give', certificate({ status: 'True' }), ['tls.crt', 'tls.key'], 'Invalid', 'gives no CA'],
  ['is done', certificate({ status: 'True', observedGeneration: 2 }), whole, 'Ready', 'ovpn-system/corp.tls'],
])('cert-manager %s', (_, found, entries, reason, message) => {
  const answer = answerOf(found, 'ovpn-system/corp.tls', entries);
  expect(answer).toMatchObject({ reason, ready: reason === 'Ready' });
  expect(answer.message).toContain(message);
});

test('a Certificate is as wanted once it was written, with what others added; and not for another owner or issuer', () => {
  const made = certificateObject('ovpn-system', owner, issuer);
  const added = { ...made, spec: { ...(made['spec'] as object), duration: '2160h' } };
  expect(isAsWanted(added, 'ovpn-system', owner, issuer)).toBe(true);
  expect(isAsWanted(added, 'ovpn-system', { ...owner, uid: 'two' }, issuer)).toBe(false);
  expect(isAsWanted(added, 'ovpn-system', owner, { ...issuer, name: 'other' })).toBe(false);
  const again = certificateObject('ovpn-system', owner, { ...issuer, name: 'other' }, added);
  expect(again['spec']).toMatchObject({ duration: '2160h', issuerRef: { name: 'other' } });
  expect(isAsWanted(undefined, 'ovpn-system', owner, issuer)).toBe(false);
});
