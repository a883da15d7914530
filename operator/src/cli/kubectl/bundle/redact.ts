import { asRecord } from '../../../cluster/json.ts';

/**
 * The last pass over everything that goes into a support bundle. What is put in is chosen field by field (shapes.ts);
 * this is for texts of others in it: log lines, messages, values of labels.
 */

/** Takes out of texts what is secret or looks like it, and counts. The same passage gets the same number everywhere. */
export interface Redactor {
  text(text: string): string;
  /** All texts of a value, at any depth. */
  value(value: unknown): unknown;
  readonly count: number;
}

/*
 * All patterns are bounded in what they look at from one place: logs are long, and what is in them others may choose.
 */

/** Blocks of PEM: keys of OpenVPN and certificates, too; nobody needs these to find a fault. */
const pemBlock = /-----BEGIN ([^-\n]{1,64})-----[\s\S]{0,8192}?-----END \1-----/g;
/** What is left of one whose end was cut off. */
const pemHead = /-----BEGIN [^-\n]{1,64}-----[A-Za-z0-9+/=\s\\]*/g;
/** Where one ends whose beginning was cut off. */
const pemEnd = /-----END [^-\n]{1,64}-----/g;
const pemLetter = /[A-Za-z0-9+/=\s\\]/;
/** Inline files of OpenVPN's configuration. One that does not end is taken as long as such files are. */
const inlineFile =
  /<(ca|cert|extra-certs|key|pkcs12|secret|tls-auth|tls-crypt|tls-crypt-v2|auth-user-pass|http-proxy-user-pass)>(?:[\s\S]{0,32768}?<\/\1>|[\s\S]{0,8192})/g;
const userPass = /(\bauth-user-pass[ \t]+)\S[^\n"\\]*/g;
const jwt = /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?/g;
const scheme = /\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{6,}/gi;
const userInfo = /(:\/\/)[^/\s:@]*:[^/\s@]+@/g;
/** `password=…`, `"apiToken": "…"`, also inside of JSON in JSON. */
const named =
  /((?:passwords?|passwd|passphrase|secret|tokens?|psk|api[_-]?key|private[_-]?key|credentials?|authorization)\b(?:\\*["'])?\s*[:=]\s*)("(?:[^"\\\n]|\\.)*"|\\+"[^"\n]*?\\+"|[^\s,;"'\\}]+)/gi;
/** https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/ */
const bootstrapToken = /\b[a-z0-9]{6}\.[a-z0-9]{16}\b/g;
/** The rows of a static key, and keys and digests as hexadecimal. Digests of images say what they are. */
const hex = /(?<!sha256:)\b[0-9a-fA-F]{32,}\b/g;
/** As long as 30 bytes or more in base64 or base64url. */
const base64 = /[A-Za-z0-9+/_-]{40,}={0,2}/g;

/** Takes out the ends of PEM blocks with what stands before them. A pattern would look back from every place anew. */
function cutEnds(text: string, mark: (found: string) => string): string {
  let out = '';
  let done = 0;
  for (const { 0: end, index } of text.matchAll(pemEnd)) {
    let from = index;
    while (from > done && pemLetter.test(text.charAt(from - 1))) from--;
    const next = index + end.length;
    out += text.slice(done, from) + mark(text.slice(from, next));
    done = next;
  }
  return out + text.slice(done);
}

/** Whether a run of such letters is key material rather than a path or a name: those of Kubernetes are small letters. */
function looksRandom(run: string): boolean {
  return /[a-z]/.test(run) && /[A-Z]/.test(run) && /\d/.test(run);
}

/** Fields that hold what anybody may know and that has the look of a key. */
const openFields: ReadonlySet<string> = new Set(['fingerprint', 'serialNumber', 'uid', 'image', 'imageID']);

/** Fields, and labels, that say themselves that they hold a secret. */
const secretField = /(?:passwords?|passwd|passphrase|secret|tokens?|psk|api[_-]?key|private[_-]?key|credentials?)$/i;

/** A redactor of one bundle. */
export function redactor(): Redactor {
  const numbers = new Map<string, number>();
  let count = 0;
  const mark = (found: string): string => {
    count++;
    const known = numbers.get(found);
    if (known !== undefined) return `[redacted ${known}]`;
    numbers.set(found, numbers.size + 1);
    return `[redacted ${numbers.size}]`;
  };
  const text = (given: string): string =>
    cutEnds(given.replace(pemBlock, mark).replace(pemHead, mark), mark)
      .replace(inlineFile, mark)
      .replace(userPass, (found, head: string) => `${head}${mark(found)}`)
      .replace(jwt, mark)
      .replace(scheme, mark)
      .replace(userInfo, (found) => `://${mark(found)}@`)
      .replace(named, (found, head: string, value: string) =>
        value.includes('[redacted') ? found : `${head}${value.startsWith('"') ? `"${mark(value)}"` : mark(value)}`,
      )
      .replace(bootstrapToken, mark)
      .replace(hex, mark)
      .replace(base64, (run) => (looksRandom(run) ? mark(run) : run));
  const value = (given: unknown, field = ''): unknown => {
    if (typeof given === 'string' && given !== '' && secretField.test(field)) return mark(given);
    if (typeof given === 'string') return openFields.has(field) && !holdsSecret(given) ? given : text(given);
    if (Array.isArray(given)) return (given as unknown[]).map((item) => value(item, field));
    const fields = asRecord(given);
    if (fields === undefined) return given;
    return Object.fromEntries(Object.entries(fields).map(([name, item]) => [text(name), value(item, name)]));
  };
  return {
    text,
    value: (given) => value(given),
    get count() {
      return count;
    },
  };
}

/** Whether a text holds what is a secret beyond doubt: then the file that it is in is left out. */
export function holdsSecret(text: string): boolean {
  return [
    /-----(?:BEGIN|END) [^-\n]+-----/,
    /<(?:key|secret|tls-auth|tls-crypt|tls-crypt-v2|auth-user-pass)>/,
    /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\./,
  ].some((pattern) => pattern.test(text));
}
