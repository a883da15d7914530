import { OvpnError } from '../../errors.ts';

/** The words of one option, as OpenVPN's configuration files quote them: '…' literally, "…" and bare with backslashes. */

export function splitWords(option: string): string[] {
  const words: string[] = [];
  const pattern = /\s*(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|((?:[^\s"'\\]|\\.)+))/gsy;
  for (let match = pattern.exec(option); match !== null; match = pattern.exec(option)) {
    words.push(match[1] ?? (match[2] ?? match[3] ?? '').replaceAll(/\\(.)/gs, '$1'));
  }
  return words;
}

/**
 * One word of an option to push. A push has no way to quote a comma, so such words are refused here instead
 * of becoming other options on the client.
 *
 * @throws OvpnError InvalidField
 */
export function pushWord(value: string, field: string): string {
  if (!/^[^\s,"'\\\p{Cc}]+$/u.test(value)) {
    throw new OvpnError('InvalidField', 'cannot be pushed: it is empty or has a space, comma, quote or backslash', {
      field,
    });
  }
  return value;
}
