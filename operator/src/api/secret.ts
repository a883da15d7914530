import { OvpnError } from '../errors.ts';
import { shorten } from './check.ts';
import { isRecord } from './schema-view.ts';

/**
 * Reads the values of a Secret: `data` in base64, then `stringData` over it. No error shows a value, and
 * none tells more of it than its key.
 */
export function readSecretData(
  manifest: Readonly<Record<string, unknown>>,
  object: string,
  errors: OvpnError[],
): Record<string, Uint8Array> {
  const values = new Map<string, Uint8Array>();
  const read = (field: 'data' | 'stringData', decode: (text: string) => Uint8Array | undefined, form: string) => {
    const source = manifest[field] ?? {};
    if (!isRecord(source)) {
      errors.push(new OvpnError('InvalidField', 'must be an object with fields', { object, field }));
      return;
    }
    for (const [key, text] of Object.entries(source)) {
      const where = { object, field: `${field}[${JSON.stringify(shorten(key))}]` };
      const value = text === null ? new Uint8Array() : typeof text === 'string' ? decode(text) : undefined;
      if (!/^[-._a-zA-Z0-9]{1,253}$/.test(key)) {
        errors.push(
          new OvpnError('InvalidField', 'has a key with other characters than letters, digits, - _ and .', where),
        );
      } else if (value === undefined) errors.push(new OvpnError('InvalidField', `must be ${form}`, where));
      else values.set(key, value);
    }
  };
  read('data', decodeBase64, 'text in base64; use stringData for plain text');
  read('stringData', (text) => new TextEncoder().encode(text), 'text; put quotes around it');
  return Object.fromEntries([...values].sort(([one], [other]) => (one < other ? -1 : 1)));
}

/** Strict base64: `Buffer.from` alone would skip what it does not know and hand out a shortened key. */
function decodeBase64(text: string): Uint8Array | undefined {
  const compact = text.replace(/[\r\n]/g, '');
  const valid = compact.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(compact);
  return valid ? new Uint8Array(Buffer.from(compact, 'base64')) : undefined;
}
