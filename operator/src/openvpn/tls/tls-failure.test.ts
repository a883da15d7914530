import { expect, test } from '@jest/globals';
import { mayHeal, tlsFailureReason } from './tls-failure.ts';

test.each([
  [Object.assign(new Error('x'), { reason: 'tlsv1 alert unknown ca' }), 'unknown ca": it does not know the CA of our'],
  [Object.assign(new Error('x'), { reason: 'ssl/tls alert certificate expired' }), 'certificate expired": our'],
  [
    new Error(
      '4063386B:error:0A00042E:SSL routines:ssl3_read_bytes:tlsv1 alert protocol version:../rec_layer_s3.c:918:SSL alert number 70',
    ),
    'TLS failed: the other side ended it by the alert "protocol version": there is no common version of TLS',
  ],
  [Object.assign(new Error('x'), { reason: 'tlsv1 alert user cancelled' }), 'by the alert "user cancelled"'],
  [
    new Error('40:error:0A00010B:SSL routines:tls_get_more_records:wrong version number:../x.c:354:'),
    'TLS failed: wrong version number',
  ],
  [new Error('socket hang up'), 'TLS failed: socket hang up'],
  ['nothing known', 'TLS failed: nothing known'],
])('%s', (error, words) => {
  expect(tlsFailureReason(error)).toContain(words);
  expect(tlsFailureReason(error)).not.toMatch(/:error:|\.c:/);
});

test.each([
  ['CERT_HAS_EXPIRED', true],
  ['CERT_NOT_YET_VALID', true],
  ['CRL_HAS_EXPIRED', true],
  ['UNABLE_TO_GET_CRL', true],
  ['CERT_REVOKED', false],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', false],
  ['INVALID_PURPOSE', false],
  ['UNABLE_TO_GET_ISSUER_CERT', false],
  [undefined, false],
])('%s heals by itself: %p', (code, heals) => {
  expect(mayHeal(code)).toBe(heals);
});
