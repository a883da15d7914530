import type { CaTimes } from './ca-plan.ts';
import { factsOf, isPair, type KeyPair } from './certificates.ts';

/** The CAs of a network as its CA Secret holds them: `ca-<generation>.crt` and `ca-<generation>.key`. */

export interface NetworkCa extends KeyPair, CaTimes {
  readonly generation: number;
}

/** Oldest first; only those that are whole (see damageOf). */
export function readCas(data: Readonly<Record<string, string>>): NetworkCa[] {
  const cas = generationsOf(data).flatMap((generation) => {
    const { [`ca-${generation}.crt`]: cert, [`ca-${generation}.key`]: key } = data;
    const facts = factsOf(cert ?? '');
    return cert === undefined || key === undefined || facts === undefined
      ? []
      : [{ generation, cert, key, notBefore: facts.notBefore, notAfter: facts.notAfter }];
  });
  return cas.sort((one, other) => one.generation - other.generation);
}

/** What is wrong with the entries, as the end of a sentence about the Secret; undefined when nothing is. */
export function damageOf(data: Readonly<Record<string, string>>): string | undefined {
  for (const generation of generationsOf(data)) {
    const [certEntry, keyEntry] = [`ca-${generation}.crt`, `ca-${generation}.key`];
    const { [certEntry]: cert, [keyEntry]: key } = data;
    if (cert === undefined || key === undefined) return `has no ${cert === undefined ? certEntry : keyEntry}`;
    if (factsOf(cert) === undefined) return `has no certificate in ${certEntry}`;
    if (!isPair(cert, key)) return `has in ${keyEntry} no private key for ${certEntry}`;
  }
  return undefined;
}

export function writeCas(cas: readonly Pick<NetworkCa, 'generation' | 'cert' | 'key'>[]): Record<string, string> {
  return Object.fromEntries(
    cas.flatMap(({ generation, cert, key }) => [
      [`ca-${generation}.crt`, cert],
      [`ca-${generation}.key`, key],
    ]),
  );
}

function generationsOf(data: Readonly<Record<string, string>>): number[] {
  const found = Object.keys(data).flatMap((entry) => /^ca-(\d+)\.(?:crt|key)$/.exec(entry)?.[1] ?? []);
  return [...new Set(found.map(Number))];
}
