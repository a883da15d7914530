/** Addresses with a prefix length, as results have them. */
import { isIP } from 'node:net';
import { quote } from './environment.ts';
import type { Reader } from './json-reader.ts';

/** Whether the text is an IP address, a slash and a prefix length that fits it. */
export function isPrefix(text: string): boolean {
  const match = /^([^/%]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const family = isIP(match?.[1] ?? '');
  return family !== 0 && Number(match?.[2]) <= (family === 4 ? 32 : 128);
}

/** A field that must be one. */
export function parsePrefix(reader: Reader, key: string): string {
  const text = reader.string(key);
  return isPrefix(text) ? text : reader.refuse(key, `must be an IP address with a prefix length, not ${quote(text)}`);
}

/** A MAC address. */
export function isMac(text: string): boolean {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text);
}
