/** What a secret is replaced by in a log line. */
export const CENSOR = '[redacted]';

/** Field names whose value is secret wherever it stands: Secret payloads, keys, credentials. */
const secretFields = new Set(
  [
    'data',
    'stringData',
    'tls.key',
    'privateKey',
    'key',
    'keys',
    'keyMaterial',
    'cipherKey',
    'hmacKey',
    'nonceTail',
    'tlsCrypt',
    'tlsCryptV2',
    'tlsAuth',
    'staticKey',
    'psk',
    'password',
    'passphrase',
    'pin',
    'token',
    'bearer',
    'authorization',
    'cookie',
  ].map((name) => name.toLowerCase()),
);

const MAX_DEPTH = 8;

/**
 * A PEM private key or an OpenVPN key block, also one that was cut off. Labels are short: without a bound on what may
 * come before and after their words, a long text of beginnings would take hours.
 */
const keyBlock =
  /-----BEGIN ([A-Za-z0-9 ._-]{0,40}(?:PRIVATE KEY|OpenVPN[A-Za-z0-9 ._-]{0,40}key[A-Za-z0-9 ._-]{0,40}))-----[\s\S]*?(?:-----END \1-----|$)/g;

/** Takes key blocks out of a text. */
export function scrubText(text: string): string {
  return text.includes('-----BEGIN ') ? text.replace(keyBlock, CENSOR) : text;
}

/**
 * A copy of a value that is fit to be logged: secret fields are replaced at any depth, raw bytes are shown
 * by their length only (they are keys more often than not), errors keep what helps to mend them.
 *
 * pino's own `redact` knows fixed depths only, and a Secret can be nested in any object that gets logged.
 */
export function scrub(value: unknown): unknown {
  return scrubAt(value, 0, new Set());
}

function scrubAt(value: unknown, depth: number, parents: Set<object>): unknown {
  if (typeof value === 'string') return scrubText(value);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Uint8Array || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Date) return value;
  if (depth >= MAX_DEPTH) return '[deep]';
  if (parents.has(value)) return '[circular]';
  parents.add(value);
  try {
    if (value instanceof Error) return scrubError(value, depth, parents);
    if (Array.isArray(value)) return value.map((item) => scrubAt(item, depth + 1, parents));
    if (value instanceof Set) return [...value].map((item) => scrubAt(item, depth + 1, parents));
    const entries: Iterable<[unknown, unknown]> = value instanceof Map ? value : Object.entries(value);
    const copy: Record<string, unknown> = {};
    for (const [name, item] of entries) {
      const text = String(name);
      copy[text] = isSecret(text, item) ? CENSOR : scrubAt(item, depth + 1, parents);
    }
    return copy;
  } finally {
    parents.delete(value);
  }
}

/** Numbers and booleans under such a name are counts and flags (`keys: 3`), not secrets. */
function isSecret(name: string, value: unknown): boolean {
  if (!secretFields.has(name.toLowerCase())) return false;
  return value !== undefined && value !== null && typeof value !== 'number' && typeof value !== 'boolean';
}

function scrubError(error: Error, depth: number, parents: Set<object>): Record<string, unknown> {
  const { code } = error as { code?: unknown };
  return {
    name: error.name,
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    message: scrubText(error.message),
    ...(error.stack === undefined ? {} : { stack: scrubText(error.stack) }),
    ...(error.cause === undefined ? {} : { cause: scrubAt(error.cause, depth + 1, parents) }),
  };
}
