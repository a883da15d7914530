import { oneOf } from './schema-kit.ts';

/** The ciphers of the data channel that the driver knows. */
export const dataCiphers = ['AES-128-GCM', 'AES-192-GCM', 'AES-256-GCM', 'CHACHA20-POLY1305'] as const;

/** One entry of a list of ciphers. */
export const dataCipher = () => oneOf([...dataCiphers], { description: 'A cipher of the data channel.' });
