import { pemBlocks } from './pem.ts';

/** From when until when a CRL counts. Milliseconds since 1970. */
export interface CrlTimes {
  readonly thisUpdate: number;
  readonly nextUpdate: number;
}

/**
 * The times of the CRLs in a PEM text, of each issuer those of the CRL that is good for longest: after that, nobody with a
 * certificate of that issuer gets in. CRLs that name no end, or that cannot be read, are left out.
 *
 * Two dates are read here, and not by a library, because what an agent would load for them takes 24 MiB of its memory.
 */
export function crlTimes(pem: string): CrlTimes[] {
  const byIssuer = new Map<string, CrlTimes>();
  for (const { der } of pemBlocks(pem, 'X509 CRL')) {
    const crl = readCrl(der);
    const other = crl === undefined ? undefined : byIssuer.get(crl.issuer);
    if (crl === undefined || (other !== undefined && other.nextUpdate >= crl.times.nextUpdate)) continue;
    byIssuer.set(crl.issuer, crl.times);
  }
  return [...byIssuer.values()];
}

/** When the first CRL ends without which certificates are refused; undefined when none ever ends. */
export function crlNotAfter(pem: string | readonly string[] | undefined): number | undefined {
  const ends = crlTimes([pem ?? []].flat().join('\n')).map(({ nextUpdate }) => nextUpdate);
  return ends.length === 0 ? undefined : Math.min(...ends);
}

/** Tags of DER (X.690, 8.1.2 and the types' own clauses). */
const sequence = 0x30;
const integer = 0x02;
const utcTime = 0x17;
const generalizedTime = 0x18;

interface Element {
  readonly tag: number;
  readonly content: Buffer;
  /** What comes behind it. */
  readonly rest: Buffer;
}

/** The first element of bytes in DER; undefined where they hold none as a whole. */
function elementOf(bytes: Buffer): Element | undefined {
  const [tag, first] = bytes;
  if (tag === undefined || first === undefined) return undefined;
  // X.690, 10.1 and 8.1.3: a length is definite; more than 127 is said by the bytes that follow.
  const more = first < 0x80 ? 0 : first - 0x80;
  if (first === 0x80 || more > 4 || bytes.length < 2 + more) return undefined;
  const length = more === 0 ? first : bytes.readUIntBE(2, more);
  const end = 2 + more + length;
  if (end > bytes.length) return undefined;
  return { tag, content: bytes.subarray(2 + more, end), rest: bytes.subarray(end) };
}

/** The beginning of a CertificateList: RFC 5280, 5.1. */
function readCrl(der: Buffer): { readonly issuer: string; readonly times: CrlTimes } | undefined {
  const list = elementOf(der);
  const tbs = list?.tag === sequence ? elementOf(list.content) : undefined;
  if (tbs?.tag !== sequence) return undefined;
  const first = elementOf(tbs.content);
  const signature = first?.tag === integer ? elementOf(first.rest) : first;
  const issuer = signature?.tag === sequence ? elementOf(signature.rest) : undefined;
  const begin = issuer?.tag === sequence ? elementOf(issuer.rest) : undefined;
  const end = begin === undefined ? undefined : elementOf(begin.rest);
  if (issuer === undefined || begin === undefined || end === undefined) return undefined;
  const [thisUpdate, nextUpdate] = [timeOf(begin), timeOf(end)];
  if (thisUpdate === undefined || nextUpdate === undefined) return undefined;
  return { issuer: issuer.content.toString('base64'), times: { thisUpdate, nextUpdate } };
}

/** A Time as RFC 5280 has it (4.1.2.5): with seconds, in UTC; two digits of a year are of 1950 to 2049. */
function timeOf({ tag, content }: Element): number | undefined {
  if (tag !== utcTime && tag !== generalizedTime) return undefined;
  const text = content.toString('latin1');
  const century = tag === generalizedTime ? '' : text < '50' ? '20' : '19';
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(century + text)?.slice(1);
  if (parts === undefined) return undefined;
  const [year, month, day, hour, minute, second] = parts;
  const time = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(time) ? undefined : time;
}
