import { listOf, noRepetition, oneOf, withRules } from './schema-kit.ts';

/** The ciphers of the data channel that the driver knows. */
export const dataCiphers = ['AES-128-GCM', 'AES-192-GCM', 'AES-256-GCM', 'CHACHA20-POLY1305'] as const;

/** A list of ciphers, the preferred first. */
export function cipherList(options: { description: string; default?: readonly (typeof dataCiphers)[number][] }) {
  const cipher = oneOf([...dataCiphers], { description: 'A cipher of the data channel.' });
  return withRules(listOf(cipher, { ...options, minItems: 1, maxItems: dataCiphers.length }), [noRepetition]);
}
