import { X509Certificate } from 'node:crypto';
import { timestampOf } from '../../api/conditions.ts';
import { crlTimes } from '../../openvpn/tls/crl.ts';
import { pemBlocks } from '../../openvpn/tls/pem.ts';

/**
 * Until when the material of a Secret is good: certificate and chain, CA, and the CRL, which is forgotten most easily and
 * whose end shuts every client out at once. Pure.
 */

/** Milliseconds since 1970. */
export interface Validity {
  /** The entry of the Secret, and what of it. */
  readonly what: string;
  readonly isCrl: boolean;
  readonly notBefore: number;
  readonly notAfter: number;
}

/** What a Secret with certificates says of its time. Entries that cannot be read are left out: agents report them. */
export function validitiesOf(data: Readonly<Record<string, Uint8Array>>): Validity[] {
  const chain = certificatesOf(data['tls.crt'], 'the certificate in tls.crt');
  // Of several CAs one is enough: while a CA is replaced, the old one expires beside the new one.
  const cas = latest(certificatesOf(data['ca.crt'], 'the CA in ca.crt'));
  return [...chain, ...(cas === undefined ? [] : [cas]), ...crlValidities(data, 'ca.crl')];
}

export type Expiry = 'Valid' | 'ExpiresSoon' | 'Expired';

export interface Judgement {
  readonly expiry: Expiry;
  /** What ends first. */
  readonly first: Validity;
  /** For a person: what expires, and when. */
  readonly message: string;
  /** When time alone changes the judgement; undefined when it is over. */
  readonly nextAt: number | undefined;
}

/** The longest time ahead that somebody is warned, in milliseconds. */
export const longestWarningMs = 30 * 86_400_000;

/**
 * When a warning is due: 30 days before the end, and with what lives for less than 120 days in the last quarter of its
 * life. What is renewed automatically is renewed before (cert-manager: with a third of its life left).
 */
export function warnAt({ notBefore, notAfter }: Validity): number {
  return notAfter - Math.min(longestWarningMs, Math.max(0, notAfter - notBefore) / 4);
}

/** The worst of them; undefined when nothing ever expires. */
export function judgeExpiry(validities: readonly Validity[], now: number): Judgement | undefined {
  const [first] = validities.toSorted((one, other) => one.notAfter - other.notAfter);
  if (first === undefined) return undefined;
  const when = timestampOf(first.notAfter);
  if (first.notAfter <= now)
    return { expiry: 'Expired', first, message: `${first.what} expired at ${when}`, nextAt: undefined };
  // What is warned of first need not be what ends first: a warning is due earlier for what lives long.
  const [soonest = first] = validities.toSorted((one, other) => warnAt(one) - warnAt(other));
  if (warnAt(soonest) > now) {
    return { expiry: 'Valid', first, message: `${first.what} expires at ${when}`, nextAt: warnAt(soonest) };
  }
  const message = `${soonest.what} expires at ${timestampOf(soonest.notAfter)}; renew it before`;
  return { expiry: 'ExpiresSoon', first, message, nextAt: first.notAfter };
}

function certificatesOf(entry: Uint8Array | undefined, what: string): Validity[] {
  return pemBlocks(textOf(entry), 'CERTIFICATE').flatMap(({ der }) => {
    try {
      const { validFromDate, validToDate } = new X509Certificate(der);
      const validity = { what, isCrl: false, notBefore: validFromDate.getTime(), notAfter: validToDate.getTime() };
      return hasDates(validity) ? [validity] : [];
    } catch {
      return [];
    }
  });
}

/** The same of one entry with CRLs: of each issuer the one that is good for longest (RFC 5280, 5.1.2.5: nextUpdate). */
export function crlValidities(data: Readonly<Record<string, Uint8Array>>, entry: string): Validity[] {
  return crlTimes(textOf(data[entry])).map(({ thisUpdate, nextUpdate }) => ({
    ...{ what: `the CRL in ${entry}`, isCrl: true },
    ...{ notBefore: thisUpdate, notAfter: nextUpdate },
  }));
}

/** A damaged certificate may have a date like the 50th of a month. */
function hasDates({ notBefore, notAfter }: Validity): boolean {
  return !Number.isNaN(notBefore) && !Number.isNaN(notAfter);
}

function latest(validities: readonly Validity[]): Validity | undefined {
  return validities.toSorted((one, other) => other.notAfter - one.notAfter)[0];
}

function textOf(entry: Uint8Array | undefined): string {
  return entry === undefined ? '' : Buffer.from(entry).toString('latin1');
}
