import { printable } from '../negotiate/protocol-fault.ts';

/** Why a TLS session failed, in words for a status and a log. */

const certificateWords: ReadonlyMap<string, string> = new Map([
  ['UNABLE_TO_GET_ISSUER_CERT', 'no certificate, or one whose CA is unknown here'],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'the CA of the certificate is not one that is trusted here'],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'the CA of the certificate is not one that is trusted here'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'the CA of the certificate is not one that is trusted here'],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'the certificate is self-signed'],
  ['CERT_SIGNATURE_FAILURE', 'the signature of the certificate is wrong'],
  ['CERT_HAS_EXPIRED', 'the certificate has expired'],
  ['CERT_NOT_YET_VALID', 'the certificate is not valid yet; check the clocks'],
  ['CERT_REVOKED', 'the certificate is revoked'],
  ['INVALID_PURPOSE', 'the certificate is not for this use: its extended key usage says so'],
  ['UNABLE_TO_GET_CRL', 'there is no CRL of the CA of the certificate'],
  ['CRL_HAS_EXPIRED', 'the CRL has expired; renew it'],
  ['CRL_NOT_YET_VALID', 'the CRL is not valid yet; check the clocks'],
  ['CRL_SIGNATURE_FAILURE', 'the signature of the CRL is wrong'],
  ['INVALID_CA', 'a certificate in the chain is not for a CA'],
  ['CERT_CHAIN_TOO_LONG', 'the chain of the certificate is too long'],
]);

/** What a later try may find mended, without another certificate or with the same name on a renewed one. */
const healedByTime: ReadonlySet<string> = new Set([
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'UNABLE_TO_GET_CRL',
  'UNABLE_TO_DECRYPT_CRL_SIGNATURE',
  'CRL_SIGNATURE_FAILURE',
  'CRL_HAS_EXPIRED',
  'CRL_NOT_YET_VALID',
  'ERROR_IN_CRL_LAST_UPDATE_FIELD',
  'ERROR_IN_CRL_NEXT_UPDATE_FIELD',
  'OUT_OF_MEM',
]);

/** Whether who was refused by this result of verifying may find itself welcome later. */
export function mayHeal(verifyCode: string | undefined): boolean {
  return verifyCode !== undefined && healedByTime.has(verifyCode);
}

/** What the other side means by an alert (RFC 8446, section 6.2), where its name does not say it to everybody. */
const alertWords: ReadonlyMap<string, string> = new Map([
  ['unknown ca', 'it does not know the CA of our certificate'],
  ['certificate expired', 'our certificate, or a CRL, has expired'],
  ['certificate revoked', 'our certificate is revoked'],
  ['certificate required', 'it wants a certificate of us'],
  ['bad certificate', 'it refuses our certificate'],
  ['certificate unknown', 'it refuses our certificate'],
  ['unsupported certificate', 'our certificate is not for this use'],
  ['protocol version', 'there is no common version of TLS'],
  ['handshake failure', 'there is no common cipher or signature algorithm'],
]);

/** @param verifyCode the result of verifying the peer's certificate, when there is one */
export function tlsFailureReason(error: unknown, verifyCode?: string): string {
  const code = verifyCode ?? codeOf(error);
  const words = code === undefined ? undefined : certificateWords.get(code);
  if (words !== undefined) {
    return `the peer's certificate was refused: ${words}`;
  }
  if (verifyCode !== undefined) {
    return `the peer's certificate was refused: ${printable(verifyCode)}`;
  }
  const reason = error instanceof Error ? ((error as { reason?: unknown }).reason ?? error.message) : error;
  return `TLS failed: ${opensslWords(String(reason))}`;
}

/** OpenSSL's reason comes alone, or in a line with where in its source it was: "…:error:CODE:library:function:reason:…". */
function opensslWords(text: string): string {
  const reason = /error:[0-9A-F]{8}:[^:]*:[^:]*:([^:]+)/.exec(text)?.[1] ?? text;
  const alert = /^\S+ alert ([a-z ]+)$/.exec(reason)?.[1];
  if (alert === undefined) {
    return printable(reason);
  }
  const words = alertWords.get(alert);
  return `the other side ended it by the alert "${alert}"${words === undefined ? '' : `: ${words}`}`;
}

function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return typeof code === 'string' ? code : undefined;
}
