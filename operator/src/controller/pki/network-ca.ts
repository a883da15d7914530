import type { CaTimes } from './ca-plan.ts';
import { factsOf, type KeyPair } from './certificates.ts';

/** The CAs of a network as its CA Secret holds them: `ca-<generation>.crt` and `ca-<generation>.key`. */

export interface NetworkCa extends KeyPair, CaTimes {
  readonly generation: number;
}

/** Oldest first. An entry that is not whole is left out: another CA follows. */
export function readCas(data: Readonly<Record<string, string>>): NetworkCa[] {
  const cas = Object.entries(data).flatMap(([entry, cert]) => {
    const generation = Number(/^ca-(\d+)\.crt$/.exec(entry)?.[1] ?? NaN);
    const key = data[`ca-${generation}.key`];
    const facts = factsOf(cert);
    return key === undefined || facts === undefined
      ? []
      : [{ generation, cert, key, notBefore: facts.notBefore, notAfter: facts.notAfter }];
  });
  return cas.sort((one, other) => one.generation - other.generation);
}

export function writeCas(cas: readonly Pick<NetworkCa, 'generation' | 'cert' | 'key'>[]): Record<string, string> {
  return Object.fromEntries(
    cas.flatMap(({ generation, cert, key }) => [
      [`ca-${generation}.crt`, cert],
      [`ca-${generation}.key`, key],
    ]),
  );
}
